import { STREAMS } from "../../contracts/streams.ts";
import type { RevocableKind } from "../../domain/revocation.ts";
import { AMBIENT_TTL_MAX_S, LEEWAY_S } from "../../domain/token.ts";
import { REPLICA_DEAD_S } from "../../contracts/policy-activations.ts";
import type { Queryable } from "../../ports/database.ts";

/** What the database knows of a zone, in one consistent read. Times in milliseconds since the epoch. */
export type ZoneRow = {
  readonly applications: readonly {
    readonly id: string;
    /** null where `credential_types` does not hold `client_secret`. */
    readonly secret_hash: string | null;
    /** The one before it, for as long as it opens as well. */
    readonly previous_secret_hash: string | null;
    readonly previous_secret_expires_ms: number | null;
    readonly unbound_mandates: boolean;
    /** null where it authenticates by no assertion. */
    readonly assertion_version: string | null;
    readonly scopes: readonly string[];
    readonly traits: readonly string[];
    readonly rate_limit_per_minute: number | null;
  }[];
  readonly resources: readonly {
    readonly id: string;
    readonly identifier: string;
    readonly upstream_url: string;
    readonly scopes: readonly string[];
    readonly cost_units: number;
    readonly application_id: string | null;
    readonly provider_id: string | null;
  }[];
  /** The two most recent, newest first. `signs`: its time has come. */
  readonly keys: readonly {
    readonly kid: string;
    readonly public_jwk: string;
    readonly sealed_private: string;
    readonly signs: boolean;
  }[];
  readonly active: {
    readonly policy_set_id: string;
    readonly policy_set_version_id: string;
    readonly manifest_sha: string;
    readonly members: readonly { readonly version_id: string; readonly wasm_sha256: string }[];
  } | null;
};

/** Reads a zone; undefined where there is none that lives. One statement, so that its parts belong together. */
export const readZone = async (sql: Queryable, zone_id: string): Promise<ZoneRow | undefined> => {
  const rows = await sql<{ zone: ZoneRow }[]>`
    select json_build_object(
      'applications', (
        select coalesce(json_agg(json_build_object(
          'id', a.id, 'scopes', a.scopes, 'traits', a.traits, 'rate_limit_per_minute', a.rate_limit_per_minute,
          'unbound_mandates', a.unbound_mandates,
          'assertion_version', case when a.credential_types && '{private_key_jwt,workload}' then a.revision || '/' || coalesce((
            select i.revision from issuers i
            where i.zone_id = a.zone_id and i.id = a.workload_issuer_id and i.archived_at is null), 0) end,
          'secret_hash', case when 'client_secret' = any(a.credential_types) then a.secret_hash end,
          'previous_secret_hash', case when 'client_secret' = any(a.credential_types) then a.previous_secret_hash end,
          'previous_secret_expires_ms', floor(extract(epoch from a.previous_secret_expires_at) * 1000)::float8
          )), '[]'::json)
        from applications a where a.zone_id = z.id and a.archived_at is null),
      'resources', (
        select coalesce(json_agg(json_build_object(
          'id', r.id, 'identifier', r.identifier, 'upstream_url', r.upstream_url, 'scopes', r.scopes,
          'cost_units', r.cost_units, 'application_id', r.application_id, 'provider_id', r.provider_id)), '[]'::json)
        from resources r where r.zone_id = z.id and r.archived_at is null),
      'keys', (
        select coalesce(json_agg(json_build_object(
          'kid', k.kid, 'public_jwk', k.public_jwk, 'sealed_private', k.sealed_private, 'signs', k.signs)
          order by k.created_at desc, k.kid), '[]'::json)
        from (
          select kid, public_jwk, sealed_private, created_at, signs_from <= now() as signs
          from zone_keys where zone_id = z.id order by created_at desc, kid limit 2) k),
      'active', (
        select json_build_object(
          'policy_set_id', a.policy_set_id, 'policy_set_version_id', a.policy_set_version_id, 'manifest_sha', v.manifest_sha,
          'members', (
            select coalesce(json_agg(json_build_object('version_id', p.id, 'wasm_sha256', p.wasm_sha256) order by e.position), '[]'::json)
            from policy_set_entries e
            join policy_versions p on p.zone_id = e.zone_id and p.id = e.policy_version_id
            where e.zone_id = a.zone_id and e.policy_set_version_id = a.policy_set_version_id))
        from active_policy_sets a
        join policy_sets s on s.zone_id = a.zone_id and s.id = a.policy_set_id and s.archived_at is null
        join policy_set_versions v on v.zone_id = a.zone_id and v.id = a.policy_set_version_id
        where a.zone_id = z.id)
    ) as zone
    from zones z where z.id = ${zone_id} and z.archived_at is null`;
  return rows[0]?.zone;
};

