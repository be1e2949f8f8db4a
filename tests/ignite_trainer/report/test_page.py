"""A report is one page: it holds what it shows, lets nothing else in, and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path, PurePath

import pytest
from PIL import Image

from ignite_trainer import markdown
from ignite_trainer.exhibit import Exhibit
from ignite_trainer.report import page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> | [a](javascript:b) `c` **d** & $e$"


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside of style and title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "title")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def content_of(source: str | None) -> bytes:
    return base64.b64decode((source or "").partition(";base64,")[2])


def test_pictures_and_what_is_played_lie_inside_the_page(tmp_path: Path) -> None:
    (tmp_path / "in it").mkdir()
    (tmp_path / "in it" / "50%.png").write_bytes(b"a picture")
    (tmp_path / "sound.ogg").write_bytes(b"a sound")
    text = "\n\n".join(
        [
            markdown.picture(PurePath("in it/50%.png"), 'What "it" shows'),
            markdown.player(PurePath("sound.ogg"), "Listen", "audio/ogg"),
            markdown.link(PurePath("metrics.jsonl")),
        ]
    )
    found = Elements(page.to_html(text, tmp_path, title="A run"))
    (picture,) = found.of("img")
    assert content_of(picture["src"]) == b"a picture"
    assert picture["alt"] == 'What "it" shows'
    (sound,) = found.of("audio")
    assert (sound["src"] or "").startswith("data:audio/ogg;base64,")
    assert content_of(sound["src"]) == b"a sound"
    assert "controls" in sound
    assert found.of("a") == [{"href": "metrics.jsonl"}]


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    text = f"before {markdown.picture(PurePath('gone.png'), 'gone')} after"
    found = Elements(page.to_html(text, tmp_path, title=""))
    assert not found.of("img")
    assert "before  after" in found.words


def test_a_page_may_load_nothing_and_run_nothing(tmp_path: Path) -> None:
    text = page.to_html("# A run", tmp_path, title="")
    (policy,) = (meta for meta in Elements(text).of("meta") if "http-equiv" in meta)
    assert policy["http-equiv"] == "Content-Security-Policy"
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.split(maxsplit=1) for rule in (policy["content"] or "").split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "media-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_no_text_acts_as_markup(tmp_path: Path) -> None:
    text = "\n\n".join(
        [
            f"# {markdown.inert(HOSTILE)}",
            markdown.table([HOSTILE, "b"], [[HOSTILE, "1"]]),
            markdown.json_block({"label": HOSTILE}),
            markdown.folded("Every class", markdown.inert(HOSTILE)),
        ]
    )
    found = Elements(page.to_html(text, tmp_path, title=HOSTILE))
    ours = "html head meta title style body main h1 div table thead tbody tr th td pre code details summary p"
    assert {tag for tag, _ in found.found} <= set(ours.split())
    assert found.words.count(HOSTILE) == 5


@pytest.mark.parametrize(
    "foreign", ["<script>x()</script>", "<details onclick=x>", "<details><summary><b>x</b></summary>"]
)
def test_html_that_is_not_ours_is_shown_as_text(tmp_path: Path, foreign: str) -> None:
    found = Elements(page.to_html(f"{foreign}\n\nand {foreign}", tmp_path, title=""))
    assert found.words.count(foreign) == 2
    assert {tag for tag, _ in found.found} <= {"html", "head", "meta", "title", "style", "body", "main", "p"}


def test_cells_are_aligned_without_a_style_of_their_own(tmp_path: Path) -> None:
    text = page.to_html(markdown.table(["name", "value"], [["a", "1"]]), tmp_path, title="")
    assert 'style="' not in text
    assert Elements(text).of("td") == [{}, {"class": "number"}]


def test_every_section_is_linked_below_the_title(tmp_path: Path) -> None:
    names = ["Run", "Hardest samples", "Run", HOSTILE, "音", "!"]
    text = "\n\n".join(["# Title", "Said first.", *(f"## {markdown.inert(name)}" for name in names)])
    found = Elements(page.to_html(text, tmp_path, title=""))
    anchors = [heading["id"] for heading in found.of("h2")]
    assert [anchors[n] for n in (0, 1, 2, 4, 5)] == ["run", "hardest-samples", "run-2", "音", "section"]
    assert len(set(anchors)) == len(names)
    assert found.of("a") == [{"href": f"#{anchor}"} for anchor in anchors]
    order = [tag for tag, _ in found.found if tag in ("h1", "nav", "p", "h2")]
    assert order[:4] == ["h1", "nav", "p", "h2"]
    assert found.words.count(HOSTILE) == 2  # its heading and its link


def test_a_page_of_one_section_has_no_list_of_them(tmp_path: Path) -> None:
    found = Elements(page.to_html("# Title\n\n## Run", tmp_path, title=""))
    assert (found.of("nav"), found.of("h2")) == ([], [{"id": "run"}])


@pytest.mark.parametrize("dots_per_inch", [100, 150])
def test_a_picture_names_the_width_at_which_a_point_is_a_pixel(tmp_path: Path, dots_per_inch: int) -> None:
    size = (6 * dots_per_inch, dots_per_inch)
    Image.new("RGB", size).save(tmp_path / "a.png", dpi=(dots_per_inch, dots_per_inch))
    shown = page.to_html(markdown.picture(PurePath("a.png"), "a"), tmp_path, title="")
    (picture,) = Elements(shown).of("img")
    assert picture["width"] == "432"


def test_an_exhibit_has_a_media_type() -> None:
    shown = Exhibit(what="A tone", media_type="audio/ogg", content=b"")
    assert (shown.kind, shown.suffix, shown.is_picture) == ("audio", ".ogg", False)
    with pytest.raises(ValueError, match=re.escape('media_type is "png"; such as "image/png" is expected.')):
        Exhibit(what="", media_type="png", content=b"")


def test_a_terminal_is_told_where_the_report_is(tmp_path: Path) -> None:
    assert page.said(tmp_path) is None
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "report.html").touch()
    assert page.said(folder) == f"Report: file://{tmp_path}/with%20space/report.html"
