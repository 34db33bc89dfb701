import type { ZoneKeyShown } from "../../contracts/api-keys.ts";
import { AMBIENT_TTL_MAX_S, LEEWAY_S } from "../../domain/token.ts";
import type { SealedZoneKey } from "../../domain/zone-key.ts";
import type { Queryable, Transaction } from "../../ports/database.ts";
import { iso } from "./rows.ts";

/** A replica reads the signing key anew this often at the latest, so an old key signs as much longer. */
const REREAD_S = 30;

type Row = { readonly kid: string; readonly created_at: Date; readonly signs_from: Date };

/** `signs_in_s`: when it begins to sign; 0 for a zone's first key, which nobody has cached a set without. */
export const insertZoneKey = async (
  tx: Transaction,
  zone_id: string,
  key: SealedZoneKey,
  signs_in_s: number,
): Promise<ZoneKeyShown> => {
  const rows = await tx<[Row]>`
    insert into zone_keys (zone_id, kid, public_jwk, sealed_private, created_at, signs_from)
    values (${zone_id}, ${key.kid}, ${key.public_jwk}, ${key.sealed_private}, clock_timestamp(),
            clock_timestamp() + make_interval(secs => ${signs_in_s}::integer))
    returning kid, created_at, signs_from`;
  const { kid, created_at, signs_from } = rows[0];
  return { kid, created_at: iso(created_at), signs_from: iso(signs_from) };
};

/** A key of a zone; `tokens_until`: when the last token that it signed is past every leeway, null while it is the newest. */
export type ZoneKeyState = ZoneKeyShown & { readonly tokens_until: string | null; readonly tokens_live: boolean };

/** Newest first. A key signs until the next one does. */
export const listZoneKeys = async (sql: Queryable, zone_id: string): Promise<readonly ZoneKeyState[]> => {
  const rows = await sql<(Row & { tokens_until: Date | null; tokens_live: boolean })[]>`
    select kid, created_at, signs_from, tokens_until, coalesce(tokens_until > now(), true) as tokens_live
    from (
      select kid, created_at, signs_from,
             lag(signs_from) over (order by created_at desc, kid)
               + make_interval(secs => ${REREAD_S + AMBIENT_TTL_MAX_S + LEEWAY_S}::integer) as tokens_until
      from zone_keys where zone_id = ${zone_id}
    ) k
    order by created_at desc, kid`;
  return rows.map((row) => ({
    kid: row.kid,
    created_at: iso(row.created_at),
    signs_from: iso(row.signs_from),
    tokens_until: row.tokens_until === null ? null : iso(row.tokens_until),
    tokens_live: row.tokens_live,
  }));
};

/** Deletes the zone's keys but those; resolves to the `kid`s that went. */
export const deleteKeysBut = async (tx: Transaction, zone_id: string, kept: readonly string[]): Promise<string[]> => {
  const rows = await tx<{ kid: string }[]>`
    delete from zone_keys
    where zone_id = ${zone_id} and kid not in (select jsonb_array_elements_text(${JSON.stringify(kept)}::text::jsonb))
    returning kid`;
  return rows.map(({ kid }) => kid);
};

export const countLivingSessions = async (tx: Transaction, zone_id: string): Promise<number> => {
  const rows = await tx<[{ living: number }]>`
    select count(*)::float8 as living from sessions
    where zone_id = ${zone_id} and revoked_at is null and expires_at > now()`;
  return rows[0].living;
};
