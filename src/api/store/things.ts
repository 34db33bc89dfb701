import type { Application } from "../../contracts/api-applications.ts";
import type { Page, PageQuery } from "../../contracts/api-fields.ts";
import type { Grant } from "../../contracts/api-grants.ts";
import type { Issuer } from "../../contracts/api-issuers.ts";
import type { Named } from "../../contracts/api-policies.ts";
import type { Provider } from "../../contracts/api-providers.ts";
import type { QUOTA_LIMITS } from "../../contracts/api-quotas.ts";
import type { RegistrationToken } from "../../contracts/api-registration.ts";
import type { Resource } from "../../contracts/api-resources.ts";
import type { Zone } from "../../contracts/api-zones.ts";
import type { ConfigKind } from "../../contracts/streams.ts";
import type { Queryable, Sql, Transaction } from "../../ports/database.ts";
import { iso, pageOfRows } from "./rows.ts";

/** Everything that is made, shown, changed and archived in the same way, as it is shown. */
export type Things = {
  readonly zone: Zone;
  readonly application: Application;
  readonly resource: Resource;
  readonly provider: Provider;
  readonly issuer: Issuer;
  readonly grant: Grant;
  readonly registration_token: RegistrationToken;
  readonly policy: Named;
  readonly policy_set: Named;
};
export type Noun = keyof Things;

/**
 * How a thing rests. `columns`: those that are shown, under the names that they have outside; what is secret is in others.
 * `refers`: columns that hold the id of another thing of the same zone, which can't be archived while they do.
 * `begins_with`: columns whose text begins with such an id, as `{id}|…`. `told_as`: somebody caches it, so each change goes out on the config stream, as a change of this kind.
 */
type Thing<T> = {
  readonly table: string;
  readonly columns: readonly (keyof T & string)[];
  readonly refers: { readonly [C in keyof T & string]?: Noun };
  readonly begins_with?: { readonly [C in keyof T & string]?: Noun };
  readonly told_as?: ConfigKind;
  /** Which quota counts them. */
  readonly quota?: keyof typeof QUOTA_LIMITS;
};

const NAMED = ["id", "zone_id", "revision", "name", "created_at", "updated_at"] as const;

export const THINGS: { readonly [N in Noun]: Thing<Things[N]> } = {
  zone: {
    table: "zones",
    columns: ["id", "revision", "slug", "name", "created_at", "updated_at"],
    refers: {},
    told_as: "zone",
  },
  application: {
    table: "applications",
    columns: [
      ...NAMED,
      "kind",
      "scopes",
      "traits",
      "rate_limit_per_minute",
      "credential_types",
      "jwks",
      "jwks_uri",
      "workload_issuer_id",
      "workload_claims",
      "unbound_mandates",
      "registration_token_id",
      "previous_secret_expires_at",
    ],
    refers: { workload_issuer_id: "issuer" },
    told_as: "application",
    quota: "applications",
  },
  resource: {
    table: "resources",
    columns: [
      ...NAMED,
      "identifier",
      "upstream_url",
      "scopes",
      "application_id",
      "provider_id",
      "cost_units",
      "upstream_timeout_ms",
      "stream_idle_timeout_ms",
      "stream_max_ms",
      "max_request_bytes",
      "identity_header",
      "cookies",
    ],
    refers: { application_id: "application", provider_id: "provider" },
    told_as: "resource",
    quota: "resources",
  },
  provider: {
    table: "providers",
    columns: [
      ...NAMED,
      "kind",
      "client_id",
      "token_url",
      "authorization_url",
      "issuer_url",
      "audience",
      "scopes",
      "allowed_hosts",
      "auth_header",
      "auth_scheme",
      "secret_config_keys",
    ],
    refers: {},
    told_as: "provider",
    quota: "providers",
  },
  issuer: {
    table: "issuers",
    columns: [...NAMED, "issuer_url", "audience", "jwks", "jwks_uri"],
    refers: {},
    told_as: "issuer",
    quota: "issuers",
  },
  grant: {
    table: "grants",
    columns: [
      "id",
      "zone_id",
      "revision",
      "application_id",
      "subject",
      "resource_id",
      "scopes",
      "credential_keys",
      "credential_expires_at",
      "created_at",
      "updated_at",
    ],
    refers: { application_id: "application", resource_id: "resource" },
    begins_with: { subject: "issuer" },
    told_as: "grant",
    quota: "grants",
  },
  registration_token: {
    table: "registration_tokens",
    columns: [...NAMED, "scopes", "expires_at"],
    refers: {},
    quota: "registration_tokens",
  },
  policy: { table: "policies", columns: NAMED, refers: {}, quota: "policies" },
  policy_set: { table: "policy_sets", columns: NAMED, refers: {}, quota: "policy_sets" },
};

