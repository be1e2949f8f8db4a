"""`report.html`: one page that holds its pictures and sounds, and needs neither a network nor its folder.

There is no script on it, and its policy lets none in.
"""

# ruff: noqa: PLC0415 (`--help` need not load a template engine)

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ignite_trainer.api import file_names
from ignite_trainer.api.media import Exhibit
from ignite_trainer.support.sanitize import visible

_POINTS = 72  # an inch


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a page, in the order in which its contents are shown. All text is plain.

    Attributes:
        title: heading of the section.
        text: paragraphs.
        links: purpose of a file by its path, relative to the page.
        exhibits: pictures and players, each below its explanation.
        folded: line to click before table and code are seen; "" shows them at once.
        header: of the table; it may be empty.
        rows: of the table.
        left: number of columns that are aligned left; the others hold figures.
        code: shown as it is, in a font of equal width.
        parts: sections with smaller headings.
    """

    title: str
    text: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    exhibits: Sequence[Exhibit] = ()
    folded: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    left: int = 1
    code: str = ""
    parts: Sequence[Section] = ()


def render(lead: Section, sections: Sequence[Section]) -> str:
    """Render a page of HTML.

    Args:
        lead: title and contents of the page's top.
        sections: what follows, linked below the title.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    style = (here / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(here),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=lead.title,
        lead=lead,
        sections=sections,
        element=element,
        style=style,
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )
    return visible(page)


def picture(path: Path, what: str) -> Exhibit:
    """Read a PNG, described for those who cannot see it."""
    return Exhibit(what=what, media_type="image/png", content=path.read_bytes())


def report_line(folder: Path) -> str | None:
    """Return the address of the report in a folder as a terminal links it; None if there is no report."""
    path = folder / file_names.PAGE
    return f"Report: {path.resolve().as_uri()}" if path.exists() else None


def element(exhibit: Exhibit) -> str:
    """Write an exhibit as an HTML element that holds all of it."""
    what = escape(visible(exhibit.what))
    source = f"data:{exhibit.media_type};base64,{base64.b64encode(exhibit.content).decode()}"
    if exhibit.is_picture:
        return f'<img src="{source}" alt="{what}"{_width(exhibit.content)}>'
    # HTML names the elements that play a medium after its kind.
    return (
        f'<{exhibit.kind} class="player" controls preload="metadata" src="{source}" aria-label="{what}">'
        f"</{exhibit.kind}>"
    )


def _width(picture: bytes) -> str:
    """Return an attribute with the width at which a letter of ten points is ten pixels high.

    A phone shows a picture at that width (see page.css) and lets the reader scroll where it is wider.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            dots_per_inch = float(opened.info.get("dpi", (2 * _POINTS,))[0]) or 2 * _POINTS
            return f' width="{round(opened.width * _POINTS / dots_per_inch)}"'
    except OSError:  # a format that Pillow does not know
        return ""
