"""A real browser for tests of pages: the Chromium that is installed, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser_program() -> str:
    """Where the browser is; a test that needs one is skipped, and says so, where none is."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed: pages were not opened")
    return program


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser without a window for a file's tests, closed after them."""
    program = browser_program()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
