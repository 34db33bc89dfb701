import * as opaWasm from "@open-policy-agent/opa-wasm";
import { POLICY_ENTRYPOINT } from "../../domain/policy-module.ts";
import { COUNTER_EXPORT } from "./meter.ts";
import { sprintf } from "./sprintf.ts";

/**
 * What opa-wasm loads, and where it has put it: the base document, and the top of the heap behind it, to which each
 * evaluation returns. Its types name an export that its ES module has on its default object only.
 */
type LoadedPolicy = {
  readonly entrypoints: Readonly<Record<string, number>>;
  readonly dataAddr: number;
  readonly dataHeapPtr: number;
};
const { LoadedPolicy } = (
  opaWasm as unknown as {
    readonly default: {
      readonly LoadedPolicy: new (instance: object, memory: WebAssembly.Memory, minor_version: number) => LoadedPolicy;
    };
  }
).default;

/** A policy module that lives, with a memory of its own. Used by one evaluation at a time. */
export type PolicyInstance = {
  readonly memory: WebAssembly.Memory;
  /** The builtins that the module calls out for. */
  readonly builtins: readonly string[];
  /** Units left. Setting it arms the counter; below zero the module traps. */
  readonly counter: WebAssembly.Global;
  /**
   * Forgets the last evaluation and reads the next input, JSON text of `bytes` bytes in UTF-8; the address of a context to
   * evaluate. Apart from `evaluate`, so that the counter is armed anew between them.
   */
  readInput(json: string, bytes: number): number;
  /** Evaluates the policy in this context; JSON text of the result set. */
  evaluate(context: number): string;
};

/**
 * OPA's ABI of its WASM modules (1.0): addresses are numbers. opa-wasm loads a module; the calls of an evaluation are made
 * here, the same in the same order: its own copy memory three times over, and make of each answer a value of its own.
 */
type Exports = {
  readonly eval: (context: number) => number;
  readonly opa_heap_ptr_set: (at: number) => void;
  readonly opa_eval_ctx_new: () => number;
  readonly opa_eval_ctx_set_input: (context: number, value: number) => void;
  readonly opa_eval_ctx_set_data: (context: number, value: number) => void;
  readonly opa_eval_ctx_set_entrypoint: (context: number, entrypoint: number) => void;
  readonly opa_eval_ctx_get_result: (context: number) => number;
  readonly builtins: () => number;
  readonly opa_malloc: (size: number) => number;
  readonly opa_json_parse: (at: number, size: number) => number;
  readonly opa_json_dump: (value: number) => number;
  readonly opa_wasm_abi_version: WebAssembly.Global;
  readonly [COUNTER_EXPORT]: WebAssembly.Global;
};

const EXPORTS = [
  "eval",
  "opa_heap_ptr_set",
  "opa_eval_ctx_new",
  "opa_eval_ctx_set_input",
  "opa_eval_ctx_set_data",
  "opa_eval_ctx_set_entrypoint",
  "opa_eval_ctx_get_result",
  "builtins",
  "opa_malloc",
  "opa_json_parse",
  "opa_json_dump",
  "opa_wasm_abi_version",
  COUNTER_EXPORT,
] as const;
/** What a module may import. A host function that is not here does not exist for it. */
const IMPORTS = new Set([
  "memory",
  "opa_abort",
  "opa_println",
  "opa_builtin0",
  "opa_builtin1",
  "opa_builtin2",
  "opa_builtin3",
  "opa_builtin4",
]);
/** opa-wasm's own start: 320 KiB. */
const INITIAL_PAGES = 5;
const MAX_MESSAGE_BYTES = 512;
/** What a call of `sprintf` costs, beside the reading of its arguments inside the module: its work here is outside the counter. */
const SPRINTF_UNITS = 200;

/** The bytes of a memory, through one view that is made again when the memory has grown. */
const createReader = (memory: WebAssembly.Memory) => {
  let view = Buffer.from(memory.buffer);
  const bytes = (): Buffer => {
    if (view.length === 0) view = Buffer.from(memory.buffer); // growing detaches the buffer before
    return view;
  };
  return {
    bytes,
    /** UTF-8 up to the next zero byte. */
    textAt(at: number, limit = Number.POSITIVE_INFINITY): string {
      const from = bytes();
      const end = from.indexOf(0, at);
      return from.toString("utf8", at, Math.min(end === -1 ? from.length : end, at + limit));
    },
  };
};

