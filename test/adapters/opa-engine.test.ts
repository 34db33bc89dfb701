import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { instantiate } from "../../src/adapters/opa/instance.ts";
import { meter } from "../../src/adapters/opa/meter.ts";
import { MAX_POLICY_INPUT_BYTES } from "../../src/domain/policy-input.ts";
import { isConstant } from "../../src/kernel/json-text.ts";
import { compiled, encode, facts, inputOf, policy, unmetered } from "./opa-fixtures.ts";

const BUDGET = 50_000;
const ZONE = facts.zone_id;
const engine = createPolicyEngine({ budget_units: BUDGET });
const load = async (body: string, by = engine) => by.load((await compiled(policy(body))).wasm, ZONE);

describe("the policy engine", () => {
  it("gives the rule's value, and nothing where the rule is undefined", async () => {
    const evaluator = await load(`input.action.use == "per_call"; x := {"decision": "allow", "at": input.context.now}`);
    const { status, ...rest } = evaluator.evaluate(inputOf());
    assert.equal(status, "result");
    assert.deepEqual("result" in rest && rest.result, { decision: "allow", at: "2026-11-23T18:30:00.000Z" });
    const silent = evaluator.evaluate(inputOf({ use: "ambient" }));
    assert.equal(silent.status === "result" && silent.result, undefined);
  });

  it("counts the same units for the same input, whatever was evaluated before", async () => {
    const evaluator = await load(`some s in input.resource.scopes; s == input.context.requested_scopes[0]; x := s`);
    const first = evaluator.evaluate(inputOf());
    evaluator.evaluate(inputOf({ path: "/other" }));
    assert.deepEqual(evaluator.evaluate(inputOf()), first);
    assert.ok(first.units > 0 && first.units < BUDGET / 10);
  });

  it("shares a result that it gave before, frozen, and tells results apart", async () => {
    const evaluator = await load(`x := {"decision": input.action.method, "list": [input.action.method]}`);
    const resultFor = (method: string): unknown => {
      const evaluation = evaluator.evaluate(inputOf({ method }));
      return evaluation.status === "result" ? evaluation.result : undefined;
    };
    const [get, post] = [resultFor("GET"), resultFor("POST")];
    assert.deepEqual(
      [get, post],
      [
        { decision: "GET", list: ["GET"] },
        { decision: "POST", list: ["POST"] },
      ],
    );
    assert.equal(resultFor("GET"), get);
    assert.ok(isConstant(get) && isConstant(post));
    for (let i = 0; i < 1_100; i += 1) assert.deepEqual(resultFor(`M${i}`), { decision: `M${i}`, list: [`M${i}`] });
    assert.deepEqual(resultFor("GET"), get);
    const long = "é".repeat(3_000);
    assert.deepEqual(resultFor(long), { decision: long, list: [long] });
  });

  it("takes the caller's input out of another allowance than the policy's, and reports what both took", async () => {
    const evaluator = await load(`x := input.action.method`);
    const scopes = Array.from({ length: 1500 }, (_, i) => `demo.scope-${i}`);
    const wide = inputOf({ resource: { ...facts.resource, scopes } });
    const thrifty = await load(`x := input.action.method`, createPolicyEngine({ budget_units: 1_000 }));
    assert.equal(thrifty.evaluate(wide).status, "result");
    const [short, long] = [evaluator.evaluate(inputOf()), evaluator.evaluate(wide)];
    assert.ok(long.units - short.units > scopes.join().length / 4, `${short.units}, ${long.units}`);
  });

  it("reports a new instance as spent, whether it was made for the pool's sake, after a trap or in vain", async () => {
    const none = createPolicyEngine({ budget_units: BUDGET, instances_max: 0 });
    assert.ok((await load(`x := 1`, none)).evaluate(inputOf()).units > 25_000);
    const warm = await load(`x := 1`);
    assert.ok(warm.evaluate(inputOf()).units < 5_000);
    const source = `package caracal.authz\n\nresult := 1 if input.a\n\nresult := 2 if input.a\n`;
    const traps = await engine.load((await compiled(source)).wasm, ZONE);
    const input = encode({ a: true });
    assert.ok(traps.evaluate(input).units < 5_000, "the instance that loading made");
    assert.ok(traps.evaluate(input).units > 25_000);
    assert.equal(traps.evaluate(input).status, "failed");
  });

  it("keeps one zone's instance whatever another one has", async () => {
    const small = createPolicyEngine({ budget_units: BUDGET, instances_max: 4 });
    const innocent = await small.load((await compiled(policy(`x := "innocent"`))).wasm, "innocent");
    const hostile = (await compiled(policy(`x := "hostile"`))).wasm;
    const many = await Promise.all(Array.from({ length: 20 }, () => small.load(hostile, "hostile")));
    for (const one of many) one.evaluate(inputOf());
    assert.ok(innocent.evaluate(inputOf()).units < 5_000, "no instance had to be made");
  });

  it("reads the dearest input that may come within the input's own allowance", async () => {
    const evaluator = await load(`x := 1`);
    const dear = [
      `[${"1,".repeat(20_000)}1]`,
      `"${"\\u0041".repeat(10_000)}"`,
      `{${Array.from({ length: 4000 }, (_, i) => `"k${i}":{}`).join(",")}}`,
      `[${"[],".repeat(15_000)}[]]`,
      `[${"1.5e3,".repeat(9000)}1]`,
      `[${'"",'.repeat(15_000)}1]`,
    ];
    for (const json of dear) {
      const evaluation = evaluator.evaluate(json);
      assert.equal(evaluation.status, "result", `${json.slice(0, 20)}: ${JSON.stringify(evaluation)}`);
    }
  });

  it("fails, and lives on, on an input that is too long, too deep or no JSON", async () => {
    const evaluator = await load(`x := input.a`);
    for (const json of [`"${"a".repeat(MAX_POLICY_INPUT_BYTES)}"`, "[".repeat(60_000), "{", "", "\0", `{"a": 01}`]) {
      assert.notEqual(evaluator.evaluate(json).status, "budget_exceeded");
    }
    const after = evaluator.evaluate(encode({ a: 7 }));
    assert.equal(after.status === "result" && after.result, 7);
  });

  it("stops an expensive policy at its budget, in bounded time, and evaluates the next input", async () => {
    const evaluator = await load(
      `x := count([1 | input.principal.id == "loop"; some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); i + j == 7])`,
    );
    const loop = inputOf({ application: { id: "loop", traits: [] } });
    const started_ms = performance.now();
    for (let round = 0; round < 20; round += 1) {
      const evaluation = evaluator.evaluate(loop);
      assert.equal(evaluation.status, "budget_exceeded");
      assert.ok(evaluation.units > BUDGET);
    }
    assert.ok(performance.now() - started_ms < 2000); // each takes about a millisecond; unbounded it takes seconds
    const next = evaluator.evaluate(inputOf());
    assert.equal(next.status === "result" && next.result, 0);
  });

  it("stops what is dear in one builtin: a regular expression, a number, a text, a sort, a glob", async () => {
    const dear = [
      `x := count([1 | some i in numbers.range(1, 3000); regex.match(concat("", ["(a{1,100}){1,9}b", format_int(i, 10)]), "aaaa")])`,
      `regex.match("^(a*)*(a*)*(a*)*$", concat("", [t | some i in numbers.range(1, 20000); t := "aaaaaaaaaaaaaaaa"])); x := 1`,
      `x := product([12345678901234567890 | some i in numbers.range(1, 5000)])`,
      `x := count(concat("", [t | some i in numbers.range(1, 100000); t := "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]))`,
      `x := sort([format_int(100000 - i, 10) | some i in numbers.range(1, 20000)])`,
      `x := count([1 | some i in numbers.range(1, 9000); glob.match("*{a,b}*{c,d}*", [], concat("", ["aaaaaaaaaaaaa", format_int(i, 10)]))])`,
      `x := count([1 | some i in numbers.range(1, 9000); sprintf("%d", [i])])`,
    ];
    for (const body of dear) {
      const evaluator = await load(body);
      const started_ms = performance.now();
      assert.equal(evaluator.evaluate(inputOf()).status, "budget_exceeded", body);
      assert.ok(performance.now() - started_ms < 500, body);
    }
  });

  it("charges a call of sprintf for the work that its counter does not see", async () => {
    const [plain, formatted] = [await load(`x := "1"`), await load(`x := sprintf("1", [])`)];
    const dearer = formatted.evaluate(inputOf()).units - plain.evaluate(inputOf()).units;
    assert.ok(dearer > 200, `${dearer} units`);
  });

  it("stops a policy that fills its memory, whatever its budget is", async () => {
    const rich = createPolicyEngine({ budget_units: 500_000_000, memory_pages_max: 32 });
    const bodies = [
      `x := count([y | some i in numbers.range(1, 200000); y := {"i": i, "text": concat("", ["aaaaaaaaaaaaaaaaaaaaaaa", format_int(i, 10)])}])`,
      `a := concat("", [t | some i in numbers.range(1, 200000); t := "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]); x := count(a)`,
    ];
    for (const body of bodies) {
      const evaluator = await load(body, rich);
      const evaluation = evaluator.evaluate(inputOf());
      assert.equal(evaluation.status, "budget_exceeded", JSON.stringify(evaluation).slice(0, 200));
      assert.ok(evaluation.units < 500_000_000);
    }
  });

  it("fails where two rules of a policy disagree", async () => {
    const source = `package caracal.authz\n\nresult := 1 if input.a\n\nresult := 2 if input.b\n`;
    const evaluator = await engine.load((await compiled(source)).wasm, ZONE);
    const evaluation = evaluator.evaluate(encode({ a: true, b: true }));
    assert.equal(evaluation.status, "failed");
    assert.match(evaluation.status === "failed" ? evaluation.error : "", /conflict|multiple/);
    const next = evaluator.evaluate(encode({ b: true }));
    assert.equal(next.status === "result" && next.result, 2);
  });

  it("makes an instance again that had to go for others, and answers the same", async () => {
    const small = createPolicyEngine({ budget_units: BUDGET, instances_max: 1 });
    const [one, two] = [
      await load(`x := ["one", input.action.method]`, small),
      await load(`x := ["two", input.action.method]`, small),
    ];
    for (let round = 0; round < 10; round += 1) {
      const [first, second] = [one.evaluate(inputOf()), two.evaluate(inputOf())];
      assert.deepEqual(first.status === "result" && first.result, ["one", "POST"]);
      assert.deepEqual(second.status === "result" && second.result, ["two", "POST"]);
    }
  });

  it("refuses to load what it can't bound: no WASM, an unmetered module, one that calls out", async () => {
    await assert.rejects(engine.load(Uint8Array.of(1, 2, 3), ZONE), /WebAssembly/);
    await assert.rejects(engine.load(await unmetered(policy(`x := 1`)), ZONE), /does not export caracal_units/);
    await assert.rejects(
      engine.load(meter(await unmetered(policy(`x := regex.split("(a|a)*b", input.a)`))), ZONE),
      /calls regex.split/,
    );
    const foreign = Uint8Array.from([
      0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0, 2, 9, 1, 2, 0x66, 0x73, 2, 0x72, 0x6d, 0, 0,
    ]);
    await assert.rejects(engine.load(foreign, ZONE), /imports fs\.rm/);
  });
});

