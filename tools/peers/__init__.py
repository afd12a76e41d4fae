"""Other ways to move views from Redis to PostgreSQL, on the same servers, with the same traffic and the same faults."""
