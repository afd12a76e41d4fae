"""Reconciliation: what is persisted against the history that it should come from. Reads; mends where it is told to.

Why it is exact while flushes run: docs/adr/0010-reconciliation.md.
"""
