"""A real browser: the Chromium of this machine, with access to the UI only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from viewer_pipeline_tests.integration.conftest import dagster, dagster_settings, dagster_template, http

__all__ = ["dagster", "dagster_settings", "dagster_template", "http"]  # fixtures

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = "VIEWER_TEST_CHROMIUM"
SCREENSHOTS = "VIEWER_TEST_SCREENSHOTS"
TIMEOUT_MS = 60_000  # for anything to appear; two busy cores take seconds for a page
ARGUMENTS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser. Its tests take a minute of CPU, so they run only on request."""
    if not {SCREENSHOTS, EXECUTABLE} & os.environ.keys():
        pytest.skip(f"`make browser` runs it; so does {EXECUTABLE}=/path/of/a/chromium")
    path = os.environ.get(EXECUTABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(
            f"no {', '.join(NAMES)} on the PATH (Debian: apt-get install chromium), nor {EXECUTABLE}=/path/of/one"
        )
    return path


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """Return an empty page, in UTC like the days of the pipeline."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = browser.new_page(
                viewport={"width": 1440, "height": 900}, timezone_id="UTC", locale="en-GB", reduced_motion="reduce"
            )
            page.set_default_timeout(TIMEOUT_MS)
            yield page
        finally:
            browser.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Return the directory for screenshots: the configured one, or that of the test."""
    directory = Path(os.environ.get(SCREENSHOTS) or tmp_path / "screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory
