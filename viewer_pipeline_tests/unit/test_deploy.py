"""Files in deploy/ are valid for their programs and agree with the code: commands, ports, settings, metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command

from tools.release_version import project_version
from viewer_pipeline.cli.main import main
from viewer_pipeline.code_server.fork_server import MAX_DIRECTORY_BYTES
from viewer_pipeline.monitoring.metric_families import METRIC_FAMILIES
from viewer_pipeline.settings import Settings
from viewer_pipeline_tests.support.containers import ROOT, read_compose
from viewer_pipeline_tests.support.kubernetes_models import model_of, wrong_object
from viewer_pipeline_tests.support.waiting import ENOUGH

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OPTIONAL = sorted((DEPLOY / "kubernetes").glob("*/*.yaml"))  # `kubectl apply -f deploy/kubernetes` leaves these out
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
OBJECTS: list[dict[str, Any]] = [
    manifest for file in MANIFESTS for manifest in yaml.safe_load_all(file.read_text("utf-8"))
]
CELERY_OBJECTS: list[dict[str, Any]] = [
    manifest for file in OPTIONAL for manifest in yaml.safe_load_all(file.read_text("utf-8"))
]
DEPLOYMENTS = {
    manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest["spec"]
    for manifest in OBJECTS
    if manifest["kind"] == "Deployment"
}
RULES = DEPLOY / "prometheus/viewer-pipeline.rules.yaml"
DASHBOARD = DEPLOY / "grafana/viewer-pipeline.json"
OTHER_METRICS = {"up", "process_resident_memory_bytes"}  # of Prometheus itself, and of the client library
OTHER_LABELS = {"job", "instance", "le"}
VARIABLES = {"$__rate_interval": "5m"}  # that Grafana replaces


@pytest.mark.parametrize(
    "manifest", [*OBJECTS, *CELERY_OBJECTS], ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}"
)
def test_kubernetes_objects_are_valid(manifest: dict[str, Any]) -> None:
    """Every field exists in the API and has its type, and no required field is missing."""
    pytest.importorskip("lightkube.models", reason="lightkube-models is not installed")
    assert list(wrong_object(manifest, model_of(manifest), manifest["kind"])) == []


def test_kubernetes_validation_detects_errors() -> None:
    """The validation of the test above can fail."""
    pytest.importorskip("lightkube.models", reason="lightkube-models is not installed")
    text = next(file for file in MANIFESTS if file.name == "daemon.yaml").read_text("utf-8")
    for right, bad in (
        ("periodSeconds: 30", "periodSecond: 30"),
        ("periodSeconds: 30", "periodSeconds: thirty"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: 'yes'"),
        ("name: daemon", "title: daemon"),
        ("capabilities: {drop: [ALL]}", "capabilities: {drop: ALL}"),
    ):
        assert text.count(right) == 1
        manifest = yaml.safe_load(text.replace(right, bad))
        assert list(wrong_object(manifest, model_of(manifest), "Deployment")) != [], bad


def test_kubernetes_runs_all_roles() -> None:
    """Each Deployment runs a command that exists, with its options; code server and daemon have one replica."""
    assert DEPLOYMENTS.keys() == {"worker", "code-server", "daemon", "webserver"}
    for role, spec in DEPLOYMENTS.items():
        (container,) = spec["template"]["spec"]["containers"]
        assert container["name"] == container["args"][0] == role
        assert_command_exists(container["args"])
    for role in ("code-server", "daemon"):
        assert (DEPLOYMENTS[role]["replicas"], DEPLOYMENTS[role]["strategy"]) == (1, {"type": "Recreate"})


def assert_command_exists(arguments: list[str]) -> None:
    """Assert that `viewer-pipeline` has this command with these options."""
    command: Command = main.commands[arguments[0]]
    with command.make_context(arguments[0], list(arguments[1:])):
        pass


def test_kubernetes_pods_have_least_privileges() -> None:
    """No root, no capabilities, no token, a read-only root file system, two volumes, memory limits, the same image."""
    for spec in DEPLOYMENTS.values():
        pod = spec["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["image"] == f"registry.example.com/viewer-pipeline:{project_version(ROOT)}"
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/var/lib/viewer-pipeline"}
            assert container["resources"]["limits"].keys() == {"memory"}


def test_kubernetes_celery_workers() -> None:
    """They run Celery's command on our app, in the image of the other roles, with its settings and least privileges."""
    by_name = {manifest["metadata"]["name"]: manifest["spec"] for manifest in CELERY_OBJECTS if "spec" in manifest}
    worker = by_name["viewer-pipeline-celery-worker"]["template"]["spec"]
    (container,), (other,) = worker["containers"], DEPLOYMENTS["worker"]["template"]["spec"]["containers"]
    assert [*container["command"], *container["args"]][2:6] == [
        "celery",
        "-A",
        "viewer_pipeline.celery_worker",
        "worker",
    ]
    for field in ("image", "envFrom", "securityContext", "volumeMounts"):
        assert container[field] == other[field]
    labels = by_name["viewer-pipeline-celery-broker"]["selector"]  # that of the Service, which comes last
    (broker,) = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in CELERY_OBJECTS
        if manifest["kind"] == "Deployment" and "broker" in manifest["metadata"]["name"]
    ]
    assert labels == broker
    page = (ROOT / "docs/how-to/celery.md").read_text("utf-8")
    assert "redis://viewer-pipeline-celery-broker:6379/0" in page


