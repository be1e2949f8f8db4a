"""`report.html`: Markdown of ours as one page that needs nothing else, neither a network nor the folder.

Pictures and what can be played lie inside of it; there is no script, and none would be let in.
"""

# ruff: noqa: PLC0415 (`--help` need not load a parser of Markdown)

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
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
        return f'<img src="{source}" alt="{what}">'
    # HTML names the elements of what is played like the kinds of media.
    return (
        f'<{exhibit.kind} class="player" controls preload="metadata" src="{source}" aria-label="{what}">'
        f"</{exhibit.kind}>"
    )


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
    """Put in the place of pictures, and of links to what can be played, the things themselves."""
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
            made.append(Token("html_inline", "", 0, content=element(shown), meta={"ours": True}))
    return made