/** The stored modules of policy versions, by version id. Versions never change, so neither do these. */
export const readModules = async (
  sql: Queryable,
  zone_id: string,
  version_ids: readonly string[],
): Promise<ReadonlyMap<string, Uint8Array>> => {
  const rows = await sql<{ id: string; wasm: Uint8Array }[]>`
    select id, wasm from policy_versions
    where zone_id = ${zone_id}
      and id in (select jsonb_array_elements_text(${JSON.stringify(version_ids)}::text::jsonb))`;
  return new Map(rows.map((row) => [row.id, row.wasm]));
};

/** A row of `sessions`. `expires_at_s` in seconds since the epoch. */
export type SessionRow = {
  readonly client_id: string;
  readonly subject: string;
  readonly sub_type: "user" | "application";
  readonly expires_at_s: number;
  readonly revoked: boolean;
};

export const readSession = async (sql: Queryable, zone_id: string, id: string): Promise<SessionRow | undefined> => {
  const rows = await sql<SessionRow[]>`
    select client_id, subject, sub_type, floor(extract(epoch from expires_at))::float8 as expires_at_s,
           revoked_at is not null as revoked
    from sessions where zone_id = ${zone_id} and id = ${id}`;
  return rows[0];
};

/**
 * Writes the session of a new ambient token; false where the application or its zone was archived since the snapshot was
 * read. An archive that commits between this look and our commit leaves a session behind that mints nothing: each exchange
 * asks for a living application again.
 */
export const insertSession = async (
  sql: Queryable,
  session: { readonly zone_id: string; readonly id: string } & Omit<SessionRow, "revoked">,
): Promise<boolean> => {
  const result = await sql`
    insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
    select a.zone_id, ${session.id}, a.id, ${session.subject}, ${session.sub_type}, to_timestamp(${session.expires_at_s}::float8)
    from applications a join zones z on z.id = a.zone_id and z.archived_at is null
    where a.zone_id = ${session.zone_id} and a.id = ${session.client_id} and a.archived_at is null`;
  return result.count === 1;
};

/** A zone without a resource has a row as well, with nulls: its tokens are known, they just reach nothing. */
export type BindingRow =
  | { readonly zone_id: string; readonly id: string; readonly identifier: string; readonly upstream_url: string }
  | { readonly zone_id: string; readonly id: null; readonly identifier: null; readonly upstream_url: null };

/** Of one page: zones; bytes of what they hold, after which no further zone is begun; and bytes of one zone. */
export type BindingLimits = { readonly zones: number; readonly page_bytes: number; readonly zone_bytes: number };

export type BindingsRead = {
  readonly rows: readonly BindingRow[];
  readonly too_large: ReadonlySet<string>;
  /** The last zone of the page, where there may be more. */
  readonly last_zone_id: string | undefined;
};

/** What all living zones and bindings are, in 32 bytes (hex), whose rows never leave the database. */
export const readBindingsVersion = async (sql: Queryable): Promise<string> => {
  const [row] = await sql<{ version: string }[]>`
    with digests as (
      select z.id, string_agg(
          encode(sha256(convert_to(json_build_array(r.id, r.identifier, r.upstream_url)::text, 'UTF8')), 'hex'),
          '' order by r.id) as resources
      from zones z left join resources r on r.zone_id = z.id and r.archived_at is null
      where z.archived_at is null
      group by z.id)
    select encode(sha256(convert_to(coalesce(string_agg(
      encode(sha256(convert_to(json_build_array(id, resources)::text, 'UTF8')), 'hex'), '' order by id), ''), 'UTF8')),
      'hex') as version
    from digests`;
  if (row === undefined) throw new Error("the database did not tell the version of the bindings");
  return row.version;
};

