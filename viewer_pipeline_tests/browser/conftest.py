"""A real browser: the Chromium of this machine, which asks nobody but the UI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
GIVEN = "VIEWER_TEST_CHROMIUM"
PICTURES = "VIEWER_TEST_PICTURES"
PATIENCE_MS = 60_000  # for anything to appear; two busy cores take seconds for a page
ARGUMENTS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return where the browser is. It is a minute of CPU, so it runs where it is asked for."""
    if not {PICTURES, GIVEN} & os.environ.keys():
        pytest.skip(f"`make browser` runs it; so does {GIVEN}=/path/of/a/chromium")
    found = os.environ.get(GIVEN) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {', '.join(NAMES)} on the PATH (Debian: apt-get install chromium), nor {GIVEN}=/path/of/one")
    return found


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """Return an empty page, in UTC as the pipeline's days are."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = browser.new_page(
                viewport={"width": 1440, "height": 900}, timezone_id="UTC", locale="en-GB", reduced_motion="reduce"
            )
            page.set_default_timeout(PATIENCE_MS)
            yield page
        finally:
            browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return the directory for pictures: the one that is asked for, which may be in a checkout; else the test's own."""
    directory = Path(os.environ.get(PICTURES) or tmp_path / "pictures")
    directory.mkdir(parents=True, exist_ok=True)
    return directory
