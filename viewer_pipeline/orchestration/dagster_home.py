"""DAGSTER_HOME: the directory with our dagster.yaml. Without an import of Dagster, which takes 2 s."""

from pathlib import Path

from viewer_pipeline.files import write_atomically_if_changed
from viewer_pipeline.home_lock_and_server_urls import make_directory
from viewer_pipeline.settings import Settings

DAGSTER_YAML = Path(__file__).with_name("dagster.yaml")


def write_dagster_home(settings: Settings) -> Path:
    """Return DAGSTER_HOME with our dagster.yaml and LOG_LEVEL in it; the operator's own dagster.yaml stays."""
    home = settings.dagster_directory
    make_directory(home, "DAGSTER_HOME" if settings.dagster_home else "VIEWER_HOME")
    path = home / "dagster.yaml"
    if not path.exists() or path.read_text().startswith("# The Dagster instance: `viewer-pipeline"):
        template = DAGSTER_YAML.read_text(encoding="utf-8")
        level = f"python_log_level: {settings.log_level.upper()}"
        write_atomically_if_changed(path, template.replace("python_log_level: INFO", level))
    return home