/** Living zones with their living bindings, in the order of their ids: after one, or one alone. */
export const readBindings = async (
  sql: Queryable,
  which: { readonly after: string } | { readonly zone_id: string },
  limits: BindingLimits,
): Promise<BindingsRead> => {
  const after = "after" in which ? which.after : null;
  const zone_id = "zone_id" in which ? which.zone_id : null;
  const rows = await sql<(BindingRow & { too_large: boolean; found: number })[]>`
    with page as (
      select id from zones
      where archived_at is null and (id > ${after}::text or id = ${zone_id}::text)
      order by id limit ${limits.zones}),
    weighed as (
      select p.id, coalesce(sum(octet_length(r.id) + octet_length(r.identifier) + octet_length(r.upstream_url)), 0) as bytes
      from page p left join resources r on r.zone_id = p.id and r.archived_at is null
      group by p.id),
    placed as (
      select id, bytes > ${limits.zone_bytes} as too_large, count(*) over ()::int as found,
        sum(case when bytes > ${limits.zone_bytes} then 0 else bytes end)
          over (order by id rows between unbounded preceding and 1 preceding) as bytes_before
      from weighed)
    select p.id as zone_id, p.too_large, p.found, r.id, r.identifier, r.upstream_url
    from placed p left join resources r on r.zone_id = p.id and r.archived_at is null and not p.too_large
    where coalesce(p.bytes_before, 0) < ${limits.page_bytes}
    order by p.id, r.id`;
  const zones = new Set(rows.map((row) => row.zone_id));
  const found = rows[0]?.found ?? 0;
  const more = "after" in which && (zones.size < found || found === limits.zones);
  return {
    rows: rows.map(
      ({ zone_id: of, id, identifier, upstream_url }) => ({ zone_id: of, id, identifier, upstream_url }) as BindingRow,
    ),
    too_large: new Set(rows.filter((row) => row.too_large).map((row) => row.zone_id)),
    last_zone_id: more ? rows.at(-1)?.zone_id : undefined,
  };
};

/** Where a page of revocations begins: after this zone, or within it after this mark, at the number noted then. */
export type RevocationsAfter = {
  readonly zone_id: string;
  readonly within: { readonly kind: RevocableKind; readonly id: string; readonly seq: number } | undefined;
};

export type RevokedZone = {
  readonly zone_id: string;
  readonly seq: number;
  /** `[kind, id, seconds since the epoch until which its tokens may live]`, by kind and id. */
  readonly marks: readonly (readonly [RevocableKind, string, number])[];
};

/** The database's clock, in milliseconds since the epoch. */
export const readTime_ms = async (sql: Queryable): Promise<number> => {
  const [row] = await sql<
    { at_ms: number }[]
  >`select floor(extract(epoch from clock_timestamp()) * 1000)::float8 as at_ms`;
  if (row === undefined) throw new Error("the database did not tell its time");
  return row.at_ms;
};

/**
 * Zones in order, each with the number of its last revocation message and all that is still worth a mark: sessions, grants
 * and edges that were revoked, agent sessions that are not active. One statement: number and marks are of one moment. A mark
 * lives until the last token is past every leeway.
 */
