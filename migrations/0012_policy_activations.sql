-- Which STS runs which version of a zone's policy. Each STS writes its own rows when it has loaded a version, and one row that
-- says that it lives; what a dead one said goes with that row.
create table sts_replicas (
  replica text primary key,
  seen_at timestamptz not null default now()
);

create table policy_activations (
  zone_id               text not null references zones (id),
  replica               text not null references sts_replicas (replica) on delete cascade,
  policy_set_id         text not null,
  policy_set_version_id text not null,
  since                 timestamptz not null,
  primary key (zone_id, replica)
);
create index policy_activations_replica on policy_activations (replica);
