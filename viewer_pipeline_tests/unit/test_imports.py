"""Modules that light processes must not import."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"dagster", "pandas", "numpy", "sqlalchemy", "alembic"}  # half a second and 45 MB, or more, each


def imported_by(module: str) -> set[str]:
    """Return the modules that are imported with this one."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_worker_imports_nothing_heavy() -> None:
    """It reads and writes both stores without the libraries of flushes."""
    modules = imported_by("viewer_pipeline.cli.worker_process")
    assert "viewer_pipeline.flush.ledger" in modules
    assert HEAVY & modules == set()
    assert "jinja2" not in modules  # for the status page alone, once somebody looks at it


def test_command_line_imports_nothing_heavy() -> None:
    """`--help` lists all commands without the libraries of any; each command imports its own."""
    modules = imported_by("viewer_pipeline.cli.main")
    assert (HEAVY | {"redis", "rich", "starlette"}) & modules == set()
