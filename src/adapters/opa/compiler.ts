import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MAX_POLICY_SOURCE_BYTES, POLICY_ENTRYPOINT, POLICY_PACKAGE } from "../../domain/policy.ts";
import type { Log } from "../../kernel/log.ts";
import { packageRoot } from "../../kernel/package-root.ts";
import { type Issue, Problem } from "../../kernel/problem.ts";
import type { CompileResult, PolicyCompiler } from "../../ports/policy.ts";
import { compilerUnavailable, findOpa, type Opa } from "./binary.ts";
import { readPolicyWasm } from "./bundle.ts";
import { checkModule, instantiate } from "./instance.ts";
import { MalformedModule, meter } from "./meter.ts";

export type PolicyCompilerOptions = {
  /** `OPA_PATH`. */
  readonly opa_path?: string | undefined;
  /** Where `opa` is looked for; the process's PATH if absent. */
  readonly search_path?: string;
  /** The capability list that policies are compiled with; ours if absent. */
  readonly capabilities_path?: string;
  readonly log: Log;
};

/** One name for all, and no folder before it: it is part of the module, by the messages of its run-time errors. */
const FILE = "policy.rego";
const BUNDLE = "bundle.tar.gz";
const MAX_WAITING = 32;
const MAX_ISSUES = 32;
const MAX_MESSAGE = 500;
/** Enough to start a module: what an evaluation may have is the engine's business. */
const CHECK_PAGES = 64;

const issue = (message: string): Issue => ({ path: "source", message });
const refused = (...issues: readonly Issue[]): CompileResult => ({ ok: false, issues });

/** Errors as `--format json` prints them, on standard output or error. */
type OpaError = { readonly message?: unknown; readonly location?: { readonly row?: unknown; readonly col?: unknown } };

const readErrors = (text: string): readonly OpaError[] => {
  try {
    const parsed = JSON.parse(text) as { readonly errors?: unknown } | null;
    return Array.isArray(parsed?.errors) ? (parsed.errors as OpaError[]) : [];
  } catch {
    return [];
  }
};

const place = (value: unknown): number =>
  typeof value === "number" && Number.isSafeInteger(value) ? Math.max(value, 1) : 1;

const toIssue = (error: OpaError): Issue => {
  const message = typeof error.message === "string" ? error.message.slice(0, MAX_MESSAGE) : "can't be compiled";
  const { location } = error;
  return location === undefined
    ? issue(message)
    : { path: "source", message, row: place(location.row), col: place(location.col) };
};

/** Every error of a source with its place, from OPA's checker: its builder names rows only, and only in prose. */
const explain = async (
  opa: Opa,
  folder: string,
  capabilities_path: string,
  build_words: string,
): Promise<CompileResult> => {
  const { stdout, stderr } = await opa.run(
    ["check", "--format", "json", "--capabilities", capabilities_path, FILE],
    folder,
  );
  const errors = [...readErrors(stdout), ...readErrors(stderr)].slice(0, MAX_ISSUES);
  if (errors.length > 0) return refused(...errors.map(toIssue));
  if (build_words.includes("entrypoint"))
    return refused(issue(`define the rule result: package ${POLICY_PACKAGE} is read by ${POLICY_ENTRYPOINT}`));
  return refused(issue(build_words.replace(/^error: /, "").slice(0, MAX_MESSAGE)));
};

/**
 * Annotations can name schemas, and OPA fetches those while it compiles: from the network, and from any file that this
 * process may read. No policy of ours needs one. OPA trims Unicode's spaces, so the expression does.
 */
const ANNOTATION = /#[\s\u0085]*METADATA/;

const annotationIn = (source: string): Issue | undefined => {
  const at = ANNOTATION.exec(source)?.index;
  if (at === undefined) return undefined;
  const before = source.slice(0, at).split("\n");
  const message = "annotations (# METADATA) can't be used in a policy: make it an ordinary comment";
  return { path: "source", message, row: before.length, col: (before.at(-1)?.length ?? 0) + 1 };
};

