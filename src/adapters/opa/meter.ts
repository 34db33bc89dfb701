/**
 * Metering: a policy's WASM is rewritten once, when its version is written, so that every function and every turn of a loop
 * takes from a counter, and the module traps when it falls below zero. Code of a module runs on only by calls and by
 * branches to the head of a loop, so that nothing it does escapes the counter, and an evaluation ends inside the thread that
 * it runs in: a timeout around it (`vm`, a worker) would cost more than the evaluation.
 *
 * Opcodes are an allow-list. Refused, among all that is unknown: bulk memory and tables (one instruction, unbounded work),
 * threads (`memory.atomic.wait` blocks), exceptions (they could catch the trap's place).
 */

/** The bytes are no module, or one that can't be metered. */
export class MalformedModule extends Error {
  constructor(what: string) {
    super(what);
    this.name = "MalformedModule";
  }
}

/** The counter, a mutable i32 global that the metered module exports: set before an evaluation, read after it. */
export const COUNTER_EXPORT = "caracal_units";
/** What the counter holds when a module is instantiated: its start function and the loading of its tables spend from it. */
export const INITIAL_UNITS = 1_000_000;

/** Far above what 64 KiB of Rego compile to (some 200 KiB). */
export const MAX_MODULE_BYTES = 4 * 1024 * 1024;

const HEADER = Uint8Array.of(0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00);

const SECTION = { custom: 0, import: 2, memory: 5, global: 6, export: 7, code: 10 } as const;
/** Each section once, in this order (12, the data count, stands between 9 and 10). Another, such as tags, is refused. */
const SECTION_ORDER = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 10, 11] as const;

const KIND = { function: 0, table: 1, memory: 2, global: 3 } as const;

const I32 = 0x7f;
const MUTABLE = 1;
const OP = {
  unreachable: 0x00,
  loop: 0x03,
  if: 0x04,
  end: 0x0b,
  global_get: 0x23,
  global_set: 0x24,
  i32_const: 0x41,
  i32_lt_s: 0x48,
  i32_sub: 0x6b,
} as const;
const VOID = 0x40;

/** What follows an opcode: how many LEB128 numbers, or a form of its own. */
const NONE = 0;
const ONE = 1;
const TWO = 2;
const BLOCK = 3;
const GLOBAL = 4;
const BR_TABLE = 5;
const F32 = 6;
const F64 = 7;
const TYPES = 8;
const PREFIX_FC = 9;
const REFUSED = 255;

const IMMEDIATES: Uint8Array = (() => {
  const table = new Uint8Array(256).fill(REFUSED);
  const set = (form: number, from: number, to: number = from): void => {
    table.fill(form, from, to + 1);
  };
  set(NONE, 0x00, 0x01); // unreachable, nop
  set(BLOCK, 0x02, 0x04); // block, loop, if
  set(NONE, 0x05); // else
  set(NONE, 0x0b); // end
  set(ONE, 0x0c, 0x0d); // br, br_if
  set(BR_TABLE, 0x0e);
  set(NONE, 0x0f); // return
  set(ONE, 0x10); // call
  set(TWO, 0x11); // call_indirect
  set(NONE, 0x1a, 0x1b); // drop, select
  set(TYPES, 0x1c); // select with types
  set(ONE, 0x20, 0x22); // local.get, .set, .tee
  set(GLOBAL, 0x23, 0x24);
  set(TWO, 0x28, 0x3e); // loads and stores: alignment, offset
  set(ONE, 0x3f, 0x40); // memory.size, memory.grow
  set(ONE, 0x41, 0x42); // i32.const, i64.const
  set(F32, 0x43);
  set(F64, 0x44);
  set(NONE, 0x45, 0xc4); // comparisons, arithmetic, conversions, sign extension
  set(PREFIX_FC, 0xfc);
  return table;
})();
/** Of the opcodes behind 0xfc only the saturating conversions (0 to 7). */
const LAST_SATURATING = 7;

type Reader = { readonly bytes: Uint8Array; at: number; readonly end: number };

const byte = (r: Reader): number => {
  if (r.at >= r.end) throw new MalformedModule(`the module ends unexpectedly at byte ${r.at}`);
  return r.bytes[r.at++] as number;
};

/** An unsigned LEB128 of at most 32 bits. */
const u32 = (r: Reader): number => {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const b = byte(r);
    if (shift === 28 && b > 0x0f) break;
    value += (b & 0x7f) * 2 ** shift;
    if (b < 0x80) return value;
  }
  throw new MalformedModule(`a number longer than 32 bits at byte ${r.at}`);
};

/** Passes over a LEB128 of any kind, of at most 64 bits. */
const skipLeb = (r: Reader): void => {
  for (let length = 0; length < 10; length += 1) if (byte(r) < 0x80) return;
  throw new MalformedModule(`a number longer than 64 bits at byte ${r.at}`);
};

