-- name: allow_long_reads
-- For this transaction: time for statements that read everything, and memory of the server for each sort or hash.
SELECT
    set_config('statement_timeout', %(timeout)s, TRUE), set_config('work_mem', %(memory)s, TRUE),
    set_config('idle_in_transaction_session_timeout', %(timeout)s, TRUE)

-- name: is_read_only
-- Whether this server is a standby, and whether its transactions are read-only.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'
