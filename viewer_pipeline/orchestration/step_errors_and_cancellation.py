"""What errors and a cancellation do to a step."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from viewer_pipeline.errors import TransientError, ViewerPipelineError
from viewer_pipeline.stores.cancellation_between_statements import cancel_between_statements

MAX_RETRIES = 3
FIRST_RETRY_SECONDS = 1.0  # doubled with each further retry


@contextmanager
def handle_errors_and_cancellation(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[None]:
    """Retry the step after a transient error, fail it after others of this package, cancel it between two statements.

    Transient: a lost connection, a deadlock, a server that starts. Repeating a step is safe: the ledger has every flush
    that was committed despite an error, and the step drains again.

    Steps have no RetryPolicy: Dagster would follow it after a cancellation as well.
    """
    try:
        with cancel_between_statements():
            yield
    except TransientError as error:
        raise dg.RetryRequested(MAX_RETRIES, FIRST_RETRY_SECONDS * 2**context.retry_number) from error
    except ViewerPipelineError as error:
        remedy = f"\nremedy: {error.remedy}" if error.remedy else ""
        raise dg.Failure(f"{error}{remedy}", allow_retries=False) from error
