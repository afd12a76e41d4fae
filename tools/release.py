"""Build and check what a release publishes. `make release-check`, or `make release-check TAG=v0.2.0` for its tag.

Writes to dist/: wheel, sdist, the SBOM (viewer-pipeline-<version>.cdx.json) and the notes of the release (notes.md, the
section of CHANGELOG.md). Prints a line for each step, with its errors. Exit status 1 if there is any; the later steps
are skipped then. Needs a package index, and minutes. The image needs a container engine: `make release-image`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools.package import check_distributions
from tools.release_version import project_version, sections, version_errors
from tools.sbom import sbom_errors, write_sbom
from viewer_pipeline_tests.support.distribution_errors import sdist_errors, uncommitted_files, wheel_errors
from viewer_pipeline_tests.support.installed import ROOT, built


def main() -> int:
    """Run the steps until one has errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", help="the tag of the release, v and the version; without one, nothing is released yet")
    parser.add_argument("--directory", type=Path, default=ROOT / "dist", help="is emptied first (default: dist)")
    options = parser.parse_args()
    directory: Path = options.directory
    steps: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("version, CHANGELOG and tag agree", lambda: version_errors(ROOT, options.tag)),
        ("a release is a commit", lambda: uncommitted_files(ROOT) if options.tag is not None else ()),
        ("wheel and sdist contain what they must, and nothing else", lambda: build(directory)),
        ("SBOM has the versions of the lock", lambda: make_sbom(directory)),
        ("installed with pip and uv, the demo counts exactly", lambda: install(directory)),
    ]
    for step, errors_of in steps:
        errors = list(errors_of())
        print("\n".join([f"{'FAIL' if errors else 'pass'} {step}", *(f"  {error}" for error in errors)]), flush=True)  # noqa: T201 - this is a script
        if errors:
            return 1
    return 0


def build(directory: Path) -> Iterator[str]:
    """Build wheel and sdist, and write the notes; yield what is wrong with the files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    wheel, sdist = built(directory)
    (directory / "notes.md").write_text(sections(ROOT)[0].text + "\n", encoding="utf-8")
    version = project_version(ROOT)
    yield from wheel_errors(wheel, ROOT, version)
    yield from sdist_errors(sdist, ROOT, version)


def make_sbom(directory: Path) -> Iterator[str]:
    """Write the SBOM; yield what is wrong with it."""
    file = directory / f"viewer-pipeline-{project_version(ROOT)}.cdx.json"
    (wheel,) = directory.glob("*.whl")
    write_sbom(wheel, file)
    yield from sbom_errors(file, ROOT)


def install(directory: Path) -> list[str]:
    """Install the files, and run the demo; return the failures."""
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return [line for line in check_distributions(wheel, sdist) if not line.startswith("pass")]


if __name__ == "__main__":
    sys.exit(main())
