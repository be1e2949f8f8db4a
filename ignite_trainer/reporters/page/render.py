"""Renders `report.html`, a single file with embedded images and sounds and without scripts.

The page's content security policy blocks scripts and requests.
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
from ignite_trainer.support.formatting import visible

_POINTS = 72  # per inch


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a page. Its contents appear in the order of the attributes. All text is plain text.

    Attributes:
        title: heading of the section.
        text: paragraphs.
        links: purpose of each linked file, by the file's path relative to the page.
        exhibits: images and players, each below its explanation.
        folded: line that unfolds the table and the code when clicked; if empty, both are always shown.
        header: column names of the table; may be empty.
        rows: rows of the table.
        left: number of columns, from the left, that hold text; the others hold numbers.
        code: preformatted text.
        parts: subsections.
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
    """Render a page as HTML.

    Args:
        lead: top of the page; its title is the title of the page.
        sections: rest of the page; the title is followed by links to them.
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
    """Read a PNG file; `what` becomes its alternative text."""
    return Exhibit(what=what, media_type="image/png", content=path.read_bytes())


def report_line(folder: Path) -> str | None:
    """Return a line with the URL of the report in a folder; None if there is no report."""
    path = folder / file_names.PAGE
    return f"Report: {path.resolve().as_uri()}" if path.exists() else None


def element(exhibit: Exhibit) -> str:
    """Format an exhibit as an HTML element with embedded content."""
    what = escape(visible(exhibit.what))
    source = f"data:{exhibit.media_type};base64,{base64.b64encode(exhibit.content).decode()}"
    if exhibit.is_picture:
        return f'<img src="{source}" alt="{what}"{_width(exhibit.content)}>'
    # HTML's players are named after the kind of medium.
    return (
        f'<{exhibit.kind} class="player" controls preload="metadata" src="{source}" aria-label="{what}">'
        f"</{exhibit.kind}>"
    )


def _width(picture: bytes) -> str:
    """Return a width attribute that shows 10-point type 10 pixels high.

    Phones show an image at this width (see page.css) and scroll it if it is wider than the screen.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            dots_per_inch = float(opened.info.get("dpi", (2 * _POINTS,))[0]) or 2 * _POINTS
            return f' width="{round(opened.width * _POINTS / dots_per_inch)}"'
    except OSError:  # a format unknown to Pillow
        return ""
