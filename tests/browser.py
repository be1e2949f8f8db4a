"""A real browser for tests of pages: Debian's Chromium, headless, with access only to this machine.

A pytest plugin, loaded by conftest.py. Where no Chromium is installed, tests that use it are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOCAL_SCHEMES = ("file", "data", "blob", "about")
_LOCAL_HOSTS = ("127.0.0.1", "localhost")
_FLAGS = (
    "--disable-dev-shm-usage",  # containers have only 64 MB of shared memory
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # it may be used without permission
)


def find_chromium() -> str | None:
    """Return the path of `$CHROMIUM` or an installed Chromium, or None."""
    chosen = os.environ.get("CHROMIUM")
    return chosen or next(filter(None, map(shutil.which, _NAMES)), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start one browser for the tests of a module.

    While it runs, this thread counts as running an event loop (playwright's), so that `asyncio.run`
    is refused.
    """
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium is installed: apt-get install chromium, or name one by $CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=_FLAGS, chromium_sandbox=os.geteuid() != 0
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """Open an empty page (see `watched_page`); fail the test if the page has problems."""
    with watched_page(chromium) as (page, wrong):
        yield page
    assert not wrong, wrong


@contextmanager
def watched_page(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """Open a page of 1200 x 900 pixels in a new profile.

    Returns:
        The page, and what goes wrong on it: requests beyond this machine, which are not carried out, scripts
        that fail, errors written to the console.
    """
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    wrong: list[str] = []

    def pass_local(route: Route) -> None:
        url = urlsplit(route.request.url)
        if url.scheme in _LOCAL_SCHEMES or url.hostname in _LOCAL_HOSTS:
            route.continue_()
        else:
            wrong.append(f"asked for {route.request.url}")
            route.fulfill(body="")

    context.route("**/*", pass_local)
    page.on("pageerror", lambda error: wrong.append(f"script failed: {error}"))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    yield page, wrong
    context.close()
