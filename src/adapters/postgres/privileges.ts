import type { Sql, Transaction } from "../../ports/database.ts";

/**
 * What each role of the program needs, and what it will need for parts that are not served yet. An operator makes a login user for each and grants it the group:
 * `create role caracal_sts_1 login password '…' in role caracal_sts`. The tables belong to whoever migrates, so no role's
 * user can change what it was not given. The gateway has no database.
 */
const TABLES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  // Reads what the control plane decided, and writes sessions and challenges. A client ends its session: that is a change,
  // and has its row in the admin audit.
  caracal_sts: {
    schema_migrations: "select",
    stream_seqs: "select insert update",
    outbox: "select insert update delete",
    leases: "select insert update",
    zones: "select",
    zone_keys: "select",
    applications: "select",
    resources: "select",
    providers: "select",
    issuers: "select",
    grants: "select",
    policies: "select",
    policy_versions: "select",
    policy_sets: "select",
    policy_set_versions: "select",
    policy_set_entries: "select",
    active_policy_sets: "select",
    sessions: "select insert",
    step_up_challenges: "select insert",
    sts_replicas: "select insert update delete",
    policy_activations: "select insert update delete",
    agent_sessions: "select",
    delegation_edges: "select",
    delegation_epochs: "select",
    delegation_budgets: "select",
    admin_audit: "insert",
  },
  // Verifies tokens against the zones, knows applications, resources and sessions, and keeps who runs and who gave what to whom.
  caracal_coordinator: {
    schema_migrations: "select",
    stream_seqs: "select insert update",
    outbox: "select insert update delete",
    leases: "select insert update",
    zones: "select",
    applications: "select",
    resources: "select",
    sessions: "select",
    agent_sessions: "select insert update delete",
    delegation_edges: "select insert update delete",
    delegation_epochs: "select insert update",
    delegation_budgets: "select insert delete",
  },
  // The control plane. What is immutable it can't update, and its own audit it can only add to.
  caracal_api: {
    schema_migrations: "select",
    stream_seqs: "select insert update",
    outbox: "select insert update delete",
    leases: "select insert update",
    zones: "select insert update",
    zone_keys: "select insert update delete",
    applications: "select insert update",
    resources: "select insert update",
    providers: "select insert update",
    issuers: "select insert update",
    grants: "select insert update",
    registration_tokens: "select insert update",
    policies: "select insert update",
    policy_versions: "select insert",
    policy_sets: "select insert update",
    policy_set_versions: "select insert",
    policy_set_entries: "select insert",
    active_policy_sets: "select insert update delete",
    sessions: "select update delete",
    step_up_challenges: "select delete",
    quotas: "select insert update delete",
    idempotency_keys: "select insert update delete",
    admin_tokens: "select insert update",
    bootstrap_use: "select insert",
    admin_audit: "select insert",
    audit_events: "select",
    audit_event_ids: "select",
    audit_heads: "select",
    audit_findings: "select",
    sts_replicas: "select",
    policy_activations: "select",
  },
  // The ledger: who writes it can't change a row of it or take one away.
  caracal_audit: {
    schema_migrations: "select",
    leases: "select insert update",
    audit_events: "select insert",
    audit_event_ids: "select insert",
    audit_findings: "select insert",
    audit_heads: "select insert update",
    audit_producers: "select insert update",
    audit_holes: "select insert update delete",
  },
};

/** Columns that a role may update in a table which is otherwise not its to change. */
const COLUMNS: readonly { readonly group: string; readonly table: string; readonly columns: readonly string[] }[] = [
  // A credential that it refreshed.
  {
    group: "caracal_sts",
    table: "grants",
    columns: ["sealed_access_token", "sealed_refresh_token", "credential_expires_at"],
  },
  { group: "caracal_sts", table: "sessions", columns: ["revoked_at"] },
  // A wrong answer is counted, and a right one consumes. Who decides is not the STS's to write.
  { group: "caracal_sts", table: "step_up_challenges", columns: ["failures", "consumed_at"] },
  // What was used up of a budget. How much there is, is not the STS's to write.
  { group: "caracal_sts", table: "delegation_budgets", columns: ["exchanges_used", "cost_used"] },
  { group: "caracal_api", table: "step_up_challenges", columns: ["decision", "decided_by", "decided_at"] },
];

type Wanted = {
  readonly grantee: string;
  readonly table_name: string;
  readonly privilege: string;
  /** Null: the whole table. */
  readonly column_name: string | null;
};

