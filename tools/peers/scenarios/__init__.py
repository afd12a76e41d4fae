"""What is measured, each on servers of its own."""
