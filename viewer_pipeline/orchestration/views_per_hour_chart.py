"""A bar chart of the views per hour for the UI, as SVG inside Markdown. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from viewer_pipeline.text_formatting import pluralize

BAR, STEP, HEIGHT, TOP, LEFT = 18, 22, 120, 24, 24
BASE = TOP + HEIGHT
LABELED_HOURS = (0, 6, 12, 18)
INLINE_CHARACTERS = 999  # the longest Markdown that the UI shows without a click


def embed_hourly_svg_in_markdown(day: date, hours: Sequence[tuple[datetime, int]], zone: str) -> str:
    """Return the chart of a bar for each hour as Markdown. The UI shows images whose address is a `data:` URL.

    `hours`: when each begins, in the time zone of that name, and its views; 23 or 25 where the clocks change.
    """
    svg = b64encode(render_hourly_svg(hours).encode()).decode()
    peak, views = max(hours, key=lambda hour: hour[1], default=(None, 0))
    caption = (
        f"most from {peak:%H:%M} to {_after_an_hour(peak):%H:%M} {zone}: {pluralize(views, 'view')}"
        if peak and views
        else "no views"
    )
    return f"![views per hour](data:image/svg+xml;base64,{svg})\n\n{day}: {caption}"


def render_hourly_svg(hours: Sequence[tuple[datetime, int]]) -> str:
    """Return the drawing, in few characters: each bar is a vertical line of one path."""
    top = max([views for _, views in hours], default=0) or 1
    bars = "".join(
        f"M{_x(place)} {BASE}v-{round(HEIGHT * views / top)}" for place, (_, views) in enumerate(hours) if views
    )
    labels = "".join(
        f'<text x="{_x(place)}" y="{BASE + 16}">{moment:%H}</text>'
        for place, (moment, _) in enumerate(hours)
        if moment.hour in LABELED_HOURS
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * LEFT + len(hours) * STEP}" height="{BASE + TOP}"'
        f' fill="#888" font-family="sans-serif" font-size="11" text-anchor="middle">{labels}'
        f'<path stroke="#4f6bed" stroke-width="{BAR}" d="{bars}"/></svg>'
    )


def _after_an_hour(moment: datetime) -> datetime:
    return (moment.astimezone(UTC) + timedelta(hours=1)).astimezone(moment.tzinfo)


def _x(place: int) -> int:
    return LEFT + BAR // 2 + place * STEP
