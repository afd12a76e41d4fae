-- name: claim
-- Takes the lease of a run; one that was not renewed is taken over. Of two sessions, one gets a row.
INSERT INTO kvs AS lease (key, value)
VALUES (
    %(key)s,
    json_build_object(
        'token', %(token)s::text, 'holder', %(holder)s::text, 'renewed', extract(epoch FROM clock_timestamp())
    )::text
)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
WHERE extract(epoch FROM clock_timestamp()) - (lease.value::json ->> 'renewed')::float8 > %(seconds)s
RETURNING key

-- name: renew
-- Renews the lease of its holder; no row if it has another holder, or none.
UPDATE kvs
SET value = json_build_object(
    'token', %(token)s::text, 'holder', %(holder)s::text, 'renewed', extract(epoch FROM clock_timestamp())
)::text
WHERE key = %(key)s AND value::json ->> 'token' = %(token)s
RETURNING key

-- name: release
-- Ends the lease of its holder.
DELETE FROM kvs WHERE key = %(key)s AND value::json ->> 'token' = %(token)s

-- name: read
-- The holder of a lease, and how long ago it was renewed.
SELECT
    value::json ->> 'holder',
    (extract(epoch FROM clock_timestamp()) - (value::json ->> 'renewed')::float8)::float8
FROM kvs
WHERE key = %(key)s

-- name: end_if_expired
-- Ends a lease that was not renewed: a holder that is not dead but was paused finds none.
DELETE FROM kvs
WHERE key = %(key)s AND extract(epoch FROM clock_timestamp()) - (value::json ->> 'renewed')::float8 > %(seconds)s
RETURNING key
