-- What a token made is found by its maker, when that one is revoked.
create index admin_tokens_maker on admin_tokens (created_by);

-- An application that may get mandates for no call in particular: policy is then asked about no method and path.
alter table applications add column unbound_mandates boolean not null default false;
