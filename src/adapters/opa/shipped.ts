import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import * as v from "valibot";
import { packageRoot } from "../../kernel/package-root.ts";
import type { PolicyCompiler, PolicyTemplate } from "../../ports/policy.ts";

/** Policies that come with the program, as source and compiled: `scripts/policy-modules.ts` writes the modules. */
export const POLICY_FOLDER = join(packageRoot, "config", "policies");
export const MODULE_FOLDER = join(POLICY_FOLDER, "compiled");
const TEMPLATES = "templates/";
const MAX_MODULE_BYTES = 4 * 1024 * 1024;

/** `compiled/index.json`: the sources by their path below the policies, without `.rego`, and what each was compiled to. */
const IndexSchema = v.object({
  opa_version: v.string(),
  modules: v.record(v.string(), v.object({ source_sha256: v.string(), wasm_sha256: v.string() })),
});
export type ModuleIndex = v.InferOutput<typeof IndexSchema>;

const unzip = promisify(gunzip);

export const sha256Of = (bytes: string | Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

export const readModuleIndex = async (): Promise<ModuleIndex> =>
  v.parse(IndexSchema, JSON.parse(await readFile(join(MODULE_FOLDER, "index.json"), "utf8")));

export const moduleFile = (wasm_sha256: string): string => join(MODULE_FOLDER, `${wasm_sha256}.wasm.gz`);

/** Throws where the file does not hold what the index says: nothing else is ever used in its place. */
export const readModule = async (wasm_sha256: string): Promise<Uint8Array> => {
  const wasm = await unzip(await readFile(moduleFile(wasm_sha256)), { maxOutputLength: MAX_MODULE_BYTES });
  if (sha256Of(wasm) !== wasm_sha256) throw new Error(`the shipped policy module ${wasm_sha256} is another one`);
  return wasm;
};

/** A template's comment says what it does: its first sentence, without the marks. */
const summaryOf = (source: string): string => /^# (.+)/.exec(source)?.[1] ?? "";

/** Once read they are kept: they are part of the program. */
const once = <T>(read: () => Promise<T>): (() => Promise<T>) => {
  let kept: Promise<T> | undefined;
  return () => {
    kept ??= read().catch((error: unknown) => {
      kept = undefined;
      throw error;
    });
    return kept;
  };
};

const index = once(readModuleIndex);

/** The templates that come with the program, by name. */
export const policyTemplates: () => Promise<readonly PolicyTemplate[]> = once(async () => {
  const paths = Object.keys((await index()).modules).filter((path) => path.startsWith(TEMPLATES));
  return Promise.all(
    paths.toSorted().map(async (path) => {
      const source = await readFile(join(POLICY_FOLDER, `${path}.rego`), "utf8");
      const name = path.slice(TEMPLATES.length);
      return { name, summary: summaryOf(source), source, source_sha256: sha256Of(source) };
    }),
  );
});

/** A source that came with the program needs no compiler, and none of its zone's time: its module came, too. */
export const withShipped = (compiler: PolicyCompiler): PolicyCompiler => ({
  ...compiler,
  async compile(source, zone_id, terms) {
    const source_sha256 = sha256Of(source);
    const shipped = Object.values((await index()).modules).find((one) => one.source_sha256 === source_sha256);
    if (shipped === undefined) return compiler.compile(source, zone_id, terms);
    return {
      ok: true,
      policy: { wasm: await readModule(shipped.wasm_sha256), wasm_sha256: shipped.wasm_sha256 },
    };
  },
});
