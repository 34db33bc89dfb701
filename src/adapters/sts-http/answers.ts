import {
  MAX_ANSWER_LINE_BYTES,
  type OAuthError,
  TOKEN_TYPE_ACCESS_TOKEN,
  type TokenAnswer,
  type TokenResponse,
} from "../../contracts/sts.ts";

/**
 * What the STS answers to a batch, read by hand: as strict as `ExchangeAnswerSchema`, which is what it is tested against,
 * at a tenth of its cost. Members that were not agreed on are left out, as the schema leaves them out.
 */

type Fields = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value: unknown): value is string => typeof value === "string";
const isNumber = (value: unknown): value is number => typeof value === "number";
const isOptional = <T>(value: unknown, is: (one: unknown) => one is T): value is T | undefined =>
  value === undefined || is(value);
const isWhole = (value: unknown, min: number, max: number): value is number =>
  Number.isInteger(value) && (value as number) >= min && (value as number) <= max;

type Upstreams = NonNullable<TokenResponse["upstreams"]>;

/** undefined: another form than agreed. */
const readUpstreams = (value: unknown): Upstreams | undefined => {
  if (!isObject(value)) return undefined;
  const upstreams: Upstreams = {};
  for (const identifier of Object.keys(value)) {
    // Names that an object has by itself: to set them would be to change what it is.
    if (identifier === "__proto__" || identifier === "prototype" || identifier === "constructor") continue;
    const directive = value[identifier];
    if (!isObject(directive) || !isText(directive["url"]) || directive["auth_mode"] !== "caracal_jwt") return undefined;
    upstreams[identifier] = { url: directive["url"], auth_mode: "caracal_jwt" };
  }
  return upstreams;
};

const readTokenResponse = (body: unknown): TokenResponse | undefined => {
  if (!isObject(body)) return undefined;
  const { access_token, expires_in, scope, target_resources, session_id, decision_id, auth_exp } = body;
  if (!isText(access_token) || body["token_type"] !== "Bearer" || !isNumber(expires_in) || !isText(scope))
    return undefined;
  if (body["issued_token_type"] !== TOKEN_TYPE_ACCESS_TOKEN || !isText(session_id)) return undefined;
  if (!Array.isArray(target_resources) || !target_resources.every(isText)) return undefined;
  if (!isOptional(decision_id, isText) || !isOptional(auth_exp, isNumber)) return undefined;
  const response: TokenResponse = {
    access_token,
    token_type: "Bearer",
    expires_in,
    scope,
    issued_token_type: TOKEN_TYPE_ACCESS_TOKEN,
    target_resources,
    session_id,
  };
  if (body["upstreams"] !== undefined) {
    const upstreams = readUpstreams(body["upstreams"]);
    if (upstreams === undefined) return undefined;
    response.upstreams = upstreams;
  }
  if (decision_id !== undefined) response.decision_id = decision_id;
  if (auth_exp !== undefined) response.auth_exp = auth_exp;
  return response;
};

const readOAuthError = (body: unknown): OAuthError | undefined => {
  if (!isObject(body)) return undefined;
  const { error, error_description, reason, requestId, diagnostics } = body;
  if (!isText(error) || !isText(error_description) || !isText(reason) || !isText(requestId)) return undefined;
  if (diagnostics === undefined) return { error, error_description, reason, requestId };
  return Array.isArray(diagnostics) ? { error, error_description, reason, requestId, diagnostics } : undefined;
};

/** One line, parsed: which exchange it names, and its answer; `answer` undefined: another form than agreed. */
export type NamedAnswer = { readonly exchange: number; readonly answer: TokenAnswer | undefined };

const readAnswer = (line: Fields): TokenAnswer | undefined => {
  const { status, retry_after_s } = line;
  if (status === 200) {
    const body = readTokenResponse(line["body"]);
    return body === undefined ? undefined : { ok: true, body };
  }
  if (!isWhole(status, 400, 599)) return undefined;
  if (retry_after_s !== undefined && !isWhole(retry_after_s, 0, 999_999)) return undefined;
  const body = readOAuthError(line["body"]);
  return body === undefined ? undefined : { ok: false, status, body, retry_after_s };
};

/** A line of the answer to a batch of `count`; undefined: none, or of no exchange that was asked for. */
export const readAnswerLine = (text: string, count: number): NamedAnswer | undefined => {
  let line: unknown;
  try {
    line = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isObject(line)) return undefined;
  const { exchange } = line;
  return isWhole(exchange, 0, count - 1) ? { exchange, answer: readAnswer(line) } : undefined;
};

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
