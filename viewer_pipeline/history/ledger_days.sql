-- name: kept_from
-- Return the first day whose ledger is complete, and the moment from which it is; NULL if nothing was pruned.
SELECT nullif(from_day, '-infinity'), nullif(from_at, '-infinity') FROM viewer.ledger_kept
