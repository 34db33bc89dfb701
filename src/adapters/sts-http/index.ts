import * as v from "valibot";
import { Pool } from "undici";
import {
  BINDINGS_PATH,
  BindingsPageSchema,
  EXCHANGES_PATH,
  JWKS_PATH,
  JwksResponseSchema,
  REVOCATIONS_PATH,
  RevocationPageSchema,
} from "../../contracts/sts.ts";
import { contentSha256, GATEWAY_HEADERS, signGatewayCall } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import type { Clock } from "../../kernel/clock.ts";
import { randomSecret } from "../../kernel/ids.ts";
import { type Sts, StsTimeout } from "../../ports/sts.ts";
import { createExchanges } from "./exchanges.ts";
import { unusable } from "./unusable.ts";

export type StsHttpOptions = {
  /** `STS_URL`; a path in it is kept in front of the STS's own. */
  readonly url: string;
  /** `GATEWAY_STS_HMAC_KEY`. */
  readonly ring: Keyring;
  /** `STS_TIMEOUT`: to have a connection, and for a question of state or keys to the last byte of its answer. */
  readonly timeout_ms: number;
  readonly clock: Clock;
  /** Trusted in place of the system's, in PEM. */
  readonly ca?: string;
  /** Batches under way at once, a connection each; 512 by default. */
  readonly max_batches?: number;
};

const MAX_JWKS_BYTES = 64 * 1024;
/** Bindings of every zone, or one page of revocations. */
const MAX_STATE_BYTES = 16 * 1024 * 1024;
/**
 * Under way at once, a connection each. 64 callers in a closed loop keep five busy, with 13 exchanges in a batch; to let
 * less through makes batches larger and nothing cheaper. The rest is for slow ones: each holds its batch's connection for up
 * to STS_TIMEOUT, and those that need no database are not to wait behind them.
 */
const MAX_BATCHES = 512;
/** Questions for state, at start and now and then; and for keys, which whoever names zones in tokens may have asked. */
const MAX_QUESTIONS = 32;
const QUESTION_CONNECTIONS = 4;
const KEEP_ALIVE_MS = 4_000;
const NO_BODY = Buffer.alloc(0);

type Answer = { readonly status: number; readonly body: Buffer };

const parseJson = (body: Buffer): unknown => {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch (cause) {
    throw unusable("its answer is not JSON", cause);
  }
};

const parseAs = <S extends v.GenericSchema>(schema: S, body: Buffer): v.InferOutput<S> => {
  const parsed = v.safeParse(schema, parseJson(body));
  if (!parsed.success) throw unusable("its answer has another form than agreed");
  return parsed.output;
};

/**
 * The STS over HTTP(S) (see the port): each request signed, sent once at most, bounded in time (an exchange by its caller's signal) and in the size of its
 * answer. An answer that is not what was agreed on is `Unavailable`, never a decision.
 */
