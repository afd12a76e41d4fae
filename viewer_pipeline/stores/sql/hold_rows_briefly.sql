-- For the rest of this transaction: find rows of the user's table by their ids, in the order of the ids, however many
-- they are; and do not wait long for a row that somebody else has locked, because others wait for those that we have.
SELECT set_config('enable_seqscan', 'off', TRUE), set_config('lock_timeout', %(lock_timeout)s, TRUE)
