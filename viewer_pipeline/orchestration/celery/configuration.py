"""How runs are sent through Celery: the same for Dagster's daemon, which sends them, and for the workers."""

from __future__ import annotations

from typing import Any

VISIBILITY_SECONDS = 30  # after which a task is given to another worker if its worker has not acknowledged it
RESTORE_SECONDS = 5  # how often each worker looks for such tasks
SERVER_SECONDS = 5.0  # of an answer of the broker

CONFIGURATION: dict[str, Any] = {
    # A task is acknowledged when its run has ended, so that one that was lost with its worker before the run began is
    # given to another worker. One that is given to a second worker while its run is active does nothing (the lease).
    "task_acks_late": True,
    "broker_transport_options": {
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": RESTORE_SECONDS,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": RESTORE_SECONDS,  # else a killed worker may keep others from that for 300 s
        "socket_timeout": SERVER_SECONDS,
        "socket_connect_timeout": SERVER_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "interval_max": 0.5},
    "broker_connection_timeout": SERVER_SECONDS,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # a worker waits for its broker
    "task_ignore_result": True,  # Dagster has the state of the run
    "worker_prefetch_multiplier": 1,  # no worker keeps a task that another could execute
    "worker_max_tasks_per_child": 1,  # each run has a process of its own, a fork of the worker that imported everything
    "worker_hijack_root_logger": False,
    "worker_enable_remote_control": True,  # how a run is terminated
}
