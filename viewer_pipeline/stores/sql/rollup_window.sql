-- From which day on a window can be rolled up (before it the ledger is not whole), and up to which flush.
SELECT greatest(from_day, %(start)s::date), (SELECT coalesce(max(seq), 0) FROM viewer.flush) FROM viewer.ledger_kept
