"""Test the distributions in new environments. `make package-test`; needs a package index, and minutes.

Builds wheel and sdist, installs each with its dependencies (the newest that pyproject.toml allows, not the lock) into
an environment of its own, and runs `--version`, `docs` and `demo` there. Exit status 1 if one of them failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from viewer_pipeline_tests.support.installed import ROOT, built, checked

VIEWS = "2000"
PAGE = ROOT / "docs/guarantees.md"


def main() -> int:
    """Test both."""
    with tempfile.TemporaryDirectory(prefix="viewer-package-") as directory:
        place = Path(directory)
        place.chmod(0o755)  # as root, PostgreSQL runs as another user, which must reach its programs
        results = [
            check_distribution(file, place / f"{kind}-env")
            for kind, file in zip(("wheel", "sdist"), built(place), strict=True)
        ]
    print("\n".join(results))  # noqa: T201 - this is a script
    return 0 if all(line.startswith("pass") for line in results) else 1


def check_distribution(file: Path, home: Path) -> str:
    """Install a file, and run it outside the checkout; return a line that begins with pass or FAIL."""
    print(f"{file.name} ...", flush=True)  # noqa: T201
    checked(sys.executable, "-m", "venv", home)
    checked(home / "bin" / "python", "-m", "pip", "install", "--quiet", f"{file}[local]", cwd=home)
    program = home / "bin" / "viewer-pipeline"
    version = checked(program, "--version", cwd=home).split()[-1]
    page = checked(program, "docs", PAGE.stem, cwd=home)
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    demo: list[str | Path] = [program, "demo", "--json", "--views", VIEWS, "--vods", "50", "--time-limit", "300"]
    done = subprocess.run(demo, cwd=home, env=bare, capture_output=True, text=True, check=False)
    if page != PAGE.read_text(encoding="utf-8"):
        return f"FAIL {file.name}: `docs {PAGE.stem}` prints {page[:100]!r}"
    if done.returncode != 0 or version != expected:
        return f"FAIL {file.name}: version {version}, demo {done.returncode}: {done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    persisted = sum(report["persisted"].values())
    return f"pass {file.name}: version {version}, {persisted} views persisted, {report['lost']} lost"


if __name__ == "__main__":
    sys.exit(main())
