import {
  anything,
  has,
  isObject,
  issueOfList,
  listOf,
  mostBytesOf,
  number,
  type ObjectOf,
  objectOf,
  oneOf,
  optional,
  recordOf,
  strictIssueIn,
  text,
  whole,
} from "./members.ts";
import { TOKEN_TYPE_ACCESS_TOKEN } from "./sts.ts";
import type { Issue } from "../kernel/problem.ts";

/**
 * The hop from the Gateway to the STS. A new fact of a call is a row of one of these tables: both sides' types, the
 * readers and the size follow. Within one process the same objects pass without being written.
 */

/** Of one batch, of one exchange in it, and of one line of its answer. */
export const MAX_EXCHANGES = 32;
export const MAX_EXCHANGES_BYTES = 512 * 1024;
export const MAX_EXCHANGE_BYTES = 64 * 1024;
export const MAX_ANSWER_LINE_BYTES = 64 * 1024;
/** Of a challenge's id and of its secret, in characters: more than either has. */
export const MAX_CHALLENGE_FIELD = 128;

/** What the Gateway asks for one call: the fields of a token request that it may send, and whose call it is. */
export const EXCHANGE = {
  zone_id: text(1, 128),
  subject_token: text(1, MAX_EXCHANGE_BYTES),
  /** The resource's identifier. */
  resource: text(1, MAX_EXCHANGE_BYTES),
  scope: optional(text(0, MAX_EXCHANGE_BYTES)),
  agent_session_id: optional(text(1, 128)),
  delegation_edge_id: optional(text(1, 128)),
  /** As the Gateway saw them: policy input, and in the ledger. */
  method: text(1, 64),
  path: text(1, MAX_EXCHANGE_BYTES),
  request_id: text(1, 128),
  traceparent: text(1, 128),
  /** The challenge that this call answers, and its secret: both or none. */
  challenge_id: optional(text(1, MAX_CHALLENGE_FIELD)),
  challenge_response: optional(text(1, MAX_CHALLENGE_FIELD)),
};
export type GatewayExchange = ObjectOf<typeof EXCHANGE>;

/** RFC 6749, 5.1 and RFC 8693, 2.2.1: what any client is told. */
const TOKEN = {
  access_token: text(),
  token_type: oneOf("Bearer"),
  /** Seconds. */
  expires_in: number,
  scope: text(),
  issued_token_type: oneOf(TOKEN_TYPE_ACCESS_TOKEN),
  target_resources: listOf(text()),
  session_id: text(),
};
export type TokenResponse = ObjectOf<typeof TOKEN>;

/** One of a delegation's agent sessions, and the edge by which it received its authority; the root has none. */
const LINK = {
  application_id: text(),
  agent_session_id: text(),
  delegation_edge_id: optional(text()),
};

/**
 * What the Gateway is told beside. With `session_id`, the ids name everything whose revocation ends the call; they are
 * the mandate's, which may stand for more than the ambient token did.
 */
const GATEWAY_GRANT = {
  ...TOKEN,
  /** By the resource's identifier: how its upstream is to be called. */
  upstreams: recordOf(objectOf({ url: text(), auth_mode: oneOf("caracal_jwt") })),
  /** The ledger event that allowed the call. */
  decision_id: text(),
  /** Seconds since the epoch: the earliest end of session, agent session and edges. A stream ends there. */
  auth_exp: number,
  agent_session_id: optional(text()),
  delegation_edge_id: optional(text()),
  grant_id: optional(text()),
  delegation_chain: optional(listOf(objectOf(LINK))),
};
export type GatewayGrant = ObjectOf<typeof GATEWAY_GRANT>;

/** RFC 6749, 5.2, with ours. */
const OAUTH_ERROR = {
  error: text(),
  error_description: text(),
  reason: text(),
  requestId: text(),
  diagnostics: optional(listOf(anything)),
  /** With `interaction_required`, where there is a challenge to be answered. The secret is said once. RFC 3339. */
  challenge_id: optional(text()),
  challenge_type: optional(text()),
  challenge_secret: optional(text()),
  challenge_expires_at: optional(text()),
};
export type OAuthError = ObjectOf<typeof OAUTH_ERROR>;

/** `retry_after_s` is the `Retry-After` header. */
export type Refused = {
  readonly ok: false;
  readonly status: number;
  readonly body: OAuthError;
  readonly retry_after_s?: number | undefined;
};
/** An answer of the token endpoint to a client, or to the Gateway. */
export type TokenAnswer = { readonly ok: true; readonly body: TokenResponse } | Refused;
export type ExchangeAnswer = { readonly ok: true; readonly body: GatewayGrant } | Refused;

/** As many bytes as an exchange can take as JSON, at the most: measured only where that would be too many. */
export const exchangeBytes = (exchange: GatewayExchange): number => {
  const most = mostBytesOf(EXCHANGE, exchange);
  return most <= MAX_EXCHANGE_BYTES ? most : Buffer.byteLength(JSON.stringify(exchange));
};

/** `{"exchanges":[…]}`, 1 to 32 of them. */
export const batchText = (exchanges: readonly GatewayExchange[]): string => JSON.stringify({ exchanges });

/** A batch's JSON value → its exchanges, or the one thing that is wrong with it: it is taken whole or not at all. */
export const readBatch = (value: unknown): readonly GatewayExchange[] | Issue => {
  if (!isObject(value)) return { path: "", message: "must be an object" };
  const exchanges = Object.hasOwn(value, "exchanges") ? value["exchanges"] : undefined;
  const issue =
    issueOfList(exchanges, "exchanges", MAX_EXCHANGES, (one, path) => strictIssueIn(EXCHANGE, one, path)) ??
    strictIssueIn({ exchanges: anything }, value, "");
  return issue ?? (exchanges as readonly GatewayExchange[]);
};

const LINE = { exchange: number, status: whole(200, 599), retry_after_s: optional(whole(0, 999_999)), body: anything };

/** One line of the answer: which exchange of the batch it names, from 0, and what the token endpoint answers to it. */
export const lineText = (exchange: number, answer: ExchangeAnswer): string => {
  const wait = answer.ok || answer.retry_after_s === undefined ? "" : `,"retry_after_s":${answer.retry_after_s}`;
  const status = answer.ok ? 200 : answer.status;
  return `{"exchange":${exchange},"status":${status}${wait},"body":${JSON.stringify(answer.body)}}\n`;
};

const readAnswer = (line: ObjectOf<typeof LINE>): ExchangeAnswer | undefined => {
  const { status, body, retry_after_s } = line;
  if (status === 200) return has(GATEWAY_GRANT, body) ? { ok: true, body } : undefined;
  return status >= 400 && has(OAUTH_ERROR, body) ? { ok: false, status, body, retry_after_s } : undefined;
};

/** A line, parsed: which exchange it names, and its answer. `answer` undefined: another form than agreed. */
export type NamedAnswer = { readonly exchange: number; readonly answer: ExchangeAnswer | undefined };

/** A line's text in the answer to a batch of `count`; undefined: no line, or of no exchange that was asked for. */
export const readLine = (line_text: string, count: number): NamedAnswer | undefined => {
  let line: unknown;
  try {
    line = JSON.parse(line_text);
  } catch {
    return undefined;
  }
  if (!isObject(line) || !Object.hasOwn(line, "exchange")) return undefined;
  const exchange = line["exchange"];
  if (!Number.isInteger(exchange) || (exchange as number) < 0 || (exchange as number) >= count) return undefined;
  return { exchange: exchange as number, answer: has(LINE, line) ? readAnswer(line) : undefined };
};
