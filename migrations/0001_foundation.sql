-- Every id is text (UUIDv7 as we make them), every key holds the zone, and every reference goes over both: a row of
-- another zone is unreachable by construction. Times are timestamptz by the database's clock, but for the ledger,
-- whose columns are the very text that was hashed.

create table zones (
  id          text primary key,
  slug        text not null,
  name        text not null,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz
);
create unique index zones_slug on zones (slug) where archived_at is null;

-- A zone's signing keys. The private part is sealed under ZONE_KEK; `signs_from` is when every cache can know it.
create table zone_keys (
  zone_id        text not null references zones (id),
  kid            text not null,
  public_jwk     text not null,
  sealed_private text not null,
  created_at     timestamptz not null default now(),
  signs_from     timestamptz not null default now(),
  primary key (zone_id, kid)
);

create table applications (
  zone_id     text not null references zones (id),
  id          text not null,
  name        text not null,
  kind        text not null check (kind in ('confidential', 'public')),
  secret_hash text,
  scopes      text[] not null default '{}',
  traits      text[] not null default '{}',
  rate_limit_per_minute integer check (rate_limit_per_minute between 1 and 1000000),
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz,
  primary key (zone_id, id),
  check ((kind = 'confidential') = (secret_hash is not null))
);

create table resources (
  zone_id        text not null references zones (id),
  id             text not null,
  identifier     text not null,
  name           text not null,
  upstream_url   text not null,
  scopes         text[] not null default '{}',
  application_id text,
  created_at     timestamptz not null default now(),
  updated_at     timestamptz not null default now(),
  archived_at    timestamptz,
  primary key (zone_id, id),
  foreign key (zone_id, application_id) references applications (zone_id, id)
);
create unique index resources_identifier on resources (zone_id, identifier) where archived_at is null;

create table policies (
  zone_id     text not null references zones (id),
  id          text not null,
  name        text not null,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz,
  primary key (zone_id, id)
);
create unique index policies_name on policies (zone_id, name) where archived_at is null;

-- Immutable. `wasm` is metered already: whoever evaluates needs no compiler.
create table policy_versions (
  zone_id       text not null,
  id            text not null,
  policy_id     text not null,
  version       integer not null check (version >= 1),
  source        text not null,
  source_sha256 text not null,
  wasm          bytea not null,
  wasm_sha256   text not null,
  created_at    timestamptz not null default now(),
  primary key (zone_id, id),
  unique (zone_id, policy_id, version),
  foreign key (zone_id, policy_id) references policies (zone_id, id)
);

create table policy_sets (
  zone_id     text not null references zones (id),
  id          text not null,
  name        text not null,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  archived_at timestamptz,
  primary key (zone_id, id)
);
create unique index policy_sets_name on policy_sets (zone_id, name) where archived_at is null;

-- Immutable. `manifest_sha`: SHA-256 over the entries' version ids and source hashes, in order.
create table policy_set_versions (
  zone_id       text not null,
  id            text not null,
  policy_set_id text not null,
  version       integer not null check (version >= 1),
  manifest_sha  text not null,
  created_at    timestamptz not null default now(),
  primary key (zone_id, id),
  unique (zone_id, policy_set_id, id),
  unique (zone_id, policy_set_id, version),
  foreign key (zone_id, policy_set_id) references policy_sets (zone_id, id)
);

create table policy_set_entries (
  zone_id               text not null,
  policy_set_version_id text not null,
  position              integer not null check (position between 1 and 256),
  policy_version_id     text not null,
  primary key (zone_id, policy_set_version_id, position),
  unique (zone_id, policy_set_version_id, policy_version_id),
  foreign key (zone_id, policy_set_version_id) references policy_set_versions (zone_id, id),
  foreign key (zone_id, policy_version_id) references policy_versions (zone_id, id)
);

-- One row at most per zone: no row, nothing is issued.
create table active_policy_sets (
  zone_id               text primary key references zones (id),
  policy_set_id         text not null,
  policy_set_version_id text not null,
  activated_at          timestamptz not null default now(),
  foreign key (zone_id, policy_set_id, policy_set_version_id) references policy_set_versions (zone_id, policy_set_id, id)
);

