-- newest_through
-- The newest flush that the ledger has at or below a number.
SELECT max(seq) FROM viewer.flush WHERE seq <= %(seq)s