const WANTED: readonly Wanted[] = [
  ...Object.entries(TABLES).flatMap(([grantee, tables]) =>
    Object.entries(tables).flatMap(([table_name, privileges]) =>
      privileges.split(" ").map((privilege) => ({ grantee, table_name, privilege, column_name: null })),
    ),
  ),
  ...COLUMNS.flatMap(({ group, table, columns }) =>
    columns.map((column_name) => ({ grantee: group, table_name: table, privilege: "update", column_name })),
  ),
];

const whyOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Runs `text` so that its failure ends nothing else. Resolves to what went wrong. */
const attempt = async (tx: Transaction, text: string): Promise<string | undefined> => {
  try {
    await tx.savepoint((inner) => inner.unsafe(text).then(() => {}));
    return undefined;
  } catch (error) {
    return whyOf(error);
  }
};

const hasGroup = async (tx: Transaction, group: string): Promise<boolean> =>
  (await tx`select from pg_roles where rolname = ${group}`).length > 0;

/** Groups belong to the whole server: another database's migration may make one at this moment. */
const makeGroup = async (tx: Transaction, group: string): Promise<string | undefined> => {
  if (await hasGroup(tx, group)) return undefined;
  const why = await attempt(tx, `create role ${group} nologin`);
  return why === undefined || (await hasGroup(tx, group))
    ? undefined
    : `${group}: is not there, and was not made (${why}); make it (create role ${group} nologin) and migrate again`;
};

/** What groups that are there lack of tables that are there. */
const missing = (tx: Transaction): Promise<readonly (Wanted & { readonly schema_name: string })[]> =>
  tx<(Wanted & { schema_name: string })[]>`
    select w.grantee, w.table_name, w.privilege, w.column_name, current_schema() as schema_name
    from jsonb_to_recordset(${JSON.stringify(WANTED)}::jsonb)
      as w (grantee text, table_name text, privilege text, column_name text)
    join pg_roles r on r.rolname = w.grantee
    join pg_class c on c.oid = to_regclass(w.table_name)
    where not has_schema_privilege(r.oid, c.relnamespace, 'usage')
      or not case
        when w.column_name is null then has_table_privilege(r.oid, c.oid, w.privilege)
        else has_column_privilege(r.oid, c.oid, w.column_name, w.privilege)
      end`;

/**
 * Makes the groups and gives each what it lacks, as far as this user may. Resolves to one line for each thing that is still
 * missing after that, with the reason: a role whose user has the group alone will not work.
 */
export const grantPrivileges = async (tx: Transaction): Promise<readonly string[]> => {
  const refused: string[] = [];
  for (const group of Object.keys(TABLES)) {
    const why = await makeGroup(tx, group);
    if (why !== undefined) refused.push(why);
  }
  const targetOf = ({ grantee, table_name }: Wanted): string => `${table_name} to ${grantee}`;
  const items = new Map<string, string[]>();
  const schemas = new Set<string>();
  for (const lacks of await missing(tx)) {
    const item = lacks.column_name === null ? lacks.privilege : `${lacks.privilege} (${lacks.column_name})`;
    items.set(targetOf(lacks), [...(items.get(targetOf(lacks)) ?? []), item]);
    schemas.add(`grant usage on schema "${lacks.schema_name}" to ${lacks.grantee}`);
  }
  for (const text of schemas) await attempt(tx, text);
  const reasons = new Map<string, string>();
  for (const [target, privileges] of items) {
    const why = await attempt(tx, `grant ${privileges.join(", ")} on ${target}`);
    if (why !== undefined) reasons.set(target, why);
  }
  const left = items.size === 0 ? [] : await missing(tx);
  for (const target of new Set(left.map(targetOf)))
    refused.push(`${target}: not granted (${reasons.get(target) ?? "this user does not own it"})`);
  return refused;
};

/** The user that serves, and why it may do what no role's user should: it is a superuser, or owns the tables. */
export type Overpowered = { readonly user: string; readonly because: string };

/** Resolves to undefined where the pool's user is held to the privileges that it was granted. */
export const overpoweredUser = async (sql: Sql): Promise<Overpowered | undefined> => {
  const [row] = await sql<{ user: string; superuser: boolean; owner: boolean }[]>`
    select current_user as user, r.rolsuper as superuser,
      exists (
        select from pg_class c
        where c.oid in (to_regclass('schema_migrations'), to_regclass('audit_events'))
          and pg_has_role(r.oid, c.relowner, 'member')
      ) as owner
    from pg_roles r where r.rolname = current_user`;
  if (row === undefined || (!row.superuser && !row.owner)) return undefined;
  return { user: row.user, because: row.superuser ? "is a superuser" : "owns the tables" };
};
