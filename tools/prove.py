"""Show that the tests notice when a rule of the protocol is broken.

`make prove`, or `python -m tools.prove [rule or name of a patch …]`. Each file of tools/breaches breaks one rule: a
header with the rule, the breach in a sentence, and the tests of which one must fail; then a patch. Each patch is
applied to a copy of the repository, and its tests run there. Prints one line for each breach. Exit status 1 if one
stayed green.

`--refresh` rewrites the patches with the line numbers and context of today's code. It stops at one that does not apply.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BREACHES = Path(__file__).parent / "breaches"
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


@dataclass(frozen=True)
class Breach:
    """A patch that breaks one rule, and the tests of which at least one must fail then."""

    path: Path
    rule: str
    summary: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Breach:
        """Read the header of a patch. Raises ValueError where a line of it is missing."""
        header = path.read_text(encoding="utf-8").partition("\n--- ")[0]
        fields = {key: re.findall(rf"^{key}: (.+)$", header, re.MULTILINE) for key in ("Rule", "Breach", "Test")}
        if not (len(fields["Rule"]) == len(fields["Breach"]) == 1 and fields["Test"]):
            raise ValueError(f"{path.name} needs one line Rule, one line Breach, and lines Test")
        return cls(path, fields["Rule"][0], fields["Breach"][0], tuple(fields["Test"]))

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that the patch changes."""
        return tuple(re.findall(r"^--- a/(.+)$", self.path.read_text(encoding="utf-8"), re.MULTILINE))

    def apply(self, root: Path, *options: str) -> None:
        """Apply the patch to a copy of the repository. Raises ValueError where any line of its context differs."""
        command = ["git", "apply", "--whitespace=nowarn", *options, str(self.path)]
        # A copy is no repository, also where the directory for temporary files is inside one.
        environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"{self.path.name} does not apply:\n{done.stderr}")


def all_breaches() -> list[Breach]:
    """Return every breach, by the name of its patch."""
    return [Breach.read(path) for path in sorted(BREACHES.glob("*.patch"))]


def main() -> int:
    """Try every breach, or those whose rule or name is on the command line."""
    refresh = "--refresh" in sys.argv
    selected = [word for word in sys.argv[1:] if word != "--refresh"]
    breaches = [breach for breach in all_breaches() if not selected or {breach.rule, breach.path.stem} & {*selected}]
    if not breaches:
        raise SystemExit(f"no breach has one of these names: {' '.join(selected)}")
    if refresh:
        for breach in breaches:
            rewrite(breach)
        return 0
    unnoticed = 0
    for breach in breaches:
        started = time.monotonic()
        failed = failing_test(breach)
        result = f"{failed or 'no test failed'}, {time.monotonic() - started:.0f} s"
        print(f"{'red  ' if failed else 'GREEN'} {breach.rule:<9} {breach.summary} ({result})", flush=True)  # noqa: T201 - this is a script
        unnoticed += not failed
    print(f"{len(breaches)} breaches, {len(breaches) - unnoticed} red")  # noqa: T201
    if unnoticed:
        print(f"{unnoticed} breaches stayed green: the tests do not prove those rules", file=sys.stderr)  # noqa: T201
    return 1 if unnoticed else 0


def failing_test(breach: Breach) -> str:
    """Apply a breach to a copy and run its tests there; return the first that fails, "" where none does.

    Raises ValueError where the patch does not apply, its code has type errors, or the tests did not run.
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
        require_working_code(breach, copy)
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
            raise ValueError(f"{breach.path.name}: the tests did not run:\n{done.stdout}{done.stderr}")
        return str(failed[0]) if failed else ""


def require_working_code(breach: Breach, copy: Path) -> None:
    """Raise ValueError where the patched code has type errors, such as a name that is gone: its tests fail anyway."""
    lenient = ("--no-warn-unreachable", "--no-warn-unused-ignores", f"--cache-dir={ROOT / '.mypy_cache' / 'prove'}")
    command = [sys.executable, "-m", "mypy", *lenient, "viewer_pipeline"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{breach.path.name} makes code that cannot work:\n{done.stdout}{done.stderr}")


def rewrite(breach: Breach) -> None:
    """Rewrite a patch with the line numbers and context of today's code. Raises ValueError where it does not apply."""
    header = breach.path.read_text(encoding="utf-8").partition("\n--- ")[0]
    with tempfile.TemporaryDirectory(prefix="viewer-prove-") as directory:
        copy = Path(directory)
        for side in ("a", "b"):
            for file in breach.files:
                (copy / side / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, copy / side / file)
        breach.apply(copy / "b")
        command = ["git", "diff", "--no-index", "--no-prefix", "--no-color", "a", "b"]
        patch = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False).stdout
    patch = re.sub(r"^(diff --git|index) .*\n", "", patch, flags=re.MULTILINE)
    breach.path.write_text(f"{header}\n{patch}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
