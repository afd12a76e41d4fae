"""Dockerfile and compose file, executed without Docker: in a directory, with plain processes."""

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

from viewer_pipeline_tests.support.waiting import ENOUGH, wait_until

ROOT = Path(__file__).parents[2]
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<operator>:?[-?])(?P<text>[^}$]*)\}")
Words = str | list[str]


@dataclass(frozen=True)
class Instruction:
    """A line of a Dockerfile; continuations are joined, comments are removed."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Return the words of an exec form or of a shell form."""
        words: list[str] = json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)
        return words


def read_dockerfile(text: str) -> list[list[Instruction]]:
    """Return the stages, each beginning with its FROM; lines before the first are left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages = list[list[Instruction]]()
    for line in filter(None, joined.splitlines()):
        name, _, text = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append(Instruction(name, text.strip()))
    return stages


def of(stage: list[Instruction], name: str) -> list[Instruction]:
    """Return the instructions of this name."""
    return [instruction for instruction in stage if instruction.name == name]


def not_ignored(ignore: str, paths: list[str]) -> list[str]:
    """Return the paths that a .dockerignore does not exclude: the last line that matches a path decides."""
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
    """Return the files that a build would send to the engine, except caches and environments."""
    excluded = (".git", ".venv", ".viewer", "node_modules")
    paths = list[str]()
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in excluded and not name.endswith("_cache")]
        paths += [str((Path(directory) / name).relative_to(root)) for name in files]
    return sorted(paths)


def site_packages() -> str:
    """Return the directory of the packages of the running environment."""
    return sysconfig.get_path("purelib")


def seconds(duration: str) -> float:
    """Return the seconds of `1m`, `30s` or `500ms`."""
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m)", duration))


BUNDLED = "postgres,redis"  # the profiles of both servers


def read_compose(root: Path = ROOT, **variables: str) -> dict[str, Any]:
    """Return the compose file with its variables filled in, and the services of COMPOSE_PROFILES (default: all).

    Raises ValueError with the message of a required variable that is missing.
    """
    variables = {"COMPOSE_PROFILES": BUNDLED, **variables}
    loaded: dict[str, Any] = yaml.safe_load((root / "docker-compose.yaml").read_text(encoding="utf-8"))
    filled: dict[str, Any] = fill_in(loaded, variables)
    profiles = set(variables["COMPOSE_PROFILES"].split(","))
    filled["services"] = {
        name: service
        for name, service in filled["services"].items()
        if "profiles" not in service or profiles & set(service["profiles"])
    }
    return filled


def start_order(services: Mapping[str, Any]) -> list[str]:
    """Return the names of services, each after its dependencies."""
    done = list[str]()
    while left := [name for name in services if name not in done]:
        ready = [name for name in left if not services[name].get("depends_on", {}).keys() & set(left)]
        assert ready, f"{left} depend on each other"
        done += ready
    return done


def fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace `${NAME:-default}`, `${NAME?message}` and the like, as Compose does."""
    if isinstance(value, dict):
        return {key: fill_in(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [fill_in(each, variables) for each in value]
    return re.sub(VARIABLE, lambda match: _value(match, variables), value) if isinstance(value, str) else value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, text = match.group("name", "operator", "text")
    value = variables.get(name)
    if value is not None and (value or not operator.startswith(":")):
        return value
    if operator.endswith("?"):
        raise ValueError(f"required variable {name} is missing a value: {text}")
    return text


@dataclass
class Image:
    """The Dockerfile built below a directory, which its absolute paths are relative to."""

    base: Path
    python: str
    stages: list[list[Instruction]]
    owner: tuple[int, int] | None  # user and group of its processes; None: those of this process
    environment: dict[str, str] = field(default_factory=dict)

    def map_paths(self, text: str) -> str:
        """Map the absolute paths of the image to the directory."""
        return re.sub(
            r"(?<![\w.@/-])/(opt/viewer-pipeline|var/lib/viewer-pipeline|build|tmp)\b", rf"{self.base}/\1", text
        )

    def build(self, *, afresh: bool) -> None:
        """Execute the first stage on the files that .dockerignore does not exclude.

        `afresh`: execute every command, from an empty environment and the lock. Otherwise use the packages of this
        environment, and build only our own.
        """
        context = self.base / "context"
        for path in not_ignored((ROOT / ".dockerignore").read_text(encoding="utf-8"), files_of(ROOT)):
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, context / path)
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.base)}
        environment |= {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
        work = self.base
        for instruction in self.stages[0]:
            match instruction.name:
                case "ENV" | "ARG":  # with its default
                    environment |= self._variables(instruction, environment)
                case "WORKDIR":
                    work = Path(self.map_paths(instruction.text))
                    work.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    *sources, target = instruction.words()
                    _copy([context / source for source in sources], work / target, many=target.endswith("/"))
                case "RUN":
                    self._run(self.map_paths(instruction.text), work, environment, afresh=afresh)
        self.environment = {"PATH": os.environ["PATH"]}
        for instruction in of(self.stages[1], "ENV"):
            self.environment |= self._variables(instruction, self.environment)
        for path in ("tmp", "var/lib/viewer-pipeline"):  # a tmpfs, and the directory that the second stage makes
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

    def _variables(self, instruction: Instruction, known: Mapping[str, str]) -> dict[str, str]:
        pairs = (word.partition("=") for word in instruction.words())
        return {name: self.map_paths(value).replace("$PATH", known["PATH"]) for name, _, value in pairs}

    def code(self) -> set[Path]:
        """Return the files of the image, which no process may change."""
        return set((self.base / "opt").rglob("*"))


def _copy(sources: list[Path], target: Path, *, many: bool) -> None:
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target / source.name if many else target)


