"""Dagster, thin: every function here calls one of `counting` and reports what it did."""
