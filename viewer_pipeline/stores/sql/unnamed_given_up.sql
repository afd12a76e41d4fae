-- Views that were given up of VODs that the record does not name: by retention.
SELECT coalesce(sum(value::numeric), 0) FROM viewer.rejected
WHERE source = 'parked' AND value ~ '^[0-9]+$' AND starts_with(reason, 'no row came')
