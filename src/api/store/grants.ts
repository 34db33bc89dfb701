import type { RevocationEvent } from "../../domain/revocation.ts";
import { AMBIENT_TTL_MAX_S, LEEWAY_S } from "../../domain/token.ts";
import type { Transaction } from "../../ports/database.ts";

/** Forgets the credential of a grant that is archived in this transaction, and gives the mark that ends what was made from it. */
export const revokeGrant = async (tx: Transaction, zone_id: string, id: string): Promise<RevocationEvent> => {
  const rows = await tx<[{ now_s: number }]>`
    update grants set sealed_access_token = null, sealed_refresh_token = null, credential_expires_at = null
    where zone_id = ${zone_id} and id = ${id}
    returning ceil(extract(epoch from now()))::float8 as now_s`;
  return { op: "revoke", kind: "grant", zone_id, id, expires_at: rows[0].now_s + AMBIENT_TTL_MAX_S + LEEWAY_S };
};

/** Forgets what users' credentials for a resource rest here: they were for another upstream. Resolves to how many. */
export const clearCredentials = async (tx: Transaction, zone_id: string, resource_id: string): Promise<number> =>
  (
    await tx`
      update grants
      set sealed_access_token = null, sealed_refresh_token = null, credential_expires_at = null,
          revision = revision + 1, updated_at = now()
      where zone_id = ${zone_id} and resource_id = ${resource_id} and cardinality(credential_keys) > 0
      returning 1`
  ).length;
