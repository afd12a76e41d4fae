-- name: upgrade
-- Two calls with the same result: PostgreSQL has lost no commit in between.
CREATE FUNCTION viewer.timeline() RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN concat_ws('/',
        left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
        'viewer.flush'::regclass::oid,
        pg_relation_filenode('viewer.flush')
    );
EXCEPTION
    -- A role without the right, a service without the function, a standby.
    WHEN insufficient_privilege OR undefined_function OR feature_not_supported OR object_not_in_prerequisite_state THEN
        RETURN 'unknown';
END $$;
COMMENT ON FUNCTION viewer.timeline() IS
    'Which history of PostgreSQL the ledger belongs to: timeline, start of the server, relation and file of viewer.flush';

-- name: downgrade
-- Programs of this version do not run without it.
DROP FUNCTION viewer.timeline();
