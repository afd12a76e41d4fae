"""Benchmarks on embedded servers: each measures beside a reference in the same run."""
