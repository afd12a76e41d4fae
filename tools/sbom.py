"""The software bill of materials of a release: what the wheel needs to run, in the versions of the lock, as CycloneDX.

`cyclonedx-py` reads an environment, so it also records licenses and which package needs which. Of that environment uv
checks each file against the hashes of requirements.lock. The versions are those that the image installs, too.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.release_version import project_version
from viewer_pipeline_tests.support.installed import ROOT, checked

LOCK = "requirements.lock"


def write_sbom(wheel: Path, file: Path) -> None:
    """Install the wheel in the versions of the lock, and describe that environment in a file."""
    with tempfile.TemporaryDirectory(prefix="viewer-sbom-") as directory:
        home = Path(directory) / "env"
        checked(sys.executable, "-m", "uv", "venv", "--quiet", "--no-config", "--python", sys.executable, home)
        install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", home / "bin" / "python")
        checked(*install, "--constraint", ROOT / LOCK, wheel)
        generate = (sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate")
        checked(*generate, "--pyproject", ROOT / "pyproject.toml", "--output-file", file, home / "bin" / "python")


def sbom_errors(file: Path, root: Path) -> Iterator[str]:
    """Yield what is wrong with an SBOM: another program or version, a package that the lock has not, a missing one."""
    sbom: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    program = sbom["metadata"]["component"]
    name, version = "viewer-pipeline", project_version(root)
    if (program["name"], program["version"]) != (name, version):
        yield f"{file.name}: describes {program['name']} {program['version']}, not {name} {version}"
    components = {canonicalize_name(part["name"]): str(part["version"]) for part in sbom["components"]}
    locked = locked_versions(root)
    for package, installed in sorted(components.items()):
        if installed not in locked.get(package, set()):
            yield f"{file.name}: {package} {installed} is not in {LOCK}: {sorted(locked.get(package, set()))}"
    needed = {entry["ref"]: entry.get("dependsOn", []) for entry in sbom["dependencies"]}
    if len(needed[program["bom-ref"]]) == 0:
        yield f"{file.name}: names no dependencies of {name}"
    refs = {component["bom-ref"] for component in sbom["components"]} | {program["bom-ref"]}
    unknown = {ref for entry in needed.values() for ref in entry} - refs
    yield from (f"{file.name}: {ref} is a dependency and not a component" for ref in sorted(unknown))
    if "file://" in json.dumps(sbom):
        yield f"{file.name}: names files of the machine that made it"


def locked_versions(root: Path) -> dict[str, set[str]]:
    """Return the versions of each package in the lock; several if they depend on the platform."""
    versions: dict[str, set[str]] = {}
    for line in re.findall(r"^[\w.-]+.*==[^\\\n]+", (root / LOCK).read_text(encoding="utf-8"), re.MULTILINE):
        requirement = Requirement(line)
        versions.setdefault(canonicalize_name(requirement.name), set()).add(
            str(requirement.specifier).removeprefix("==")
        )
    return versions
