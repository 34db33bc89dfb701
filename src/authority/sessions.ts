import type { RevocationEvent } from "../domain/revocation.ts";
import { LEEWAY_S } from "../domain/token.ts";
import type { Transaction } from "../ports/database.ts";

/** Which of a zone's sessions: one, a subject's, an application's, or all of them. */
export type Those =
  | { readonly id: string }
  | { readonly subject: string }
  | { readonly client_id: string }
  | { readonly all: true };

/**
 * Ends up to `limit` of those sessions whose tokens some clock may still take, and tells which they were. Rows are locked in
 * the order of their ids, so that two calls that meet wait and do not deadlock.
 */
export const revokeSessions = async (
  tx: Transaction,
  zone_id: string,
  those: Those,
  limit: number,
): Promise<readonly RevocationEvent[]> => {
  const rows = await tx<{ id: string; expires_at_s: number }[]>`
    with ended as (
      select id from sessions
      where zone_id = ${zone_id} and revoked_at is null and expires_at > now() - make_interval(secs => ${LEEWAY_S}::integer)
        ${"id" in those ? tx`and id = ${those.id}` : tx``}
        ${"subject" in those ? tx`and subject = ${those.subject}` : tx``}
        ${"client_id" in those ? tx`and client_id = ${those.client_id}` : tx``}
      order by id
      limit ${limit}
      for update
    )
    update sessions set revoked_at = now()
    from ended
    where sessions.zone_id = ${zone_id} and sessions.id = ended.id
    returning sessions.id, ceil(extract(epoch from sessions.expires_at))::float8 as expires_at_s`;
  return rows.map((row) => ({
    op: "revoke",
    kind: "session",
    zone_id,
    id: row.id,
    expires_at: row.expires_at_s + LEEWAY_S,
  }));
};
