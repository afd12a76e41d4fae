"""Dagster's code server, which executes the runs."""
