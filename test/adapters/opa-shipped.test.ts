import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { findOpa } from "../../src/adapters/opa/binary.ts";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import {
  MODULE_FOLDER,
  POLICY_FOLDER,
  policyTemplates,
  readModule,
  readModuleIndex,
  sha256Of,
  withShipped,
} from "../../src/adapters/opa/shipped.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { inputOf, log } from "./opa-fixtures.ts";

const compiler = createPolicyCompiler({ log });
const engine = createPolicyEngine({ budget_units: 50_000 });

describe("the policies that come with the program", () => {
  it("are in the index, each with its source as it is and the module that this source compiles to", async () => {
    const { opa_version, modules } = await readModuleIndex();
    const files = (await readdir(POLICY_FOLDER, { recursive: true }))
      .filter((file) => file.endsWith(".rego") && !file.endsWith("_test.rego"))
      .map((file) => file.replaceAll("\\", "/").replace(/\.rego$/, ""));
    assert.deepEqual(Object.keys(modules).toSorted(), files.toSorted(), "run scripts/policy-modules.ts");
    const same_opa = (await findOpa({})).version === opa_version;
    for (const [name, { source_sha256, wasm_sha256 }] of Object.entries(modules)) {
      const source = await readFile(join(POLICY_FOLDER, `${name}.rego`), "utf8");
      assert.equal(sha256Of(source), source_sha256, `${name} was edited: run scripts/policy-modules.ts`);
      const compiled = await compiler.compile(source, uuidv7());
      assert.ok(compiled.ok);
      if (same_opa) assert.equal(compiled.policy.wasm_sha256, wasm_sha256, `${name}: run scripts/policy-modules.ts`);
      const [ours, fresh] = await Promise.all(
        [await readModule(wasm_sha256), compiled.policy.wasm].map((wasm) => engine.load(wasm, "z")),
      );
      const [one, other] = [ours, fresh].map((module) => module?.evaluate(inputOf()));
      assert.ok(one?.status === "result" && other?.status === "result");
      assert.deepEqual(one.result, other.result);
    }
    const kept = (await readdir(MODULE_FOLDER)).filter((file) => file !== "index.json");
    assert.deepEqual(
      kept.toSorted(),
      [...new Set(Object.values(modules).map((one) => `${one.wasm_sha256}.wasm.gz`))].toSorted(),
    );
  });

  it("have their unit tests beside them, which pass", async () => {
    const templates = await policyTemplates();
    assert.ok(templates.length >= 6);
    for (const { name, source, summary } of templates) {
      assert.ok(summary.length > 20, name);
      const tests = await readFile(join(POLICY_FOLDER, "templates", `${name}_test.rego`), "utf8");
      const ran = await compiler.test(source, tests, uuidv7());
      assert.ok(ran.ok, `${name}: ${JSON.stringify(ran)}`);
      assert.ok(ran.tests.length >= 4, name);
      assert.deepEqual(
        ran.tests.filter(({ result }) => result !== "pass"),
        [],
        name,
      );
    }
  });

  it("need no compiler, as long as not a letter of them is changed", async () => {
    const none = withShipped(createPolicyCompiler({ log, opa_path: "/nowhere/opa" }));
    const [template] = await policyTemplates();
    assert.ok(template !== undefined);
    const taken = await none.compile(template.source, uuidv7());
    assert.ok(taken.ok && sha256Of(taken.policy.wasm) === taken.policy.wasm_sha256);
    await assert.rejects(none.compile(`${template.source}\n`, uuidv7()), { code: "policy_compiler_unavailable" });
  });
});
