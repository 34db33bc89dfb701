import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import * as fc from "fast-check";
import * as opaWasm from "@open-policy-agent/opa-wasm";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { COUNTER_EXPORT, MalformedModule, meter } from "../../src/adapters/opa/meter.ts";
import { encode, policy, unmetered, facts } from "./opa-fixtures.ts";

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const section = (id: number, ...content: readonly number[]): number[] => [id, content.length, ...content];
const name = (text: string): number[] => [text.length, ...Buffer.from(text)];

/** A module with one exported function `run: () → ()` of the given code. */
const moduleOf = (
  code: readonly number[],
  parts: { imports?: number[]; globals?: number[]; exports?: number[] } = {},
): Uint8Array => {
  const body = [0x00, ...code, 0x0b];
  return Uint8Array.from([
    ...HEADER,
    ...section(1, 1, 0x60, 0, 0),
    ...(parts.imports ?? section(2, 1, ...name("env"), ...name("memory"), 2, 0, 1)),
    ...section(3, 1, 0),
    ...(parts.globals ?? []),
    ...(parts.exports ?? section(7, 1, ...name("run"), 0, 0)),
    ...section(10, 1, body.length, ...body),
  ]);
};

const LOOP_FOR_EVER = [0x03, 0x40, 0x0c, 0, 0x0b];

/** Runs the metered module with `units`; what is left of them, or the trap. */
const run = async (wasm: Uint8Array, units: number): Promise<{ left: number; trap: unknown }> => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 2 });
  const { exports } = new WebAssembly.Instance(await WebAssembly.compile(wasm), { env: { memory } });
  const counter = exports[COUNTER_EXPORT] as { value: number };
  counter.value = units;
  let trap: unknown;
  try {
    (exports["run"] as () => void)();
  } catch (error) {
    trap = error;
  }
  return { left: counter.value, trap };
};

const refuses = (module: Uint8Array, why: RegExp): void => {
  assert.throws(
    () => meter(module),
    (error) => error instanceof MalformedModule && why.test(error.message),
  );
};

/** Metered, or refused with the typed error; nothing else may come out. */
const outcome = (bytes: Uint8Array): Uint8Array | undefined => {
  try {
    return meter(bytes);
  } catch (error) {
    if (error instanceof MalformedModule) return undefined;
    throw error;
  }
};

