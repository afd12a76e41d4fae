"""State and counts of the subscriber since its start. It writes them; health and metrics read them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

State = Literal["starting", "listening", "standby", "reconnecting", "stopping"]
Loss = Literal["closed", "silent", "error", "moved"]


@dataclass
class SubscriberStats:
    """Single fields are replaced, never changed half-way: another thread may read them at any time.

    A clock that is set changes no duration: those are measured with `time.monotonic()`.
    """

    state: State = "starting"
    since: float = field(default_factory=time.monotonic)  # when the state began
    reason: str = ""  # of a reconnect
    refusal_reason: str = ""  # why Redis does not accept folds now; empty while it does
    holds_lease: bool = False
    last_message: float | None = None  # when it was received, in Unix seconds
    last_message_monotonic: float | None = None
    received: int = 0  # messages on the producers' channel, valid or not
    accepted: int = 0  # of them, messages that carry or announce views
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> messages
    folded: int = 0  # segments written to Redis
    folded_views: int = 0  # with PUBSUB_MODE=announce: announcements; so in the fields below
    dropped_views: int = 0  # received, and folded by another worker, or lost at a stop
    losses: Counter[Loss] = field(default_factory=Counter)  # subscriptions that broke: messages may have been missed
    takeovers: int = 0
    in_memory: int = 0  # views received and not folded yet

    def enter_state(self, state: State, reason: str = "") -> None:
        """Change the state, if it is another one."""
        if state != self.state:
            self.since = time.monotonic()
        self.state, self.reason = state, reason

    def note_message(self) -> None:
        """Note that a message was received now."""
        self.last_message, self.last_message_monotonic = time.time(), time.monotonic()
