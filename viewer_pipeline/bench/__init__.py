"""Benchmarks on embedded servers: figures with a reference from the same run, never a verdict."""
