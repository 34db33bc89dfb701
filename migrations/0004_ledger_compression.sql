-- A decision's row is about as long as PostgreSQL begins to compress at. With its own pglz that was a sixth of the backend's
-- time for each event; lz4 leaves as many bytes in a tenth of it. A server that was built without lz4 keeps pglz.
do $$
begin
  alter table audit_events alter column metadata_json set compression lz4;
exception
  when feature_not_supported then
    raise notice 'this server has no lz4: the ledger is compressed with pglz';
end
$$;