export const createStsHttp = (options: StsHttpOptions): Sts & { close(): Promise<void> } => {
  const base = new URL(options.url);
  const prefix = base.pathname.endsWith("/") ? base.pathname.slice(0, -1) : base.pathname;
  const poolOf = (connections: number): Pool =>
    new Pool(base.origin, {
      connections,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: {
        timeout: options.timeout_ms,
        rejectUnauthorized: true,
        minVersion: "TLSv1.2",
        ...(options.ca === undefined ? {} : { ca: options.ca }),
      },
    });
  const max_batches = options.max_batches ?? MAX_BATCHES;
  // Apart, so that none waits behind another.
  const pools = {
    exchanges: poolOf(max_batches),
    state: poolOf(QUESTION_CONNECTIONS),
    keys: poolOf(QUESTION_CONNECTIONS),
  };

  const signatureOf = (method: "GET" | "POST", path: string, body: Buffer): string[] => {
    const timestamp_ms = options.clock.now_ms();
    const nonce = randomSecret(16);
    const content_sha256 = contentSha256(body);
    const signature = signGatewayCall(options.ring, { method, path, timestamp_ms, nonce, content_sha256 });
    return [
      GATEWAY_HEADERS.content_sha256,
      content_sha256.toString("base64url"),
      GATEWAY_HEADERS.timestamp,
      String(timestamp_ms),
      GATEWAY_HEADERS.nonce,
      nonce,
      GATEWAY_HEADERS.signature,
      signature,
    ];
  };

  const questions = { state: 0, keys: 0 };
  const get = (question: string, kind: keyof typeof questions, max_bytes: number): Promise<Answer> =>
    new Promise((resolve, reject) => {
      if (questions[kind] >= MAX_QUESTIONS) {
        reject(unusable("too many calls are under way"));
        return;
      }
      questions[kind] += 1;
      const path = `${prefix}${question}`;
      const headers = ["accept", "application/json", ...(kind === "state" ? signatureOf("GET", path, NO_BODY) : [])];
      let cancel: ((error: Error) => void) | undefined;
      let ended: Error | undefined;
      let settled = false;
      const settle = (): boolean => {
        if (settled) return false;
        settled = true;
        clearTimeout(timer);
        return true;
      };
      const stop = (error: Error): void => {
        if (!settle()) return;
        ended = error;
        cancel?.(error);
        reject(error);
      };
      const timer = setTimeout(() => stop(new StsTimeout()), options.timeout_ms);

      let status = 0;
      let size = 0;
      const chunks: Buffer[] = [];
      pools[kind].dispatch(
        { method: "GET", path, headers },
        {
          onConnect(abort) {
            if (ended === undefined) cancel = abort;
            else abort(ended); // it was waiting for a connection when its time ran out: never sent
          },
          onHeaders(code) {
            if (code >= 200) status = code;
            return true;
          },
          onData(chunk) {
            size += chunk.byteLength;
            if (size > max_bytes) {
              stop(unusable("its answer is too large"));
              return true; // being broken off: undici asserts that nothing is paused when it ends
            }
            chunks.push(chunk);
            return true;
          },
          onComplete() {
            questions[kind] -= 1;
            if (settle()) resolve({ status, body: Buffer.concat(chunks) });
          },
          onError(error) {
            questions[kind] -= 1;
            const code = "code" in error ? String(error.code) : "";
            if (settle())
              reject(code === "UND_ERR_CONNECT_TIMEOUT" ? new StsTimeout() : unusable("unreachable", error));
          },
        },
      );
    });

  const exchanges_path = `${prefix}${EXCHANGES_PATH}`;
  return {
    exchange: createExchanges({
      pool: pools.exchanges,
      path: exchanges_path,
      sign: (body) => signatureOf("POST", exchanges_path, body),
      silent_ms: options.timeout_ms,
      max_batches,
    }),

    async bindings(query) {
      const asked = Object.entries(query).filter(([, value]) => value !== undefined);
      const text = asked.map(([name, value]) => `?${name}=${encodeURIComponent(String(value))}`).join();
      const answer = await get(`${BINDINGS_PATH}${text}`, "state", MAX_STATE_BYTES);
      if (answer.status === 304) return undefined;
      if (answer.status !== 200) throw unusable(`it answered the question for bindings with status ${answer.status}`);
      return parseAs(BindingsPageSchema, answer.body);
    },

    async revocations(cursor) {
      const query = cursor === undefined ? "" : `?cursor=${encodeURIComponent(cursor)}`;
      const answer = await get(`${REVOCATIONS_PATH}${query}`, "state", MAX_STATE_BYTES);
      if (answer.status !== 200)
        throw unusable(`it answered the question for revocations with status ${answer.status}`);
      return parseAs(RevocationPageSchema, answer.body);
    },

    async jwks(zone_id) {
      const answer = await get(`${JWKS_PATH}?zone_id=${encodeURIComponent(zone_id)}`, "keys", MAX_JWKS_BYTES);
      if (answer.status === 404 || answer.status === 400) return undefined;
      if (answer.status !== 200) throw unusable(`it answered the question for keys with status ${answer.status}`);
      return parseAs(JwksResponseSchema, answer.body);
    },

    async close() {
      await Promise.all(Object.values(pools).map((pool) => pool.destroy()));
    },
  };
};
