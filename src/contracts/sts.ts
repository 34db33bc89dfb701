import * as v from "valibot";
import { REVOCABLE_KINDS } from "../domain/revocation.ts";
import type { ChallengeStatus, StepUpKind } from "../domain/step-up.ts";
import { JwkSchema } from "../domain/token.ts";

export const GRANT_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
export const GRANT_CLIENT_CREDENTIALS = "client_credentials";
export const TOKEN_TYPE_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";
export const MAX_FORM_BYTES = 64 * 1024;
export const MAX_RESOURCES = 16;

/** The STS's paths. The internal ones, and the token endpoint for the Gateway, are signed (domain/gateway-signature.ts). */
export const TOKEN_PATH = "/oauth/2/token";
/** There to refuse: nobody logs in here by a browser, and some clients take no metadata without it. */
export const AUTHORIZATION_PATH = "/oauth/2/authorize";
/** RFC 7662 and RFC 7009. */
export const INTROSPECTION_PATH = "/oauth/2/introspect";
export const REVOCATION_PATH = "/oauth/2/revoke";
export const JWKS_PATH = "/.well-known/jwks.json";
/** `?since={version}`: 200 with the first `BindingsPage`, or 304; `?cursor={cursor}`: the next; `?zone_id={id}`: that zone alone. */
export const BINDINGS_PATH = "/internal/v1/bindings";
/** `?cursor={cursor}`: 200 with a `RevocationPage`. */
export const REVOCATIONS_PATH = "/internal/v1/revocations";
/** An `ExchangeBatch` as JSON: 200 with an `ExchangeAnswer` a line, each as soon as its exchange is decided. */
export const EXCHANGES_PATH = "/internal/v1/exchanges";

/** `?wait={seconds}`, 0 to 60, with an ambient token of the application whose challenge it is. */
export const STEP_UP_PATH = "/step-up/{id}";
export const MAX_WAIT_S = 60;
/** The path of one challenge. */
export const stepUpPathOf = (id: string): string => STEP_UP_PATH.replace("{id}", id);

/** What is known of a challenge now. Times in RFC 3339. */
export type ChallengeState = {
  readonly challenge_id: string;
  readonly challenge_type: StepUpKind;
  readonly status: ChallengeStatus;
  readonly challenge_expires_at: string;
};

/** Fields of the token endpoint that name the call a mandate is for. They are policy input, and a client's `htm` and `htp`. */
export const CALL_FIELDS = { method: "call_method", path: "call_path" } as const;

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
          kind: v.picklist(REVOCABLE_KINDS),
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
