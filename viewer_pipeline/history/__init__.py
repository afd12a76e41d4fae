"""Views by day, the baseline, and how long the ledger is kept."""
