"""Which PUBSUB_MODE the producers need, and whether it is the one in force. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from viewer_pipeline.monitoring.doctor.evidence import Evidence
from viewer_pipeline.monitoring.doctor.finding import Finding, State
from viewer_pipeline.setting_types import PubSubMode

Needs = Literal["announce", "increment", "mixed", "unknown", "no traffic"]

NONE, ALL = 0.1, 0.9  # share of the messages' views that producers count themselves: none of them, all of them
MORE = 1.5  # above this, somebody else adds to the counters as well
FEW_VIEWS = 5  # that could be compared: fewer say something only if they agree
FEW_VODS = 3  # of which the first sight must agree, where no VOD was heard of twice
EXAMPLES = 3
STOP = "stop whatever else adds messages to the counters, such as an older worker, and run doctor again"
LONGER = "run it while people watch, or longer: --seconds 60"


@dataclass(frozen=True)
class Heard:
    """What came of the listening."""

    seconds: float
    messages: int
    rejected: int
    views: int
    evidence: Evidence
    channel: str
    mode: PubSubMode  # of the settings
    others: int = 0  # subscribers of the channel that are no worker of ours


class Said(NamedTuple):
    """The beginning of a finding."""

    state: State
    what: str
    do: str = ""


@dataclass(frozen=True)
class Weighed:
    """The evidence, weighed: `mode` is what the worker at work does, or else the setting."""

    needs: Needs
    mode: PubSubMode
    seen: bool  # whether the worker was seen to do so
    compared: int  # views that were heard and could be compared
    counted: int  # of them, by producers
    yes: list[str]  # VODs whose producers clearly count
    no: list[str]  # and those whose producers clearly do not

    @property
    def share(self) -> float:
        """How much of what was heard the producers count themselves."""
        return self.counted / self.compared if self.compared else 0.0


def weigh(heard: Heard) -> Weighed:
    """Find out what the producers need."""
    adds = heard.evidence.worker_adds()
    mode: PubSubMode = heard.mode if adds is None else "increment" if adds else "announce"
    compared = heard.evidence.heard.total()
    counted = heard.evidence.counted(worker_adds=mode == "increment").total()
    yes, no = heard.evidence.clear(worker_adds=mode == "increment")
    weighed = Weighed("unknown", mode, adds is not None, compared, counted, yes, no)
    needs: Needs = "announce" if weighed.share >= ALL else "increment"
    between = NONE < weighed.share < ALL
    if not heard.messages:
        needs = "no traffic"
    elif compared < FEW_VIEWS and (between or not compared):
        needs = _at_first_sight(heard, mode)
    elif between or (yes and no):
        needs = "mixed"
    return Weighed(needs, mode, adds is not None, compared, counted, yes, no)


def _at_first_sight(heard: Heard, mode: PubSubMode) -> Needs:
    """Return what the counters of VODs tell that were heard of once. By chance one of them may tell anything."""
    just, none = heard.evidence.at_first_sight(worker_adds=mode == "increment")
    if just >= FEW_VODS and not none:
        return "announce"
    return "increment" if none >= FEW_VODS and not just else "unknown"


def judge_producers(heard: Heard) -> Finding:
    """Say which mode the producers need, with the evidence; a problem where it is not the one in force."""
    weighed = weigh(heard)
    said = _said(heard, weighed)
    unheard = heard.evidence.unheard()
    parts = [said.what]
    if unheard:
        parts.append(f"{len(unheard)} counters gained {unheard.total()} views that nobody announced; sweeps find those")
    if heard.evidence.lowered:
        parts.append(f"{len(heard.evidence.lowered)} counters were lowered, and not by a flush: by an older worker?")
    if weighed.seen and weighed.mode != heard.mode:
        parts.append(f"the worker does as with PUBSUB_MODE={weighed.mode}, the setting here is {heard.mode}")
        said = Said("problem", said.what, said.do or "start worker and doctor with the same settings")
    return Finding(
        "producers", said.state, f"{'; '.join(parts)} ({_evidence(heard, weighed)})", said.do, _figures(heard, weighed)
    )


def _said(heard: Heard, weighed: Weighed) -> Said:
    match weighed.needs:
        case "no traffic":
            do = f"{LONGER}; producers must publish on PUBSUB_CHANNEL={heard.channel}"
            return Said("note", f"no traffic seen on {heard.channel}", do)
        case "unknown":
            return Said("note", "cannot tell whether your producers count: too little of it could be compared", LONGER)
        case "mixed":
            do = "let all producers count and publish (announce), or all only publish (increment)"
            return Said("problem", f"some producers count and some do not{_examples(weighed)}", do)
        case "increment":
            return _publish_only(weighed)
    return _counting(heard, weighed)


def _publish_only(weighed: Weighed) -> Said:
    if weighed.mode == "increment":
        return Said("ok", "your producers do not count: use increment, as is set")
    do = "set PUBSUB_MODE=increment and restart the worker; until then these views are not counted"
    return Said("problem", "your producers do not count: use increment", do)


def _counting(heard: Heard, weighed: Weighed) -> Said:
    if weighed.share > MORE:
        what = f"your producers already count: use announce; counters gain {weighed.share:.1f} times what messages say"
        return Said("problem", what, f"{STOP}; PUBSUB_MODE=announce")
    if weighed.mode != "announce":
        do = "set PUBSUB_MODE=announce and restart the worker; with increment every view counts twice"
        return Said("problem", "your producers already count: use announce", do)
    if heard.others:
        what = f"your producers already count, or one of {heard.others} subscribers that are no worker of ours does"
        return Said("warning", f"{what}: use announce, as is set", STOP)
    return Said("ok", "your producers already count: use announce, as is set")


def _examples(weighed: Weighed) -> str:
    if not weighed.yes or not weighed.no:
        return ""
    yes, no = (", ".join(some[:EXAMPLES]) for some in (weighed.yes, weighed.no))
    return f": views of {yes} are counted, views of {no} are not"


def _evidence(heard: Heard, weighed: Weighed) -> str:
    vods = sum(1 for views in heard.evidence.heard.values() if views)
    said = f"{heard.messages} messages with {heard.views} views in {heard.seconds:g} s"
    if weighed.compared < FEW_VIEWS and heard.evidence.sights:
        just, none = heard.evidence.at_first_sight(worker_adds=weighed.mode == "increment")
        return (
            f"{said}; of {len(heard.evidence.sights)} VODs that were heard of once,"
            f" {just} had these views in their counters and no others, {none} had none"
        )
    return (
        f"{said}; of {vods} VODs {weighed.compared} views could be compared: producers added {weighed.counted}"
        f" themselves, a worker folded {heard.evidence.folded.total()}"
    )


def _figures(heard: Heard, weighed: Weighed) -> dict[str, Any]:
    return {
        "needs": weighed.needs,
        "mode": heard.mode,
        "worker_adds": weighed.mode == "increment" if weighed.seen else None,
        "messages": heard.messages,
        "rejected": heard.rejected,
        "views": heard.views,
        "compared_vods": sum(1 for views in heard.evidence.heard.values() if views),
        "compared_views": weighed.compared,
        "counted_views": weighed.counted,
        "folded_views": heard.evidence.folded.total(),
        "gained_views": heard.evidence.gained.total(),
        "first_sights": len(heard.evidence.sights),
        "unheard_views": heard.evidence.unheard().total(),
        "looks": heard.evidence.looks,
        "looks_not_compared": heard.evidence.unknown,
    }
