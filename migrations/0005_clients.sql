-- What a token made is found by its maker, when that one is revoked.
create index admin_tokens_maker on admin_tokens (created_by);
