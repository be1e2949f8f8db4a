"""Parses the elements and words of an HTML page, as a reader sees them."""

from __future__ import annotations

from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path


class Elements(HTMLParser):
    """Every element with its attributes; `words` outside of style and title, and within each kind of element.

    Attributes:
        found: tag and attributes of every element, in order.
        words: all text that is shown.
        texts: texts of the elements that contain no others, by tag.
    """

    def __init__(self, page: str | Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.texts = defaultdict[str, list[str]](list)
        self._tag = ""
        self.feed(page.read_text(encoding="utf-8") if isinstance(page, Path) else page)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.texts[tag].append("")
        self._tag = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag:
            self.texts[self._tag][-1] += data
        if self._tag not in ("style", "title"):
            self.words += data
