import * as v from "valibot";
import { Pool } from "undici";
import {
  BINDINGS_PATH,
  type Bindings,
  BindingsSchema,
  GATEWAY_FIELDS,
  GRANT_TOKEN_EXCHANGE,
  JWKS_PATH,
  JwksResponseSchema,
  OAuthErrorSchema,
  REVOCATIONS_PATH,
  RevocationPageSchema,
  TOKEN_PATH,
  TOKEN_TYPE_ACCESS_TOKEN,
  TokenResponseSchema,
} from "../../contracts/sts.ts";
import { GATEWAY_HEADERS, signGatewayCall } from "../../domain/gateway-signature.ts";
import type { Keyring } from "../../domain/keyring.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Cancellation } from "../../kernel/cancel.ts";
import { randomSecret } from "../../kernel/ids.ts";
import { type GatewayExchange, type Sts, StsTimeout } from "../../ports/sts.ts";
import { Unavailable } from "../../ports/streams.ts";

export type StsHttpOptions = {
  /** `STS_URL`; a path in it is kept in front of the STS's own. */
  readonly url: string;
  /** `GATEWAY_STS_HMAC_KEY`. */
  readonly ring: Keyring;
  /** `STS_TIMEOUT`: from the call to the last byte of its answer. */
  readonly timeout_ms: number;
  readonly clock: Clock;
  /** Trusted in place of the system's, in PEM. */
  readonly ca?: string;
  readonly max_connections?: number;
};

const MAX_TOKEN_ANSWER_BYTES = 256 * 1024;
const MAX_JWKS_BYTES = 64 * 1024;
/** Bindings of every zone, or one page of revocations. */
const MAX_STATE_BYTES = 16 * 1024 * 1024;
const MAX_CONNECTIONS = 256;
/** Calls at once, those that wait for a connection included. */
const MAX_CALLS = 4_096;
const KEEP_ALIVE_MS = 4_000;
const NO_BODY = Buffer.alloc(0);

type Call = {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers: readonly string[];
  readonly body: Buffer;
  readonly signed: boolean;
  readonly max_bytes: number;
  readonly signal?: Cancellation;
};
type Answer = { readonly status: number; readonly retry_after: string | undefined; readonly body: Buffer };

const unusable = (what: string, cause?: unknown): Unavailable => new Unavailable(`sts (${what})`, cause);

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

const seconds = (header: string | undefined): number | undefined =>
  header !== undefined && /^\d{1,6}$/.test(header) ? Number(header) : undefined;

const headerNamed = (raw: readonly Buffer[], name: string): string | undefined => {
  for (let i = 0; i + 1 < raw.length; i += 2) {
    if (raw[i]?.toString("latin1").toLowerCase() === name) return raw[i + 1]?.toString("latin1");
  }
  return undefined;
};

/** The exchange as a form, each field escaped by itself: a URLSearchParams costs four times as much. */
const formOf = (request: GatewayExchange): string => {
  const encoded = encodeURIComponent;
  const scope = request.scope === undefined ? "" : `&scope=${encoded(request.scope)}`;
  return (
    `grant_type=${encoded(GRANT_TOKEN_EXCHANGE)}&zone_id=${encoded(request.zone_id)}` +
    `&subject_token=${encoded(request.subject_token)}&subject_token_type=${encoded(TOKEN_TYPE_ACCESS_TOKEN)}` +
    `&resource=${encoded(request.resource)}&${GATEWAY_FIELDS.method}=${encoded(request.method)}` +
    `&${GATEWAY_FIELDS.path}=${encoded(request.path)}${scope}`
  );
};

/**
 * The STS over HTTP(S) (see the port): each call signed, sent once at most, bounded in time and in the size of its
 * answer. An answer that is not what was agreed on is `Unavailable`, never a decision.
 */
