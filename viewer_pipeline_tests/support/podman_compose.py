"""docker-compose.yaml with podman-compose: what that lacks is translated here, and the order of a start is kept."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from viewer_pipeline_tests.support.containers import ROOT, read_compose, seconds, start_order
from viewer_pipeline_tests.support.podman import Podman
from viewer_pipeline_tests.support.waiting import wait_until

START_SECONDS = 400  # of a container until it is healthy, on a busy machine
CHECK_TIMEOUT = "120s"  # of a health check, likewise


def adapted(compose: Mapping[str, Any], ports: Mapping[str, int]) -> dict[str, Any]:
    """Return the services as podman-compose 1.0.3 and Podman 4.3 understand them.

    Left out: `build` (Buildah builds the image), the conditions of `depends_on` (`PodmanProject.up` waits for them),
    `host-gateway`, `start_interval` and the number of log files. Health checks become shell commands, because the
    words of an exec form are joined wrongly, and get more time, because the machine of a test may be busy.
    `ports`: port of a container -> port of this machine.
    """
    services = {}
    for name, service in compose["services"].items():
        left_out = ("build", "depends_on", "profiles", "extra_hosts", "stop_grace_period")
        kept = {key: value for key, value in service.items() if key not in left_out}
        if "env_file" in service:
            kept["env_file"] = [entry["path"] for entry in service["env_file"]]
        if "ports" in service:
            targets = [port.rpartition(":")[2] for port in service["ports"]]
            kept["ports"] = [f"127.0.0.1:{ports[target]}:{target}" for target in targets]
        check = {key: value for key, value in service["healthcheck"].items() if key != "start_interval"}
        if "timeout" in check:
            check["timeout"] = CHECK_TIMEOUT
        if check.get("test", [""])[0] == "CMD":
            check["test"] = ["CMD-SHELL", shlex.join(check["test"][1:])]
        kept["healthcheck"] = {"test": ["NONE"]} if check.get("disable") else check
        driver, size = service["logging"]["driver"], service["logging"]["options"]["max-size"]
        kept["logging"] = {"driver": driver, "options": {"max-size": size}}
        services[name] = kept
    return {"version": "3", "services": services, "volumes": {name: {} for name in compose["volumes"]}}


@dataclass
class PodmanProject:
    """The services of docker-compose.yaml as containers. `settings`: the lines of .env."""

    podman: Podman
    directory: Path
    settings: Mapping[str, str]
    ports: Mapping[str, int]
    name: str = "viewer-pipeline"
    compose: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.compose = read_compose(ROOT, **self.settings)
        (self.directory / ".env").write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        file = yaml.safe_dump(adapted(self.compose, self.ports), sort_keys=False)
        (self.directory / "docker-compose.yaml").write_text(file.replace("$", "$$"))  # its variables are filled in

    def run(self, *arguments: str) -> None:
        """Run a command of podman-compose."""
        file = str(self.directory / "docker-compose.yaml")
        self.podman.execute("podman-compose", "--file", file, "--project-name", self.name, *arguments)

    def container(self, service: str) -> str:
        """Return the container of a service."""
        labels = {"io.podman.compose.project": self.name, "com.docker.compose.service": service}
        filters = [f"--filter=label={key}={value}" for key, value in labels.items()]
        names = self.podman.podman("ps", "--all", *filters, "--format", "{{.Names}}").split()
        assert len(names) == 1, (service, names)
        return names[0]

    def order(self) -> list[str]:
        """Return the services, each after its dependencies."""
        return start_order(self.compose["services"])

    def up(self, *services: str) -> None:
        """Create and start services in their order, each after its dependencies meet their conditions."""
        for name in [name for name in self.order() if name in services]:
            for other, needs in self.compose["services"][name].get("depends_on", {}).items():
                self.wait_for(other, needs["condition"])
            self.run("up", "--detach", name)

    def wait_for(self, service: str, condition: str = "service_healthy") -> None:
        """Wait until a service meets the condition of another. Raises AssertionError with its log."""
        container = self.container(service)
        interval, due = seconds(self.compose["services"][service]["healthcheck"].get("start_interval", "1s")), 0.0

        def is_met() -> bool:
            nonlocal due
            if time.monotonic() < due:
                return False
            due = time.monotonic() + interval
            state = self.podman.inspect(container)["State"]
            if condition == "service_completed_successfully":
                assert state["Running"] or state["ExitCode"] == 0, self.podman.log(container)
                return not state["Running"]
            return bool(state["Running"]) and (condition == "service_started" or self.podman.is_healthy(container))

        try:
            wait_until(is_met, START_SECONDS, f"{service} meets {condition}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.podman.log(container)}") from None

    def stop(self, *services: str) -> dict[str, int]:
        """Stop services in the reverse order, each within its grace period; return their exit statuses."""
        statuses = {}
        for name in [name for name in reversed(self.order()) if name in services]:
            grace = seconds(self.compose["services"][name].get("stop_grace_period", "10s"))
            self.run("stop", "--timeout", f"{grace:.0f}", name)
            statuses[name] = self.podman.inspect(self.container(name))["State"]["ExitCode"]
        return statuses

    def remove(self, *services: str) -> None:
        """Remove stopped containers; their volumes stay."""
        for name in services:
            self.podman.podman("rm", self.container(name))

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        """Return what a command in the container of a service prints."""
        return self.podman.podman("exec", self.container(service), *command, check=check)

    def numbers(self, query: str) -> dict[str, int]:
        """Return the rows of a query of the bundled PostgreSQL that has two columns, a name and a number."""
        words = ("psql", "-h", "/var/run/postgresql", "-U", "viewer", "-AtF ", "-c", query)
        rows = map(str.split, self.execute("postgres", *words).splitlines())
        return {name: int(number) for name, number in rows}

    def end(self) -> None:
        """Remove all containers, volumes and networks of the project."""
        of_project = f"--filter=label=io.podman.compose.project={self.name}"
        for container in self.podman.podman("ps", "--all", "--quiet", of_project).split():
            self.podman.podman("rm", "--force", "--time", "0", container, check=False)
        for kind in ("volume", "network"):
            for name in self.podman.podman(kind, "ls", "--quiet", of_project).split():
                self.podman.podman(kind, "rm", name, check=False)
