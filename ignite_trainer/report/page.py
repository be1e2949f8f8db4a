"""`report.html`: our Markdown as one page that needs nothing else, neither a network nor the folder.

It holds its pictures and sounds, and links to its sections; there is no script, and none would be let in.
"""

# ruff: noqa: PLC0415 (`--help` need not load a parser of Markdown)

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ignite_trainer.exhibit import Exhibit
from ignite_trainer.markdown import PLAYER
from ignite_trainer.visible import visible

FILE_NAME = "report.html"
_STYLE = Path(__file__).with_name("page.css")
# The only HTML that Markdown of ours holds (see `markdown.folded`); all other is shown as text.
_FOLD = re.compile(r"<details><summary>[\w ,.]*</summary>|</details>")
_FEWEST_LINKED = 2  # sections; a page of fewer has no list of them
_POINTS = 72  # an inch


def to_html(markdown: str, folder: Path, *, title: str) -> str:
    """Render a report.

    Args:
        markdown: names pictures, and what can be played, relative to `folder`.
        folder: where they are; those that are not there are left out.
        title: of the window.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown)
    for token in tokens:
        _align(token)
        if token.children:
            token.children = _with_media(token.children, folder)
    _add_contents(tokens)
    parser.add_render_rule("html_block", _html)
    parser.add_render_rule("html_inline", _html)
    parser.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    style = _STYLE.read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{allowed}'; "
        "base-uri 'none'; form-action 'none'"
    )
    body = parser.renderer.render(tokens, parser.options, {})
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(visible(title))}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def said(folder: Path) -> str | None:
    """Say where the report in a folder is, as a terminal makes a link of it; None where there is none."""
    path = folder / FILE_NAME
    return f"Report: {path.resolve().as_uri()}" if path.exists() else None


def element(exhibit: Exhibit) -> str:
    """Write an exhibit as an element of HTML that holds all of it."""
    what = escape(visible(exhibit.what))
    source = f"data:{exhibit.media_type};base64,{base64.b64encode(exhibit.content).decode()}"
    if exhibit.is_picture:
        return f'<img src="{source}" alt="{what}"{_width(exhibit.content)}>'
    # HTML names the elements of what is played like the kinds of media.
    return (
        f'<{exhibit.kind} class="player" controls preload="metadata" src="{source}" aria-label="{what}">'
        f"</{exhibit.kind}>"
    )


def _width(picture: bytes) -> str:
    """Attribute with the width at which a letter of ten points is ten pixels high: small, and legible.

    That is the width on a phone (see page.css), where a picture that is wider than the screen scrolls.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            dots_per_inch = float(opened.info.get("dpi", (2 * _POINTS,))[0]) or 2 * _POINTS
            return f' width="{round(opened.width * _POINTS / dots_per_inch)}"'
    except OSError:  # a format that is not known here
        return ""


def _add_contents(tokens: list[Any]) -> None:
    """Give every section an anchor, and link them all below the title."""
    from markdown_it.token import Token

    anchors: dict[str, str] = {}
    for heading, words in pairwise(tokens):
        if heading.type == "heading_open" and heading.tag == "h2":
            name = "".join(child.content for child in words.children or ())
            stem = re.sub(r"\W+", "-", name.lower()).strip("-") or "section"
            same = sum(re.fullmatch(rf"{re.escape(stem)}(-\d+)?", other) is not None for other in anchors)
            anchor = f"{stem}-{same + 1}" if same else stem
            heading.attrs["id"] = anchor
            anchors[anchor] = name
    if len(anchors) < _FEWEST_LINKED:
        return
    links = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in anchors.items())
    contents = f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
    first = next((n + 1 for n, token in enumerate(tokens) if token.type == "heading_close"), 0)
    tokens.insert(first, Token("html_block", "", 0, content=contents, meta={"ours": True}))


def _html(_: Any, tokens: Sequence[Any], index: int, *_more: Any) -> str:
    """HTML that Markdown holds: ours as it is, all other as text."""
    content: str = tokens[index].content
    if tokens[index].meta.get("ours") or _FOLD.fullmatch(content.strip()):
        return content
    return escape(content)


def _align(token: Any) -> None:
    """Cells are aligned by a class: a style of their own would not be let in."""
    if token.type in ("th_open", "td_open") and "right" in str(token.attrs.pop("style", "")):
        token.attrs["class"] = "number"


def _with_media(tokens: Sequence[Any], folder: Path) -> list[Any]:
    """Replace pictures, and links to what can be played, by elements that hold them."""
    from markdown_it.token import Token

    made: list[Any] = []
    within = ""  # of a link to something that can be played: its words are not needed
    for token in tokens:
        if within:
            within = "" if token.type == "link_close" else within
            continue
        media_type = ""
        if token.type == "image":
            address, media_type = token.attrs["src"], "image/png"
        elif token.type == "link_open" and PLAYER.fullmatch(str(token.attrs.get("title", ""))):
            address, media_type = token.attrs["href"], token.attrs["title"]
            within = address
        if not media_type:
            made.append(token)
            continue
        path = folder / unquote(address)
        if path.is_file():
            shown = Exhibit(what=token.content, media_type=media_type, content=path.read_bytes())
            html = element(shown)
            if shown.is_picture:
                html = f'<span class="figure">{html}</span>'
            made.append(Token("html_inline", "", 0, content=html, meta={"ours": True}))
    return made
