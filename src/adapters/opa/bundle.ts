import { gunzip } from "node:zlib";
import { promisify } from "node:util";

const BLOCK = 512;
const MAX_BUNDLE_BYTES = 16 * 1024 * 1024;
const unzip = promisify(gunzip);

const textField = (block: Buffer, from: number, to: number): string => {
  const end = block.indexOf(0, from);
  return block.toString("latin1", from, end === -1 || end > to ? to : end);
};

/** A number of a tar header: octal digits, ended by NUL or a space. */
const octalField = (block: Buffer, from: number, to: number): number => {
  const text = textField(block, from, to).trim();
  if (!/^[0-7]{1,11}$/.test(text)) throw new Error("the bundle's tar header has a field that is no number");
  return Number.parseInt(text, 8);
};

/** The content of the one regular file `name` in a tar archive (POSIX ustar). Throws where it is not there, or cut off. */
const readTar = (tar: Buffer, name: string): Buffer => {
  for (let at = 0; at + BLOCK <= tar.length;) {
    const header = tar.subarray(at, at + BLOCK);
    if (header[0] === 0) break; // the end: blocks of zeros
    const size = octalField(header, 124, 136);
    const start = at + BLOCK;
    if (start + size > tar.length) throw new Error("the bundle is cut off");
    if (textField(header, 0, 100).replace(/^\//, "") === name) return tar.subarray(start, start + size);
    at = start + Math.ceil(size / BLOCK) * BLOCK;
  }
  throw new Error(`the bundle has no ${name}`);
};

/** The compiled module in a bundle (`.tar.gz`) that `opa build -t wasm` made. */
export const readPolicyWasm = async (bundle: Uint8Array): Promise<Buffer> =>
  readTar(await unzip(bundle, { maxOutputLength: MAX_BUNDLE_BYTES }), "policy.wasm");
