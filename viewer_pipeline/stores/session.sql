-- name: set_settings
-- Set settings in this order, for the session if %(process)s is its process, else for the transaction. Returns whether
-- it is; session_replication_role, which an ordinary role cannot set; and the role. Names are qualified, as the search
-- path may still be one that finds them elsewhere; afterwards pg_catalog comes first. A commit that a crash may lose
-- (synchronous_commit = off) waits for the disk; which standbys must confirm it stays as it is.
WITH scope AS MATERIALIZED (
    SELECT pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.<>) %(process)s::pg_catalog.int8 AS is_transaction
), applied AS MATERIALIZED (
    SELECT pg_catalog.count(pg_catalog.set_config(s.name, s.value, scope.is_transaction))
    FROM scope, ROWS FROM (
        pg_catalog.unnest(%(names)s::pg_catalog.text[]), pg_catalog.unnest(%(values)s::pg_catalog.text[])
    ) AS s (name, value)
    WHERE s.name OPERATOR(pg_catalog.<>) ALL (%(not_in_all_versions)s::pg_catalog.text[])
        OR pg_catalog.current_setting(s.name, TRUE) IS NOT NULL
), corrected AS MATERIALIZED (
    SELECT
        CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'
            THEN pg_catalog.set_config('synchronous_commit', 'on', scope.is_transaction) END,
        CASE WHEN 'pg_catalog'::pg_catalog.name OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(FALSE))
            THEN pg_catalog.set_config(
                'search_path', pg_catalog.concat('pg_catalog, ', pg_catalog.current_setting('search_path')),
                scope.is_transaction
            ) END
    FROM applied, scope
)
SELECT NOT scope.is_transaction, pg_catalog.current_setting('session_replication_role'), current_user
FROM scope, corrected
