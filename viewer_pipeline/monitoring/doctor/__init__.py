"""The doctor: runs the checks of /health and slower ones, writes nothing, and tells what to do about each result."""
