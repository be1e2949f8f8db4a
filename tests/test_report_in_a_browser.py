"""`report.html` opens from the disk in a real browser: its sounds play, and its text is not markup."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Evaluated, RunEnd, RunStart
from ignite_trainer.reporters import Report
from tests.browser import watched_page
from utils.tasks.clip_media import Portraits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script><b>dog</b>"
PLAYED = """sound => new Promise((resolve, reject) => {
    sound.onerror = () => reject(sound.error.message);
    sound.ontimeupdate = () => { if (sound.currentTime > 0.1) resolve([sound.currentTime, sound.duration]) };
    sound.muted = true;
    sound.play().catch(reject);
})"""


class Tones(Gallery):
    """Shows a second of a tone for each sample."""

    def held_out(self, positions: Sequence[int]) -> list[Portrait]:
        tone = 16384 * torch.sin(torch.arange(44100) * 0.1)[None, None]
        return [Portrait(record={}, exhibits=Portraits().sample(tone)) for _ in positions]

    def model(self) -> list[Exhibit]:
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (60, 40), "navy").save(file, format="png")
        return [Exhibit(what=HOSTILE, media_type="image/png", content=file.getvalue())]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report with markup in its labels, names and protocol."""
    folder = tmp_path_factory.mktemp("run")
    predictions = Predictions(
        scores=np.array([[0.2, 0.8], [0.6, 0.4]], dtype=np.float32),
        targets=np.array([[True, False], [False, True]]),
        class_names=(HOSTILE, "cat"),
        records=({"clip": f"{HOSTILE}.wav"}, {"clip": "cat.wav"}),
        positions=(0, 1),
    )
    run = RunStart(
        folder=folder,
        name=f"Run {HOSTILE}",
        protocol={"Task": {"class": HOSTILE}},
        environment={},
        facts={"Data": HOSTILE},
        windows=(),
        epochs=1,
        iterations_per_epoch=1,
        gallery=Tones(),
    )
    reporter = Report()
    reporter.on_start(run)
    reporter.on_evaluation(
        Evaluated(epoch=1, iteration=1, split="test", metrics={}, seconds=1.0, predictions=predictions)
    )
    reporter.on_end(RunEnd(last_epoch=1, last={HOSTILE: 0.5}, best=(), last_checkpoint=None, seconds=1.0))
    moved = tmp_path_factory.mktemp("elsewhere") / "report.html"
    return (folder / "report.html").rename(moved)  # without the other files of the run


def test_the_report_opens_from_the_disk_with_all_images_and_sounds(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    sizes = page.eval_on_selector_all("img", "all => all.map(one => one.complete && one.naturalWidth)")
    assert len(sizes) == 6  # three plots of predictions, two spectrograms, one image of the model
    assert all(sizes)
    loaded = page.evaluate("performance.getEntriesByType('resource').map(r => r.name.slice(0, 5))")
    assert set(loaded) <= {"data:"}


def test_sounds_in_the_report_play(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    sounds = page.query_selector_all("audio")
    assert len(sounds) == 2
    for sound in sounds:
        time, duration = sound.evaluate(PLAYED)
        assert time > 0.1
        assert duration == pytest.approx(1.0, abs=0.01)


def test_a_label_with_markup_stays_text(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    assert page.inner_text("h1") == f"Run {HOSTILE}"
    assert page.inner_text("h3:has(+ p) >> nth=0") == f"{HOSTILE}.wav"
    assert HOSTILE in page.inner_text("h3 + p >> nth=0")
    page.click("summary >> nth=0")
    assert page.inner_text("details[open] td >> nth=0") == HOSTILE
    assert page.title() == f"Run {HOSTILE}"
    assert not page.query_selector_all("main b, main script, [onerror]")


def test_an_injected_script_does_not_run(chromium: Browser, report: Path, tmp_path: Path) -> None:
    got_in = tmp_path / "report.html"
    got_in.write_text(report.read_text().replace("<main>", "<main><script>document.title='owned'</script>"))
    with watched_page(chromium) as (page, wrong):
        page.goto(got_in.as_uri())
        assert page.title() != "owned"
    assert len(wrong) == 1
    assert "violates the following Content Security Policy" in wrong[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_fits_a_phone_and_a_desktop(page: Page, report: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(report.as_uri())
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.eval_on_selector_all(
        ".figure img",
        "all => all.map(i => [i.clientWidth, Number(i.getAttribute('width')), i.naturalWidth, "
        "i.parentElement.clientWidth])",
    )
    assert len(pictures) == 6
    if width == 1280:  # at their maximum size
        assert all(shown == min(natural, room) for shown, _, natural, room in pictures)
        return
    # They stay legible, and scroll if they are too wide.
    assert all(shown == named for shown, named, *_ in pictures)
    assert max(shown - room for shown, *_, room in pictures) > 0
    words = page.eval_on_selector_all("td:not(.number)", "all => all.map(cell => cell.clientWidth)")
    assert min(words) > 95


def test_sections_of_the_report_are_linked(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    page.click("nav >> text=Hardest samples")
    heading = page.locator("h2:target")
    assert heading.inner_text() == "Hardest samples"
    assert -1 < heading.evaluate("one => one.getBoundingClientRect().top") < 100