@dataclass
class Composed:
    """The services of a compose file that use our image, run with an image that was built here.

    `elsewhere`: the addresses of services, `name:port` -> `host:port`; a port alone is one inside a container.
    """

    image: Image
    services: dict[str, Any]
    elsewhere: dict[str, str]
    settings: dict[str, str]  # as in .env
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def localize(self, value: Any) -> str:
        """Replace addresses of services and paths of the image by those on this machine."""
        text = str(value)
        for name, place in self.elsewhere.items():
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}\b", place, text)
        return self.image.map_paths(text)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of the processes of this service."""
        configured = {key: self.localize(value) for key, value in self.services[name]["environment"].items()}
        return {**self.image.environment, **self.settings, **configured, "TINI_SUBREAPER": "1"}

    def log(self, name: str) -> Path:
        """Return the log file of the service."""
        return self.image.base / f"{name}.log"

    def start(self, name: str) -> None:
        """Start a service with ENTRYPOINT and command."""
        (entrypoint,) = of(self.image.stages[-1], "ENTRYPOINT")
        words = entrypoint.words()
        if shutil.which(words[0]) is None:
            assert words[:2] == ["tini", "--"]
            words = words[2:]
        command = [*words, *map(self.localize, self.services[name]["command"])]
        with self.log(name).open("wb") as output:
            self.running[name] = subprocess.Popen(
                command,
                env=self.environment(name),
                cwd=self.image.base / "opt",
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self._user_options(),
            )

    def check_health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service, once."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = list(map(self.localize, words))
        return subprocess.run(
            command,
            env=self.environment(name),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self._user_options(),
        )

    def wait_for(self, name: str, condition: str, limit: float = 240) -> None:
        """Wait until a service meets the condition of another."""
        process = self.running[name]
        if condition == "service_completed_successfully":
            assert process.wait(limit) == 0, self.log(name).read_text()
        elif condition == "service_healthy":
            interval, due = seconds(self.services[name]["healthcheck"]["start_interval"]), 0.0

            def healthy() -> bool:
                nonlocal due
                assert process.poll() is None, self.log(name).read_text()
                if time.monotonic() < due:
                    return False
                result = self.check_health(name)
                due = time.monotonic() + interval
                return result.returncode == 0

            wait_until(healthy, limit, f"{name} is healthy")
        else:
            assert condition == "service_started"

    def up(self) -> None:
        """Start all services, each after its dependencies meet their conditions."""
        for name in self.order():
            for other, needs in self.services[name].get("depends_on", {}).items():
                if other in self.services:
                    self.wait_for(other, needs["condition"])
            self.start(name)

    def order(self) -> list[str]:
        """Return the services, each after its dependencies."""
        return start_order(self.services)

    def stop(self, name: str) -> int:
        """Send SIGTERM; return the exit status. Raises AssertionError after its grace period."""
        process = self.running[name]
        process.terminate()
        grace = seconds(self.services[name].get("stop_grace_period", "10s"))
        try:
            return process.wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} does not stop within {grace} s: {self.log(name).read_text()}") from None

    def end(self) -> None:
        """End the remaining processes."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(ENOUGH)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # tini would leave its child
                process.wait()

    def _user_options(self) -> dict[str, Any]:
        owner = self.image.owner
        return {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}
