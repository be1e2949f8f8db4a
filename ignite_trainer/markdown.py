"""Markdown in which nothing that comes from data or protocol acts as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from ignite_trainer.visible import visible

# Marks of Markdown, of tables and of the mathematics that some viewers know.
_MARKS = re.compile(r"([\\`*_\[\]|~$])")
# What makes a heading, a list, a quotation or a rule of a line that begins with it.
_LEADING = re.compile(r"^([#+=-]|\d+(?=[.)](?:\s|$)))")
PLAYER = re.compile(r"[a-z]+/[a-z0-9]+")
"""The title of a link to something that can be played: its media type."""
# Addresses become links without any mark.
_ADDRESS = re.compile(r"(?i)(:)(?=//)|\b(www)(?=\.)|(?<=\w)(@)(?=\w)")


def inert(text: str) -> str:
    """Write text so that Markdown shows it as it is, on one line, in a paragraph or in a cell of a table.

    White space becomes single spaces, characters that cannot be seen a replacement character. Not for the
    inside of code and of HTML elements, where backslashes stand for themselves.
    """
    text = visible(" ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\1", text)
    text = _ADDRESS.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)
    leading = _LEADING.match(text)
    if leading and leading[0].isdigit():
        return f"{leading[0]}\\{text[leading.end() :]}"
    return f"\\{text}" if leading else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Write a table, its cells inert; the first `left` columns are aligned left, the others right."""
    rules = [":--" if column < left else "--:" for column in range(len(header))]
    lines = [[inert(cell) for cell in header], rules, *([inert(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(path: PurePath, alternative: str) -> str:
    """Show a picture that lies at a relative path."""
    return f"![{inert(alternative)}]({_address(path)})"


def link(path: PurePath) -> str:
    """Link a file by its relative path."""
    return f"[{inert(path.as_posix())}]({_address(path)})"


def player(path: PurePath, words: str, media_type: str) -> str:
    """Link a file that can be played; on a page that holds all it shows, this becomes what plays it."""
    return f'[{inert(words)}]({_address(path)} "{media_type}")'


def folded(summary: str, content: str) -> str:
    """Hide Markdown behind a line (plain words of ours) that opens it."""
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def json_block(content: Any) -> str:
    """Show JSON types as code, whose fence is longer than any that the content could close it with."""
    text = visible(json.dumps(content, indent=2, ensure_ascii=False, default=str))
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"


def _address(path: PurePath) -> str:
    return quote(path.as_posix(), safe="/")
