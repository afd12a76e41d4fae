"""A bar chart of the views per hour for the UI, as SVG inside Markdown. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from datetime import date

from viewer_pipeline.text_formatting import pluralize

BAR, GAP, HEIGHT, MARGIN = 18, 4, 120, 24


def embed_hourly_svg_in_markdown(day: date, hours: Sequence[int]) -> str:
    """Return the chart of 24 bars as Markdown. The UI shows images whose address is a `data:` URL."""
    svg = b64encode(render_hourly_svg(day, hours).encode()).decode()
    peak = max(range(len(hours)), key=lambda hour: hours[hour])
    caption = (
        f"most from {peak:02d} to {(peak + 1) % 24:02d} h UTC: {pluralize(hours[peak], 'view')}"
        if sum(hours)
        else "no views"
    )
    return f"![views per hour](data:image/svg+xml;base64,{svg})\n\n{day}: {caption}"


def render_hourly_svg(day: date, hours: Sequence[int]) -> str:
    """Return the drawing; the tooltip of each bar has its number."""
    width, top = MARGIN * 2 + len(hours) * (BAR + GAP), max(*hours, 1)
    shapes = []
    for hour, views in enumerate(hours):
        x, height = MARGIN + hour * (BAR + GAP), round(HEIGHT * views / top, 1)
        shapes.append(
            f'<rect x="{x}" y="{MARGIN + HEIGHT - height}" width="{BAR}" height="{height}">'
            f"<title>{hour:02d} h: {views}</title></rect>"
        )
        if hour % 3 == 0:
            shapes.append(f'<text x="{x + BAR / 2}" y="{MARGIN + HEIGHT + 16}" text-anchor="middle">{hour:02d}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT + 2 * MARGIN}"'
        ' font-family="sans-serif" font-size="11" fill="#4f6bed">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{MARGIN}" y="15">views per hour (UTC), {day}</text>'
        f"{''.join(shapes)}</svg>"
    )