def test_options_of_the_launcher_of_jobs() -> None:
    """Those of the page exist in dagster-k8s, with these types."""
    dagster_k8s = pytest.importorskip("dagster_k8s", reason="the extra `k8s` is not installed")
    from dagster._config import process_config, resolve_to_config_type  # noqa: PLC0415 - imports Dagster

    page = (ROOT / "docs/how-to/celery.md").read_text("utf-8")
    (text,) = re.findall(r"```yaml\n(run_launcher:\n  module: dagster_k8s\n.*?)```", page, re.DOTALL)
    launcher = yaml.safe_load(text)["run_launcher"]
    schema = resolve_to_config_type(getattr(dagster_k8s, launcher["class"]).config_type())
    assert process_config(schema, launcher["config"]).success
    assert not process_config(schema, launcher["config"] | {"job_images": "x"}).success


def test_kubernetes_selectors_match_their_pods() -> None:
    """Selectors of Deployments and Services match the labels of their component, and their ports exist."""
    pods = {role: spec["template"]["metadata"]["labels"] for role, spec in DEPLOYMENTS.items()}
    for spec in DEPLOYMENTS.values():
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    for manifest in OBJECTS:
        if manifest["kind"] == "Service":
            (role,) = [role for role, labels in pods.items() if manifest["spec"]["selector"].items() <= labels.items()]
            ports = {
                port["name"]: port["containerPort"]
                for port in DEPLOYMENTS[role]["template"]["spec"]["containers"][0]["ports"]
            }
            assert [(p["targetPort"], p["port"]) for p in manifest["spec"]["ports"]] == list(ports.items())
    names = [manifest["metadata"]["name"] for manifest in OBJECTS if manifest["kind"] == "Service"]
    for role in ("daemon", "webserver"):
        args = DEPLOYMENTS[role]["template"]["spec"]["containers"][0]["args"]
        assert args[args.index("--code-server") + 1].split(":")[0] in names


def test_kubernetes_liveness_does_not_depend_on_servers() -> None:
    """Liveness requests /ping and not /health; the daemon has no liveness probe. The worker has time to stop."""
    probes = {role: spec["template"]["spec"]["containers"][0] for role, spec in DEPLOYMENTS.items()}
    assert (
        probes["worker"]["livenessProbe"]["httpGet"]["path"]
        == probes["worker"]["startupProbe"]["httpGet"]["path"]
        == "/ping"
    )
    assert probes["worker"]["readinessProbe"]["httpGet"]["path"] == "/health"
    assert "livenessProbe" not in probes["daemon"]
    limit_ms: int = Settings.model_fields["shutdown_timeout_ms"].default
    assert DEPLOYMENTS["worker"]["template"]["spec"]["terminationGracePeriodSeconds"] * 1000 > limit_ms


def test_kubernetes_settings_are_valid() -> None:
    """Each key of the ConfigMap is one of our variables, with a valid value."""
    (data,) = [manifest["data"] for manifest in OBJECTS if manifest["kind"] == "ConfigMap"]
    Settings(_env_file=None, **{name.lower(): value for name, value in data.items()})
    assert data.keys() <= {name.upper() for name in Settings.model_fields}


def test_systemd_runs_all_roles() -> None:
    """One unit for each role, which the target wants; the worker is stopped before the code server."""
    commands = {}
    for unit in UNITS:
        text = unit.read_text("utf-8")
        (arguments,) = re.findall(r"^ExecStart=/opt/viewer-pipeline/bin/viewer-pipeline (.*)$", text, re.MULTILINE)
        assert_command_exists(arguments.split())
        commands[unit.name] = arguments.split()[0]
        for variable in re.findall(r"^Environment=(\w+)=", text, re.MULTILINE):
            assert variable.lower() in Settings.model_fields
    assert commands == {f"viewer-pipeline-{role}.service": role for role in DEPLOYMENTS}
    target = (DEPLOY / "systemd/viewer-pipeline.target").read_text("utf-8")
    assert set(re.findall(r"viewer-pipeline-\S+\.service", target)) == commands.keys()
    worker = (DEPLOY / "systemd/viewer-pipeline-worker.service").read_text("utf-8")
    assert re.search(r"^After=.*viewer-pipeline-code-server\.service", worker, re.MULTILINE)
    (grace,) = re.findall(r"^TimeoutStopSec=(\d+)$", worker, re.MULTILINE)
    limit_ms: int = Settings.model_fields["shutdown_timeout_ms"].default
    assert int(grace) * 1000 > limit_ms


