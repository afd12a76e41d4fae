"""Why nothing was persisted lately, in words. Pure."""

from __future__ import annotations

from typing import Any

from viewer_pipeline.monitoring.dagster_rules import COORDINATOR, LAUNCHERS, NEVER_RAN, in_words
from viewer_pipeline.settings import Settings

LATELY_SECONDS = 60.0  # a flush that is younger: something was done


def why_nothing(found: dict[str, Any], settings: Settings, now: float) -> list[str]:
    """Return the reasons, obstacles first; empty when a flush was committed lately. `found` as of `read_status`."""
    flushes = found["flushes"]
    if flushes and now - flushes[0]["committed_at"].timestamp() < LATELY_SECONDS:
        return []
    since = f"for {in_words(now - flushes[0]['committed_at'].timestamp())}" if flushes else "so far"
    reasons = [*_obstacles(found), *_skips(found), *_silence(found, settings)]
    if found["pending_vods"] and not _obstacles(found):
        every = settings.sensor_interval_seconds
        reasons.append(f"{found['pending_vods']} VODs wait for the sensor, which looks every {every} s")
    return [f"nothing was persisted {since}:", *reasons]


def _obstacles(found: dict[str, Any]) -> list[str]:
    """Return what keeps flushes from being launched or from succeeding."""
    if not found["dagster"]:
        return [_once(found["daemons"])]
    said = _dead(found["daemons"])
    said += [found[name]["said"] for name in ("sensor", "sweep") if found[name]["state"] != "healthy"]
    if found["flush_runs"]["state"] != "healthy":
        said.append(found["flush_runs"]["said"])
    return said


def _dead(daemons: dict[str, Any]) -> list[str]:
    """Say which daemons are dead or complain; all of them in one line, because they are one process."""
    bad = {name: daemons[name]["said"] for name in (COORDINATOR, *LAUNCHERS) if daemons[name]["state"] != "healthy"}
    if len(bad) > len(LAUNCHERS) and len(set(bad.values())) == 1:
        return [f"Dagster's daemon {bad[COORDINATOR]}"]
    return [f"Dagster's daemon {name} {said}" for name, said in bad.items()]


def _once(daemons: dict[str, Any]) -> str:
    said = str(daemons[COORDINATOR]["said"])
    return f"{said}: start its daemon, or `viewer-pipeline up`" if said == NEVER_RAN else said


def _skips(found: dict[str, Any]) -> list[str]:
    """Return what sensor and sweep said when they looked last."""
    names = {"sensor": "the sensor", "sweep": "the sweep"}
    return [
        f"{names[name]} skipped {in_words(found[name]['seconds_since_tick'])} ago: {found[name]['skip_reason']}"
        for name in names
        if found[name].get("skip_reason")
    ]


def _silence(found: dict[str, Any], settings: Settings) -> list[str]:
    """Return whether anything was heard at all."""
    said = []
    if not found["subscriber"]["listens"]:
        said.append(f"nobody listens to {settings.pubsub_channel}: start `viewer-pipeline worker`")
    if not found["pending_vods"]:
        silent = found["subscriber"]["seconds_since_message"]
        last = "no message was heard yet" if silent is None else f"the last message was heard {in_words(silent)} ago"
        said.append(f"nothing is waiting: no VOD is announced, and {last}")
    return said
