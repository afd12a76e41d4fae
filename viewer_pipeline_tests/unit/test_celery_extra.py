"""Without the extra `celery`, what needs it names it, and everything else works."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dagster._core.launcher import DefaultRunLauncher

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.orchestration.run_launcher import RunLauncherOfSettings
from viewer_pipeline.stack import celery_workers
from viewer_pipeline.stack.celery_workers import CeleryWorkers


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started."""
    monkeypatch.setattr(celery_workers, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="Celery workers need the extra `celery`") as raised:
        CeleryWorkers(tmp_path, 2)
    assert "viewer-pipeline[celery]" in raised.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named where a run is launched with CELERY_BROKER_URL; without that variable, the code server executes runs."""
    monkeypatch.chdir(tmp_path)
    assert isinstance(RunLauncherOfSettings.from_config_value(None, {}), DefaultRunLauncher)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://broker")
    monkeypatch.delitem(sys.modules, "viewer_pipeline.orchestration.celery.launcher", raising=False)
    monkeypatch.setitem(sys.modules, "dagster_celery", None)
    monkeypatch.setitem(sys.modules, "dagster_celery.launcher", None)
    with pytest.raises(SettingsError, match=r"CELERY_BROKER_URL is set, but dagster_celery[.\w]* is not installed"):
        RunLauncherOfSettings.from_config_value(None, {})
