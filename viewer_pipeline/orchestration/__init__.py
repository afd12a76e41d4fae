"""Dagster, thin: every function here calls one of the core and reports its result."""
