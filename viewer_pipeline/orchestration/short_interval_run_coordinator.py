"""The queue of runs, checked twice a second: Dagster's setting takes whole seconds."""

from dagster._core.run_coordinator import QueuedRunCoordinator


class ShortIntervalRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue with a shorter interval. Its loop waits in steps of half a second: 0.4 s makes it one step."""

    @property
    def dequeue_interval_seconds(self) -> float:  # type: ignore[override] # of int: it is compared and added only
        """Seconds between two checks of the queue."""
        return 0.4
