"""Where runs are executed: by Celery workers if CELERY_BROKER_URL is set, else in processes of the code server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._core.launcher import DefaultRunLauncher, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.settings_of_running_up import load_settings_and_find_servers

INSTALL = "run pip install 'viewer-pipeline[celery]', or unset CELERY_BROKER_URL"


class RunLauncherOfSettings(RunLauncher, ConfigurableClass):
    """Named in `dagster.yaml`; what it creates is a launcher of another class."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return no fields: everything is in our settings."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> RunLauncher:  # type: ignore[override] # noqa: ARG003 - see the class; it is empty
        """Return the launcher. Raises SettingsError."""
        settings = load_settings_and_find_servers()
        if settings.celery_broker_url is None:
            return DefaultRunLauncher(inst_data)
        try:
            from viewer_pipeline.orchestration.celery.launcher import LeasedCeleryRunLauncher  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise SettingsError(f"CELERY_BROKER_URL is set, but {error.name} is not installed", INSTALL) from error
        return LeasedCeleryRunLauncher(settings, inst_data)