/** The module has no more memory to ask for. */
export class OutOfMemory extends Error {}

/** Refuses a module that is not one of our own making: metered, with OPA's ABI, and nothing of the host but its builtins. */
export const checkModule = (module: WebAssembly.Module): void => {
  const foreign = WebAssembly.Module.imports(module).find((one) => one.module !== "env" || !IMPORTS.has(one.name));
  if (foreign !== undefined) throw new Error(`the module imports ${foreign.module}.${foreign.name}`);
  const exported = new Set(WebAssembly.Module.exports(module).map((one) => one.name));
  const missing = EXPORTS.find((name) => !exported.has(name));
  if (missing !== undefined) throw new Error(`the module does not export ${missing}`);
};

/**
 * A fresh instance in at most `pages_max` pages (64 KiB each) of memory. Throws what the engine throws where there is no room,
 * or where the module does not start. The import object is ours, not opa-wasm's: its builtins in JavaScript are outside
 * every budget, and its own `sprintf` could not be replaced.
 */
export const instantiate = (module: WebAssembly.Module, pages_max: number): PolicyInstance => {
  const memory = new WebAssembly.Memory({ initial: Math.min(INITIAL_PAGES, pages_max), maximum: pages_max });
  const { bytes, textAt } = createReader(memory);
  const fail = (): never => {
    throw new Error("a builtin that is not there");
  };
  /** The module's value of a JSON text; 0 where it is none. */
  const parse = (json: string, length = Buffer.byteLength(json)): number => {
    const at = exports.opa_malloc(length);
    if (bytes().write(json, at, length) !== length) throw new RangeError("a text is longer than the room made for it");
    return exports.opa_json_parse(at, length);
  };
  const callSprintf = (id: number, _context: number, format: number, values: number): number => {
    if (names[id] !== "sprintf") return fail();
    const counter = exports[COUNTER_EXPORT];
    counter.value -= SPRINTF_UNITS;
    if (counter.value < 0) throw new Error("out of units");
    const read = (value: number): unknown => JSON.parse(textAt(exports.opa_json_dump(value)));
    const text = sprintf(read(format), read(values));
    if (text === undefined) return 0; // undefined in Rego
    return parse(JSON.stringify(text));
  };
  const env = {
    memory,
    opa_abort: (at: number): never => {
      const message = textAt(at, MAX_MESSAGE_BYTES);
      throw message.startsWith("opa_malloc") ? new OutOfMemory(message) : new Error(message);
    },
    opa_println: (): void => {}, // a policy does not write to our output
    opa_builtin0: fail,
    opa_builtin1: fail,
    opa_builtin2: callSprintf,
    opa_builtin3: fail,
    opa_builtin4: fail,
  };
  const instance = new WebAssembly.Instance(module, { env });
  const exports = instance.exports as unknown as Exports;
  if (exports.opa_wasm_abi_version.value !== 1) throw new Error("the module has another ABI than OPA's version 1");
  const ids = JSON.parse(textAt(exports.opa_json_dump(exports.builtins()))) as Readonly<Record<string, number>>;
  const names: Readonly<Record<number, string>> = Object.fromEntries(
    Object.entries(ids).map(([name, id]) => [id, name]),
  );

  // Its evaluation by ABI 1.0 (minor version 1) reads the input and evaluates it in two calls, as we do.
  const { entrypoints, dataAddr, dataHeapPtr } = new LoadedPolicy(instance, memory, 1);
  const entrypoint = entrypoints[POLICY_ENTRYPOINT];
  if (entrypoint === undefined) throw new Error(`the module has no entrypoint ${POLICY_ENTRYPOINT}`);

  return {
    memory,
    builtins: Object.keys(ids),
    counter: exports[COUNTER_EXPORT],
    readInput(json, length) {
      exports.opa_heap_ptr_set(dataHeapPtr);
      const input = parse(json, length);
      if (input === 0) throw new Error("the input is no JSON");
      const context = exports.opa_eval_ctx_new();
      exports.opa_eval_ctx_set_input(context, input);
      exports.opa_eval_ctx_set_data(context, dataAddr);
      exports.opa_eval_ctx_set_entrypoint(context, entrypoint);
      return context;
    },
    evaluate(context) {
      exports.eval(context);
      return textAt(exports.opa_json_dump(exports.opa_eval_ctx_get_result(context)));
    },
  };
};
