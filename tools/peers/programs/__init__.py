"""The programs that are compared. Each runs as processes of its own, in the virtual environment of `make peers`."""
