/**
 * Writes config/opa-capabilities.json: the builtins that a policy may use. Those are what a module carries in itself, so that its
 * counter sees every step; found out by compiling a call of each and asking the module what it calls out for.
 *
 *   node dist/scripts/opa-capabilities.js > config/opa-capabilities.json
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findOpa } from "../src/adapters/opa/binary.ts";
import { readPolicyWasm } from "../src/adapters/opa/bundle.ts";
import { instantiate } from "../src/adapters/opa/instance.ts";
import { meter } from "../src/adapters/opa/meter.ts";

type Builtin = {
  readonly name: string;
  readonly decl: { readonly args?: readonly unknown[] };
  readonly infix?: string;
};
type Capabilities = {
  readonly builtins: readonly Builtin[];
  readonly future_keywords: readonly string[];
  readonly features: readonly string[];
};

/** Carried by the module or not: what reaches out, is not a function of the input, or says something about the compiler. */
const NEVER = /^(http\.|net\.|rand\.|time\.now_ns$|opa\.|trace$|print$|internal\.print$|internal\.test_case$|rego\.)/;
/** Ours: bounded in length and work. */
const OURS = "sprintf";
/** From 1.0 on OPA reads Rego v1 only where the capabilities say so. */
const FEATURES = ["rego_v1"];
/** Operators that no name can call. */
const CALLS: Readonly<Record<string, string>> = {
  assign: "x := input.a0",
  eq: "x = input.a0",
  "internal.member_2": "x := input.a0 in input.a1",
  "internal.member_3": "x := (input.a0, input.a1 in input.a2)",
};

const callOf = ({ name, decl }: Builtin): string =>
  CALLS[name] ?? `x := ${name}(${(decl.args ?? []).map((_, i) => `input.a${i}`).join(", ")})`;

/** Leaves out the prose: OPA compares names and types. */
const bare = ({ name, decl, infix }: Builtin): object => ({ name, decl, ...(infix === undefined ? {} : { infix }) });
const withoutProse = (key: string, value: unknown): unknown => (key === "description" ? undefined : value);

const folder = await mkdtemp(join(tmpdir(), "caracal-capabilities-"));
try {
  const opa = await findOpa({ opa_path: process.env["OPA_PATH"] });
  // `capabilities` knows no flag for the language's version.
  const { stdout } = await opa.plain(["capabilities", "--current"], { cwd: folder });
  const all = JSON.parse(stdout) as Capabilities;

  const isCarried = async (builtin: Builtin): Promise<boolean> => {
    await writeFile(join(folder, "policy.rego"), `package caracal.authz\nresult := x if { ${callOf(builtin)} }\n`);
    const args = ["build", "-t", "wasm", "-e", "caracal/authz/result", "-o", "bundle.tar.gz", "policy.rego"];
    const { code } = await opa.run(args, { cwd: folder });
    if (code !== 0) return false; // deprecated: gone from Rego v1
    const wasm = meter(await readPolicyWasm(await readFile(join(folder, "bundle.tar.gz"))));
    return instantiate(await WebAssembly.compile(wasm), 64).builtins.length === 0;
  };

  const kept: Builtin[] = [];
  for (const builtin of all.builtins) {
    if (builtin.name === OURS || (!NEVER.test(builtin.name) && (await isCarried(builtin)))) kept.push(builtin);
  }
  const features = [...new Set([...all.features, ...FEATURES])].toSorted();
  const capabilities = { builtins: kept.map(bare), future_keywords: all.future_keywords, features, allow_net: [] };
  process.stdout.write(`${JSON.stringify(capabilities, withoutProse, 1)}\n`);
} finally {
  await rm(folder, { recursive: true, force: true });
}
