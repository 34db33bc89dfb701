import * as opaWasm from "@open-policy-agent/opa-wasm";
import { COUNTER_EXPORT } from "./meter.ts";
import { sprintf } from "./sprintf.ts";

/** What opa-wasm loads. Its types name an export that its ES module has on its default object only. */
type LoadedPolicy = {
  readonly entrypoints: Readonly<Record<string, number>>;
  evaluate(input: ArrayBuffer, entrypoint: number): unknown;
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
  readonly policy: LoadedPolicy;
  readonly memory: WebAssembly.Memory;
  /** The builtins that the module calls out for. */
  readonly builtins: readonly string[];
  /** Units left. Setting it arms the counter; below zero the module traps. */
  readonly counter: WebAssembly.Global;
  /** Called when the input has been read and the policy begins. */
  onBegin: () => void;
};

/** OPA's ABI of its WASM modules (1.x), as far as it is called here and not by opa-wasm. Addresses are numbers. */
type Exports = {
  readonly eval: (context: number) => number;
  readonly builtins: () => number;
  readonly opa_malloc: (size: number) => number;
  readonly opa_json_parse: (at: number, size: number) => number;
  readonly opa_json_dump: (value: number) => number;
  readonly opa_wasm_abi_version: WebAssembly.Global;
  readonly [COUNTER_EXPORT]: WebAssembly.Global;
};

const EXPORTS = [
  "eval",
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

const decoder = new TextDecoder();

const textAt = (memory: WebAssembly.Memory, at: number, limit = Number.POSITIVE_INFINITY): string => {
  const bytes = new Uint8Array(memory.buffer);
  const end = bytes.indexOf(0, at);
  return decoder.decode(bytes.subarray(at, Math.min(end === -1 ? bytes.length : end, at + limit)));
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
  const fail = (): never => {
    throw new Error("a builtin that is not there");
  };
  const callSprintf = (id: number, _context: number, format: number, values: number): number => {
    if (names[id] !== "sprintf") return fail();
    const counter = exports[COUNTER_EXPORT];
    counter.value -= SPRINTF_UNITS;
    if (counter.value < 0) throw new Error("out of units");
    const read = (value: number): unknown => JSON.parse(textAt(memory, exports.opa_json_dump(value)));
    const text = sprintf(read(format), read(values));
    if (text === undefined) return 0; // undefined in Rego
    const bytes = Buffer.from(JSON.stringify(text));
    const at = exports.opa_malloc(bytes.length);
    new Uint8Array(memory.buffer).set(bytes, at);
    return exports.opa_json_parse(at, bytes.length);
  };
  const env = {
    memory,
    opa_abort: (at: number): never => {
      const message = textAt(memory, at, MAX_MESSAGE_BYTES);
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
  const ids = JSON.parse(textAt(memory, exports.opa_json_dump(exports.builtins()))) as Readonly<Record<string, number>>;
  const names: Readonly<Record<number, string>> = Object.fromEntries(
    Object.entries(ids).map(([name, id]) => [id, name]),
  );

  const live: { -readonly [K in keyof PolicyInstance]: PolicyInstance[K] } = {
    // By ABI 1.0 (minor version 1) the input is read and then evaluated, in two calls: the counter is armed between them.
    policy: new LoadedPolicy(
      {
        exports: {
          ...instance.exports,
          eval: (context: number): number => {
            live.onBegin();
            return exports.eval(context);
          },
        },
      },
      memory,
      1,
    ),
    memory,
    builtins: Object.keys(ids),
    counter: exports[COUNTER_EXPORT],
    onBegin: () => {},
  };
  return live;
};
