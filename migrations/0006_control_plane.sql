-- What is edited has a number that grows with each edit: an ETag, by which a lost update is seen.
alter table zones        add column revision integer not null default 1;
alter table applications add column revision integer not null default 1;
alter table resources    add column revision integer not null default 1;
alter table policies     add column revision integer not null default 1;
alter table policy_sets  add column revision integer not null default 1;

-- What was made under an Idempotency-Key, so that the same request again makes nothing more. `fingerprint` is an HMAC: a body
-- can hold a secret that its hash would let somebody guess. `answer_json` is without what is shown only once.
create table idempotency_keys (
  actor       text not null,
  key         text not null,
  fingerprint text not null,
  answer_json text,
  created_at  timestamptz not null default now(),
  primary key (actor, key)
);
create index idempotency_keys_age on idempotency_keys (created_at);
