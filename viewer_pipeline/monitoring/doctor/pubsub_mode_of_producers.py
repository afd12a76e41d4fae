"""Which PUBSUB_MODE the producers need: whether each adds its views to the counter itself, or only publishes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from viewer_pipeline.checks import CheckResult
from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import RedisFailed
from viewer_pipeline.flush.redis_store import RedisStore
from viewer_pipeline.monitoring.channel_subscribers import read_subscribers
from viewer_pipeline.monitoring.doctor.redis_monitor import ObservedViews, watch_views_with_monitor
from viewer_pipeline.setting_types import PubSubMode
from viewer_pipeline.settings import Settings
from viewer_pipeline.text_formatting import pluralize, views_of_vods

NAME = "pubsub_mode"
MIN_VIEWS = 5  # in messages; fewer give no result
NONE_SHARE, ALL_SHARE = 0.1, 0.9  # of the views in messages that producers count themselves
DOUBLED = 1.5  # additions to counters per view in a message
MARGIN_SECONDS = 0.5  # an addition that belongs to a message comes at most so long before or after it
MAX_EXAMPLES = 3

BY_HAND = (
    f"run `{command_to_type('doctor --watch-producers 30')}` as a Redis user that may run MONITOR; or by hand: stop all"
    " workers, play a VOD that nobody else watches, and read its counter: set PUBSUB_MODE=announce if it rose, else"
    " increment"
)
LONGER = "repeat it while people watch, or with more seconds; PUBSUB_CHANNEL must be the channel of the producers"
SAME = "let all producers count and publish (announce), or all only publish (increment)"
STOP = "run the worker with PUBSUB_MODE={mode}, and stop other programs that add messages to counters"
SET = {
    "announce": "set PUBSUB_MODE=announce and restart the worker; with increment every view counts twice",
    "increment": "set PUBSUB_MODE=increment and restart the worker; until then these views are not counted",
}


@dataclass
class ProducerTraffic:
    """Sums of views by VOD. `producers` also has what was added within the margins before and after the messages."""

    messages: Counter[str] = field(default_factory=Counter)
    announced: set[str] = field(default_factory=set)  # VODs with a message that carries no views
    producers: Counter[str] = field(default_factory=Counter)
    additions: Counter[str] = field(default_factory=Counter)  # by producers and workers, without the margins

    @classmethod
    def of(cls, observed: Iterable[ObservedViews], seconds: float) -> ProducerTraffic:
        """Sum up what was observed in `seconds`, with a margin before and after."""
        traffic = cls()
        for item in observed:
            between = MARGIN_SECONDS <= item.at <= MARGIN_SECONDS + seconds
            if item.source == "producer":
                traffic.producers[item.vod_id] += item.views
            if between:
                in_message = item.source in ("message", "announcement")
                (traffic.messages if in_message else traffic.additions)[item.vod_id] += item.views
            if item.source == "announcement":
                traffic.announced.add(item.vod_id)
        return traffic

    @property
    def mode_of_all_producers(self) -> PubSubMode | None:
        """The mode that the producers need; None where some count and some do not."""
        shares = {vod_id: min(1, self.producers[vod_id] / views) for vod_id, views in self.messages.items()}
        clear = {shares[vod_id] for vod_id, views in self.messages.items() if views >= MIN_VIEWS}
        share = sum(shares[vod_id] * views for vod_id, views in self.messages.items()) / self.messages.total()
        if NONE_SHARE < share < ALL_SHARE or {0, 1} <= clear:
            return None
        return "announce" if share >= ALL_SHARE else "increment"

    @property
    def additions_per_view(self) -> float | None:
        """How often each view in a message was added to its counter, by anybody; None if no message carries views."""
        counted = self.messages.keys() - self.announced
        views = sum(self.messages[vod_id] for vod_id in counted)
        return sum(self.additions[vod_id] for vod_id in counted) / views if views else None

    def examples(self) -> str:
        """Return VODs whose views are counted by producers, and VODs whose views are not."""
        counted = [vod_id for vod_id in self.messages if self.producers[vod_id]][:MAX_EXAMPLES]
        missing = [vod_id for vod_id in self.messages if not self.producers[vod_id]][:MAX_EXAMPLES]
        return f"views of {', '.join(counted)} are counted, views of {', '.join(missing) or 'others'} are not"


def check_producers(settings: Settings, store: RedisStore, seconds: float) -> list[CheckResult]:
    """Watch the producers for `seconds` and evaluate them; the result is unknown for 0. Raises RedisUnavailable."""
    if not seconds:
        message = f"PUBSUB_MODE={settings.pubsub_mode} is not compared with the producers"
        return [CheckResult(NAME, "unknown", message, remedy=BY_HAND)]
    others = read_subscribers(store, settings.pubsub_channel).others
    try:
        traffic = ProducerTraffic.of(watch_views_with_monitor(settings, seconds + 2 * MARGIN_SECONDS), seconds)
    except RedisFailed as error:
        return [CheckResult(NAME, "unknown", f"Redis refuses MONITOR: {error}", remedy=BY_HAND)]
    return [evaluate_producers(traffic, settings, others)]


def evaluate_producers(traffic: ProducerTraffic, settings: Settings, others: int) -> CheckResult:
    """Whether the producers need the mode of the settings. `others`: subscribers that are no workers. Pure."""
    mode, views = settings.pubsub_mode, traffic.messages.total()
    details: dict[str, Any] = {"mode": mode, "needed_mode": None, "views": views, "vods": len(traffic.messages)}
    if views < MIN_VIEWS:
        message = f"{pluralize(views, 'view')} published on {settings.pubsub_channel}, and {MIN_VIEWS} are needed"
        return CheckResult(NAME, "unknown", message, details, LONGER)
    needed, times = traffic.mode_of_all_producers, traffic.additions_per_view
    details |= {"needed_mode": needed, "additions_per_view": None if times is None else round(times, 2)}
    seen = f"seen in {views_of_vods(views, len(traffic.messages))}"
    if needed is None:
        message = f"some producers count themselves and some only publish: {traffic.examples()} ({seen})"
        return CheckResult(NAME, "unhealthy", message, details, SAME)
    habit = "count themselves" if needed == "announce" else "only publish"
    if needed != mode:
        return CheckResult(
            NAME, "unhealthy", f"producers {habit}, and PUBSUB_MODE is {mode} ({seen})", details, SET[needed]
        )
    if times is not None and times > DOUBLED:
        message = f"views are counted {times:.1f} times per message ({seen})"
        return CheckResult(NAME, "unhealthy", message, details, STOP.format(mode=mode))
    message = f"producers {habit}, and PUBSUB_MODE is {mode} ({seen})"
    if needed == "announce" and others:
        message += f"; or the channel's {pluralize(others, 'other subscriber')} may count"
        return CheckResult(NAME, "degraded", message, details, STOP.format(mode=mode))
    return CheckResult(NAME, "healthy", message, details)
