import type { LedgerEvent } from "../../contracts/api-ledger.ts";
import type { Sql } from "../../ports/database.ts";
import type { StoredMember } from "../rehearsal.ts";

/** The members of a set's version in order, with their modules; none where there is no such version, or not of this set. */
export const membersOf = async (
  sql: Sql,
  zone_id: string,
  version_id: string,
  policy_set_id?: string,
): Promise<readonly StoredMember[]> =>
  sql<StoredMember[]>`
    select p.id as version_id, p.wasm
    from policy_set_versions v
    join policy_set_entries e on e.zone_id = v.zone_id and e.policy_set_version_id = v.id
    join policy_versions p on p.zone_id = e.zone_id and p.id = e.policy_version_id
    where v.zone_id = ${zone_id} and v.id = ${version_id}
      ${policy_set_id === undefined ? sql`` : sql`and v.policy_set_id = ${policy_set_id}`}
    order by e.position`;

/** How many events are looked at for each that is wanted: others than policy's decisions lie between them. */
const LOOKED_AT = 20;

/** An event that policy decided, with what its input is rebuilt from. */
export type JudgedEvent = Pick<
  LedgerEvent,
  "id" | "event_type" | "session_id" | "agent_session_id" | "decision" | "occurred_at" | "metadata_json"
>;

/** The newest events of the zone that policy decided, so many at most. */
export const lastJudged = (sql: Sql, zone_id: string, count: number): Promise<readonly JudgedEvent[]> =>
  sql<JudgedEvent[]>`
    select id, event_type, session_id, agent_session_id, decision, occurred_at, metadata_json
    from (
      select chain_seq, id, event_type, session_id, agent_session_id, decision, occurred_at, metadata_json,
        evaluation_status
      from audit_events where zone_id = ${zone_id}
      order by chain_seq desc limit ${count * LOOKED_AT}) newest
    where evaluation_status is not null
    order by chain_seq desc
    limit ${count}`;

/** The texts of these documents of a zone's ledger, by the ids of the events that keep them; those that there are. */
export const documentTexts = async (sql: Sql, zone_id: string, ids: readonly string[]): Promise<readonly string[]> => {
  if (ids.length === 0) return [];
  // `offset 0`: one look-up per id in each index, whatever the planner believes of the ledger's size.
  const rows = await sql<{ text: string }[]>`
    select kept.text
    from json_array_elements_text(${JSON.stringify(ids)}::text::json) as k (id)
    cross join lateral (
      select chain_seq from audit_event_ids i where i.id = k.id::uuid and i.zone_id = ${zone_id} offset 0) as at
    cross join lateral (
      select metadata_json as text from audit_events e
      where e.zone_id = ${zone_id} and e.chain_seq = at.chain_seq and e.event_type = 'document'
        and e.metadata_json is not null offset 0) as kept`;
  return rows.map(({ text }) => text);
};
