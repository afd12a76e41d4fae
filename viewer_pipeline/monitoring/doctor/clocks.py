"""The clocks of both servers and of this machine. Pure."""

from __future__ import annotations

from viewer_pipeline.monitoring.doctor.finding import Finding

APART_SECONDS = 2.0


def judge_clocks(postgres: float | None, redis: float | None) -> Finding | None:
    """Judge by how many seconds the servers are before this machine; None for one that is out of reach."""
    known = {name: ahead for name, ahead in (("PostgreSQL", postgres), ("Redis", redis)) if ahead is not None}
    if not known:
        return None
    clocks = {"this machine": 0.0, **known}
    apart = round(max(clocks.values()) - min(clocks.values()), 3)
    said = ", ".join(f"{name} {'+' if ahead >= 0 else '-'}{abs(ahead):.3f} s" for name, ahead in known.items())
    figures = {"apart_seconds": apart}
    if apart > APART_SECONDS:
        do = "let NTP set the clocks of all machines"
        return Finding("clock", "warning", f"clocks are {apart} s apart; against this machine: {said}", do, figures)
    return Finding("clock", "ok", f"clocks agree; against this machine: {said}", figures=figures)
