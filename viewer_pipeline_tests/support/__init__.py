"""What tests use: servers, drivers, faults."""