describe("metering", () => {
  it("stops a loop without end after exactly its units", async () => {
    const { left, trap } = await run(meter(moduleOf(LOOP_FOR_EVER)), 1000);
    assert.match(String(trap), /unreachable/);
    assert.equal(left, -1);
  });

  it("stops a loop that is closed by a branch table, in a block, behind a condition", async () => {
    const code = [0x03, 0x40, 0x02, 0x40, 0x41, 0, 0x0e, 1, 1, 1, 0x0b, 0x0b];
    assert.match(String((await run(meter(moduleOf(code)), 50_000)).trap), /unreachable/);
    const conditional = [0x03, 0x40, 0x41, 1, 0x0d, 0, 0x0b];
    assert.match(String((await run(meter(moduleOf(conditional)), 50_000)).trap), /unreachable/);
  });

  it("stops a function that calls itself", async () => {
    const { left, trap } = await run(meter(moduleOf([0x10, 0])), 500);
    assert.match(String(trap), /unreachable/);
    assert.equal(left, -1);
  });

  it("takes one unit for a function and one for each turn of a loop", async () => {
    assert.equal((await run(meter(moduleOf([0x01])), 10)).left, 9);
    assert.equal((await run(meter(moduleOf([0x03, 0x40, 0x0b])), 10)).left, 8);
  });

  it("gives the same bytes for the same module, and keeps out what does not run", () => {
    const plain = moduleOf(LOOP_FOR_EVER);
    const named = Uint8Array.from([...plain, ...section(0, ...name("name"), 1, 2, 3)]);
    assert.deepEqual(meter(plain), meter(plain));
    assert.deepEqual(meter(named), meter(plain));
  });

  it("refuses a module that could reach its own counter", () => {
    const exports = section(7, 2, ...name("run"), 0, 0, ...name(COUNTER_EXPORT), 0, 0);
    refuses(moduleOf([0x01], { exports }), /exports caracal_units already/);
    // The counter will be global 0: as the module stands there is none.
    refuses(moduleOf([0x41, 0, 0x24, 0]), /global that is not there/);
    refuses(moduleOf([0x23, 0, 0x1a]), /global that is not there/);
    refuses(moduleOf([0x01], { exports: section(7, 1, ...name("run"), 3, 0) }), /export of a global/);
    refuses(meter(moduleOf([0x01])), /exports caracal_units already/);
  });

  it("refuses a memory that nobody outside bounds", () => {
    const own = Uint8Array.from([
      ...HEADER,
      ...section(1, 1, 0x60, 0, 0),
      ...section(3, 1, 0),
      ...section(5, 1, 0, 1),
      ...section(10, 1, 2, 0, 0x0b),
    ]);
    refuses(own, /memory of its own/);
    refuses(moduleOf([0x01], { imports: [] }), /does not import its memory/);
    refuses(moduleOf([0x01], { imports: section(2, 1, ...name("env"), ...name("memory"), 2, 3, 1, 1) }), /shared/);
  });

  it("refuses instructions of unbounded work, and those that it does not know", () => {
    refuses(moduleOf([0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 11, 0]), /0xfc 11 can't be metered/); // memory.fill
    refuses(moduleOf([0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 10, 0, 0]), /0xfc 10 can't be metered/); // memory.copy
    for (const op of [0x06, 0x08, 0x12, 0x13, 0xfb, 0xfd, 0xfe]) refuses(moduleOf([op, 0, 0]), /can't be metered/);
  });

  it("refuses sections twice, out of order or unknown, and numbers that never end", () => {
    refuses(Uint8Array.from([...HEADER, ...section(1, 0), ...section(1, 0)]), /section 1/);
    refuses(Uint8Array.from([...HEADER, ...section(3, 0), ...section(1, 0)]), /section 1/);
    refuses(Uint8Array.from([...HEADER, ...section(13, 0)]), /section 13/);
    refuses(Uint8Array.from([...HEADER, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), /longer than 32 bits/);
    refuses(Uint8Array.from([...HEADER, 1, 0xff, 0xff, 0xff, 0xff, 0x0f]), /ends unexpectedly/);
    refuses(new Uint8Array(), /ends unexpectedly/);
    refuses(Uint8Array.from([...HEADER.slice(0, 7), 1]), /version 1/);
  });

  it("meets garbage with its own error and nothing else", () => {
    const byte = fc.integer({ min: 0, max: 255 });
    const sections = fc.array(fc.tuple(fc.integer({ min: 0, max: 14 }), fc.array(byte, { maxLength: 40 })), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void outcome(bytes)),
      { numRuns: 500 },
    );
    fc.assert(
      fc.property(sections, (all) => {
        outcome(Uint8Array.from([...HEADER, ...all.flatMap(([id, content]) => section(id, ...content))]));
      }),
      { numRuns: 2000 },
    );
  });
});

describe("metering what OPA compiles", () => {
  const sources = {
    traits: policy(`x := {t | some t in input.traits; startswith(t, "a")}`),
    arithmetic: policy(`x := [y | some n in numbers.range(1, 40); n % 3 != input.n; y := (n * n) / 7]`),
    regex: policy(`x := [regex.match("^(a|b)+$", t) | some t in input.traits]`),
    objects: policy(`x := {k: object.get(v, "b", null) | some k, v in input.nested}`),
    walking: policy(`x := count([1 | walk(input, [_, v]); is_string(v)])`),
    text: policy(`x := concat(",", [upper(trim_space(t)) | some t in input.traits])`),
    nothing: policy(`input.n == "never"; x := 1`),
  };
  const modules = new Map<string, Uint8Array>();
  before(async () => {
    for (const [title, source] of Object.entries(sources)) modules.set(title, await unmetered(source));
  });

  const inputs = fc.record({
    traits: fc.array(fc.oneof(fc.stringMatching(/^[ab ]{0,6}$/), fc.string({ maxLength: 8 })), { maxLength: 5 }),
    n: fc.integer({ min: 0, max: 3 }),
    nested: fc.dictionary(fc.stringMatching(/^[a-z]{1,4}$/), fc.record({ b: fc.boolean() }), { maxKeys: 4 }),
  });

  it("answers what the module answered before", async () => {
    const { loadPolicySync } = (
      opaWasm as unknown as {
        default: { loadPolicySync(wasm: Uint8Array): { evaluate(input: unknown): readonly { result: unknown }[] } };
      }
    ).default;
    const engine = createPolicyEngine({ budget_units: 1_000_000 });
    for (const [title, module] of modules) {
      const plain = loadPolicySync(module);
      const metered = await engine.load(meter(module), facts.zone_id);
      fc.assert(
        fc.property(inputs, (input) => {
          const evaluation = metered.evaluate(encode(input));
          assert.equal(evaluation.status, "result", title);
          assert.deepEqual(
            evaluation.status === "result" && evaluation.result,
            plain.evaluate(input)[0]?.result,
            title,
          );
        }),
        { numRuns: 60 },
      );
    }
  });

  it("never makes a valid module of a broken one, nor breaks a valid one", () => {
    const module = modules.get("traits") as Uint8Array;
    const places = fc.array(fc.tuple(fc.nat(module.length - 1), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    });
    fc.assert(
      fc.property(places, (changes) => {
        const bent = module.slice();
        for (const [at, value] of changes) bent[at] = value;
        const metered = outcome(bent);
        if (metered !== undefined) assert.ok(WebAssembly.validate(bent) && WebAssembly.validate(metered));
      }),
      { numRuns: 150 },
    );
  });

  it("refuses a module that was cut off anywhere", () => {
    const module = modules.get("traits") as Uint8Array;
    fc.assert(
      fc.property(fc.nat(module.length - 1), (length) => {
        // Cut exactly behind a custom section it is whole: only names were lost.
        const metered = outcome(module.slice(0, length));
        if (metered !== undefined) assert.deepEqual(metered, meter(module));
      }),
      { numRuns: 100 },
    );
  });
});
