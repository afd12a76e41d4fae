-- name: server_settings
-- Version, encoding and durability settings of the server, connected standbys (every role sees their number), and the
-- role of this connection.
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
    current_setting('server_encoding'), current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
    (
        SELECT count(*) FROM pg_stat_replication AS sender
        WHERE sender.state IS DISTINCT FROM 'backup' AND NOT EXISTS (
            SELECT FROM pg_replication_slots AS slot
            WHERE slot.active_pid = sender.pid AND slot.slot_type = 'logical'
        )
    ), current_user

-- name: may_use_schema
-- Whether this role may use the schema `viewer`; no row where the schema is missing.
SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = 'viewer'

-- name: may_create_schema
-- The database, and whether this role may create a schema in it.
SELECT current_database(), has_database_privilege(current_database(), 'CREATE')

-- name: missing_privileges
-- Privileges on tables of the schema `viewer` that this role lacks.
SELECT needed.name, needed.privilege
FROM unnest(%(tables)s::text[], %(privileges)s::text[]) AS needed (name, privilege)
JOIN pg_class AS c ON c.relname = needed.name
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'viewer'
WHERE NOT has_table_privilege(c.oid, needed.privilege)
ORDER BY 1, 2
