"""Tests: unit (no server), integration and faults (real PostgreSQL and Redis), acceptance (whole processes)."""
