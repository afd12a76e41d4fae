-- name: describe_target
-- The catalog's description of a table, its id and its count column, for the current role. No row: no such table.
SELECT
    n.nspname, c.relname, c.relkind::text, row_security_active(c.oid),
    EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND r.ev_type = '2' AND r.ev_enabled IN ('O', 'A')),
    coalesce(format_type(i.atttypid, NULL), ''), lc.nspname, l.collname,
    coalesce(l.collisdeterministic, TRUE),
    EXISTS (
        SELECT FROM pg_index AS x
        WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL
            AND x.indnkeyatts = 1 AND x.indkey[0] = i.attnum AND x.indcollation[0] = i.attcollation
    ),
    coalesce(format_type(v.atttypid, NULL), ''), v.attgenerated <> '' OR v.attidentity = 'a',
    has_column_privilege(c.oid, i.attnum, 'SELECT'),
    has_column_privilege(c.oid, v.attnum, 'SELECT'),
    has_column_privilege(c.oid, v.attnum, 'UPDATE')
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute AS i ON i.attrelid = c.oid AND i.attname = %(id)s AND i.attnum > 0 AND NOT i.attisdropped
LEFT JOIN pg_attribute AS v ON v.attrelid = c.oid AND v.attname = %(count)s AND v.attnum > 0 AND NOT v.attisdropped
LEFT JOIN pg_collation AS l ON l.oid = i.attcollation
LEFT JOIN pg_namespace AS lc ON lc.oid = l.collnamespace
WHERE c.oid = to_regclass(%(name)s)
