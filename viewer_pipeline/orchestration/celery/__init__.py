"""Runs on several machines: Dagster's Celery launcher, and the lease of a run."""
