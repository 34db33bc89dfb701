import type { adminEndpoints, AdminToken, CreatedAdminToken } from "../contracts/api-admin.ts";
import { randomSecret, uuidv7 } from "../kernel/ids.ts";
import { Problem } from "../kernel/problem.ts";
import type { Database, Transaction } from "../ports/database.ts";
import { type Caller, systemCaller } from "./caller.ts";
import { createChange } from "./change.ts";
import { bootstrapUsed, missing, unusable } from "./faults.ts";
import { requireHeldZone } from "./held-zone.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { requireRoom } from "./quotas.ts";
import { listAdminAudit } from "./store/admin-audit.ts";
import {
  bootstrapWasUsed,
  findAdminToken,
  insertAdminToken,
  insertBootstrapUse,
  listAdminTokens,
  revokeAdminToken,
} from "./store/admin-tokens.ts";
import { tokenHash, weaknessOf } from "./token-strength.ts";
import { newZone } from "./zones.ts";

/** Known by its look, so that scanners of repositories and logs find one that leaked. */
const newToken = (): string => `caracal_admin_${randomSecret()}`;

type NewToken = {
  readonly zone_id: string | null;
  readonly label: string;
  readonly access: "full" | "read";
  readonly expires_in_s: number | null;
  /** undefined: one is made. */
  readonly token: string | undefined;
};

const makeToken = async (tx: Transaction, caller: Caller, fields: NewToken): Promise<CreatedAdminToken> => {
  const token = fields.token ?? newToken();
  const { zone_id, label, access, expires_in_s } = fields;
  const row = {
    id: uuidv7(),
    zone_id,
    token_sha256: tokenHash(token),
    label,
    access,
    created_by: caller.actor,
    maker_id: caller.admin_token_id ?? null,
    expires_in_s,
  };
  const made: AdminToken = await insertAdminToken(tx, row);
  return fields.token === undefined ? { ...made, token } : made;
};

const withoutSecret = ({ token: _token, ...rest }: CreatedAdminToken): AdminToken => rest;

/** A zone's token can make only tokens of its zone; a global one says which zone, or null, so that none is global by oversight. */
const zoneOfNewToken = (caller: Caller, asked: string | null | undefined): string | null => {
  if (caller.zone_id === null) {
    if (asked === undefined) throw unusable("zone_id", "is required: a zone's id, or null for a global token");
    return asked;
  }
  if (asked !== undefined && asked !== caller.zone_id) {
    throw new Problem(403, "admin_token_zone_mismatch", "A zone's token can make tokens of that zone only.");
  }
  return caller.zone_id;
};

export const adminVerbs = ({
  db,
  change,
  kek,
  bootstrap_hash,
}: Parts): Pick<ControlPlane, keyof typeof adminEndpoints> => ({
  /**
   * Once, whoever races: both hold a lock while they ask. A slug that is taken uses nothing up. Crash before the commit:
   * nothing happened; behind it, with the answer lost: a global token from the command line is the way on.
   */
  bootstrap: ({ caller, body }) =>
    change(caller, async (tx) => {
      if (await bootstrapWasUsed(tx)) throw bootstrapUsed();
      const { zone, announce } = await newZone(tx, kek, body);
      await insertBootstrapUse(tx, zone.id);
      const label = "made by the bootstrap";
      const fields = { zone_id: zone.id, label, access: "full", expires_in_s: null, token: undefined } as const;
      const admin_token = await makeToken(tx, caller, fields);
      const detail = { ...body, admin_token_id: admin_token.id };
      return {
        result: { zone, admin_token },
        entry: { action: "zone.bootstrap", zone_id: zone.id, object_id: zone.id, detail },
        announce,
      };
    }),

  listAdminTokens: ({ caller, query }) => listAdminTokens(db.sql, caller.zone_id, query),

  createAdminToken: ({ caller, body }) => {
    const zone_id = zoneOfNewToken(caller, body.zone_id);
    const weakness = body.token === undefined ? undefined : weaknessOf(body.token);
    if (weakness !== undefined) throw unusable("token", weakness);
    if (body.token !== undefined && tokenHash(body.token) === bootstrap_hash) {
      throw unusable("token", "is the bootstrap token, which works at the bootstrap only; bring another one");
    }
    return change(caller, async (tx) => {
      if (zone_id !== null) {
        await requireHeldZone(tx, zone_id);
        await requireRoom(tx, zone_id, "admin_tokens");
      }
      const fields = {
        zone_id,
        label: body.label,
        access: body.access,
        expires_in_s: body.expires_in_s ?? null,
        token: body.token,
      };
      const made = await makeToken(tx, caller, fields);
      return {
        result: made,
        entry: { action: "admin_token.create", zone_id, object_id: made.id, detail: withoutSecret(made) },
      };
    });
  },

  getAdminToken: async ({ caller, params }) => {
    const token = await findAdminToken(db.sql, caller.zone_id, params.id);
    if (token === undefined) throw missing("admin token");
    return token;
  },

  revokeAdminToken: ({ caller, params: { id } }) =>
    change(caller, async (tx) => {
      const revoked = await revokeAdminToken(tx, caller.zone_id, id);
      if (revoked === undefined) throw missing("admin token");
      const { zone_id, descendants } = revoked;
      const detail = { descendants };
      return { result: undefined, entry: { action: "admin_token.revoke", zone_id, object_id: id, detail } };
    }),

  listAdminAudit: ({ query }) => listAdminAudit(db.sql, undefined, query),
  listZoneAdminAudit: ({ params, query }) => listAdminAudit(db.sql, params.zone_id, query),
});

/**
 * A global admin token, for who holds the database: the command line calls this and prints the token, which is nowhere
 * else. Recorded in the admin audit under the actor `cli`. `expires_in_s`: null for one without an end.
 */
export const createGlobalToken = (
  db: Database,
  options: { readonly label: string; readonly access?: "full" | "read"; readonly expires_in_s?: number | null },
): Promise<CreatedAdminToken & { readonly token: string }> => {
  const change = createChange(
    db,
    () => {}, // an admin token is cached nowhere: nothing follows from it
    () => {},
  );
  const caller = systemCaller("cli");
  return change(caller, async (tx) => {
    const { label, access = "full", expires_in_s = null } = options;
    const token = newToken();
    const made = await makeToken(tx, caller, { zone_id: null, label, access, expires_in_s, token });
    return {
      result: { ...made, token },
      entry: { action: "admin_token.create", zone_id: null, object_id: made.id, detail: made },
    };
  });
};