describe("an instance over ten thousand evaluations", () => {
  const body = `
    words := [w | some w in split(input.text, " "); regex.match(input.pattern, w)]
    globs := [w | some w in split(input.text, " "); glob.match(concat("", [input.prefix, "*"]), [], w)]
    x := {"words": words, "globs": globs, "said": sprintf("%s:%d", [input.prefix, count(words)])}`;

  it("neither grows nor mixes up what it was asked before", async () => {
    const module = await WebAssembly.compile((await compiled(policy(body))).wasm);
    const instance = instantiate(module, 64);
    const ask = (text: string, pattern: string, prefix: string): unknown => {
      instance.counter.value = 2_000_000;
      const json = encode({ text, pattern, prefix });
      const set = JSON.parse(instance.evaluate(instance.readInput(json, Buffer.byteLength(json)))) as {
        result: unknown;
      }[];
      return set[0]?.result;
    };
    const word = fc.stringMatching(/^[a-c]{1,5}$/);
    const questions = fc.sample(
      fc.tuple(
        fc.array(word, { minLength: 1, maxLength: 4 }),
        fc.constantFrom("^a+b?", "c$", "^[ab]+$", "b{2}", "^(a|bc)+$"),
        word,
      ),
      {
        numRuns: 500,
        seed: 7,
      },
    );
    let size = 0;
    for (let round = 0; round < 20; round += 1) {
      for (const [words, pattern, prefix] of questions) {
        const matching = words.filter((w) => new RegExp(pattern).test(w));
        assert.deepEqual(ask(words.join(" "), pattern, prefix), {
          words: matching,
          globs: words.filter((w) => w.startsWith(prefix)),
          said: `${prefix}:${matching.length}`,
        });
      }
      if (round === 0) size = instance.memory.buffer.byteLength;
    }
    assert.equal(instance.memory.buffer.byteLength, size);
  });
});