const skip = (r: Reader, count: number): void => {
  if (count > r.end - r.at) throw new MalformedModule(`the module ends unexpectedly at byte ${r.end}`);
  r.at += count;
};

/** The next `size` bytes as a reader of their own; passes over them. */
const part = (r: Reader, size: number): Reader => {
  const start = r.at;
  skip(r, size);
  return { bytes: r.bytes, at: start, end: r.at };
};

const done = (r: Reader, what: string): void => {
  if (r.at !== r.end) throw new MalformedModule(`${what} is longer than its content, at byte ${r.at}`);
};

const u32Bytes = (value: number): number[] => {
  const out: number[] = [];
  let rest = value;
  do {
    out.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
    rest >>>= 7;
  } while (rest > 0);
  return out;
};

/** A signed LEB128; the values here are not negative. */
const s32Bytes = (value: number): number[] => {
  const out = u32Bytes(value);
  const last = out[out.length - 1] as number;
  if ((last & 0x40) !== 0) out.splice(-1, 1, last | 0x80, 0x00); // else it would be read as negative
  return out;
};

/** Bytes that grow; runs are copied, not pushed. */
const createWriter = (size: number) => {
  let bytes = new Uint8Array(size);
  let at = 0;
  return {
    write(run: ArrayLike<number>) {
      if (at + run.length > bytes.length) {
        const grown = new Uint8Array(Math.max(bytes.length * 2, at + run.length));
        grown.set(bytes.subarray(0, at));
        bytes = grown;
      }
      bytes.set(run, at);
      at += run.length;
    },
    taken: (): Uint8Array => bytes.subarray(0, at),
  };
};

type Section = { readonly id: number; readonly body: Reader };

const readSections = (bytes: Uint8Array): Section[] => {
  const r: Reader = { bytes, at: 0, end: bytes.length };
  for (const expected of HEADER) if (byte(r) !== expected) throw new MalformedModule("not a WASM module of version 1");
  const sections: Section[] = [];
  let place = -1;
  while (r.at < r.end) {
    const id = byte(r);
    const body = part(r, u32(r));
    if (id === SECTION.custom) continue; // names and producers: nothing that runs
    const next = (SECTION_ORDER as readonly number[]).indexOf(id);
    if (next <= place) throw new MalformedModule(`section ${id} is unknown, repeated or out of order`);
    place = next;
    sections.push({ id, body });
  }
  return sections;
};

const skipLimits = (r: Reader): void => {
  const flags = byte(r);
  if (flags > 1) throw new MalformedModule("shared or 64-bit memory"); // shared: other threads; 64 bits: no bound
  skipLeb(r);
  if (flags === 1) skipLeb(r);
};

/** How many globals are imported. Memory must be: whoever hands it in sets its maximum. */
const readImports = (section: Section | undefined): number => {
  let globals = 0;
  let memories = 0;
  if (section !== undefined) {
    const r = { ...section.body };
    for (let count = u32(r); count > 0; count -= 1) {
      skip(r, u32(r)); // module
      skip(r, u32(r)); // name
      const kind = byte(r);
      if (kind === KIND.function) skipLeb(r);
      else if (kind === KIND.table) {
        skip(r, 1);
        skipLimits(r);
      } else if (kind === KIND.memory) {
        memories += 1;
        skipLimits(r);
      } else if (kind === KIND.global) {
        globals += 1;
        skip(r, 2);
      } else throw new MalformedModule(`an import of the unknown kind ${kind}`);
    }
    done(r, "the import section");
  }
  if (memories !== 1) throw new MalformedModule("the module does not import its memory");
  return globals;
};

const readCount = (section: Section | undefined): { readonly count: number; readonly rest: Uint8Array } => {
  if (section === undefined) return { count: 0, rest: new Uint8Array() };
  const r = { ...section.body };
  const count = u32(r);
  return { count, rest: r.bytes.subarray(r.at, r.end) };
};

const checkExports = (section: Section | undefined, globals: number): void => {
  if (section === undefined) return;
  const r = { ...section.body };
  for (let count = u32(r); count > 0; count -= 1) {
    const name = part(r, u32(r));
    if (Buffer.from(r.bytes.buffer, r.bytes.byteOffset + name.at, name.end - name.at).toString() === COUNTER_EXPORT) {
      throw new MalformedModule(`the module exports ${COUNTER_EXPORT} already`);
    }
    const kind = byte(r);
    if (u32(r) >= globals && kind === KIND.global) throw new MalformedModule("an export of a global that is not there");
  }
  done(r, "the export section");
};