def test_systemd_can_fork_runs() -> None:
    """Sockets of this machine are allowed, their directory is writable, and a stop waits for runs and ends the rest."""
    unit = (DEPLOY / "systemd/viewer-pipeline-code-server.service").read_text("utf-8")
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert "AF_UNIX" in values["RestrictAddressFamilies"].split()
    assert values["Environment"] == f"VIEWER_HOME=/var/lib/{values['StateDirectory']}"
    assert len(f"/var/lib/{values['StateDirectory']}/dagster") <= MAX_DIRECTORY_BYTES
    assert values["KillMode"] == "mixed"


def test_systemd_units_are_valid() -> None:
    """`systemd-analyze verify` reports nothing but the missing program."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    units = [*UNITS, DEPLOY / "systemd/viewer-pipeline.target"]
    result = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False, timeout=ENOUGH)
    ours = [line for line in result.stderr.splitlines() if "viewer-pipeline" in line]
    assert [line for line in ours if "is not executable" not in line] == []


def expressions() -> Iterator[tuple[str, str]]:
    """Yield the name of each alert and panel, and its query."""
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])


@pytest.mark.parametrize(("place", "query"), list(expressions()))
def test_queries_use_existing_metrics(place: str, query: str) -> None:
    """Metrics and labels exist, and rates are of counters, never of gauges."""
    named = set(re.findall(r"\b((?:viewer|process)_\w+|up)\b(?=[{\s)\[])", query))
    assert named, place
    for name in named - OTHER_METRICS:
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        family = METRIC_FAMILIES[base]
        assert (family.kind == "histogram") == (base != name)
        for inside in re.findall(rf"{name}\{{([^}}]*)\}}", query):
            assert set(re.findall(r"(\w+)\s*[=!]", inside)) <= {*family.labels, *OTHER_LABELS}
        if re.search(rf"(?:rate|increase)\({name}\b", query):
            assert family.kind != "gauge"
    labels = {
        label for name in named - OTHER_METRICS for label in METRIC_FAMILIES[re.sub(r"_bucket$", "", name)].labels
    }
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        assert set(group.replace(" ", "").split(",")) <= labels | OTHER_LABELS


def test_alerts_have_severity_and_text() -> None:
    """Each alert has a known severity, a summary and a description, and a test for promtool."""
    rules = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
    assert {rule["labels"]["severity"] for rule in rules} == {"page", "ticket"}
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in rules)
    tested = yaml.safe_load((DEPLOY / "prometheus/viewer-pipeline.rules.test.yaml").read_text("utf-8"))["tests"]
    names = {rule["alert"] for rule in rules}
    assert [{case["alertname"] for case in test["alert_rule_test"]} for test in tested] == [names, names]


def test_prometheus_scrapes_the_worker() -> None:
    """On the port of docker-compose.yaml, and by the name of the Kubernetes Service."""
    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text("utf-8"))["scrape_configs"]
    port = Settings.model_fields["health_check_port"].default
    assert jobs[0]["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert f"127.0.0.1:{port}:{port}" in read_compose(POSTGRES_PASSWORD="secret")["services"]["worker"]["ports"]
    (sd,) = jobs[1]["dns_sd_configs"]
    assert sd["port"] == port
    assert sd["names"][0].split(".")[0] in [
        manifest["metadata"]["name"] for manifest in OBJECTS if manifest["kind"] == "Service"
    ]
    assert all(job["job_name"].startswith("viewer-pipeline") for job in jobs)  # alerts and dashboard select by it


@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yaml"), ("test", "rules", "viewer-pipeline.rules.test.yaml")]
)
def test_promtool_accepts_rules_and_configuration(arguments: tuple[str, ...]) -> None:
    """The configuration is valid; every alert fires in its test, and none in the test without faults."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    result = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_parses_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    """They are checked as recording rules."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    queries = [query for _, query in expressions()]
    for name, value in VARIABLES.items():
        queries = [query.replace(name, value) for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dashboard_is_consistent() -> None:
    """Every panel has a unique id, a place of its own and the selected data source."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    (variable,) = dashboard["templating"]["list"]
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {
        f"${{{variable['name']}}}"
    }
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
