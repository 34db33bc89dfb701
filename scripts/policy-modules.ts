/**
 * Writes config/policies/compiled: the modules of the policies that come with the program, so that they need no compiler where
 * they are used, and an index of their digests.
 *
 *   node dist/scripts/policy-modules.js
 */
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { findOpa } from "../src/adapters/opa/binary.ts";
import { createPolicyCompiler } from "../src/adapters/opa/compiler.ts";
import { MODULE_FOLDER, moduleFile, type ModuleIndex, POLICY_FOLDER, sha256Of } from "../src/adapters/opa/shipped.ts";
import { createLog } from "../src/kernel/log.ts";

const compiler = createPolicyCompiler({ log: createLog({ level: "warn" }) });
const files = (await readdir(POLICY_FOLDER, { recursive: true }))
  .filter((file) => file.endsWith(".rego") && !file.endsWith("_test.rego"))
  .toSorted();
const modules: Record<string, ModuleIndex["modules"][string]> = {};

await rm(MODULE_FOLDER, { recursive: true, force: true });
await mkdir(MODULE_FOLDER);
for (const file of files) {
  const source = await readFile(join(POLICY_FOLDER, file), "utf8");
  const compiled = await compiler.compile(source, file); // each in the name of another zone: none is over its share
  if (!compiled.ok) throw new Error(`${file}: ${JSON.stringify(compiled.issues)}`);
  const { wasm, wasm_sha256 } = compiled.policy;
  modules[file.replaceAll("\\", "/").replace(/\.rego$/, "")] = { source_sha256: sha256Of(source), wasm_sha256 };
  await writeFile(moduleFile(wasm_sha256), gzipSync(wasm, { level: 9 }));
}
const { version } = await findOpa({});
const index: ModuleIndex = { opa_version: version, modules };
await writeFile(join(MODULE_FOLDER, "index.json"), `${JSON.stringify(index, undefined, 2)}\n`);
