"""Podman and Buildah for tests, with images, containers and volumes of their own: below .cache in the checkout.

The base image, PostgreSQL and Redis are made from Debian's packages, under the names that Dockerfile and
docker-compose.yaml give: no registry is needed.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewer_pipeline_tests.support.containers import ROOT, read_compose

DIRECTORY = ROOT / ".cache" / "containers"
SERVER_IMAGES = Path(__file__).parent / "server_images"
PROGRAMS = ("podman", "buildah", "runc", "debootstrap")
BASE_PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
# As the official images do: caches of apt are no part of an image, nor documentation and translations.
APT_KEEPS_NOTHING = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
LEFT_OUT = ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale")
# What tells pip where packages come from; a build has these settings of this machine, and the files they name.
PIP_SOURCES = ("cert", "find-links", "index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout")


def reason_not_to_run(*programs: str) -> str | None:
    """Return why no container can run here; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "containers of tests run on Linux, as root: debootstrap makes their base image"
    missing = [name for name in (*PROGRAMS, *programs) if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian: apt-get install {' '.join(missing)})" if missing else None


def base_image() -> str:
    """Return the full name of the base image of the Dockerfile."""
    (name,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return f"docker.io/library/{name}"


@dataclass(frozen=True)
class Podman:
    """Runs commands of Podman and Buildah on its own storage, which stays for the next time."""

    directory: Path = DIRECTORY

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        storage = {"driver": "overlay", "graphroot": self.directory / "storage", "runroot": self.directory / "run"}
        lines = [f'{key} = "{value}"' for key, value in storage.items()]
        (self.directory / "storage.conf").write_text("\n".join(["[storage]", *lines, ""]))
        # Podman's own are higher than this machine may allow, and then no container starts.
        wanted = {"nofile": (resource.RLIMIT_NOFILE, 20_000), "nproc": (resource.RLIMIT_NPROC, 10_000)}
        ulimits = ["{0}={1}:{1}".format(name, _at_most(limit, enough)) for name, (limit, enough) in wanted.items()]
        (self.directory / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = {json.dumps(ulimits)}\n"
            f'[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'tmp_dir = "{self.directory}/tmp"\n'
            f'[network]\nnetwork_config_dir = "{self.directory}/networks"\n'
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which every program that runs `podman` uses this storage."""
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
        }

    def execute(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command. Raises AssertionError with its output if it fails."""
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def podman(self, *arguments: str | Path, check: bool = True) -> str:
        """Return the output of a Podman command."""
        return self.execute("podman", *arguments, check=check).stdout.strip()

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Podman knows of a container."""
        container_state: dict[str, Any] = json.loads(self.podman("container", "inspect", container))[0]
        return container_state

    def pid(self, container: str) -> int:
        """Return the process of the host that is process 1 of a container; 0 if it does not run."""
        pid: int = self.inspect(container)["State"]["Pid"]
        return pid

    def kill(self, container: str) -> None:
        """Kill process 1 from outside, as the kernel does without memory: `podman kill` would end the restarts."""
        os.kill(self.pid(container), signal.SIGKILL)

    def is_healthy(self, container: str) -> bool:
        """Run the health check of a container, once."""
        return self.execute("podman", "healthcheck", "run", container, check=False).returncode == 0

    def log(self, container: str) -> str:
        """Return the last lines that a container printed."""
        done = self.execute("podman", "logs", "--tail", "40", container, check=False)
        return done.stdout + done.stderr

    def megabytes(self, image: str) -> float:
        """Return the size of an image."""
        return int(self.podman("image", "inspect", "--format", "{{.Size}}", image)) / 1e6

    def has(self, image: str) -> bool:
        """Whether the image exists."""
        return self.execute("podman", "image", "exists", image, check=False).returncode == 0

    def build(self, tag: str, context: Path, *options: str) -> None:
        """Build the Dockerfile of a directory. Steps whose files are unchanged come from the cache."""
        how = ("--layers", "--isolation=chroot", "--network=host", "--format=docker")
        with tempfile.TemporaryDirectory() as temporary:
            self.execute("buildah", "bud", *how, f"--tag={tag}", *_pip_volumes(Path(temporary)), *options, context)

    def make_base_image(self) -> None:
        """Make the base image from Debian's packages, unless it exists."""
        name = base_image()
        if self.has(name):
            return
        root = Path(tempfile.mkdtemp(prefix="base-", dir=self.directory))
        try:
            suite = name.rpartition("-")[2]
            self.execute("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", suite, root)
            (root / "etc/apt/apt.conf.d/docker-clean").write_text(APT_KEEPS_NOTHING)
            archive = self.directory / "base.tar"
            excluded = [f"--exclude=./{path}/*" for path in LEFT_OUT]
            self.execute("tar", "--directory", root, *excluded, "--create", "--file", archive, ".")
            self.podman("import", archive, name)
            archive.unlink()
        finally:
            shutil.rmtree(root)

    def make_server_images(self) -> None:
        """Make PostgreSQL and Redis under the names of docker-compose.yaml, unless they exist."""
        self.make_base_image()
        for server in ("postgres", "redis"):
            name = f"docker.io/library/{read_compose()['services'][server]['image']}"
            if not self.has(name):
                self.build(name, SERVER_IMAGES / server, "--build-arg", f"BASE={base_image()}")


def _at_most(limit: int, enough: int) -> int:
    """Return a number for a limit of processes that this process may set."""
    hard = resource.getrlimit(limit)[1]
    return enough if hard == resource.RLIM_INFINITY else min(enough, hard)


def _pip_volumes(temporary: Path) -> list[str]:
    """Return options that give a build pip's sources of packages of this machine, read-only."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    sources = dict[str, str]()
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        if (name := key.rpartition(".")[2]) in PIP_SOURCES:
            sources[name] = value.strip("'")
    configuration = temporary / "pip.conf"
    configuration.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in sources.items()), ""]))
    volumes = {"/etc/pip.conf": configuration}
    for word in " ".join(sources.values()).split():
        # The pages of a local index link to files beside it.
        path = Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
        if path.is_absolute() and path.exists():
            volumes[str(path)] = path
    return [f"--volume={source}:{target}:ro" for target, source in volumes.items()]