/** For people: `policy set`. */
export const wordOf = (noun: Noun): string => noun.replaceAll("_", " ");

/** Columns and their values, as JSON has them: a list for `text[]`, an object for `jsonb`. */
export type Fields = Readonly<Record<string, unknown>>;
type Row = { readonly item: Record<string, unknown> };

/** PostgreSQL's JSON has times with an offset and microseconds; ours are in UTC with milliseconds. */
const itemOf = <N extends Noun>({ item }: Row): Things[N] =>
  Object.fromEntries(
    Object.entries(item).map(([name, value]) => [
      name,
      name.endsWith("_at") && typeof value === "string" ? iso(new Date(value)) : value,
    ]),
  ) as Things[N];

/** `sql(list)` would mean other things after other keywords. */
const names = (sql: Queryable, columns: readonly string[]) =>
  columns.slice(1).reduce((all, column) => sql`${all}, ${sql(column)}`, sql`${sql(columns[0] as string)}`);

const shown = (sql: Queryable, noun: Noun) => names(sql, THINGS[noun].columns);

/** A zone is its own; everything else is reached by zone and id together, so that no id of another zone is any use. */
const keyOf = (sql: Queryable, noun: Noun, zone_id: string, id: string) =>
  noun === "zone" ? sql`id = ${zone_id}` : sql`zone_id = ${zone_id} and id = ${id}`;

/** Fields in the column's own types. The names come from contracts, never from a request. */
const typed = (tx: Transaction, noun: Noun, fields: Fields) => tx`
  select ${names(tx, Object.keys(fields))} from jsonb_populate_record(null::${tx(THINGS[noun].table)}, ${JSON.stringify(fields)}::text::jsonb)`;

const given = (fields: Fields): Fields =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

/** `fields`: with `id`, and `zone_id` where it has one. */
export const insertThing = async <N extends Noun>(tx: Transaction, noun: N, fields: Fields): Promise<Things[N]> => {
  const all = given(fields);
  const rows = await tx<[Row]>`
    with made as (
      insert into ${tx(THINGS[noun].table)} (${names(tx, Object.keys(all))}) ${typed(tx, noun, all)} returning ${shown(tx, noun)}
    )
    select row_to_json(made) as item from made`;
  return itemOf(rows[0]);
};

/** A live one. */
export const findThing = async <N extends Noun>(
  sql: Queryable,
  noun: N,
  zone_id: string,
  id: string,
): Promise<Things[N] | undefined> => {
  const rows = await sql<Row[]>`
    select row_to_json(t) as item
    from (
      select ${shown(sql, noun)} from ${sql(THINGS[noun].table)}
      where ${keyOf(sql, noun, zone_id, id)} and archived_at is null
    ) t`;
  return rows[0] === undefined ? undefined : itemOf(rows[0]);
};

/** A live one, which nobody else changes, archives or counts the versions of until the commit. */
export const lockThing = async <N extends Noun>(
  tx: Transaction,
  noun: N,
  zone_id: string,
  id: string,
): Promise<Things[N] | undefined> => {
  const rows = await tx<Row[]>`
    select row_to_json(t) as item
    from (
      select ${shown(tx, noun)} from ${tx(THINGS[noun].table)}
      where ${keyOf(tx, noun, zone_id, id)} and archived_at is null
      for no key update
    ) t`;
  return rows[0] === undefined ? undefined : itemOf(rows[0]);
};

