import * as v from "valibot";
import { JwkSchema } from "../domain/token.ts";

export const GRANT_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
export const GRANT_CLIENT_CREDENTIALS = "client_credentials";
export const TOKEN_TYPE_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
export const MAX_FORM_BYTES = 64 * 1024;
export const MAX_RESOURCES = 16;

/** The STS's paths. The internal ones, and the token endpoint for the Gateway, are signed (domain/gateway-signature.ts). */
export const TOKEN_PATH = "/oauth/2/token";
export const JWKS_PATH = "/.well-known/jwks.json";
/** `?since={version}`: 200 with the first `BindingsPage`, or 304; `?cursor={cursor}`: the next; `?zone_id={id}`: that zone alone. */
export const BINDINGS_PATH = "/internal/v1/bindings";
/** `?cursor={cursor}`: 200 with a `RevocationPage`. */
export const REVOCATIONS_PATH = "/internal/v1/revocations";
/** An `ExchangeBatch` as JSON: 200 with an `ExchangeAnswer` a line, each as soon as its exchange is decided. */
export const EXCHANGES_PATH = "/internal/v1/exchanges";

/** Fields of the token endpoint that only the Gateway may send: the call as it saw it. They are policy input. */
export const GATEWAY_FIELDS = { method: "request_method", path: "request_path" } as const;

/** How the upstream is to be called; for the authenticated Gateway only. */
const UpstreamDirectiveSchema = v.object({ url: v.string(), auth_mode: v.literal("caracal_jwt") });

/** RFC 6749, 5.1 and RFC 8693, 2.2.1. `upstreams` is there for the Gateway only, and so is `decision_id`, the ledger event's id. */
export const TokenResponseSchema = v.object({
  access_token: v.string(),
  token_type: v.literal("Bearer"),
  /** Seconds. */
  expires_in: v.number(),
  scope: v.string(),
  issued_token_type: v.literal(TOKEN_TYPE_ACCESS_TOKEN),
  target_resources: v.array(v.string()),
  session_id: v.string(),
  upstreams: v.optional(v.record(v.string(), UpstreamDirectiveSchema)),
  decision_id: v.optional(v.string()),
  /** Seconds since the epoch: where a stream ends (the session's end). */
  auth_exp: v.optional(v.number()),
});
export type TokenResponse = v.InferOutput<typeof TokenResponseSchema>;

/** RFC 6749, 5.2, with ours. */
export const OAuthErrorSchema = v.object({
  error: v.string(),
  error_description: v.string(),
  reason: v.string(),
  requestId: v.string(),
  diagnostics: v.optional(v.array(v.unknown())),
});
export type OAuthError = v.InferOutput<typeof OAuthErrorSchema>;

/** An answer of the token endpoint. `retry_after_s` is the `Retry-After` header. */
export type TokenAnswer =
  | { readonly ok: true; readonly body: TokenResponse }
  | {
      readonly ok: false;
      readonly status: number;
      readonly body: OAuthError;
      readonly retry_after_s?: number | undefined;
    };

/** Of one batch, of one exchange in it, and of one line of its answer. */
export const MAX_EXCHANGES = 32;
export const MAX_EXCHANGES_BYTES = 512 * 1024;
export const MAX_EXCHANGE_BYTES = 64 * 1024;
export const MAX_ANSWER_LINE_BYTES = 64 * 1024;

const sized = (min: number, max: number) => v.pipe(v.string(), v.minLength(min), v.maxLength(max));

/** What the Gateway asks for one call: the fields of a token request that it may send, and whose call it is. */
export const ExchangeSchema = v.strictObject({
  zone_id: sized(1, 128),
  subject_token: sized(1, MAX_EXCHANGE_BYTES),
  resource: sized(1, MAX_EXCHANGE_BYTES),
  scope: v.optional(sized(0, MAX_EXCHANGE_BYTES)),
  method: sized(1, 64),
  path: sized(1, MAX_EXCHANGE_BYTES),
  request_id: sized(1, 128),
  traceparent: sized(1, 128),
});
export const ExchangeBatchSchema = v.strictObject({
  exchanges: v.pipe(v.array(ExchangeSchema), v.minLength(1), v.maxLength(MAX_EXCHANGES)),
});

/**
 * One line of the answer. `exchange`: which of the batch, counted from 0; `body` and `retry_after_s` are what the token
 * endpoint answers with that status.
 */
export const ExchangeAnswerSchema = v.variant("status", [
  v.object({ exchange: v.number(), status: v.literal(200), body: TokenResponseSchema }),
  v.object({
    exchange: v.number(),
    status: v.pipe(v.number(), v.integer(), v.minValue(400), v.maxValue(599)),
    body: OAuthErrorSchema,
    retry_after_s: v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(999_999))),
  }),
]);

/**
 * Some zones, each whole: resource identifier → upstream. `version` is that of all zones when their first page was read,
 * and changes with any of them; a zone that was asked for alone has none, and no `cursor`. A zone of `too_large` has more
 * bytes of identifiers and addresses than a Gateway is to hold for one.
 */
export const BindingsPageSchema = v.object({
  version: v.optional(v.string()),
  zones: v.array(
    v.object({
      zone_id: v.string(),
      too_large: v.optional(v.literal(true)),
      resources: v.array(v.object({ id: v.string(), identifier: v.string(), upstream_url: v.string() })),
    }),
  ),
  cursor: v.optional(v.string()),
});
export type BindingsPage = v.InferOutput<typeof BindingsPageSchema>;

/** `position`: where in `caracal.sessions.revoke` to go on; `seq`: the zone's last message that the marks already hold. */
export const RevocationPageSchema = v.object({
  position: v.string(),
  /** On the first page: when the database was asked, by its clock, in milliseconds since the epoch. */
  at_ms: v.optional(v.number()),
  zones: v.array(
    v.object({
      zone_id: v.string(),
      seq: v.number(),
      marks: v.array(
        v.object({
          kind: v.picklist(["session", "agent_session", "delegation_edge", "grant"]),
          id: v.string(),
          expires_at: v.number(),
        }),
      ),
    }),
  ),
  cursor: v.optional(v.string()),
});
export type RevocationPage = v.InferOutput<typeof RevocationPageSchema>;

export const JwksResponseSchema = v.object({ keys: v.array(JwkSchema) });
export type JwksResponse = v.InferOutput<typeof JwksResponseSchema>;
