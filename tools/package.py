"""Test the distributions in new environments. `make package-test`; needs a package index, and minutes.

Builds wheel and sdist, installs them with pip and with uv and with their dependencies (the newest that pyproject.toml
allows, not the lock), each into an environment of its own, and runs `--version`, `docs` and `demo` there. Exit status 1
if one of them failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.release_version import project_version
from viewer_pipeline_tests.support.installed import ROOT, built, checked

VIEWS = "2000"
PAGE = ROOT / "docs/guarantees.md"


def main() -> int:
    """Build both, and test them."""
    with tempfile.TemporaryDirectory(prefix="viewer-package-") as directory:
        results = check_distributions(*built(Path(directory)))
    return 0 if all(line.startswith("pass") for line in results) else 1


def check_distributions(wheel: Path, sdist: Path) -> list[str]:
    """Install the wheel with pip and uv, and the sdist with pip; return and print a line for each: pass or FAIL …."""
    results = []
    for file, install in ((wheel, install_with_pip), (wheel, install_with_uv), (sdist, install_with_pip)):
        print(f"{file.name}, {install.__name__} ...", flush=True)  # noqa: T201 - this is a script
        with tempfile.TemporaryDirectory(prefix="viewer-package-") as directory:
            Path(directory).chmod(0o755)  # as root, PostgreSQL runs as another user, which must reach its programs
            results.append(check_distribution(file, Path(directory) / "env", install))
        print(results[-1], flush=True)  # noqa: T201
    return results


def install_with_pip(requirement: str, home: Path) -> None:
    """Install a requirement into a new environment, as `python -m venv` and pip do."""
    checked(sys.executable, "-m", "venv", home)
    checked(home / "bin" / "python", "-m", "pip", "install", "--quiet", requirement, cwd=home)


def install_with_uv(requirement: str, home: Path) -> None:
    """Install a requirement into a new environment with uv, without its settings for this checkout."""
    checked(sys.executable, "-m", "uv", "venv", "--quiet", "--no-config", "--python", sys.executable, home)
    command = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", home / "bin" / "python")
    checked(*command, requirement, cwd=home)


def check_distribution(file: Path, home: Path, install: Callable[[str, Path], None]) -> str:
    """Install a file, and run it outside the checkout; return a line that begins with pass or FAIL."""
    place = f"{file.name}, {install.__name__}"
    install(f"viewer-pipeline[local] @ {file.as_uri()}", home)
    program = home / "bin" / "viewer-pipeline"
    version = checked(program, "--version", cwd=home).split()[-1]
    page = checked(program, "docs", PAGE.stem, cwd=home)
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    demo: list[str | Path] = [program, "demo", "--json", "--views", VIEWS, "--vods", "50", "--time-limit", "300"]
    done = subprocess.run(demo, cwd=home, env=bare, capture_output=True, text=True, check=False)
    if page != PAGE.read_text(encoding="utf-8"):
        return f"FAIL {place}: `docs {PAGE.stem}` prints {page[:100]!r}"
    if done.returncode != 0 or version != project_version(ROOT):
        return f"FAIL {place}: version {version}, demo {done.returncode}: {done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    persisted = sum(report["persisted"].values())
    return f"pass {place}: version {version}, {persisted} views persisted, {report['lost']} lost"


if __name__ == "__main__":
    sys.exit(main())
