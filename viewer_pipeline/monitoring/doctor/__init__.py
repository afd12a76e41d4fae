"""The doctor: runs the checks of /health and slower ones, writes nothing, and shows a remedy for each result."""
