import * as v from "valibot";
import { STEP_UP_KINDS } from "../domain/step-up.ts";
import type { ApiEndpoint } from "./api-access.ts";
import {
  IdSchema,
  NoQuerySchema,
  PageQuerySchema,
  pageOf,
  TextsSchema,
  TimeSchema,
  ZoneItemParamsSchema,
  ZoneParamsSchema,
} from "./api-fields.ts";

/** `expired` covers one that died of wrong answers. A `satisfied` one waits for the retry that consumes it. */
const StatusSchema = v.picklist(["pending", "satisfied", "rejected", "consumed", "expired"]);

const OrNull = v.nullable(v.string());

export const ChallengeSchema = v.object({
  id: v.string(),
  zone_id: v.string(),
  kind: v.picklist(STEP_UP_KINDS),
  status: StatusSchema,
  /** What the one mandate would be for, all of which is bound. */
  application_id: v.string(),
  subject: v.string(),
  session_id: OrNull,
  resource_id: OrNull,
  scopes: TextsSchema,
  method: OrNull,
  path: OrNull,
  body_sha256: OrNull,
  /** The tool and its arguments as JSON text, where the Gateway read the body. */
  body_json: OrNull,
  policy_set_version_id: OrNull,
  created_at: TimeSchema,
  expires_at: TimeSchema,
  /** `admin_token:{id}`: who decided. */
  decided_by: OrNull,
  decided_at: v.nullable(TimeSchema),
  consumed_at: v.nullable(TimeSchema),
});
export type Challenge = v.InferOutput<typeof ChallengeSchema>;

const ChallengeQuerySchema = v.strictObject({
  ...PageQuerySchema.entries,
  status: v.optional(StatusSchema),
  application_id: v.optional(IdSchema),
});
export type ChallengeQuery = v.InferOutput<typeof ChallengeQuerySchema>;

const decision = <const Path extends string>(path: Path, summary: string) =>
  ({
    method: "POST",
    path: `/v1/zones/{zone_id}/step-up-challenges/{id}/${path}`,
    summary,
    reach: "zone",
    access: "write",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ChallengeSchema,
  }) as const;

export const challengeEndpoints = {
  listChallenges: {
    method: "GET",
    path: "/v1/zones/{zone_id}/step-up-challenges",
    summary: "What waits for a decision, or had one, newest first",
    reach: "zone",
    access: "read",
    params: ZoneParamsSchema,
    query: ChallengeQuerySchema,
    status: 200,
    response: pageOf(ChallengeSchema),
  },
  getChallenge: {
    method: "GET",
    path: "/v1/zones/{zone_id}/step-up-challenges/{id}",
    summary: "One challenge, with all that an approval would be bound to",
    reach: "zone",
    access: "read",
    params: ZoneItemParamsSchema,
    query: NoQuerySchema,
    status: 200,
    response: ChallengeSchema,
  },
  satisfyChallenge: decision("satisfy", "Approve: the retry that brings the secret gets one mandate"),
  rejectChallenge: decision("reject", "Refuse: no retry gets a mandate"),
} as const satisfies Record<string, ApiEndpoint>;
