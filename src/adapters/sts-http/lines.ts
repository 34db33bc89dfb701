import { MAX_ANSWER_LINE_BYTES } from "../../contracts/exchange.ts";

const NEWLINE = 0x0a;

/** Cuts a stream into lines. `push` says false, and is not to be called again, once a line is longer than is agreed. */
export const createLineReader = (
  onLine: (text: string) => void,
): { push(chunk: Buffer): boolean; readonly unfinished: boolean } => {
  let rest: Buffer[] = [];
  let rest_bytes = 0;
  return {
    get unfinished() {
      return rest_bytes > 0;
    },
    push(chunk) {
      let at = 0;
      for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, at)) {
        if (rest_bytes + end - at > MAX_ANSWER_LINE_BYTES) return false;
        if (rest_bytes === 0) onLine(chunk.toString("utf8", at, end));
        else onLine(Buffer.concat([...rest, chunk.subarray(at, end)]).toString("utf8"));
        rest = [];
        rest_bytes = 0;
        at = end + 1;
      }
      if (at === chunk.byteLength) return true;
      rest.push(chunk.subarray(at));
      rest_bytes += chunk.byteLength - at;
      return rest_bytes <= MAX_ANSWER_LINE_BYTES;
    },
  };
};