/** Passes over what follows `op`. */
const skipImmediates = (r: Reader, op: number, globals: number): void => {
  switch (IMMEDIATES[op]) {
    case NONE:
      return;
    case ONE:
      return skipLeb(r);
    case TWO:
      skipLeb(r);
      return skipLeb(r);
    case BLOCK:
      return skipLeb(r); // void, a value type or a type's index: one signed LEB128
    case GLOBAL:
      // The counter gets the next free index: a module that names it already would read or write its own budget.
      if (u32(r) >= globals) throw new MalformedModule(`a global that is not there, at byte ${r.at}`);
      return;
    case BR_TABLE: {
      for (let count = u32(r); count > 0; count -= 1) skipLeb(r);
      return skipLeb(r);
    }
    case F32:
      return skip(r, 4);
    case F64:
      return skip(r, 8);
    case TYPES:
      return skip(r, u32(r));
    case PREFIX_FC: {
      const operation = u32(r);
      if (operation <= LAST_SATURATING) return;
      throw new MalformedModule(`the instruction 0xfc ${operation} can't be metered, at byte ${r.at}`);
    }
    default:
      throw new MalformedModule(`the instruction 0x${op.toString(16)} can't be metered, at byte ${r.at}`);
  }
};

/** Takes one unit, and traps below zero. */
const chargeBytes = (counter: number): Uint8Array => {
  const index = u32Bytes(counter);
  const take = [OP.global_get, ...index, OP.i32_const, ...s32Bytes(1), OP.i32_sub, OP.global_set, ...index];
  const below = [OP.global_get, ...index, OP.i32_const, ...s32Bytes(0), OP.i32_lt_s];
  return Uint8Array.from([...take, ...below, OP.if, VOID, OP.unreachable, OP.end]);
};

const rewriteCode = (body: Reader, globals: number): Uint8Array => {
  const charge = chargeBytes(globals);
  const r = { ...body };
  const out = createWriter((body.end - body.at) * 2);
  const count = u32(r);
  out.write(u32Bytes(count));
  for (let left = count; left > 0; left -= 1) {
    const f = part(r, u32(r));
    const start = f.at;
    for (let groups = u32(f); groups > 0; groups -= 1) {
      skipLeb(f);
      skip(f, 1);
    }
    const places = [f.at];
    while (f.at < f.end) {
      const op = byte(f);
      skipImmediates(f, op, globals);
      if (op === OP.loop) places.push(f.at);
    }
    out.write(u32Bytes(f.end - start + places.length * charge.length));
    let from = start;
    for (const place of places) {
      out.write(f.bytes.subarray(from, place));
      out.write(charge);
      from = place;
    }
    out.write(f.bytes.subarray(from, f.end));
  }
  done(r, "the code section");
  return out.taken();
};

const joined = (...parts: readonly ArrayLike<number>[]): Uint8Array => {
  const out = createWriter(parts.reduce((size, one) => size + one.length, 0));
  for (const one of parts) out.write(one);
  return out.taken();
};

/**
 * A module → the same module, metered. Custom sections are left out; the same bytes give the same bytes.
 * Throws `MalformedModule` where the bytes are no valid module, or one whose work the counter would not bound.
 */
export const meter = (module: Uint8Array): Uint8Array => {
  if (module.length > MAX_MODULE_BYTES)
    throw new MalformedModule(`the module is longer than ${MAX_MODULE_BYTES} bytes`);
  const sections = readSections(module);
  const find = (id: number): Section | undefined => sections.find((section) => section.id === id);
  if (find(SECTION.memory) !== undefined) throw new MalformedModule("the module has a memory of its own");
  const code = find(SECTION.code);
  if (code === undefined) throw new MalformedModule("the module has no code");
  const own = readCount(find(SECTION.global));
  const globals = readImports(find(SECTION.import)) + own.count;
  checkExports(find(SECTION.export), globals);
  const exported = readCount(find(SECTION.export));

  const rewritten = new Map<number, Uint8Array>([
    [
      SECTION.global,
      joined(u32Bytes(own.count + 1), own.rest, [I32, MUTABLE, OP.i32_const, ...s32Bytes(INITIAL_UNITS), OP.end]),
    ],
    [
      SECTION.export,
      joined(
        u32Bytes(exported.count + 1),
        exported.rest,
        [COUNTER_EXPORT.length, ...Buffer.from(COUNTER_EXPORT)],
        [KIND.global, ...u32Bytes(globals)],
      ),
    ],
    [SECTION.code, rewriteCode(code.body, globals)],
  ]);
  const out = createWriter(module.length * 2);
  out.write(HEADER);
  for (const id of SECTION_ORDER) {
    const body = find(id)?.body;
    const content = rewritten.get(id) ?? body?.bytes.subarray(body.at, body.end);
    if (content === undefined) continue;
    out.write([id, ...u32Bytes(content.length)]);
    out.write(content);
  }
  const metered = out.taken().slice();
  // The engine's own validator has the last word on both: what was invalid must not become valid by what was added.
  if (!WebAssembly.validate(module) || !WebAssembly.validate(metered))
    throw new MalformedModule("the module is not valid");
  return metered;
};
