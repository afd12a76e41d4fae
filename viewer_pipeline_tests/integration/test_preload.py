"""What the code server does before it forks runs."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

from viewer_pipeline.orchestration.dagster_home import write_dagster_home
from viewer_pipeline.settings import Settings
from viewer_pipeline.stack.ports import LOOPBACK


def test_a_database_that_refuses_connections_is_tried_twice(tmp_path: Path) -> None:
    """By the definitions, and for Dagster's storage: Dagster itself tries for a minute, while no run can start."""
    with socket.create_server((LOOPBACK, 0)) as server:
        connections: list[object] = []
        Thread(target=_refuse_all, args=[server, connections], daemon=True).start()
        url = f"postgresql://u@{LOOPBACK}:{server.getsockname()[1]}/x?sslmode=disable&gssencmode=disable"
        settings = Settings(_env_file=None, database_url=url, viewer_home=tmp_path)
        write_dagster_home(settings)
        subprocess.run(
            [sys.executable, "-c", "import viewer_pipeline.code_server.preload"],
            env=settings.child_process_environment(),
            check=True,
            cwd=tmp_path,
        )
        server.shutdown(socket.SHUT_RDWR)
    assert len(connections) == 2


def _refuse_all(server: socket.socket, connections: list[object]) -> None:
    with suppress(OSError):
        while True:
            connection, address = server.accept()
            connections.append(address)
            connection.close()
