-- is_standby
-- Whether this server takes no writes: it is in recovery, or was made read-only.
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
