"""Escaping of text: a Markdown renderer shows the text unchanged."""

from __future__ import annotations

import html
import re
from pathlib import PurePath

import pytest
from markdown_it import MarkdownIt

from ignite_trainer.support.formatting import inert, markdown_link, markdown_table

RENDER = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render

HOSTILE = [
    "<script>alert('x')</script>",
    "<b>bold</b> & &amp; &lt;",
    "| a | b |",
    "`code` ``more``",
    "**strong** _emphasis_ ~~struck~~ __init__",
    "[link](https://example.org) ![picture](x.png)",
    "[reference]: https://example.org",
    "<https://example.org>",
    "# heading",
    "#hash",
    "- item",
    "+ item",
    "* item",
    "1. first",
    "27) second",
    "> quotation",
    "---",
    "===",
    "~~~",
    "```",
    r"back\slash \| \*",
    "trailing \\",
    "<!-- comment",
    "]]>",
    "$x^2$",
    "&#42;star&#42;",
]


def shown(markup: str) -> str:
    return html.unescape(re.sub(r"</?[a-z][^>]*>", "", markup)).strip()


def tags(markup: str) -> set[str]:
    return set(re.findall(r"<[^a-z]*([a-z0-9]*)", markup))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_paragraph_shows_the_text(text: str) -> None:
    rendered = RENDER(inert(text))
    assert rendered == f"<p>{html.escape(text, quote=False)}</p>\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_the_text(text: str) -> None:
    rendered = RENDER(markdown_table([text, "b"], [["1", text], [text, "2"]]))
    assert tags(rendered) == {"table", "thead", "tbody", "tr", "th", "td"}
    cells = [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rendered)]
    assert cells == [text, "b", "1", text, text, "2"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_link_stays_one_link(text: str) -> None:
    rendered = RENDER(markdown_link(PurePath("folder", text)))
    assert tags(rendered) == {"p", "a"}
    assert shown(rendered) == PurePath("folder", text).as_posix()


def test_white_space_and_invisible_characters_do_not_break_a_line() -> None:
    assert inert("  two\n\nlines\t\u2028here ") == "two lines here"
    assert inert("nul\0 turned\u202eround") == "nul\ufffd turned\ufffdround"


@pytest.mark.parametrize("text", ["https://example.org/a", "www.example.org", "who@example.org"])
def test_addresses_do_not_become_links(text: str) -> None:
    written = inert(text)
    assert text not in written
    assert shown(RENDER(written)) == text


def test_plain_text_does_not_change() -> None:
    for text in ("ESC-50", "Val. Acc.", "1.5 s", "12 of 400, 3.0 %", "(a) b: c!", "crackling fire", "Bär"):
        assert inert(text) == text


def test_the_first_column_is_aligned_left_and_the_others_right() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| :-- | --: |\n| x | 1 |"
