-- The ledger's form 1: its version is hashed with every row, and what is always a UUID or a hash rests as bytes. Rows of the
-- form before can't be verified by this one. Nothing was deployed with it, so the table is made anew and the chains begin anew.
-- Columns of fixed width come first: between them and the texts no byte is lost to alignment.
truncate audit_event_ids, audit_heads, audit_producers, audit_holes, audit_findings;
drop table audit_events;

create table audit_events (
  chain_seq                 bigint not null,
  producer_seq              bigint not null,
  chained_at                timestamptz not null default now(),
  form                      smallint not null,
  id                        uuid not null,
  client_id                 uuid,
  session_id                uuid,
  agent_session_id          uuid,
  delegation_edge_id        uuid,
  resource_id               uuid,
  policy_set_id             uuid,
  policy_set_version_id     uuid,
  zone_id                   text not null,
  event_type                text not null,
  request_id                text,
  decision                  text not null,
  subject                   text,
  producer                  text not null,
  manifest_sha              bytea,
  evaluation_status         text,
  determining_policies_json text,
  diagnostics_json          text,
  metadata_json             text,
  occurred_at               text not null,
  content_sha256            bytea not null,
  chain_hmac                bytea not null,
  key_id                    text not null,
  primary key (zone_id, chain_seq)
);
create index audit_events_request on audit_events (zone_id, request_id);
create index audit_events_session on audit_events (zone_id, session_id, chain_seq);
alter table audit_event_ids alter column id type uuid using id::uuid;

-- As 0004 did.
do $$
begin
  alter table audit_events alter column metadata_json set compression lz4;
exception
  when feature_not_supported then
    raise notice 'this server has no lz4: the ledger is compressed with pglz';
end
$$;
