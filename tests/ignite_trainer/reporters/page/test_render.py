"""The page embeds its images and sounds, blocks everything else, and escapes text."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ignite_trainer.api.media import Exhibit
from ignite_trainer.reporters.page import render
from ignite_trainer.reporters.page.render import Section
from tests.page_elements import Elements

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> | [a](javascript:b) {{ 1 }} & $e$"


def rendered(*sections: Section, **lead: Any) -> Elements:
    return Elements(render.render(Section(**{"title": "A run", **lead}), sections))


def test_images_and_recordings_are_embedded_in_the_page() -> None:
    shown = [
        Exhibit(what='What "it" shows', media_type="image/png", content=b"an image", explanation="Look."),
        Exhibit(what="Listen", media_type="audio/ogg", content=b"a sound"),
    ]
    found = rendered(exhibits=shown, links={"in it/50%.csv": "all of it"})
    (picture,), (sound,) = found.of("img"), found.of("audio")
    assert picture["alt"] == 'What "it" shows'
    assert picture["src"] == f"data:image/png;base64,{base64.b64encode(b'an image').decode()}"
    assert sound["src"] == f"data:audio/ogg;base64,{base64.b64encode(b'a sound').decode()}"
    assert "controls" in sound
    assert found.of("a") == [{"href": "in%20it/50%25.csv"}]
    assert "Look." in found.words and "in it/50%.csv: all of it" in found.words


def test_a_page_may_load_nothing_and_run_nothing() -> None:
    text = render.render(Section(title="A run"), [])
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


def test_no_text_acts_as_markup() -> None:
    picture = Exhibit(what=HOSTILE, media_type="image/png", content=b"", explanation=HOSTILE)
    table = {"header": [HOSTILE, "b"], "rows": [[HOSTILE, "1"]], "folded": HOSTILE, "code": HOSTILE}
    part = Section(title=HOSTILE, text=[HOSTILE], links={HOSTILE: HOSTILE}, exhibits=[picture], **table)  # type: ignore[arg-type]
    found = rendered(Section(title=HOSTILE, parts=[part]), title=HOSTILE)
    ours = "html head meta title style body main h1 h2 h3 nav ul li a p div img details summary table thead "
    ours += "tbody tr th td pre code"
    assert {tag for tag, _ in found.found} == set(ours.split())
    assert found.words.count(HOSTILE) == 12
    assert {address["href"] for address in found.of("a")} == {
        "#section-1",
        "%3Cscript%3Ealert%281%29%3C/script%3E%3Cimg%20src%3Dx%20onerror%3Dalert%282%29%3E%20%7C%20%5Ba%5D"
        "%28javascript%3Ab%29%20%7B%7B%201%20%7D%7D%20%26%20%24e%24",
    }


def test_invisible_characters_are_replaced() -> None:
    text = render.render(Section(title="nul\0", text=["\x1b[31mred \u202eturned \ud800"]), [])
    assert "nul\ufffd" in text and "\ufffd[31mred \ufffdturned \ufffd" in text
    text.encode()


def test_numbers_are_aligned_without_inline_styles() -> None:
    text = render.render(Section(title="", header=["name", "value"], rows=[["a", "1"]]), [])
    assert 'style="' not in text
    assert Elements(text).of("td") == [{}, {"class": "number"}]


def test_every_section_is_linked_below_the_title() -> None:
    names = ["Run", "Hardest samples", "Run", HOSTILE]
    found = rendered(*(Section(title=name) for name in names), text=["Said first."])
    assert found.of("a") == [{"href": f"#{heading['id']}"} for heading in found.of("h2")]
    assert len({heading["id"] for heading in found.of("h2")}) == len(names)
    assert [tag for tag, _ in found.found if tag in ("h1", "nav", "p", "h2")][:4] == ["h1", "nav", "p", "h2"]


@pytest.mark.parametrize("dots_per_inch", [100, 150])
def test_an_image_is_shown_at_one_pixel_per_point(dots_per_inch: int) -> None:
    file = io.BytesIO()
    size = (6 * dots_per_inch, dots_per_inch)
    Image.new("RGB", size).save(file, format="png", dpi=(dots_per_inch, dots_per_inch))
    shown = Exhibit(what="a", media_type="image/png", content=file.getvalue())
    assert rendered(exhibits=[shown]).of("img")[0]["width"] == "432"


def test_an_exhibit_has_a_media_type() -> None:
    shown = Exhibit(what="A tone", media_type="audio/ogg", content=b"")
    assert (shown.kind, shown.suffix, shown.is_picture) == ("audio", ".ogg", False)
    with pytest.raises(ValueError, match=re.escape('media_type is "png"; write a type such as "image/png".')):
        Exhibit(what="", media_type="png", content=b"")


def test_a_terminal_shows_where_the_report_is(tmp_path: Path) -> None:
    assert render.report_line(tmp_path) is None
    folder = tmp_path / "with space"
    folder.mkdir()
    (folder / "report.html").touch()
    assert render.report_line(folder) == f"Report: file://{tmp_path}/with%20space/report.html"
