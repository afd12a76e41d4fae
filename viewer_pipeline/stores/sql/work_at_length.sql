-- For the rest of this transaction: statements that read everything, sorting and hashing in memory of this size first.
SELECT set_config('statement_timeout', %(timeout)s, TRUE), set_config('idle_in_transaction_session_timeout', %(timeout)s, TRUE),
    set_config('work_mem', %(memory)s, TRUE)
