import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { PolicyVersion, PolicyVersionSummary } from "../../contracts/api-policies.ts";
import type { CompiledPolicy } from "../../ports/policy.ts";
import type { Sql, Transaction } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

type SummaryRow = Omit<PolicyVersionSummary, "created_at"> & { created_at: Date };
type Row = SummaryRow & { source: string };

const summaryOf = (row: SummaryRow): PolicyVersionSummary => ({ ...row, created_at: iso(row.created_at) });
const versionOf = (row: Row): PolicyVersion => ({ ...row, created_at: iso(row.created_at) });

/** Under the policy's lock, so that versions are counted one at a time. */
export const insertPolicyVersion = async (
  tx: Transaction,
  row: {
    readonly zone_id: string;
    readonly id: string;
    readonly policy_id: string;
    readonly source: string;
    readonly source_sha256: string;
  },
  compiled: CompiledPolicy,
): Promise<PolicyVersion> => {
  const rows = await tx<[Row]>`
    insert into policy_versions (zone_id, id, policy_id, version, source, source_sha256, wasm, wasm_sha256)
    select ${row.zone_id}::text, ${row.id}::text, ${row.policy_id}::text, coalesce(max(version), 0) + 1, ${row.source}::text,
           ${row.source_sha256}::text, ${Buffer.from(compiled.wasm)}::bytea, ${compiled.wasm_sha256}::text
    from policy_versions
    where zone_id = ${row.zone_id} and policy_id = ${row.policy_id}
    returning id, zone_id, policy_id, version, source, source_sha256, wasm_sha256, created_at`;
  return versionOf(rows[0]);
};

export const listPolicyVersions = async (
  sql: Sql,
  zone_id: string,
  policy_id: string,
  page: PageQuery,
): Promise<Page<PolicyVersionSummary>> => {
  const rows = await sql<SummaryRow[]>`
    select id, zone_id, policy_id, version, source_sha256, wasm_sha256, created_at
    from policy_versions
    where zone_id = ${zone_id} and policy_id = ${policy_id}
      ${page.cursor === undefined ? sql`` : sql`and id > ${page.cursor}`}
    order by id
    limit ${page.limit + 1}`;
  return pageOfRows(rows, page.limit, summaryOf, (version) => version.id);
};

export const findPolicyVersion = async (
  sql: Sql,
  zone_id: string,
  policy_id: string,
  id: string,
): Promise<PolicyVersion | undefined> => {
  const rows = await sql<Row[]>`
    select id, zone_id, policy_id, version, source, source_sha256, wasm_sha256, created_at
    from policy_versions
    where zone_id = ${zone_id} and policy_id = ${policy_id} and id = ${id}`;
  return rows[0] === undefined ? undefined : versionOf(rows[0]);
};

/** Whether a version of the policy decides in the zone now. */
export const activeSetWith = async (tx: Transaction, zone_id: string, policy_id: string): Promise<string | undefined> =>
  (
    await tx<{ id: string }[]>`
      select a.policy_set_id as id
      from active_policy_sets a
      join policy_set_entries e on e.zone_id = a.zone_id and e.policy_set_version_id = a.policy_set_version_id
      join policy_versions v on v.zone_id = e.zone_id and v.id = e.policy_version_id
      where a.zone_id = ${zone_id} and v.policy_id = ${policy_id}
      limit 1`
  )[0]?.id;
