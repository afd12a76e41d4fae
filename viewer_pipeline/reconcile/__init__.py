"""Reconciliation: compare what is persisted with its history, and repair it on request.

Why it is exact while flushes run: docs/adr/0010-reconciliation.md.
"""
