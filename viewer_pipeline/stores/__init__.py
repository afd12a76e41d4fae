"""The clients of both servers: connections, errors, scripts and queries."""
