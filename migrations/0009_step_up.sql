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

do $$
begin
  if exists (select from pg_roles where rolname = 'caracal_api') then
    grant select, delete on step_up_challenges to caracal_api;
    grant update (decision, decided_by, decided_at) on step_up_challenges to caracal_api;
  end if;
  if exists (select from pg_roles where rolname = 'caracal_sts') then
    grant select, insert on step_up_challenges to caracal_sts;
    -- a wrong answer is counted, and a right one consumes; who decides is not the STS's to write
    grant update (failures, consumed_at) on step_up_challenges to caracal_sts;
  end if;
end
$$;
