"""Bar charts of the status page, as SVG that takes its colours from the stylesheet. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from viewer_pipeline.streams import format_seq
from viewer_pipeline.text_formatting import pluralize

HEIGHT = 100  # of the drawing, in units; the page stretches it


class Bar(NamedTuple):
    """One bar: None draws nothing, because nothing is known. `label`: what it is of, for its tooltip."""

    value: float | None
    label: str


@dataclass(frozen=True)
class BarChart:
    """A chart with its text alternative. `first`, `last`: what the ends of the horizontal axis are.

    `unit`: of the values, in words that can follow a number. `empty`: a sentence for a chart without values.
    """

    title: str
    note: str
    unit: str
    bars: Sequence[Bar]
    first: str
    last: str
    empty: str

    @property
    def is_empty(self) -> bool:
        """Whether there is no bar to see."""
        return not any(bar.value for bar in self.bars)

    @property
    def peak(self) -> float:
        """The highest value; 0 where there is none."""
        return max((bar.value for bar in self.bars if bar.value is not None), default=0.0)

    @property
    def peak_text(self) -> str:
        """The highest value, at the top of the vertical axis."""
        return f"{format_number(self.peak)} {self.unit}"

    @property
    def summary(self) -> str:
        """The text alternative."""
        known = [bar for bar in self.bars if bar.value]
        if not known:
            return f"{self.title}: {self.empty}"
        highest, last = max(known, key=lambda bar: bar.value or 0.0), known[-1]
        return f"{self.title}: highest {self._label_and_value(highest)}; last {self._label_and_value(last)}"

    def svg(self) -> str:
        """Return the drawing: one unit of width for each bar, each with a tooltip."""
        scale = HEIGHT / (self.peak or 1.0)
        rects = [
            f'<rect x="{number}.1" width=".8" y="{HEIGHT - bar.value * scale:.1f}" height="{bar.value * scale:.1f}">'
            f"<title>{escape(self._label_and_value(bar))}</title></rect>"
            for number, bar in enumerate(self.bars)
            if bar.value
        ]
        return (
            f'<svg role="img" aria-label="{escape(self.summary)}" viewBox="0 0 {max(len(self.bars), 1)} {HEIGHT}"'
            f' preserveAspectRatio="none">{"".join(rects)}</svg>'
        )

    def _label_and_value(self, bar: Bar) -> str:
        return f"{bar.label}: {format_number(bar.value or 0.0)} {self.unit}"


def format_number(value: float) -> str:
    """Return a number with thousands separators: whole from 10 on, else with up to two decimals."""
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".")


def format_flush_number(seq: int) -> str:
    """Return the number of a flush with thousands separators: `1,234`, or `2/1,234` for one of stream 2."""
    stream, separator, number = format_seq(seq).rpartition("/")
    return f"{stream}{separator}{int(number):,}"


def count_noun(number: int, noun: str) -> str:
    """Return a number with thousands separators and its noun: `1,234 views`."""
    return pluralize(number, noun).replace(str(number), format_number(number), 1)
