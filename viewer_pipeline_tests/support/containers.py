"""What a Dockerfile and a compose file say, and the same done without Docker: in a directory, by plain processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from viewer_pipeline_tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
Words = str | list[str]


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile; continuations are joined, comments are gone."""

    name: str
    said: str

    def words(self) -> list[str]:
        """Return the words of an exec form or of a shell form."""
        found: list[str] = json.loads(self.said) if self.said.startswith("[") else shlex.split(self.said)
        return found


def read_dockerfile(text: str) -> list[list[Instruction]]:
    """Return the stages, each from its FROM on; what stands before the first is left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages = list[list[Instruction]]()
    for line in filter(None, joined.splitlines()):
        name, _, said = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(name, said.strip()))
    return stages


def of(stage: list[Instruction], name: str) -> list[Instruction]:
    """Return the instructions of this name."""
    return [one for one in stage if one.name == name]


def let_through(ignore: str, paths: list[str]) -> list[str]:
    """Return what a .dockerignore lets into the build: of each path the last line that fits decides."""
    rules = [line for line in ignore.splitlines() if line and not line.startswith("#")]

    def kept(path: str) -> bool:
        keep = True
        for rule in rules:
            pattern = rule.removeprefix("!").removesuffix("/")
            regex = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{regex}(?:/.*)?", path):
                keep = rule.startswith("!")
        return keep

    return [path for path in paths if kept(path)]


def files_of(root: Path) -> list[str]:
    """Return the files that a build here would send to the engine, but for what no build needs to look at."""
    passed = (".git", ".venv", ".viewer", "node_modules")
    found = list[str]()
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in passed and not name.endswith("_cache")]
        found += [str((Path(directory) / name).relative_to(root)) for name in files]
    return sorted(found)


def site_packages() -> str:
    """Return where the packages of the running environment are."""
    return sysconfig.get_path("purelib")


def seconds(duration: str) -> float:
    """Return what `1m`, `30s` or `500ms` is."""
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m)", duration))


def read_compose(root: Path = ROOT, **variables: str) -> dict[str, Any]:
    """Return the compose file with its variables filled in."""
    text = (root / "docker-compose.yaml").read_text(encoding="utf-8")
    filled = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: variables[found[1]], text)
    loaded: dict[str, Any] = yaml.safe_load(filled)
    return loaded


@dataclass
class Image:
    """The Dockerfile built below a directory: its absolute paths are directories in there."""

    base: Path
    python: str
    stages: list[list[Instruction]]
    owner: tuple[int, int] | None  # whom processes run as; None: as this one
    environment: dict[str, str] = field(default_factory=dict)

    def placed(self, text: str) -> str:
        """Put the absolute paths of the image below our directory."""
        return re.sub(
            r"(?<![\w.@/-])/(opt/viewer-pipeline|var/lib/viewer-pipeline|build|tmp)\b", rf"{self.base}/\1", text
        )

    def build(self, *, afresh: bool) -> None:
        """Do what the first stage says, on the files that .dockerignore lets through.

        `afresh`: every command, from an empty environment and the lock. Else the packages of the running environment
        serve, and what is built is ours alone.
        """
        context = self.base / "context"
        for path in let_through((ROOT / ".dockerignore").read_text(encoding="utf-8"), files_of(ROOT)):
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, context / path)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.base)}
        environment |= {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
        work = self.base
        for one in self.stages[0]:
            match one.name:
                case "ENV":
                    environment |= self._variables(one, environment)
                case "WORKDIR":
                    work = Path(self.placed(one.said))
                    work.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    *sources, target = one.words()
                    _copy([context / source for source in sources], work / target, many=target.endswith("/"))
                case "RUN":
                    self._run(self.placed(one.said), work, environment, afresh=afresh)
        self.environment = {"PATH": os.environ["PATH"]}
        for one in of(self.stages[1], "ENV"):
            self.environment |= self._variables(one, self.environment)
        for path in ("tmp", "var/lib/viewer-pipeline"):  # a tmpfs, and what the second stage makes
            (self.base / path).mkdir(parents=True, exist_ok=True)
            if self.owner is not None:
                os.chown(self.base / path, *self.owner)

    def _run(self, command: str, work: Path, environment: Mapping[str, str], *, afresh: bool) -> None:
        venv = self.base / "opt/viewer-pipeline"
        if command.startswith("python -m venv "):
            command = command.replace("python", shlex.quote(self.python), 1)
            if not afresh:
                command += " --without-pip"
        elif not afresh:
            if "--requirement" in command:
                (site,) = venv.glob("lib/python3*/site-packages")
                (site / "packages.pth").write_text(f"{site_packages()}\n")
                return
            command = command.partition("&&")[0].replace("install", "install --ignore-installed --no-compile", 1)
        done = subprocess.run(
            ["/bin/sh", "-ec", command], cwd=work, env=dict(environment), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def _variables(self, one: Instruction, known: Mapping[str, str]) -> dict[str, str]:
        pairs = (word.partition("=") for word in one.words())
        return {name: self.placed(value).replace("$PATH", known["PATH"]) for name, _, value in pairs}

    def code(self) -> set[Path]:
        """Return the files of the image, none of which a process may change."""
        return set((self.base / "opt").rglob("*"))


def _copy(sources: list[Path], target: Path, *, many: bool) -> None:
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target / source.name if many else target)


@dataclass
class Composed:
    """The services of a compose file that are of our image, run by an image that was built here.

    `elsewhere`: where a service is, `name:port` -> `host:port`; a port alone is one that a container has for itself.
    """

    image: Image
    services: dict[str, Any]
    elsewhere: dict[str, str]
    settings: dict[str, str]  # what .env would say
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def found(self, said: Any) -> str:
        """Put the addresses of services and the paths of the image where they are here."""
        text = str(said)
        for name, place in self.elsewhere.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}\b", place, text)
        return self.image.placed(text)

    def environment(self, name: str) -> dict[str, str]:
        """Return what the processes of this service see."""
        said = {key: self.found(value) for key, value in self.services[name]["environment"].items()}
        return {**self.image.environment, **self.settings, **said, "TINI_SUBREAPER": "1"}

    def log(self, name: str) -> Path:
        """Return the file with what the service says."""
        return self.image.base / f"{name}.log"

    def start(self, name: str) -> None:
        """Start a service, as ENTRYPOINT and command say."""
        (entrypoint,) = of(self.image.stages[-1], "ENTRYPOINT")
        words = entrypoint.words()
        if shutil.which(words[0]) is None:
            assert words[:2] == ["tini", "--"]
            words = words[2:]
        command = [*words, *map(self.found, self.services[name]["command"])]
        with self.log(name).open("wb") as output:
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                cwd=self.image.base / "opt",
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._who(),
            )

    def ask(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service, once."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = list(map(self.found, words))
        return subprocess.run(
            command, env=self.environment(name), cwd="/", capture_output=True, text=True, check=False, **self._who()
        )

    def wait_for(self, name: str, condition: str, limit: float = 240) -> None:
        """Wait until a service is as another needs it."""
        process = self.running[name]
        if condition == "service_completed_successfully":
            assert process.wait(limit) == 0, self.log(name).read_text()
        elif condition == "service_healthy":
            interval, due = seconds(self.services[name]["healthcheck"]["start_interval"]), 0.0
            said = ""

            def healthy() -> bool:
                nonlocal due, said
                assert process.poll() is None, self.log(name).read_text()
                if time.monotonic() < due:
                    return False
                asked = self.ask(name)
                due, said = time.monotonic() + interval, asked.stderr
                return asked.returncode == 0

            wait_until(healthy, limit, f"{name} is healthy")
        else:
            assert condition == "service_started"

    def up(self) -> None:
        """Start all, each once what it depends on is as it needs it."""
        for name in self.order():
            for other, needs in self.services[name].get("depends_on", {}).items():
                if other in self.services:
                    self.wait_for(other, needs["condition"])
            self.start(name)

    def order(self) -> list[str]:
        """Return the services, each after those that it depends on."""
        done = list[str]()
        while left := [name for name in self.services if name not in done]:
            ready = [n for n in left if not (self.services[n].get("depends_on", {}).keys() & set(left))]
            assert ready, f"{left} depend on each other"
            done += ready
        return done

    def stop(self, name: str) -> int:
        """Send SIGTERM; return the exit status. AssertionError where its grace is over."""
        process = self.running[name]
        process.terminate()
        grace = seconds(self.services[name].get("stop_grace_period", "10s"))
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} does not stop within {grace} s: {self.log(name).read_text()}") from None

    def end(self) -> None:
        """End what is left, whatever happened."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # tini would leave its child
                process.wait()

    def _who(self) -> dict[str, Any]:
        owner = self.image.owner
        return {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}
