"""The user's own table, and views that wait for a row of it."""
