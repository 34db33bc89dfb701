-- A bulk revocation looks at what lives, not at what has long ended; and what has ended goes, in the end.
create index sessions_living_client on sessions (zone_id, client_id, expires_at) where revoked_at is null;
create index sessions_living_subject on sessions (zone_id, subject, expires_at) where revoked_at is null;
