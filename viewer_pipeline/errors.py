"""Every error of this package. The docstring of a class is the first half of its message."""

from __future__ import annotations

from viewer_pipeline.command_to_type import command_to_type


class ViewerPipelineError(Exception):
    """Viewer Pipeline failed"""

    def __init__(self, detail: str = "", remedy: str = "") -> None:
        message = (type(self).__doc__ or type(self).__name__).strip()
        super().__init__(f"{message}: {detail}" if detail else message)
        self.remedy = remedy
        if remedy:
            self.add_note(f"remedy: {remedy}")  # for Dagster's UI, which shows notes


class SettingsError(ViewerPipelineError):
    """Settings are not usable"""


class NoServer(SettingsError):
    """No server is known"""


class TargetUnusable(SettingsError):
    """The target table cannot be used"""


class SessionUnusable(SettingsError):
    """PostgreSQL opened a session with a setting under which nothing may be written"""


class PipelineRefused(SettingsError):
    """This pipeline must not use this Redis, so nothing was read, counted or subtracted"""


class StreamsRefused(PipelineRefused):
    """The streams of flushes are not as many as this process expects, so it has flushed nothing"""


class HistoryTimezoneChanged(SettingsError):
    """Days were rolled up in another time zone, so no day is rolled up or pruned before a backfill"""


class TransientError(ViewerPipelineError):
    """Something is out of reach for the moment; trying again is safe"""


class RedisUnavailable(TransientError):
    """Redis does not answer"""


class RedisRefusesWrites(TransientError):
    """Redis refuses writes"""


class NotDurable(TransientError):
    """Redis did not make durable in time what was read from it, so nothing was committed"""


class NotReplicated(TransientError):
    """Too few standbys of PostgreSQL have what would be subtracted from Redis, so it stays there"""


class PostgresUnavailable(TransientError):
    """PostgreSQL is unavailable"""


class RunBrokerUnavailable(TransientError):
    """The broker of Celery, to which runs are sent, does not answer"""


class TransactionAborted(PostgresUnavailable):
    """PostgreSQL aborted a transaction, which can be tried again"""


class PostgresRefusesWrites(TransientError):
    """PostgreSQL refuses writes"""


class MarkerMoved(TransientError):
    """The marker in Redis vanished or kept moving while batches were settled; the next run continues from the ledger"""


class RedisFailed(ViewerPipelineError):
    """Redis refused a command"""


class RedisRefusesConnections(RedisFailed):
    """No connection to Redis, and trying again does not help"""


class PostgresFailed(ViewerPipelineError):
    """PostgreSQL refused a statement"""


class PostgresRefusesConnections(PostgresFailed):
    """No connection to PostgreSQL, and trying again does not help"""


class PostgresDeniesRight(PostgresFailed):
    """PostgreSQL denies a right"""


class SchemaMissing(PostgresFailed):
    """The schema `viewer` is missing or too old in this database"""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, f"run `{command_to_type('migrate')}`")


class MarkerUnreadable(ViewerPipelineError):
    """A marker in Redis cannot be read"""


class SubscriberStateUnreadable(ViewerPipelineError):
    """The hash viewer:subscriber in Redis cannot be read"""


class NotFlushed(ViewerPipelineError):
    """What is pending stays in Redis"""


class NotReceived(ViewerPipelineError):
    """Nobody received the message"""


class CannotUndo(ViewerPipelineError):
    """Nothing was undone"""


class CannotDecide(ViewerPipelineError):
    """Nothing was counted or dropped"""


class CannotAdopt(ViewerPipelineError):
    """Nothing was changed"""


class OldVersionRuns(ViewerPipelineError):
    """Version 0.1.0 still runs, and this is an upgrade for which all of it must be stopped"""


class DaemonRuns(ViewerPipelineError):
    """Dagster's daemon of another `up` runs on these servers, and there must be exactly one"""


class BadCounts(ViewerPipelineError):
    """Nothing was imported"""


class HomeInUse(ViewerPipelineError):
    """Another `up` uses this directory"""


class UpRunsDagster(ViewerPipelineError):
    """`up` runs the code server, the daemon and the UI itself, and a second one would break them"""


class EmbeddedServerError(ViewerPipelineError):
    """An embedded server could not be started"""