/** The packages of a source, as OPA parsed them; undefined where it does not parse. */
const packagesOf = async (opa: Opa, folder: string): Promise<readonly string[] | undefined> => {
  const { code, stdout } = await opa.run(["inspect", "--format", "json", FILE], folder);
  if (code !== 0) return undefined;
  const { namespaces } = JSON.parse(stdout) as { readonly namespaces?: object };
  return Object.keys(namespaces ?? {});
};

const build = async (opa: Opa, folder: string, capabilities_path: string): Promise<CompileResult> => {
  const packages = await packagesOf(opa, folder);
  if (packages !== undefined && (packages.length !== 1 || packages[0] !== `data.${POLICY_PACKAGE}`)) {
    return refused(issue(`declare package ${POLICY_PACKAGE}: it is ${packages.join(", ").replace(/^data\./, "")}`));
  }
  const args = [
    "build",
    "-t",
    "wasm",
    "-e",
    POLICY_ENTRYPOINT,
    "--capabilities",
    capabilities_path,
    "-o",
    BUNDLE,
    FILE,
  ];
  const { code, stdout, stderr } = await opa.run(args, folder);
  if (code === "ended") return refused(issue("can't be compiled within 10 s: make it simpler"));
  if (packages === undefined || code !== 0) return explain(opa, folder, capabilities_path, stderr + stdout);

  const wasm = meter(await readPolicyWasm(await readFile(join(folder, BUNDLE))));
  const module = await WebAssembly.compile(wasm);
  checkModule(module);
  // The capability list keeps these out already; a compiler with another idea of what it knows must not bring them in.
  const foreign = instantiate(module, CHECK_PAGES).builtins.filter((name) => name !== "sprintf");
  if (foreign.length > 0)
    return refused(
      ...foreign.map((name) => issue(`${name} can't be used: it would run outside of the policy's budget`)),
    );
  return { ok: true, policy: { wasm, wasm_sha256: createHash("sha256").update(wasm).digest("hex") } };
};

/** The compiler of policies: OPA as a child process, one at a time, then our metering. */
export const createPolicyCompiler = (options: PolicyCompilerOptions): PolicyCompiler => {
  const capabilities_path = options.capabilities_path ?? join(packageRoot, "config", "opa-capabilities.json");
  let found: Promise<Opa> | undefined;
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;

  const find = async (): Promise<Opa> => {
    found ??= findOpa(options);
    try {
      return await found;
    } catch (error) {
      found = undefined; // it may be installed while we run
      throw error;
    }
  };

  const compile = async (source: string): Promise<CompileResult> => {
    const opa = await find();
    const folder = await mkdtemp(join(tmpdir(), "caracal-policy-")); // mode 0700
    try {
      await writeFile(join(folder, FILE), source, { mode: 0o600 });
      return await build(opa, folder, capabilities_path);
    } catch (error) {
      if (error instanceof MalformedModule) return refused(issue(`can't be metered: ${error.message}`));
      options.log.error({ err: error, opa: opa.path, version: opa.version }, "policy compiler failed");
      throw error instanceof Problem
        ? error
        : compilerUnavailable("the policy compiler failed: see the log of this process", { cause: error });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };

  return {
    async compile(source) {
      if (Buffer.byteLength(source) > MAX_POLICY_SOURCE_BYTES) {
        return refused(
          issue(
            `is longer than ${MAX_POLICY_SOURCE_BYTES / 1024} KiB: split the policy into several members of the set`,
          ),
        );
      }
      if (Buffer.from(source).toString() !== source)
        return refused(issue("is not well-formed Unicode: a surrogate stands alone"));
      const annotation = annotationIn(source);
      if (annotation !== undefined) return refused(annotation);
      if (waiting >= MAX_WAITING)
        throw compilerUnavailable("too many policies wait to be compiled: try again in a few seconds", {
          retry_after_s: 5,
        });
      waiting += 1;
      const turn = last.then(() => compile(source));
      last = turn.catch(() => {});
      try {
        return await turn;
      } finally {
        waiting -= 1;
      }
    },
  };
};
