import type { ServerResponse } from "node:http";
import { type ExchangeAnswer, lineText } from "../../contracts/exchange.ts";

const HEADERS = { "content-type": "application/x-ndjson; charset=utf-8", "cache-control": "no-store" } as const;

/**
 * The answer to a batch of `count` exchanges: a line for each, in the order in which they are decided. Those that are
 * decided in one tick leave in one write; where that is all of them, it is an ordinary answer with its length.
 */
export const createAnswerLines = (
  response: ServerResponse,
  count: number,
): { add(exchange: number, answer: ExchangeAnswer): void } => {
  let lines = "";
  let left = count;
  let scheduled = false;

  const flush = (): void => {
    scheduled = false;
    if (response.destroyed) return; // the Gateway is gone; what was decided is in the ledger
    const text = lines;
    lines = "";
    if (!response.headersSent) {
      response.writeHead(200, left > 0 ? HEADERS : { ...HEADERS, "content-length": Buffer.byteLength(text) });
    }
    if (left > 0) response.write(text);
    else response.end(text);
  };

  return {
    add(exchange, answer) {
      lines += lineText(exchange, answer);
      left -= 1;
      if (scheduled) return;
      scheduled = true;
      setImmediate(flush);
    },
  };
};
