"""Pages that are generated from the code are up to date; `make docs` renews them."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tools.reference import (
    DOCS,
    MORE_ON_COMMANDS,
    MORE_ON_SETTINGS,
    SECTIONS,
    commands_page,
    pages,
    settings_page,
)
from tools.site import loads_from_other_hosts
from viewer_pipeline.cli.main import main as viewer_pipeline
from viewer_pipeline.settings import Settings


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_page_is_renewed(page: Path) -> None:
    """Settings, commands and decisions: else run `make docs` and commit."""
    assert page.read_text(encoding="utf-8") == pages()[page], f"`make docs` renews {page.relative_to(DOCS.parent)}"


def test_settings_page_has_every_setting_once() -> None:
    """In the order of settings.py, with its default and its bounds."""
    rows = [line.split(" | ") for line in settings_page().splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [name.upper() for name in Settings.model_fields]
    cells = {row[0].strip("| `"): row[1:3] for row in rows}
    assert cells["BATCH_SIZE"] == ["`100`", "1 to 5000"]
    assert cells["PUBSUB_MODE"] == ["`increment`", "`increment`, `announce`"]
    assert cells["FRESHNESS_LIMIT_MS"] == ["ten times `BATCH_INTERVAL_MS`, at least 5 minutes", "1 or more"]
    assert cells["FLUSH_MAX_COUNTERS"][1] == "1 to 1000000"


def test_commands_page_has_every_command() -> None:
    """With those of `bench`, and each with its options."""
    headings = [line for line in commands_page().splitlines() if line.startswith("## ")]
    bench = viewer_pipeline.commands["bench"]
    assert isinstance(bench, click.Group)
    named = [*viewer_pipeline.commands, *(f"bench {name}" for name in bench.commands)]
    assert sorted(headings) == sorted(f"## viewer-pipeline {name}" for name in named)
    assert "--no-last-flush" in commands_page()


def test_what_is_added_is_about_something() -> None:
    """Sections begin at fields that exist, and links belong to fields and commands that do."""
    assert set(SECTIONS) | set(MORE_ON_SETTINGS) <= set(Settings.model_fields)
    assert set(MORE_ON_COMMANDS) <= set(viewer_pipeline.commands)


def test_what_a_page_loads_from_other_hosts_is_found(tmp_path: Path) -> None:
    """Scripts, fonts, pictures; not what is only linked to, nor what is ours."""
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://a.example/"><link rel="stylesheet" href="https://b.example/b.css">'
        '<script src="//c.example/c.js"></script><img src="images/ours.png"><a href="https://d.example/">linked</a>'
        '<p style="background: url(https://e.example/e.png)"></p>'
    )
    (tmp_path / "sheet.css").write_text('@import "https://f.example/f.css"; p { background: url("../ours.png") }')
    assert list(loads_from_other_hosts(tmp_path)) == [
        "page.html: https://b.example/b.css",
        "page.html: //c.example/c.js",
        "page.html: https://e.example/e.png",
        "sheet.css: https://f.example/f.css",
    ]
