-- Initial access tokens (RFC 7591, 3): who holds one may register clients in the zone, with those scopes at most.
create table registration_tokens (
  zone_id      text not null references zones (id),
  id           text not null,
  revision     integer not null default 1,
  name         text not null,
  scopes       text[] not null,
  token_sha256 text not null unique,
  expires_at   timestamptz not null,
  created_at   timestamptz not null default now(),
  updated_at   timestamptz not null default now(),
  archived_at  timestamptz,
  primary key (zone_id, id)
);

-- Which token registered it; null: an admin did.
alter table applications
  add column registration_token_id text,
  add foreign key (zone_id, registration_token_id) references registration_tokens (zone_id, id);
create index applications_registered on applications (zone_id, created_at) where registration_token_id is not null;
