import { apiEndpoints } from "../contracts/api.ts";
import { MAX_API_BODY_BYTES } from "../contracts/api-fields.ts";
import { openApiOf } from "../contracts/openapi.ts";
import { databaseReachable } from "../http/ready.ts";
import type { Role } from "../http/role.ts";
import { contractRoutes } from "../http/contract-routes.ts";
import { createRouter, type Route } from "../http/router.ts";
import type { Metrics } from "../kernel/metrics.ts";
import { createPlaces } from "../kernel/places.ts";
import { Problem } from "../kernel/problem.ts";
import { worker } from "../kernel/service.ts";
import { createAdmit } from "./admit.ts";
import { createControlPlane } from "./control-plane.ts";
import { onceOf } from "./idempotency.ts";
import type { ControlPlane, ControlPlaneDeps } from "./parts.ts";
import { registrationError } from "./registration-error.ts";
import { deleteOldChallenges } from "./store/challenges.ts";
import { deleteOldKeys } from "./store/idempotency.ts";
import { deleteEndedSessions } from "./store/sessions.ts";
import { requireTagged } from "./things.ts";
import { tokenHash } from "./token-strength.ts";

export { createGlobalToken } from "./admin-tokens.ts";
export { systemCaller } from "./caller.ts";
export { rewrapSealed } from "./rewrap.ts";
export type { ControlPlane } from "./parts.ts";

/** Each round deletes at most this many old sessions, keys and challenges. */
const SWEEP_MS = 60_000;
const SWEEP_SESSIONS = 5_000;
const SWEEP_KEYS = 5_000;
const SWEEP_CHALLENGES = 5_000;

/**
 * Of ten connections to the database a zone's requests take seven, and one token's five. Whatever a zone asks for, others
 * are answered, and whatever one of its tokens asks for, another can revoke.
 */
const ZONE_PLACES = 7;
/** Whom global tokens count as: no zone has this id. */
const GLOBAL = "";
const TOKEN_PLACES = 5;
const TOKEN_WAITING = 200;
const tooManyRequests = (limit: number): Problem =>
  new Problem(429, "too_many_requests", `This token has ${limit} requests waiting: send fewer at once.`, {
    retry_after_s: 1,
  });

/** For anybody. Making it takes some 50 ms, which only those pay who read it, once. */
const openApi = (): Route => {
  let body: string | undefined;
  return {
    method: "GET",
    path: "/openapi.json",
    answer: async () => ({
      status: 200,
      headers: { "cache-control": "public, max-age=300" },
      body: (body ??= JSON.stringify(openApiOf(apiEndpoints))),
    }),
  };
};

export type ApiDeps = Omit<ControlPlaneDeps, "onChange"> & { readonly metrics: Metrics };

export type ApiRole = Role & {
  /** The operations without HTTP and token, for the process itself. */
  readonly control_plane: ControlPlane;
};

/** The control plane: the table of contracts, bound to its verbs. */
export const createApi = (deps: ApiDeps): ApiRole => {
  const { db, log, metrics } = deps;
  const answers = metrics.counterBy("api_answers_total", "Answers of the control plane, by status", "status");
  const changes = metrics.counterBy("api_changes_total", "Changes that were committed, by action", "action");
  const control_plane = createControlPlane({ ...deps, onChange: (action) => changes.inc(action) });
  const bootstrap_hash = deps.bootstrap_token === undefined ? undefined : tokenHash(deps.bootstrap_token);
  const places = createPlaces({
    zone_max: ZONE_PLACES,
    client_max: TOKEN_PLACES,
    waiting_max: TOKEN_WAITING,
    full: tooManyRequests,
  });
  const operations = contractRoutes({
    endpoints: apiEndpoints,
    handlers: control_plane,
    admit: createAdmit({ db, bootstrap_hash, log }),
    turn: ({ zone_id, actor }, signal) => places.enter(zone_id ?? GLOBAL, actor, signal),
    refine: (caller, endpoint, asked) => {
      requireTagged(endpoint, asked.if_match);
      return { ...caller, once: onceOf(deps.kek, endpoint, asked) };
    },
    refusal: (endpoint) => (endpoint.reach === "registration" ? registrationError : undefined),
    max_body_bytes: MAX_API_BODY_BYTES,
  });
  return {
    name: "api",
    handle: createRouter({
      routes: [...operations, openApi()],
      log,
      onAnswer: (status) => answers.inc(String(status)),
    }),
    services: [
      worker({
        name: "api-upkeep",
        every_ms: SWEEP_MS,
        tick: async () => {
          await deleteEndedSessions(db.sql, SWEEP_SESSIONS);
          await deleteOldKeys(db.sql, SWEEP_KEYS);
          await deleteOldChallenges(db.sql, SWEEP_CHALLENGES);
        },
        onError: (error) => log.warn({ err: error }, "what ended long ago can't be forgotten"),
      }),
    ],
    ready: [databaseReachable(db)],
    metrics,
    control_plane,
  };
};
