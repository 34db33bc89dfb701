import type { Clock } from "../../kernel/clock.ts";
import { createShares } from "../../kernel/shares.ts";
import type { Egress, Upstreams } from "../../ports/egress.ts";

/** A JWKS of 16 RSA keys with certificates has 40 KB. */
const MAX_BYTES = 64 * 1024;
/** For name, connection and all of the answer. Whoever logs in may be waiting for it. */
const TIMEOUT_MS = 3_000;
/** Documents that are fetched at once: of one zone, four. */
const FETCHES = { limit: 256, zone_share: 1 / 64, client_share: 1 / 64 } as const;

/** It can't be had now; `message` is for the log. */
export class DocumentUnavailable extends Error {}

/** JSON documents of hosts that a zone names: they may be slow, lie, or be no host of theirs. */
export type Documents = {
  /** Rejects with `DocumentUnavailable` where it is not had whole, in time, as JSON, with status 200, of an allowed address. */
  fetch(zone_id: string, url: string): Promise<unknown>;
};

export const createDocuments = (deps: {
  readonly egress: Egress;
  readonly upstreams: Upstreams;
  readonly clock: Clock;
}): Documents => {
  const { egress, upstreams } = deps;
  const shares = createShares(FETCHES);

  /** The body, of an answer that is one. `over` is called with what ends the call early. */
  const read = async (zone_id: string, url: URL, over: AbortSignal): Promise<Buffer> => {
    const target = await egress.check(url, zone_id);
    if ("refused" in target) throw new DocumentUnavailable(`${target.refused}: ${target.detail}`);
    if (over.aborted) throw new DocumentUnavailable("its name took too long");
    const place = upstreams.place(target, zone_id, "");
    if (!place.ok) throw new DocumentUnavailable(`too many calls of ${target.origin}`);
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      const refuse = (why: string): void => {
        reject(new DocumentUnavailable(why));
        call.abort();
      };
      const call = place.call(
        { method: "GET", path: `${url.pathname}${url.search}`, headers: ["accept", "application/json"], body: null },
        {
          onInformation: () => {},
          onHeaders: (status, headers) => {
            // A redirect is not followed: it would lead where nobody registered.
            if (status !== 200) refuse(`status ${status}`);
            else if (headers.some((name, at) => at % 2 === 0 && name.toLowerCase() === "content-encoding"))
              refuse("it is encoded");
          },
          onData: (chunk) => {
            bytes += chunk.byteLength;
            if (bytes > MAX_BYTES) refuse(`more than ${MAX_BYTES} bytes`);
            else chunks.push(chunk);
            return true;
          },
          onEnd: () => resolve(Buffer.concat(chunks)),
          onError: (_failure, detail) => reject(new DocumentUnavailable(detail)),
        },
      );
      over.addEventListener("abort", () => refuse("it took too long"), { once: true });
    });
  };

  return {
    async fetch(zone_id, text) {
      if (!URL.canParse(text)) throw new DocumentUnavailable("no URL");
      const share = shares.take(zone_id, "");
      if (!share.ok) throw new DocumentUnavailable(`too many documents are being fetched (${share.bound})`);
      const over = new AbortController();
      const timer = setTimeout(() => over.abort(), TIMEOUT_MS);
      try {
        const late = new Promise<never>((_, reject) => {
          over.signal.addEventListener("abort", () => reject(new DocumentUnavailable("it took too long")));
        });
        const body = await Promise.race([read(zone_id, new URL(text), over.signal), late]);
        return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body)) as unknown;
      } catch (error) {
        throw error instanceof DocumentUnavailable ? error : new DocumentUnavailable("it is no JSON", { cause: error });
      } finally {
        clearTimeout(timer);
        share.release();
      }
    },
  };
};
