-- For one transaction over a day of perhaps ten million ledger entries: memory of the server bounded, time to finish.
SELECT
    set_config('work_mem', '64MB', true), set_config('hash_mem_multiplier', '1', true),
    set_config('statement_timeout', %(milliseconds)s, true), set_config('lock_timeout', '10min', true),
    set_config('jit', 'off', true)
