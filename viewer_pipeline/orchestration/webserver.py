"""Dagster's webserver. Other libraries in its process log in LOG_FORMAT, as they do in the daemon."""

from dagster_postgres.utils import DagsterPostgresException
from dagster_webserver.cli import main as run_webserver
from sqlalchemy.exc import SQLAlchemyError

from viewer_pipeline.logs import configure_package_logging
from viewer_pipeline.orchestration.exit_with_error import exit_with_error
from viewer_pipeline.orchestration.unreachable_code_server import log_unreachable_code_server_in_one_line
from viewer_pipeline.settings import load_settings
from viewer_pipeline.stores.postgres import DAGSTER_STORAGE
from viewer_pipeline.stores.postgres_errors import to_our_error


def main() -> None:
    """Run Dagster's webserver with the arguments of this process."""
    settings = load_settings()
    configure_package_logging(settings)
    log_unreachable_code_server_in_one_line()
    try:
        run_webserver()  # type: ignore[no-untyped-call] # Dagster has no types for it
    except (DagsterPostgresException, SQLAlchemyError) as error:  # it opens its storage first
        exit_with_error(to_our_error(error, settings.require_dagster_database_url(), subject=DAGSTER_STORAGE))


if __name__ == "__main__":
    main()
