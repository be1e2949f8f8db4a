"""The browser of the tests only accesses this machine, and notices problems on a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.conftest import Web


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a page with this body to a file, and returns its address."""

    def write(body: str) -> str:
        path = tmp_path / "page.html"
        path.write_text(f"<!doctype html><title>A page</title><body>{body}</body>")
        return path.as_uri()

    return write


def test_pages_open_from_files_and_from_this_machine(
    page: Page, write: Callable[[str], str], web: Web
) -> None:
    page.goto(write("<p id=here></p><script>here.textContent = 'scripts run'</script>"))
    assert (page.title(), page.inner_text("p")) == ("A page", "scripts run")
    web.files["page.html"] = b"<p>served"
    page.goto(f"{web.url}/page.html")
    assert "served" in page.content()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<img src='https://example.org/picture.png'>", "asked for https://example.org/picture.png"),
        ("<script>absent()</script>", "script failed: absent is not defined"),
        ("<script>console.error('something')</script>", "something"),
    ],
)
def test_problems_are_noticed(chromium: Browser, write: Callable[[str], str], body: str, said: str) -> None:
    with watched_page(chromium) as (page, wrong):
        page.goto(write(body))
        page.wait_for_load_state("networkidle")
    assert wrong == [said]
