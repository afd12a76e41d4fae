"""Embedded servers, the all-in-one stack, the demo and the benchmark: for one machine, without Docker."""
