import type { ApiEndpoint } from "../contracts/api-access.ts";
import { SYSTEM_ZONE } from "../domain/audit-event.ts";
import { sameBytes } from "../domain/keyring.ts";
import { headerNamed } from "../http/headers.ts";
import type { Arrival } from "../http/router.ts";
import { isUuid } from "../kernel/ids.ts";
import type { Log } from "../kernel/log.ts";
import { Problem } from "../kernel/problem.ts";
import type { Database } from "../ports/database.ts";
import { actorOfToken, type Caller } from "./caller.ts";
import { missing, tokenUnusable, unauthorized } from "./faults.ts";
import { findUsableToken, touchAdminToken } from "./store/admin-tokens.ts";
import { findRegistrationToken } from "./store/registration.ts";
import { zoneState } from "./store/zones.ts";
import { tokenHash } from "./token-strength.ts";

const BEARER = /^Bearer +([A-Za-z0-9._~+/-]{1,512}=*)$/i;

export type AdmitOptions = {
  readonly db: Database;
  readonly bootstrap_hash: string | undefined;
  readonly log: Log;
};

/**
 * Who calls: the admin token by its SHA-256, a look-up whose time tells nothing about any token but one that the caller has.
 * The bootstrap token opens the bootstrap and nothing else, and no admin token opens that.
 */
const authenticate = async (options: AdmitOptions, arrival: Arrival, endpoint: ApiEndpoint): Promise<Caller> => {
  const { db, bootstrap_hash, log } = options;
  const token = BEARER.exec(headerNamed(arrival.request, "authorization") ?? "")?.[1];
  if (token === undefined) throw unauthorized("Send an admin token as Authorization: Bearer <token>.");
  const hash = tokenHash(token);
  // which token had which digest is what no clock may tell
  const is_bootstrap = bootstrap_hash !== undefined && sameBytes(Buffer.from(hash), Buffer.from(bootstrap_hash));
  if (endpoint.reach === "bootstrap") {
    if (!is_bootstrap) throw unauthorized("This takes the bootstrap token (BOOTSTRAP_ADMIN_TOKEN), and no other.");
    return { actor: "bootstrap", zone_id: null, access: "full", request_id: arrival.request_id };
  }
  if (endpoint.reach === "registration") {
    const found = await findRegistrationToken(db.sql, hash);
    if (found === undefined)
      throw unauthorized("This takes an initial access token that is neither expired nor revoked.");
    const actor = `registration_token:${found.id}`;
    return { actor, zone_id: found.zone_id, access: "full", request_id: arrival.request_id };
  }
  if (is_bootstrap)
    throw unauthorized("The bootstrap token works at POST /v1/bootstrap only; use the admin token that it made.");
  const found = await findUsableToken(db.sql, hash);
  if (found === undefined) throw tokenUnusable();
  if (found.use_is_news) {
    // what it was used for last does not depend on this; a failure to write it down must not fail the request
    await touchAdminToken(db.sql, found.id).catch((error: unknown) =>
      log.warn({ err: error, request_id: arrival.request_id }, "an admin token's last use was not written down"),
    );
  }
  return {
    actor: actorOfToken(found.id),
    admin_token_id: found.id,
    zone_id: found.zone_id,
    access: found.access,
    request_id: arrival.request_id,
  };
};

/** Whether the caller may do this here. Pure: `zone_id` is the path's, where it names one. */
export const authorize = (caller: Caller, endpoint: ApiEndpoint, zone_id: string | undefined): Problem | undefined => {
  if (endpoint.access === "write" && caller.access === "read") {
    return new Problem(403, "admin_token_read_only", "This admin token may read only.");
  }
  if (caller.zone_id === null || endpoint.reach === "own" || endpoint.reach === "bootstrap") return undefined;
  const of_a_zone = endpoint.reach === "zone" || endpoint.reach === "registration";
  if (of_a_zone && zone_id === caller.zone_id) return undefined;
  const message = of_a_zone
    ? "This token belongs to another zone."
    : "This takes a global admin token; yours belongs to a zone.";
  return new Problem(403, "admin_token_zone_mismatch", message);
};

/** Authenticates, then authorizes, then sees that the zone is there. Throws a `Problem` for who may not. */
export const createAdmit =
  (options: AdmitOptions) =>
  async (arrival: Arrival, endpoint: ApiEndpoint): Promise<Caller> => {
    const caller = await authenticate(options, arrival, endpoint);
    const zone_id = arrival.params["zone_id"];
    const refusal = authorize(caller, endpoint, zone_id);
    if (refusal !== undefined) {
      // A stolen token that tries other doors should be seen.
      options.log.warn(
        {
          actor: caller.actor,
          own_zone: caller.zone_id,
          asked_zone: zone_id,
          path: endpoint.path,
          method: endpoint.method,
          reason: refusal.code,
        },
        "an admin token was refused",
      );
      throw refusal;
    }
    if (endpoint.reach === "zone" && zone_id !== SYSTEM_ZONE) {
      // an id of another form is not asked for: it can hold what the database does not take
      const state = zone_id !== undefined && isUuid(zone_id) ? await zoneState(options.db.sql, zone_id) : undefined;
      if (state === undefined || (state === "archived" && endpoint.archived_too !== true)) throw missing("zone");
    }
    return caller;
  };
