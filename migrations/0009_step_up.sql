-- What an approver is asked: exactly what the one mandate would be for. The STS makes and consumes them; the control plane
-- decides, and says who did. `secret_sha256`: of the 32 random bytes that the caller holds and nobody else.
create table step_up_challenges (
  zone_id        text not null,
  id             text not null,
  kind           text not null check (kind in ('mfa', 'human_approval', 'software_attestation')),
  secret_sha256  text not null,
  application_id text not null,
  subject        text not null,
  session_id     text,
  resource_id    text,
  scopes         text[] not null,
  method         text,
  path           text,
  -- Of the body that the Gateway read, and the part of it that an approver understands: a tool and its arguments.
  body_sha256    text,
  body_json      text,
  policy_set_version_id text,
  failures       integer not null default 0,
  created_at     timestamptz not null default now(),
  expires_at     timestamptz not null,
  decision       text check (decision in ('satisfied', 'rejected')),
  decided_by     text,
  decided_at     timestamptz,
  consumed_at    timestamptz,
  primary key (zone_id, id),
  foreign key (zone_id, application_id) references applications (zone_id, id),
  foreign key (zone_id, resource_id) references resources (zone_id, id),
  check ((decision is null) = (decided_by is null) and (decision is null) = (decided_at is null)),
  check (consumed_at is null or decision = 'satisfied')
);
create index step_up_challenges_expiry on step_up_challenges (expires_at);
