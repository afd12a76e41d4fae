"""The package as users install it: built, and installed into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def checked(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return its stdout. Raises AssertionError with all of its output if it failed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def built(into: Path) -> tuple[Path, Path]:
    """Build wheel and sdist with the hatchling of this environment, offline; return both."""
    checked(sys.executable, "-m", "hatchling", "build", "-d", into, cwd=ROOT)
    (wheel,), (sdist,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, sdist


def installed(wheel: Path, home: Path) -> Path:
    """Install a wheel over what this environment has; return the `viewer-pipeline` of the new environment.

    A whole environment takes minutes (`make package-test` makes it). In this one, whatever is not in the wheel comes
    from the packages that run the tests, but not from the checkout: .pth files there count for nothing here.
    """
    checked(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / "bin" / "python"
    own = Path(checked(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "others.pth").write_text(sysconfig.get_path("purelib"))
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as away:
        checked(
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            *options,
            "--ignore-installed",
            wheel,
            cwd=Path(away),
        )
    return home / "bin" / "viewer-pipeline"
