"""Do the tests notice? Breaks one rule at a time in a copy of the code, and runs the tests that must go red.

`make prove`. Prints one line for each breach; exit status 1 if a breach stayed green.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.breaches import BREACHES, Breach

ROOT = Path(__file__).parents[1]
PARTS = (
    "viewer_pipeline",
    "viewer_pipeline_tests",
    "tools",
    "pyproject.toml",
    "README.md",
    "env.example",
    "docs",
    "mkdocs.yml",
    "Makefile",
)


def main() -> int:
    """Try every breach, or those whose rule is named on the command line."""
    wanted = sys.argv[1:]
    tried = [breach for breach in BREACHES if not wanted or breach.rule in wanted]
    green = []
    for breach in tried:
        started = time.monotonic()
        noticed = noticed_by(breach)
        how = f"{noticed or 'nobody noticed'}, {time.monotonic() - started:.0f} s"
        print(f"{'red  ' if noticed else 'GREEN'} {breach.rule:<6} {breach.said} ({how})", flush=True)  # noqa: T201 - this is a script
        if not noticed:
            green.append(breach)
    print(f"{len(tried)} breaches, {len(tried) - len(green)} red")  # noqa: T201
    if green:
        print(f"{len(green)} breaches stayed green: the tests do not prove those rules", file=sys.stderr)  # noqa: T201
    return 1 if green else 0


def noticed_by(breach: Breach) -> str:
    """Apply a breach to a copy and run its tests there; return the first that fails, "" where none does.

    Raises ValueError where the code to break is not found, or where the tests did not run.
    """
    with tempfile.TemporaryDirectory(prefix="viewer-prove-") as directory:
        copy = Path(directory)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, copy / part)
        breach.apply(copy)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *breach.tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
        failed = re.findall(r"^FAILED \S+?::(.+?)(?: - |$)", done.stdout, re.MULTILINE)
        if done.returncode != bool(failed):
            raise ValueError(f"{breach.rule} {breach.said}: the tests did not run:\n{done.stdout}{done.stderr}")
        return str(failed[0]) if failed else ""


if __name__ == "__main__":
    sys.exit(main())
