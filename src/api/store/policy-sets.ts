import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import { REPLICA_DEAD_S } from "../../contracts/policy-activations.ts";
import type { Activation, PolicySetVersion, Replica } from "../../contracts/api-policies.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { asJson, iso, pageOfRows } from "./rows.ts";

type Row = Omit<PolicySetVersion, "created_at" | "entries"> & { created_at: Date; entries: string[] };

const versionOf = ({ entries, ...row }: Row): PolicySetVersion => ({
  ...row,
  entries: entries.map((policy_version_id) => ({ policy_version_id })),
  created_at: iso(row.created_at),
});

/** What a set's version needs to know of a member. */
export type MemberVersion = { readonly source_sha256: string; readonly wasm_bytes: number };

/**
 * Source hashes and sizes of those policy versions that exist in the zone and whose policy is live, by version id. Their policies
 * stay live until the commit.
 */
export const usablePolicyVersions = async (
  tx: Transaction,
  zone_id: string,
  ids: readonly string[],
): Promise<ReadonlyMap<string, MemberVersion>> => {
  const rows = await tx<(MemberVersion & { id: string })[]>`
    select v.id, v.source_sha256, octet_length(v.wasm) as wasm_bytes
    from policy_versions v
    join policies p on p.zone_id = v.zone_id and p.id = v.policy_id
    where v.zone_id = ${zone_id} and p.archived_at is null
      and v.id in (select jsonb_array_elements_text(${asJson(ids)}::text::jsonb))
    order by p.id
    for share of p`;
  return new Map(rows.map(({ id, ...member }) => [id, member]));
};

/** Under the set's lock, so that versions are counted one at a time. */
export const insertPolicySetVersion = async (
  tx: Transaction,
  row: { readonly zone_id: string; readonly id: string; readonly policy_set_id: string; readonly manifest_sha: string },
  policy_version_ids: readonly string[],
): Promise<PolicySetVersion> => {
  const rows = await tx<[Omit<Row, "entries">]>`
    insert into policy_set_versions (zone_id, id, policy_set_id, version, manifest_sha)
    select ${row.zone_id}::text, ${row.id}::text, ${row.policy_set_id}::text, coalesce(max(version), 0) + 1, ${row.manifest_sha}::text
    from policy_set_versions
    where zone_id = ${row.zone_id} and policy_set_id = ${row.policy_set_id}
    returning id, zone_id, policy_set_id, version, manifest_sha, created_at`;
  await tx`
    insert into policy_set_entries (zone_id, policy_set_version_id, position, policy_version_id)
    select ${row.zone_id}::text, ${row.id}::text, entry.position, entry.id
    from jsonb_array_elements_text(${asJson(policy_version_ids)}::text::jsonb) with ordinality as entry (id, position)`;
  return versionOf({ ...rows[0], entries: [...policy_version_ids] });
};

const entriesOf = (sql: Sql) => sql`
  array_to_json(array(
    select e.policy_version_id from policy_set_entries e
    where e.zone_id = v.zone_id and e.policy_set_version_id = v.id
    order by e.position
  )) as entries`;