-- What an ambient token stands for.
create table sessions (
  zone_id    text not null references zones (id),
  id         text not null,
  client_id  text not null,
  subject    text not null,
  sub_type   text not null check (sub_type in ('user', 'application')),
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  primary key (zone_id, id),
  foreign key (zone_id, client_id) references applications (zone_id, id)
);
create index sessions_subject on sessions (zone_id, subject, id);
create index sessions_revoked on sessions (zone_id, expires_at) where revoked_at is not null;
create index sessions_expiry on sessions (expires_at);

-- An admin token is 32 random bytes, so a plain SHA-256 is enough. `zone_id` null: global.
create table admin_tokens (
  id           text primary key,
  zone_id      text references zones (id),
  token_sha256 text not null unique,
  label        text not null,
  access       text not null check (access in ('full', 'read')),
  created_by   text,
  created_at   timestamptz not null default now(),
  expires_at   timestamptz,
  last_used_at timestamptz,
  revoked_at   timestamptz
);
create index admin_tokens_zone on admin_tokens (zone_id, id);

-- The one use of the bootstrap token: a second insert fails, so of two that race one wins.
create table bootstrap_use (
  only_row boolean primary key default true check (only_row),
  zone_id  text not null references zones (id),
  used_at  timestamptz not null default now()
);

create table admin_audit (
  id          text primary key,
  zone_id     text,
  actor       text not null,
  action      text not null,
  object_kind text not null,
  object_id   text not null,
  request_id  text not null,
  detail_json text not null default '{}',
  occurred_at timestamptz not null default now()
);
create index admin_audit_zone on admin_audit (zone_id, id);

-- The last number of each stream and zone. Taken in the transaction of the change, so that numbers have no gap and
-- grow in the order of commit: the row stays locked until then.
create table stream_seqs (
  stream  text not null,
  zone_id text not null,
  seq     bigint not null check (seq >= 1),
  primary key (stream, zone_id)
);

-- What follows from a change, written in the change's transaction. A row is pending until it is sent or dead.
create table outbox (
  id          bigint generated always as identity primary key,
  stream      text not null,
  zone_id     text not null,
  seq         bigint not null,
  fields_json text not null,
  created_at  timestamptz not null default now(),
  sent_at     timestamptz,
  dead_at     timestamptz,
  attempts    integer not null default 0,
  retry_at    timestamptz,
  last_error  text,
  unique (stream, zone_id, seq)
);
create index outbox_pending on outbox (stream, id) where sent_at is null and dead_at is null;
create index outbox_sent on outbox (sent_at) where sent_at is not null;

create table leases (
  name       text primary key,
  owner      text not null,
  fence      bigint not null,
  expires_at timestamptz not null
);

-- The ledger. Text as it was hashed; no jsonb, no timestamptz.
create table audit_events (
  zone_id                   text not null,
  chain_seq                 bigint not null,
  id                        text not null,
  event_type                text not null,
  request_id                text,
  decision                  text not null,
  client_id                 text,
  subject                   text,
  session_id                text,
  agent_session_id          text,
  delegation_edge_id        text,
  resource_id               text,
  producer                  text not null,
  producer_seq              bigint not null,
  policy_set_id             text,
  policy_set_version_id     text,
  manifest_sha              text,
  evaluation_status         text,
  determining_policies_json text,
  diagnostics_json          text,
  metadata_json             text,
  occurred_at               text not null,
  content_sha256            text not null,
  chain_hmac                text not null,
  key_id                    text not null,
  chained_at                timestamptz not null default now(),
  primary key (zone_id, chain_seq)
);
create index audit_events_request on audit_events (zone_id, request_id);
create index audit_events_session on audit_events (zone_id, session_id, chain_seq);

-- Delivery is at least once; this makes it once in effect.
create table audit_event_ids (
  id        text primary key,
  zone_id   text not null,
  chain_seq bigint not null
);

create table audit_heads (
  zone_id    text primary key,
  chain_seq  bigint not null,
  chain_hmac text not null
);

-- Producers number their events. A number that did not come yet is a hole; one that stays is a finding.
create table audit_producers (
  producer   text primary key,
  last_seq   bigint not null,
  updated_at timestamptz not null default now()
);
create table audit_holes (
  producer     text not null,
  producer_seq bigint not null,
  noticed_at   timestamptz not null default now(),
  reported     boolean not null default false,
  primary key (producer, producer_seq)
);

create table audit_findings (
  id          bigint generated always as identity primary key,
  kind        text not null check (kind in ('chain_break', 'hmac_mismatch', 'audit_gap')),
  zone_id     text,
  chain_seq   bigint,
  detail      text not null,
  found_at    timestamptz not null default now()
);
