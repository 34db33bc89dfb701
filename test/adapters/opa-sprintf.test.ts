import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { describe, it } from "node:test";
import { promisify } from "node:util";
import * as fc from "fast-check";
import { findOpa } from "../../src/adapters/opa/binary.ts";
import { sprintf } from "../../src/adapters/opa/sprintf.ts";
import { compiled, encode, policy, facts } from "./opa-fixtures.ts";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";

describe("sprintf", () => {
  it("formats as OPA's own does", async () => {
    const text = fc.oneof(fc.stringMatching(/^[a-zA-Z é%]{0,6}$/), fc.constant('quote " and \\'));
    const value = fc.oneof(
      text,
      fc.integer({ min: -100_000, max: 100_000 }),
      fc.constantFrom(1.5, -0.25, 1234.5678),
      fc.boolean(),
      fc.constant(null),
      fc.array(text, { maxLength: 2 }),
    );
    const directive = fc
      .tuple(fc.constantFrom("", "-", "0", "+"), fc.constantFrom("", "3", "12"), fc.constantFrom("v", "s", "d", "f"))
      .map((parts) => `%${parts.join("")}`);
    const format = fc
      .array(
        fc.oneof(fc.stringMatching(/^[a-z é]{0,4}$/), fc.constantFrom("%%", "%v", "%s", "%d", "%.2f"), directive),
        { maxLength: 5 },
      )
      .map((parts) => parts.join(""));
    const fixed: [string, unknown[]][] = [
      ["%x %X", ["é1", 255]],
      ["%.1s|%.3s", ["éa", "ab"]],
      ["%q", ['quote " and \\']],
      ["%+x", [-31]],
      ["%d%%, %s and %v", [99, { b: [1, null], a: "x" }, true]],
      ["%", []],
      ["%-", ["a"]],
      ["%z %é", [1, "a"]],
    ];
    const cases = [
      ...fixed,
      ...fc.sample(fc.tuple(format, fc.array(value, { maxLength: 4 })), { numRuns: 400, seed: 3 }),
    ];
    const opa = await findOpa({});
    const input = JSON.stringify({ cases });
    const query = "[t | some c in input.cases; t := sprintf(c[0], c[1])]";
    const child = promisify(execFile)(
      opa.path,
      ["eval", "--format", "json", "--stdin-input", "--import", "rego.v1", query],
      { maxBuffer: 1 << 24 },
    );
    child.child.stdin?.end(input);
    const { result } = JSON.parse((await child).stdout) as {
      result: readonly [{ expressions: readonly [{ value: readonly string[] }] }];
    };
    const theirs = result[0].expressions[0].value;
    assert.equal(theirs.length, cases.length);
    assert.deepEqual(
      cases.map(([one, values]) => [one, values, sprintf(one, values)]),
      cases.map(([one, values], i) => [one, values, theirs[i]]),
    );
  });

  it("is undefined for what is no format, and for what is too much", () => {
    assert.equal(sprintf(1, []), undefined);
    assert.equal(sprintf("%s", "a"), undefined);
    assert.equal(sprintf("a".repeat(4097), []), undefined);
    assert.equal(sprintf("%s%s", ["a".repeat(3000), "b".repeat(3000)]), undefined);
    assert.equal(sprintf("%1000000d", [1]), undefined);
    assert.equal(sprintf("%.1000000f", [1.5]), undefined);
    assert.equal(
      sprintf(
        "x",
        Array.from({ length: 65 }, () => 1),
      ),
      undefined,
    );
  });

  it("never throws and never writes more than 4096 characters", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom("%", "s", "d", "0", "9", ".", "-", "v", "q", "é") })),
        fc.array(fc.jsonValue(), { maxLength: 6 }),
        (format, values) => {
          assert.ok((sprintf(format, values)?.length ?? 0) <= 4096);
        },
      ),
      { numRuns: 2000 },
    );
  });

  it("leaves the rule undefined in a policy that asks for too much, and the policy alive", async () => {
    const evaluator = await createPolicyEngine({ budget_units: 50_000 }).load(
      (await compiled(policy(`x := sprintf(input.format, [input.value])`))).wasm,
      facts.zone_id,
    );
    const first = evaluator.evaluate(encode({ format: "%99999d", value: 1 }));
    assert.equal(first.status === "result" && first.result, undefined);
    const next = evaluator.evaluate(encode({ format: "<%s>", value: "x" }));
    assert.equal(next.status === "result" && next.result, "<x>");
  });
});
