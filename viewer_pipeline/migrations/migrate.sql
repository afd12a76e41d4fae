-- name: missing_ownership
-- Whether this role may create tables in the schema `viewer`; and a table there whose owner it is not, with the owner.
SELECT current_user, has_schema_privilege(n.oid, 'CREATE'), c.relname, pg_get_userbyid(c.relowner)
FROM pg_namespace AS n
LEFT JOIN pg_class AS c
    ON c.relnamespace = n.oid AND c.relkind IN ('r', 'S') AND NOT pg_has_role(c.relowner, 'USAGE')
WHERE n.nspname = 'viewer'
LIMIT 1
