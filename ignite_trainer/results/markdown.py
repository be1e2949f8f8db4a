"""Markdown tables and links in which nothing that comes from data or protocol acts as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from urllib.parse import quote

from ignite_trainer.support.sanitize import visible

# Marks of Markdown, of tables and of the mathematics that some viewers know.
_MARKS = re.compile(r"([\\`*_\[\]|~$])")
# Beginnings of a line that make it a heading, a list, a quotation or a rule.
_LEADING = re.compile(r"^([#+=-]|\d+(?=[.)](?:\s|$)))")
# Addresses become links without any mark.
_ADDRESS = re.compile(r"(?i)(:)(?=//)|\b(www)(?=\.)|(?<=\w)(@)(?=\w)")


def inert(text: str) -> str:
    """Write text so that Markdown shows it as it is, on one line, in a paragraph or in a cell of a table.

    White space becomes single spaces, characters that cannot be seen a replacement character.
    """
    text = visible(" ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\1", text)
    text = _ADDRESS.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)
    leading = _LEADING.match(text)
    if leading and leading[0].isdigit():
        return f"{leading[0]}\\{text[leading.end() :]}"
    return f"\\{text}" if leading else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table of inert cells; the first column is aligned left, the others right."""
    rules = [":--", *["--:"] * (len(header) - 1)]
    lines = [[inert(cell) for cell in header], rules, *([inert(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def link(path: PurePath) -> str:
    """Link a file by its relative path."""
    return f"[{inert(path.as_posix())}]({quote(path.as_posix(), safe='/')})"
