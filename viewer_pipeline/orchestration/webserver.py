"""Dagster's webserver. Other libraries in its process log in LOG_FORMAT, as they do in the daemon."""

from dagster_webserver.cli import main as run_webserver

from viewer_pipeline.logs import configure_root_logging
from viewer_pipeline.settings import load_settings


def main() -> None:
    """Run Dagster's webserver with the arguments of this process."""
    configure_root_logging(load_settings())
    run_webserver()  # type: ignore[no-untyped-call] # Dagster has no types for it


if __name__ == "__main__":
    main()
