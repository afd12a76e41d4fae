"""A bar chart of the views per hour for the UI, as SVG inside Markdown. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import date

from viewer_pipeline.text_formatting import pluralize

BAR, STEP, HEIGHT, TOP, LEFT = 18, 22, 120, 24, 24
BASE, WIDTH = TOP + HEIGHT, 2 * LEFT + 24 * STEP
INLINE_CHARACTERS = 999  # the longest Markdown that the UI shows without a click


def embed_hourly_svg_in_markdown(day: date, hours: Sequence[int]) -> str:
    """Return the chart of 24 bars as Markdown. The UI shows images whose address is a `data:` URL."""
    svg = b64encode(render_hourly_svg(hours).encode()).decode()
    peak = max(range(len(hours)), key=lambda hour: hours[hour])
    caption = (
        f"most from {peak:02d} to {(peak + 1) % 24:02d} h UTC: {pluralize(hours[peak], 'view')}"
        if sum(hours)
        else "no views"
    )
    return f"![views per hour](data:image/svg+xml;base64,{svg})\n\n{day}: {caption}"


def render_hourly_svg(hours: Sequence[int]) -> str:
    """Return the drawing, in few characters: each bar is a vertical line of one path."""
    top = max(*hours, 1)
    bars = "".join(
        f"M{LEFT + BAR // 2 + hour * STEP} {BASE}v-{round(HEIGHT * views / top)}"
        for hour, views in enumerate(hours)
        if views
    )
    labels = "".join(
        f'<text x="{LEFT + BAR // 2 + hour * STEP}" y="{BASE + 16}">{hour:02d}</text>' for hour in (0, 6, 12, 18)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{BASE + TOP}" fill="#888"'
        f' font-family="sans-serif" font-size="11" text-anchor="middle">{labels}'
        f'<path stroke="#4f6bed" stroke-width="{BAR}" d="{bars}"/></svg>'
    )
