import type { Queryable } from "../../ports/database.ts";

/** Where keys are: at one place at most. */
export type KeyPlaceRow = { readonly jwks: unknown; readonly jwks_uri: string | null };

export type CredentialsRow = {
  /** That of `readZone`. */
  readonly version: string;
  /** null: no `private_key_jwt`. */
  readonly own: KeyPlaceRow | null;
  /** null: no workload, or its issuer is archived. */
  readonly workload:
    | (KeyPlaceRow & {
        readonly issuer_url: string;
        readonly audience: string;
        readonly claims: Readonly<Record<string, string>>;
      })
    | null;
};

/** How a living application authenticates by an assertion; undefined where there is none that does. One statement. */
export const readCredentials = async (
  sql: Queryable,
  zone_id: string,
  application_id: string,
): Promise<CredentialsRow | undefined> => {
  const rows = await sql<CredentialsRow[]>`
    select a.revision || '/' || coalesce(i.revision, 0) as version,
      case when 'private_key_jwt' = any(a.credential_types)
        then json_build_object('jwks', a.jwks, 'jwks_uri', a.jwks_uri) end as own,
      case when 'workload' = any(a.credential_types) and i.id is not null then json_build_object(
        'jwks', i.jwks, 'jwks_uri', i.jwks_uri, 'issuer_url', i.issuer_url, 'audience', i.audience,
        'claims', a.workload_claims) end as workload
    from applications a
    left join issuers i on i.zone_id = a.zone_id and i.id = a.workload_issuer_id and i.archived_at is null
    where a.zone_id = ${zone_id} and a.id = ${application_id} and a.archived_at is null
      and a.credential_types && '{private_key_jwt,workload}'`;
  return rows[0];
};
