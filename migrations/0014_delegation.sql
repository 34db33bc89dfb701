-- One running agent. Whose it is and what it was spawned under never changes; the Coordinator writes, the STS reads.
create table agent_sessions (
  zone_id        text not null references zones (id),
  id             text not null,
  application_id text not null,
  -- Only tokens of this session may name it; null: those of any session of its application. No reference: a session's row goes
  -- sooner than this one, and its end must not widen what is left.
  session_sid    text,
  parent_id      text,
  depth          integer not null default 0 check (depth between 0 and 10),
  kind           text not null check (kind in ('service', 'instance', 'ephemeral')),
  capabilities   text[] not null default '{}',
  metadata       jsonb not null default '{}',
  status         text not null default 'active' check (status in ('active', 'suspended', 'terminated')),
  status_since   timestamptz not null default now(),
  created_at     timestamptz not null default now(),
  expires_at     timestamptz not null,
  primary key (zone_id, id),
  unique (zone_id, id, application_id),
  foreign key (zone_id, application_id) references applications (zone_id, id),
  foreign key (zone_id, parent_id) references agent_sessions (zone_id, id),
  check ((parent_id is null) = (depth = 0)),
  check (parent_id <> id)
);
create index agent_sessions_parent on agent_sessions (zone_id, parent_id) where parent_id is not null;
create index agent_sessions_application on agent_sessions (zone_id, application_id, expires_at) where status = 'active';
create index agent_sessions_stopped on agent_sessions (zone_id, expires_at) where status <> 'active';
create index agent_sessions_expiry on agent_sessions (expires_at);

-- Authority that one agent session gave to another. Who gave it and who has it are by reference: the issuer is the source's
-- application, the receiver the target's, and whoever passes an edge on is the one that received it. But for `revoked_at` a row
-- never changes. `max_hops`: edges from this one on, itself counted. `ttl_seconds`: of a mandate, at most.
create table delegation_edges (
  zone_id                 text not null references zones (id),
  id                      text not null,
  parent_edge_id          text,
  source_session_id       text not null,
  target_session_id       text not null,
  issuer_application_id   text not null,
  receiver_application_id text not null,
  -- null: any resource.
  resource_id             text,
  scopes                  text[] not null check (cardinality(scopes) <= 256),
  max_hops                integer not null default 1 check (max_hops between 1 and 10),
  ttl_seconds             integer check (ttl_seconds between 1 and 900),
  -- As the issuer sent it: policy sees it.
  constraints_json        jsonb not null default '{}' check (octet_length(constraints_json::text) <= 4096),
  edge_version            integer not null default 1 check (edge_version >= 1),
  graph_epoch             bigint not null default 0,
  created_at              timestamptz not null default now(),
  expires_at              timestamptz not null,
  revoked_at              timestamptz,
  primary key (zone_id, id),
  unique (zone_id, id, target_session_id),
  foreign key (zone_id, source_session_id, issuer_application_id) references agent_sessions (zone_id, id, application_id),
  foreign key (zone_id, target_session_id, receiver_application_id) references agent_sessions (zone_id, id, application_id),
  foreign key (zone_id, parent_edge_id, source_session_id) references delegation_edges (zone_id, id, target_session_id),
  foreign key (zone_id, resource_id) references resources (zone_id, id),
  check (source_session_id <> target_session_id),
  check (parent_edge_id <> id)
);
create index delegation_edges_parent on delegation_edges (zone_id, parent_edge_id) where parent_edge_id is not null;
create index delegation_edges_source on delegation_edges (zone_id, source_session_id, id);
create index delegation_edges_target on delegation_edges (zone_id, target_session_id, id);
create index delegation_edges_revoked on delegation_edges (zone_id, expires_at) where revoked_at is not null;
create index delegation_edges_expiry on delegation_edges (expires_at);

-- Grows with each revocation in the zone's graph, in its transaction. No row: 0.
create table delegation_epochs (
  zone_id text primary key references zones (id),
  epoch   bigint not null check (epoch >= 0)
);

-- Of the edges that have a budget; null: none of that kind. Apart from the edges, because it is written with each exchange, by
-- the STS, which may write nothing else of them. What is used up can't be more than there was, whoever counts.
create table delegation_budgets (
  zone_id        text not null,
  edge_id        text not null,
  exchanges_max  bigint check (exchanges_max >= 0),
  exchanges_used bigint not null default 0 check (exchanges_used >= 0),
  cost_max       bigint check (cost_max >= 0),
  cost_used      bigint not null default 0 check (cost_used >= 0),
  primary key (zone_id, edge_id),
  foreign key (zone_id, edge_id) references delegation_edges (zone_id, id) on delete cascade,
  check (exchanges_used <= exchanges_max),
  check (cost_used <= cost_max)
) with (fillfactor = 70);
