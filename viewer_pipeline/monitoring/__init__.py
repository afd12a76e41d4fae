"""Health, metrics, status and doctor."""