export const listPolicySetVersions = async (
  sql: Sql,
  zone_id: string,
  policy_set_id: string,
  page: PageQuery,
): Promise<Page<PolicySetVersion>> => {
  const rows = await sql<Row[]>`
    select v.id, v.zone_id, v.policy_set_id, v.version, v.manifest_sha, v.created_at, ${entriesOf(sql)}
    from policy_set_versions v
    where v.zone_id = ${zone_id} and v.policy_set_id = ${policy_set_id}
      ${page.cursor === undefined ? sql`` : sql`and v.id > ${page.cursor}`}
    order by v.id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, versionOf, (version) => version.id);
};

export const findPolicySetVersion = async (
  sql: Sql,
  zone_id: string,
  policy_set_id: string,
  id: string,
): Promise<PolicySetVersion | undefined> => {
  const rows = await sql<Row[]>`
    select v.id, v.zone_id, v.policy_set_id, v.version, v.manifest_sha, v.created_at, ${entriesOf(sql)}
    from policy_set_versions v
    where v.zone_id = ${zone_id} and v.policy_set_id = ${policy_set_id} and v.id = ${id}`;
  return rows[0] === undefined ? undefined : versionOf(rows[0]);
};

type ActivationRow = Omit<Activation, "activated_at"> & { activated_at: Date };
const activationOf = (row: ActivationRow): Activation => ({ ...row, activated_at: iso(row.activated_at) });

/**
 * The ids of archived policies among the version's members; undefined where the set has no such version. The members'
 * policies stay as they are until the commit.
 */
export const archivedMembers = async (
  tx: Transaction,
  zone_id: string,
  policy_set_id: string,
  version_id: string,
): Promise<readonly string[] | undefined> => {
  const versions = await tx`
    select 1 from policy_set_versions where zone_id = ${zone_id} and policy_set_id = ${policy_set_id} and id = ${version_id}`;
  if (versions.length === 0) return undefined;
  const rows = await tx<{ id: string; archived: boolean }[]>`
    select p.id, p.archived_at is not null as archived
    from policies p
    where p.zone_id = ${zone_id} and p.id in (
      select v.policy_id
      from policy_set_entries e
      join policy_versions v on v.zone_id = e.zone_id and v.id = e.policy_version_id
      where e.zone_id = ${zone_id} and e.policy_set_version_id = ${version_id})
    order by p.id
    for share of p`;
  return rows.filter((row) => row.archived).map((row) => row.id);
};

/** Of those that activate something in a zone one goes on at a time: also where nothing is active, and so there is no row to lock. */
export const lockActivation = async (tx: Transaction, zone_id: string): Promise<void> => {
  await tx`select pg_advisory_xact_lock(hashtextextended(${`activation ${zone_id}`}, 0))`;
};

export const activate = async (
  tx: Transaction,
  zone_id: string,
  policy_set_id: string,
  version_id: string,
): Promise<Activation> => {
  await tx`
    insert into active_policy_sets (zone_id, policy_set_id, policy_set_version_id)
    values (${zone_id}, ${policy_set_id}, ${version_id})
    on conflict (zone_id) do update set
      policy_set_id = excluded.policy_set_id,
      policy_set_version_id = excluded.policy_set_version_id,
      activated_at = now()`;
  const active = await findActivation(tx, zone_id);
  if (active === undefined) throw new Error("an activation that was just written is not there");
  return active;
};

/** What is active in the zone. */
export const findActivation = async (sql: Sql | Transaction, zone_id: string): Promise<Activation | undefined> => {
  const rows = await sql<ActivationRow[]>`
    select a.zone_id, a.policy_set_id, a.policy_set_version_id as version_id, v.manifest_sha, a.activated_at
    from active_policy_sets a
    join policy_set_versions v on v.zone_id = a.zone_id and v.id = a.policy_set_version_id
    where a.zone_id = ${zone_id}`;
  return rows[0] === undefined ? undefined : activationOf(rows[0]);
};

/** So many at most: a deployment has a handful. */
const MAX_REPLICAS = 256;

/** Every STS that lives and has loaded the zone's policy, and which version it runs. */
export const listReplicas = async (sql: Sql, zone_id: string): Promise<Replica[]> => {
  const rows = await sql<(Omit<Replica, "since"> & { since: Date })[]>`
    select p.replica, p.policy_set_id, p.policy_set_version_id as version_id, p.since,
           coalesce(a.policy_set_version_id = p.policy_set_version_id, false) as current
    from policy_activations p
    join sts_replicas r on r.replica = p.replica
    left join active_policy_sets a on a.zone_id = p.zone_id
    where p.zone_id = ${zone_id} and r.seen_at > now() - make_interval(secs => ${REPLICA_DEAD_S})
    order by p.replica
    limit ${MAX_REPLICAS}`;
  return rows.map((row) => ({ ...row, since: iso(row.since) }));
};
