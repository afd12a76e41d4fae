"""env.example and the pages agree with the settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from viewer_pipeline.ingest.subscriber_stats import SubscriberStats
from viewer_pipeline.monitoring.probes import HealthProbes
from viewer_pipeline.postgres_url import PRISMA_PARAMETERS
from viewer_pipeline.session_settings import TIMEOUTS
from viewer_pipeline.settings import Settings, load_settings
from viewer_pipeline.stores.known_postgres_errors import POSTGRES_ERRORS
from viewer_pipeline.stores.known_redis_errors import REDIS_ERRORS
from viewer_pipeline_tests.conftest import _OURS

ROOT = Path(__file__).parents[2]
DEFAULTS = {
    name.upper(): None if field.default is None else str(field.default) for name, field in Settings.model_fields.items()
}
DESCRIPTIONS = {name.upper(): field.description for name, field in Settings.model_fields.items()}


def env_example() -> list[tuple[str, str, str]]:
    """Return (comment above, variable, value) of the lines of env.example that set something once uncommented."""
    text = (ROOT / "env.example").read_text(encoding="utf-8")
    return re.findall(r"^# (.*)\n#([A-Z_]+)=(.*)$", text, re.MULTILINE)


def test_env_example_lists_the_settings() -> None:
    """Every variable in the order of the fields, with its description and its default; no other."""
    listed = [(name, value, comment) for comment, name, value in env_example()]
    assert listed == [(name, default or "", DESCRIPTIONS[name]) for name, default in DEFAULTS.items()]


def test_env_example_has_nothing_else() -> None:
    """A line that is not a comment would apply once the file is copied."""
    lines = (ROOT / "env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert [line for line in lines if re.match(r"#\s*\w+=", line)] == [f"#{n}={value}" for _, n, value in env_example()]


def test_env_example_uncommented_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a .env, it parses and results in the defaults."""
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    defaults = load_settings()
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for _, name, value in env_example()))
    loaded = load_settings()
    assert loaded == defaults
    assert loaded.model_fields_set == {name.lower() for name, default in DEFAULTS.items() if default is not None}


def test_the_page_on_health_has_every_check() -> None:
    """The first column of its table names every check and nothing else; daemons share a row."""
    settings = Settings(database_url="postgresql://host/db", redis_url="redis://host", celery_broker_url="redis://host")
    probes = HealthProbes(settings, stats=SubscriberStats())
    checks = {name for check in probes.health_checks() for name in check.names}
    probes.close()
    rows = re.findall(r"^\| (`[a-z_*`, ]+`) \|", (ROOT / "docs/health.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_*]+)`", row)}
    statuses = {"status", "healthy", "unknown", "degraded", "unhealthy"}  # of the table above it
    assert listed - statuses == {re.sub(r"^daemon_.*", "daemon_*", name) for name in checks}


def test_the_page_on_connection_errors_has_every_sentence() -> None:
    """With its remedy, below the class that says whether it is tried again; and nothing else."""
    page = (ROOT / "docs/how-to/connection-errors.md").read_text(encoding="utf-8")
    expected = {(row.error.__doc__, *row.documentation) for row in (*POSTGRES_ERRORS, *REDIS_ERRORS)}
    rows, heading = set(), ""
    for line in page.splitlines():
        if line.startswith("### "):
            heading = line.removeprefix("### ")
        elif match := re.fullmatch(r"\| (?!---|the message)(.+?) \| (.+) \|", line):
            rows.add((heading, match[1], match[2]))
    assert rows == expected


def test_no_setting_of_the_developer_reaches_the_tests() -> None:
    """They remove every setting from their environment; TMPDIR and the like stay."""
    assert [name for name in DEFAULTS if not name.startswith(_OURS)] == []


def test_the_page_on_connection_strings_has_every_parameter() -> None:
    """Those of Prisma, and those of PostgreSQL that we set."""
    page = (ROOT / "docs/how-to/connection-strings.md").read_text(encoding="utf-8")
    assert [name for name in sorted(PRISMA_PARAMETERS | set(TIMEOUTS)) if not re.search(rf"`{name}[`=]", page)] == []
