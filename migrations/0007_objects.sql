-- Where an upstream's own credential comes from. Secrets are sealed under ZONE_KEK for their table, zone, row and column.
create table providers (
  zone_id     text not null references zones (id),
  id          text not null,
  revision    integer not null default 1,
  name        text not null,
  kind        text not null check (kind in ('oauth2', 'oidc', 'apikey', 'workload')),
  client_id   text,
  token_url   text,
  authorization_url text,
  issuer_url  text,
  audience    text,
  scopes      text[] not null default '{}',
  allowed_hosts text[] not null,
  auth_header text not null,
  auth_scheme text,
  sealed_client_secret text,
  sealed_api_key       text,
  secret_config_keys text[] generated always as (array_remove(array[
    case when sealed_client_secret is null then null else 'client_secret' end,
    case when sealed_api_key is null then null else 'api_key' end], null)) stored,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz,
  primary key (zone_id, id)
);
create unique index providers_name on providers (zone_id, name) where archived_at is null;

-- Who may vouch for users and workloads. Without `jwks` and `jwks_uri` the keys are found by discovery.
create table issuers (
  zone_id     text not null references zones (id),
  id          text not null,
  revision    integer not null default 1,
  name        text not null,
  issuer_url  text not null,
  audience    text not null,
  jwks        jsonb,
  jwks_uri    text,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz,
  primary key (zone_id, id),
  check (jwks is null or jwks_uri is null)
);
create unique index issuers_issuer_url on issuers (zone_id, issuer_url, audience) where archived_at is null;

alter table applications
  add column credential_types text[] not null default '{client_secret}',
  add column jwks jsonb,
  add column jwks_uri text,
  add column workload_issuer_id text,
  add column workload_claims jsonb,
  add column unbound_mandates boolean not null default false,
  -- The secret before this one still opens until then, so that a client can be given the new one without an outage.
  add column previous_secret_hash text,
  add column previous_secret_expires_at timestamptz,
  add foreign key (zone_id, workload_issuer_id) references issuers (zone_id, id),
  drop constraint applications_check,
  add constraint applications_public_is_secretless check (kind = 'confidential' or secret_hash is null);

-- null: the deployment's own limit.
alter table resources
  add column provider_id text,
  add column cost_units integer not null default 0 check (cost_units >= 0),
  add column upstream_timeout_ms integer,
  add column stream_idle_timeout_ms integer,
  add column stream_max_ms integer,
  add column max_request_bytes integer,
  add column identity_header boolean not null default false,
  add column cookies boolean not null default false,
  add foreign key (zone_id, provider_id) references providers (zone_id, id);

-- What a user lets an application do with a resource, and the user's own credential for it. Archived is revoked.
create table grants (
  zone_id        text not null references zones (id),
  id             text not null,
  revision       integer not null default 1,
  application_id text not null,
  subject        text not null,
  resource_id    text not null,
  scopes         text[] not null,
  sealed_access_token  text,
  sealed_refresh_token text,
  credential_expires_at timestamptz,
  credential_keys text[] generated always as (array_remove(array[
    case when sealed_access_token is null then null else 'access_token' end,
    case when sealed_refresh_token is null then null else 'refresh_token' end], null)) stored,
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now(),
  archived_at    timestamptz,
  primary key (zone_id, id),
  foreign key (zone_id, application_id) references applications (zone_id, id),
  foreign key (zone_id, resource_id) references resources (zone_id, id)
);
create unique index grants_target on grants (zone_id, application_id, resource_id, subject) where archived_at is null;
create index grants_resource on grants (zone_id, resource_id, id) where archived_at is null;
create index grants_subject on grants (zone_id, subject, id) where archived_at is null;
create index grants_revoked on grants (zone_id, archived_at) where archived_at is not null;
create index resources_provider on resources (zone_id, provider_id) where provider_id is not null and archived_at is null;
create index resources_application on resources (zone_id, application_id) where application_id is not null and archived_at is null;
create index applications_issuer on applications (zone_id, workload_issuer_id) where workload_issuer_id is not null and archived_at is null;
