"""Actions of an operator in Dagster's UI, and the pages they open."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from viewer_pipeline_tests.support.waiting import wait_until

STEPS = ("drain_counters", "aggregate_counts", "bulk_upsert", "verify_consistency")
# The share of a chart's width that has colour. Axes, grid and text are grey.
COLOURED = """canvas => {
    const {width, height} = canvas, data = canvas.getContext('2d').getImageData(0, 0, width, height).data
    let first = width, last = 0
    for (let at = 0; at < data.length; at += 4) {
        const [red, green, blue, alpha] = data.slice(at, at + 4)
        if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 100) {
            const x = at / 4 % width
            first = Math.min(first, x)
            last = Math.max(last, x)
        }
    }
    return last <= first ? 0 : (last - first) / width
}"""

# The texts of the smallest boxes that have a chart and a text.
NAMES_OF_PLOTS = """() => [...document.querySelectorAll('canvas')].map(canvas => {
    let box = canvas
    while (!box.innerText?.trim()) box = box.parentElement
    return box.innerText.trim()
})"""


@dataclass(frozen=True)
class Operator:
    """An operator, who takes screenshots."""

    page: Page
    ui: str
    screenshots: Path

    def screenshot(self, name: str) -> None:
        """Take a screenshot of the page, once it has loaded without an error."""
        self.page.mouse.move(0, 0)  # else a tooltip under it stays open
        expect(self.page.locator("[class*=popover-content]")).to_have_count(0)
        expect(self.page.get_by_role("region", name="Notifications")).to_have_text("")
        for message in ("Loading", "not responding", "unexpected error", "GraphQL"):
            expect(self.page.get_by_text(message)).to_have_count(0)
        self.page.screenshot(path=self.screenshots / f"{name}.png", animations="disabled")

    def open(self) -> None:
        """Open the UI."""
        self.page.goto(self.ui)

    def leave(self) -> str:
        """Open an empty page: one that shows progress costs half a core. Return the address of the page before."""
        here = self.page.url
        self.page.goto("about:blank")
        return here

    def go(self, section: str) -> None:
        """Choose a section at the left."""
        self.page.get_by_role("navigation").get_by_text(section, exact=True).click()

    def tab(self, name: str) -> None:
        """Choose a tab of the page."""
        self.page.get_by_role("tab", name=name, exact=True).click()

    def smallest(self, text: str, *inside: Locator) -> Locator:
        """Return the last of the innermost boxes that match the text and contain these elements."""
        box = self.page.locator("div").filter(has_text=re.compile(text))
        for element in inside:
            box = box.filter(has=element)
        return box.last

    def open_asset(self, name: str) -> None:
        """Open the page of an asset through the catalogue."""
        self.go("Catalog")
        self.page.get_by_role("link").filter(has_text=name).first.click()
        expect(self.page).to_have_url(re.compile(f"/assets/{name}"))
        expect(self.page.get_by_text("Code location")).to_be_visible()

    def open_automation(self, kind: str, name: str) -> None:
        """Open the page of a schedule or a sensor through their list."""
        self.go("Automation")
        self.page.get_by_role("link", name=name).click()
        expect(self.page.get_by_text(f"{kind} in")).to_be_visible()

    def press_materialize(self) -> None:
        """Press the button of an asset's page."""
        self.page.get_by_role("button", name=re.compile("Materialize")).first.click()

    def backfill_all_days(self) -> int:
        """Choose all days in the dialog, launch, and go to the backfill's page; return the number of days."""
        self.open_asset("daily_views")
        self.press_materialize()
        dialog = self.page.get_by_role("dialog")
        expect(dialog.get_by_text("Backfills all partitions in a single run.")).to_be_visible()
        dialog.get_by_role("button", name="All", exact=True).click()
        days = dialog.get_by_text(re.compile(r"^[1-9]\d* partitions$")).inner_text().split()[0]
        dialog.get_by_role("button", name="Launch backfill").click()
        self.page.get_by_role("region", name="Notifications").get_by_text("View").click()
        expect(self.page.get_by_text("Partition selection")).to_be_visible()
        return int(days)

    def open_run(self, trigger: str) -> None:
        """Open a successful run with this trigger from the list of runs."""
        self.go("Runs")
        link = self.page.get_by_role("link", name="View", exact=True)
        row = self.smallest(f"viewer/trigger: {trigger}.*Success", link)
        row.get_by_role("link", name="View", exact=True).click()
        expect(self.page.get_by_text("Re-execute")).to_be_visible()

    def show_steps(self) -> None:
        """Draw the steps of the run one below the other, whatever time they took, with room for all of them."""
        self.page.get_by_role("button", name="gantt_flat").click()
        below = self.page.get_by_role("button", name="logs_structured").bounding_box()
        assert below is not None
        x, y = below["x"] + 600, below["y"] - 14  # on the border between steps and events
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y + 60, steps=5)
        self.page.mouse.up()
        wait_until(lambda: len(set(map(self._top, STEPS))) == len(STEPS), 60, "each step on a line of its own")

    def show_output(self, name: str) -> None:
        """Show `stdout` or `stderr` of the run's process."""
        self.page.get_by_role("button", name=f"logs_{name}").click()
        self.page.get_by_role("combobox").click()
        self.page.get_by_role("menuitem", name=re.compile(r"^pid: \d+ \(4 steps\)$")).click()

    def _top(self, step: str) -> float:
        box = self.page.get_by_text(f"view_counts.{step}", exact=True).first.bounding_box()
        return box["y"] if box else 0

    def chart(self, name: str) -> Locator:
        """Return a plot of the asset whose page is open."""
        return self.smallest(f"^{name}$", self.page.locator("canvas")).locator("canvas")

    def show_plots(self) -> None:
        """Change from the table of metadata to the plots."""
        self.page.get_by_role("button", name="Plots").click()

    def wait_for_line(self, name: str) -> None:
        """Bring a plot into sight, and wait until its line takes more than half of its width."""
        chart = self.chart(name)
        chart.scroll_into_view_if_needed()
        wait_until(lambda: float(chart.evaluate(COLOURED)) > 0.5, 30, f"a line in the plot of {name}")

    def plot_names(self) -> list[str]:
        """Return the names above the plots, in their order."""
        names: list[str] = self.page.evaluate(NAMES_OF_PLOTS)
        return names

    def open_graph(self) -> None:
        """Show all assets, with their groups unfolded."""
        self.go("Lineage")
        for group in ("views", "reconciliation"):
            folded = self.page.locator("foreignObject").filter(has=self.page.locator(f"[data-tooltip={group}]"))
            folded.last.click()
            expect(self.page).to_have_url(re.compile(f"expanded=.*{group}"))
        self.page.reload()  # fits the window

    def node(self, name: str) -> Locator:
        """Return an asset of the graph; the box of a group has the name of the group alone."""
        return self.page.locator("foreignObject").filter(has_text=re.compile(f"^{name}."))
