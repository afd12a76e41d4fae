"""Viewer Pipeline: carries view counts from Redis to PostgreSQL, exactly once."""