/** Whether it is live; it stays so until the commit. */
export const holdThing = async (tx: Transaction, noun: Noun, zone_id: string, id: string): Promise<boolean> =>
  (
    await tx`
      select 1 from ${tx(THINGS[noun].table)}
      where ${keyOf(tx, noun, zone_id, id)} and archived_at is null
      for share`
  ).length > 0;

/** Whether there was ever one, archived or not. */
export const thingWasMade = async (sql: Queryable, noun: Noun, zone_id: string, id: string): Promise<boolean> =>
  (await sql`select 1 from ${sql(THINGS[noun].table)} where ${keyOf(sql, noun, zone_id, id)}`).length > 0;

/**
 * A page of live ones, by id, which is the order in which they were made. What the query has beside `limit` and `cursor`
 * filters by equality. `only`: the one zone that a bounded caller may see.
 */
export const listThings = async <N extends Noun>(
  sql: Sql,
  noun: N,
  only: string | null,
  query: PageQuery,
): Promise<Page<Things[N]>> => {
  const { limit, cursor, ...filters } = query;
  const equal = Object.entries(given(filters as Fields)).reduce(
    (all, [name, value]) => sql`${all} and ${sql(name)} = ${String(value)}`,
    sql``,
  );
  const rows = await sql<Row[]>`
    select row_to_json(t) as item
    from (
      select ${shown(sql, noun)} from ${sql(THINGS[noun].table)}
      where archived_at is null
        ${only === null ? sql`` : sql`and ${sql(noun === "zone" ? "id" : "zone_id")} = ${only}`}
        ${cursor === undefined ? sql`` : sql`and id > ${cursor}`}
        ${equal}
    ) t
    order by t.id
    limit ${limit + 1}`;
  return pageOfRows(rows, limit, itemOf<N>, (item) => item.id);
};

/** Sets those columns of one that is locked. */
export const updateThing = async <N extends Noun>(
  tx: Transaction,
  noun: N,
  zone_id: string,
  id: string,
  fields: Fields,
): Promise<Things[N]> => {
  const all = given(fields);
  const rows = await tx<[Row]>`
    with changed as (
      update ${tx(THINGS[noun].table)}
      set (${names(tx, Object.keys(all))}) = (${typed(tx, noun, all)}), revision = revision + 1, updated_at = now()
      where ${keyOf(tx, noun, zone_id, id)}
      returning ${shown(tx, noun)}
    )
    select row_to_json(changed) as item from changed`;
  return itemOf(rows[0]);
};

export const archiveThing = async (tx: Transaction, noun: Noun, zone_id: string, id: string): Promise<void> => {
  await tx`
    update ${tx(THINGS[noun].table)} set archived_at = now(), updated_at = now(), revision = revision + 1
    where ${keyOf(tx, noun, zone_id, id)}`;
};

export type Dependent = { readonly kind: Noun; readonly id: string; readonly field: string };

/** How many of each kind are named: enough to see what it is about. */
const NAMED_DEPENDENTS = 10;

const fieldsTo = (noun: Noun, references: Readonly<Record<string, Noun>>): readonly string[] =>
  Object.entries(references).flatMap(([field, to]) => (to === noun ? [field] : []));

/** Live things that refer to this one, in the order of the table above. */
export const dependentsOf = async (
  tx: Transaction,
  noun: Noun,
  zone_id: string,
  id: string,
): Promise<readonly Dependent[]> => {
  const found: Dependent[] = [];
  for (const [kind, { table, refers, begins_with = {} }] of Object.entries(THINGS) as [Noun, Thing<Things[Noun]>][]) {
    const where = [
      ...fieldsTo(noun, refers).map((field) => ({ field, holds: tx`${tx(field)} = ${id}` })),
      ...fieldsTo(noun, begins_with).map((field) => ({ field, holds: tx`starts_with(${tx(field)}, ${`${id}|`})` })),
    ];
    for (const { field, holds } of where) {
      const rows = await tx<{ id: string }[]>`
        select id from ${tx(table)}
        where zone_id = ${zone_id} and ${holds} and archived_at is null
        order by id limit ${NAMED_DEPENDENTS}`;
      found.push(...rows.map((row) => ({ kind, id: row.id, field })));
    }
  }
  return found;
};