export const createStsHttp = (options: StsHttpOptions): Sts & { close(): Promise<void> } => {
  const base = new URL(options.url);
  const prefix = base.pathname.endsWith("/") ? base.pathname.slice(0, -1) : base.pathname;
  const pool = new Pool(base.origin, {
    connections: options.max_connections ?? MAX_CONNECTIONS,
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
  let calls = 0;

  const signatureOf = (call: Call, path: string): string[] => {
    const timestamp_ms = options.clock.now_ms();
    const nonce = randomSecret(16);
    const signature = signGatewayCall(options.ring, {
      method: call.method,
      path,
      timestamp_ms,
      nonce,
      body: call.body,
    });
    return [
      GATEWAY_HEADERS.timestamp,
      String(timestamp_ms),
      GATEWAY_HEADERS.nonce,
      nonce,
      GATEWAY_HEADERS.signature,
      signature,
    ];
  };

  const send = (call: Call): Promise<Answer> =>
    new Promise((resolve, reject) => {
      if (calls >= MAX_CALLS) {
        reject(unusable("too many calls are under way"));
        return;
      }
      if (call.signal?.aborted === true) {
        reject(unusable("the caller gave up"));
        return;
      }
      calls += 1;
      const path = `${prefix}${call.path}`;
      const headers = call.signed ? [...call.headers, ...signatureOf(call, path)] : [...call.headers];
      let cancel: ((error: Error) => void) | undefined;
      let ended: Error | undefined;
      let settled = false;
      const settle = (): boolean => {
        if (settled) return false;
        settled = true;
        clearTimeout(timer);
        call.signal?.removeEventListener("abort", onAbort);
        return true;
      };
      const stop = (error: Error): void => {
        if (!settle()) return;
        ended = error;
        cancel?.(error);
        reject(error);
      };
      const onAbort = (): void => stop(unusable("the caller gave up"));
      const timer = setTimeout(() => stop(new StsTimeout()), options.timeout_ms);
      call.signal?.addEventListener("abort", onAbort, { once: true });

      let status = 0;
      let retry_after: string | undefined;
      let size = 0;
      const chunks: Buffer[] = [];
      pool.dispatch(
        { method: call.method, path, headers, body: call.body.byteLength === 0 ? null : call.body },
        {
          onConnect(abort) {
            if (ended === undefined) cancel = abort;
            else abort(ended); // it was waiting for a connection when its time ran out: never sent
          },
          onHeaders(code, raw) {
            if (code < 200) return true;
            status = code;
            retry_after = headerNamed(raw, "retry-after");
            return true;
          },
          onData(chunk) {
            size += chunk.byteLength;
            if (size > call.max_bytes) {
              stop(unusable("its answer is too large"));
              return false;
            }
            chunks.push(chunk);
            return true;
          },
          onComplete() {
            calls -= 1;
            if (settle())
              resolve({
                status,
                retry_after,
                body: chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks),
              });
          },
          onError(error) {
            calls -= 1;
            const code = "code" in error ? String(error.code) : "";
            if (settle())
              reject(code === "UND_ERR_CONNECT_TIMEOUT" ? new StsTimeout() : unusable("unreachable", error));
          },
        },
      );
    });

  const get = (path: string, signed: boolean, max_bytes: number): Promise<Answer> =>
    send({ method: "GET", path, headers: ["accept", "application/json"], body: NO_BODY, signed, max_bytes });

  return {
    async exchange(request, signal) {
      const answer = await send({
        method: "POST",
        path: TOKEN_PATH,
        headers: [
          "content-type",
          "application/x-www-form-urlencoded",
          "accept",
          "application/json",
          "x-request-id",
          request.request_id,
          "traceparent",
          request.traceparent,
        ],
        body: Buffer.from(formOf(request)),
        signed: true,
        max_bytes: MAX_TOKEN_ANSWER_BYTES,
        signal,
      });
      if (answer.status === 200) return { ok: true, body: parseAs(TokenResponseSchema, answer.body) };
      if (answer.status < 400) throw unusable(`it answered with status ${answer.status}`);
      const body = parseAs(OAuthErrorSchema, answer.body);
      return { ok: false, status: answer.status, body, retry_after_s: seconds(answer.retry_after) };
    },

    async bindings(since): Promise<Bindings | undefined> {
      const query = since === undefined ? "" : `?since=${encodeURIComponent(since)}`;
      const answer = await get(`${BINDINGS_PATH}${query}`, true, MAX_STATE_BYTES);
      if (answer.status === 304) return undefined;
      if (answer.status !== 200) throw unusable(`it answered the question for bindings with status ${answer.status}`);
      return parseAs(BindingsSchema, answer.body);
    },

    async revocations(cursor) {
      const query = cursor === undefined ? "" : `?cursor=${encodeURIComponent(cursor)}`;
      const answer = await get(`${REVOCATIONS_PATH}${query}`, true, MAX_STATE_BYTES);
      if (answer.status !== 200)
        throw unusable(`it answered the question for revocations with status ${answer.status}`);
      return parseAs(RevocationPageSchema, answer.body);
    },

    async jwks(zone_id) {
      const answer = await get(`${JWKS_PATH}?zone_id=${encodeURIComponent(zone_id)}`, false, MAX_JWKS_BYTES);
      if (answer.status === 404 || answer.status === 400) return undefined;
      if (answer.status !== 200) throw unusable(`it answered the question for keys with status ${answer.status}`);
      return parseAs(JwksResponseSchema, answer.body);
    },

    close: () => pool.destroy(),
  };
};
