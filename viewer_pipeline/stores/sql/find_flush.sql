-- Whether the flush that this run called flush_id was committed (rule R8), and whether this server can know it: a
-- standby lags behind, and a primary that was set read-only may have what the new one never got.
SELECT
    EXISTS (SELECT FROM viewer.flush WHERE flush_id = %(flush_id)s),
    pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on'