export const readRevocations = async (
  sql: Queryable,
  after: RevocationsAfter | undefined,
  limits: { readonly zones: number; readonly marks: number },
): Promise<readonly RevokedZone[]> => {
  const zone_id = after?.zone_id ?? "";
  const { kind = "", id = "" } = after?.within ?? {};
  const inclusive = after?.within !== undefined;
  const rows = await sql<RevokedZone[]>`
    select s.zone_id, s.seq::float8 as seq, (
      select coalesce(json_agg(json_build_array(m.kind, m.id, m.expires_at) order by m.kind, m.id), '[]'::json)
      from (
        select 'grant' as kind, g.id,
          ceil(extract(epoch from g.archived_at) + ${AMBIENT_TTL_MAX_S + LEEWAY_S}::float8)::float8 as expires_at
        from grants g
        where g.zone_id = s.zone_id and g.archived_at > now() - make_interval(secs => ${AMBIENT_TTL_MAX_S + LEEWAY_S}::float8)
          and (s.zone_id > ${zone_id} or ('grant', g.id) > (${kind}::text, ${id}::text))
        union all
        select 'session', r.id, ceil(extract(epoch from r.expires_at) + ${LEEWAY_S}::float8)::float8
        from sessions r
        where r.zone_id = s.zone_id and r.revoked_at is not null
          and r.expires_at > now() - make_interval(secs => ${LEEWAY_S}::float8)
          and (s.zone_id > ${zone_id} or ('session', r.id) > (${kind}::text, ${id}::text))
        union all
        select 'agent_session', a.id, ceil(extract(epoch from a.expires_at) + ${LEEWAY_S}::float8)::float8
        from agent_sessions a
        where a.zone_id = s.zone_id and a.status <> 'active'
          and a.expires_at > now() - make_interval(secs => ${LEEWAY_S}::float8)
          and (s.zone_id > ${zone_id} or ('agent_session', a.id) > (${kind}::text, ${id}::text))
        union all
        select 'delegation_edge', e.id, ceil(extract(epoch from e.expires_at) + ${LEEWAY_S}::float8)::float8
        from delegation_edges e
        where e.zone_id = s.zone_id and e.revoked_at is not null
          and e.expires_at > now() - make_interval(secs => ${LEEWAY_S}::float8)
          and (s.zone_id > ${zone_id} or ('delegation_edge', e.id) > (${kind}::text, ${id}::text))
        order by kind, id limit ${limits.marks}
      ) m) as marks
    from stream_seqs s
    where s.stream = ${STREAMS.revoke} and (s.zone_id > ${zone_id} or (${inclusive} and s.zone_id = ${zone_id}))
    order by s.zone_id limit ${limits.zones}`;
  const within = after?.within;
  // The rest of a zone whose first part is on the page before keeps that part's number.
  return rows.map((row) =>
    within !== undefined && row.zone_id === zone_id ? { zone_id: row.zone_id, seq: within.seq, marks: row.marks } : row,
  );
};

/** A version that this STS has loaded for a zone. `since_ms` in milliseconds since the epoch. */
export type Activated = {
  readonly zone_id: string;
  readonly policy_set_id: string;
  readonly policy_set_version_id: string;
  readonly since_ms: number;
};

/** Says that this STS lives, and forgets those that are dead, with what they said. True where it was not known. */
export const markReplica = async (sql: Queryable, replica: string): Promise<boolean> => {
  await sql`delete from sts_replicas where seen_at < now() - make_interval(secs => ${REPLICA_DEAD_S})`;
  const rows = await sql<[{ fresh: boolean }]>`
    insert into sts_replicas (replica) values (${replica})
    on conflict (replica) do update set seen_at = now()
    returning xmax = 0 as fresh`;
  return rows[0].fresh;
};

export const deleteReplica = async (sql: Queryable, replica: string): Promise<void> => {
  await sql`delete from sts_replicas where replica = ${replica}`;
};

export const writeActivations = async (
  sql: Queryable,
  replica: string,
  activations: readonly Activated[],
): Promise<void> => {
  await sql`
    insert into policy_activations (zone_id, replica, policy_set_id, policy_set_version_id, since)
    select one.zone_id, ${replica}::text, one.policy_set_id, one.policy_set_version_id, to_timestamp(one.since_ms / 1000.0)
    from jsonb_to_recordset(${JSON.stringify(activations)}::text::jsonb)
      as one (zone_id text, policy_set_id text, policy_set_version_id text, since_ms float8)
    on conflict (zone_id, replica) do update set
      policy_set_id = excluded.policy_set_id,
      policy_set_version_id = excluded.policy_set_version_id,
      since = excluded.since`;
};
