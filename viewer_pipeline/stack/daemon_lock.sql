-- name: prepare_session
-- Names the session for `holder`; ends it within half a minute after the client's machine has died, and never while idle.
SELECT set_config('application_name', %(name)s, false), set_config('idle_session_timeout', '0', false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)

-- name: take_lock
-- Take the lock of this storage, which is a schema that need not exist yet: the search path, however it is quoted. False if
-- another session has it.
SELECT pg_try_advisory_lock(%(lock_class)s, hashtext(translate(current_setting('search_path'), '" ', '')))

-- name: holder
-- The session that holds the lock. Only ours are named so; behind a pooler, a session may have another name by now.
SELECT application_name, backend_start, host(client_addr)
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = %(lock_class)s::int::oid
    AND objid = hashtext(translate(current_setting('search_path'), '" ', ''))::oid
    AND application_name LIKE %(name)s

-- name: test_connection
-- A round trip.
SELECT 1
