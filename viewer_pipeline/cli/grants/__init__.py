"""The rights that a role of PostgreSQL and a user of Redis need for just this work."""
