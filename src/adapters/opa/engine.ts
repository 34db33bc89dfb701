import { MAX_POLICY_INPUT_BYTES } from "../../domain/policy-input.ts";
import type { Evaluation, Evaluator } from "../../domain/policy-module.ts";
import { constant } from "../../kernel/json-text.ts";
import type { PolicyEngine } from "../../ports/policy.ts";
import { createKeptShares } from "../../kernel/kept-shares.ts";
import { checkModule, instantiate, OutOfMemory, type PolicyInstance } from "./instance.ts";

export type PolicyEngineOptions = {
  /** Steps (calls of a function, turns of a loop) of one evaluation, once its input has been read. `POLICY_BUDGET`. */
  readonly budget_units: number;
  /** The most memory of one instance, in pages of 64 KiB; 64 (4 MiB) if absent. */
  readonly memory_pages_max?: number;
  /** Instances that are kept between evaluations; 512 if absent. Above it the zone that holds most gives one up. */
  readonly instances_max?: number;
};

const DEFAULT_PAGES_MAX = 64;
/** Each instance reserves some 10 GiB of address space for its guard pages, of 128 TiB that a process has. */
const DEFAULT_INSTANCES_MAX = 512;
/** An instance that grew above this is not kept: memory never shrinks, and many tenants' instances live side by side. */
const KEEP_BYTES_MAX = 1024 * 1024;
/** To read the input takes some 3 to 5 steps a byte: this is the fixed part and the most for each byte. */
const READ_STEPS = 1_000;
const READ_STEPS_PER_BYTE = 16;

/** A step of reading takes 1.8 ns where one of a policy takes 6.5: so many of the former are charged as one unit. */
const READ_STEPS_PER_UNIT = 4;
/** A new instance takes 120 to 170 µs, whatever its module's size (measured from 150 to 240 KiB): as 25 000 steps do. */
const MAKE_UNITS = 25_000;

const FEWEST_PAGES = 5;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** The value of a result set: `[{result}]`; undefined where the rule is undefined. */
const resultOf = (set: unknown): unknown => {
  const first: unknown = Array.isArray(set) ? set[0] : undefined;
  return typeof first === "object" && first !== null && "result" in first ? first.result : undefined;
};

/** Most policies give one of a few answers, which are read once. When they are many, the memory of them begins anew. */
const MAX_RESULTS = 1_024;
const MAX_RESULT_CHARS = 2_048;

/**
 * Reads result sets, of whatever module: the same text is the same value. What is remembered is frozen through and
 * through, since many evaluations hold it.
 */
const createResultReader = (): ((json: string) => unknown) => {
  const read = new Map<string, unknown>();
  return (json) => {
    const known = read.get(json);
    if (known !== undefined) return known;
    const result = resultOf(JSON.parse(json));
    if (result === undefined || json.length > MAX_RESULT_CHARS) return result;
    if (read.size >= MAX_RESULTS) read.clear();
    read.set(json, constant(result));
    return result;
  };
};

/**
 * Evaluates stored modules in this thread. The caller's input has an allowance of its own, by its length, so that a long input
 * does not eat the policy's budget; the steps that the policy takes, and those that write its answer out, are its own. What
 * an evaluation reports as spent is all three, and a new instance where one had to be made.
 */
export const createPolicyEngine = (options: PolicyEngineOptions): PolicyEngine => {
  const { budget_units } = options;
  const pages_max = Math.max(options.memory_pages_max ?? DEFAULT_PAGES_MAX, FEWEST_PAGES);
  const read = createResultReader();
  const live = createKeptShares<WebAssembly.Module, PolicyInstance>(options.instances_max ?? DEFAULT_INSTANCES_MAX);

  const release = (zone_id: string, module: WebAssembly.Module, instance: PolicyInstance): void => {
    if (instance.memory.buffer.byteLength <= KEEP_BYTES_MAX) live.put(zone_id, module, instance);
  };

  const evaluate = (zone_id: string, module: WebAssembly.Module, input_json: string): Evaluation => {
    const input_bytes = Buffer.byteLength(input_json);
    if (input_bytes > MAX_POLICY_INPUT_BYTES) return { status: "failed", error: "the input is too long", units: 0 };
    let spent = 0;
    let instance = live.take(zone_id, module); // put back after a good evaluation only: what trapped is in no known state
    if (instance === undefined) {
      spent += MAKE_UNITS;
      try {
        instance = instantiate(module, pages_max);
      } catch (error) {
        return { status: "failed", error: messageOf(error), units: spent };
      }
    }
    const { counter } = instance;
    const read_steps = READ_STEPS + READ_STEPS_PER_BYTE * input_bytes;
    const readUnits = (): number => Math.ceil((read_steps - counter.value) / READ_STEPS_PER_UNIT);
    let begun = false;
    try {
      counter.value = read_steps;
      const context = instance.readInput(input_json, input_bytes);
      spent += readUnits();
      begun = true;
      counter.value = budget_units;
      const result = read(instance.evaluate(context));
      const units = spent + budget_units - counter.value;
      release(zone_id, module, instance);
      return { status: "result", result, units };
    } catch (error) {
      // Nothing of the module runs any more; its instance is let go of.
      const units = spent + (begun ? budget_units - counter.value : readUnits());
      const exceeded = begun && (counter.value < 0 || error instanceof OutOfMemory);
      return exceeded ? { status: "budget_exceeded", units } : { status: "failed", error: messageOf(error), units };
    }
  };

  return {
    async load(wasm, zone_id): Promise<Evaluator> {
      const module = await WebAssembly.compile(wasm);
      checkModule(module);
      const instance = instantiate(module, pages_max);
      const foreign = instance.builtins.find((name) => name !== "sprintf");
      if (foreign !== undefined) throw new Error(`the module calls ${foreign}, which runs outside of its budget`);
      release(zone_id, module, instance);
      return { evaluate: (input_json) => evaluate(zone_id, module, input_json) };
    },
  };
};
