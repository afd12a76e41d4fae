-- Say from which day on the ledger is whole. It only moves forward.
UPDATE viewer.ledger_kept SET from_day = greatest(from_day, %(day)s) RETURNING from_day
