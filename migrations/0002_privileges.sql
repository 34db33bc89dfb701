-- One group per role of the program, with what that role needs and nothing else. An operator makes a login user for each
-- and grants it the group: `create role caracal_sts_1 login password '…' in role caracal_sts`. The tables belong to
-- whoever migrates, so no role's user can change what it was not given. The gateway has no database.
--
-- Roles belong to the whole server, not to this database: another database's migration may make them at this moment, and
-- whoever migrates may not be allowed to. Without the groups everything works for the tables' owner, so that is a notice.

do $$
declare
  group_name text;
begin
  foreach group_name in array array['caracal_sts', 'caracal_coordinator', 'caracal_api', 'caracal_audit'] loop
    begin
      if not exists (select from pg_roles where rolname = group_name) then
        execute format('create role %I nologin', group_name);
      end if;
    exception
      when duplicate_object or unique_violation then
        null; -- made by another at the same moment
      when insufficient_privilege then
        raise notice 'the role % is not there, and this user may not make it: no privileges are granted to it', group_name;
    end;
  end loop;
end
$$;

do $$
declare
  entry record;
begin
  for entry in
    select * from (values
      -- Every role that has a database asks which schema it finds.
      ('caracal_sts',         'schema_migrations', 'select'),
      ('caracal_coordinator', 'schema_migrations', 'select'),
      ('caracal_api',         'schema_migrations', 'select'),
      ('caracal_audit',       'schema_migrations', 'select'),

      -- What stops authority goes out through these three, from whichever role changed something.
      ('caracal_sts',         'stream_seqs', 'select, insert, update'),
      ('caracal_coordinator', 'stream_seqs', 'select, insert, update'),
      ('caracal_api',         'stream_seqs', 'select, insert, update'),
      ('caracal_sts',         'outbox', 'select, insert, update, delete'),
      ('caracal_coordinator', 'outbox', 'select, insert, update, delete'),
      ('caracal_api',         'outbox', 'select, insert, update, delete'),
      ('caracal_sts',         'leases', 'select, insert, update'),
      ('caracal_coordinator', 'leases', 'select, insert, update'),
      ('caracal_api',         'leases', 'select, insert, update'),
      ('caracal_audit',       'leases', 'select, insert, update'),

      -- The STS reads what the control plane decided, and writes sessions.
      ('caracal_sts', 'zones', 'select'),
      ('caracal_sts', 'zone_keys', 'select'),
      ('caracal_sts', 'applications', 'select'),
      ('caracal_sts', 'resources', 'select'),
      ('caracal_sts', 'policies', 'select'),
      ('caracal_sts', 'policy_versions', 'select'),
      ('caracal_sts', 'policy_sets', 'select'),
      ('caracal_sts', 'policy_set_versions', 'select'),
      ('caracal_sts', 'policy_set_entries', 'select'),
      ('caracal_sts', 'active_policy_sets', 'select'),
      ('caracal_sts', 'sessions', 'select, insert'),

      -- The coordinator verifies tokens against the zones, and knows applications, resources and sessions.
      ('caracal_coordinator', 'zones', 'select'),
      ('caracal_coordinator', 'applications', 'select'),
      ('caracal_coordinator', 'resources', 'select'),
      ('caracal_coordinator', 'sessions', 'select'),

      -- The control plane. What is immutable it can't update, and its own audit it can only add to.
      ('caracal_api', 'zones', 'select, insert, update'),
      ('caracal_api', 'zone_keys', 'select, insert, update, delete'),
      ('caracal_api', 'applications', 'select, insert, update'),
      ('caracal_api', 'resources', 'select, insert, update'),
      ('caracal_api', 'policies', 'select, insert, update'),
      ('caracal_api', 'policy_versions', 'select, insert'),
      ('caracal_api', 'policy_sets', 'select, insert, update'),
      ('caracal_api', 'policy_set_versions', 'select, insert'),
      ('caracal_api', 'policy_set_entries', 'select, insert'),
      ('caracal_api', 'active_policy_sets', 'select, insert, update, delete'),
      ('caracal_api', 'sessions', 'select, update'),
      ('caracal_api', 'admin_tokens', 'select, insert, update'),
      ('caracal_api', 'bootstrap_use', 'select, insert'),
      ('caracal_api', 'admin_audit', 'select, insert'),
      ('caracal_api', 'audit_events', 'select'),
      ('caracal_api', 'audit_heads', 'select'),
      ('caracal_api', 'audit_findings', 'select'),

      -- The ledger: who writes it can't change a row of it or take one away.
      ('caracal_audit', 'audit_events', 'select, insert'),
      ('caracal_audit', 'audit_event_ids', 'select, insert'),
      ('caracal_audit', 'audit_findings', 'select, insert'),
      ('caracal_audit', 'audit_heads', 'select, insert, update'),
      ('caracal_audit', 'audit_producers', 'select, insert, update'),
      ('caracal_audit', 'audit_holes', 'select, insert, update, delete')
    ) as wanted (group_name, table_name, privileges)
  loop
    if exists (select from pg_roles where rolname = entry.group_name) then
      execute format('grant usage on schema %I to %I', current_schema(), entry.group_name);
      execute format('grant %s on %I to %I', entry.privileges, entry.table_name, entry.group_name);
    end if;
  end loop;
end
$$;
