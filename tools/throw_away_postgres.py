"""An embedded PostgreSQL for one program, in a directory that is deleted with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewer_pipeline.stack.postgres_server import PostgresServer


@contextmanager
def throw_away_postgres(prefix: str) -> Iterator[tuple[Path, PostgresServer]]:
    """Start it; yield the directory, in which other servers may keep their data, and the server."""
    with tempfile.TemporaryDirectory(prefix=prefix) as directory:
        home = Path(directory)
        home.chmod(0o755)  # PostgreSQL does not run as root
        database = PostgresServer(home, throw_away=True)
        database.start()
        try:
            yield home, database
        finally:
            database.stop()
