-- name: ledger_identity
-- The id of this ledger, and whether this role may read PostgreSQL's system identifier.
SELECT l.ledger_id::text, d.oid::bigint, has_function_privilege('pg_control_system()', 'EXECUTE')
FROM viewer.ledger AS l, pg_database AS d
WHERE d.datname = current_database()

-- name: system_identifier
-- PostgreSQL's system identifier, created by initdb; a physical copy has the same.
SELECT system_identifier::text FROM pg_control_system()
