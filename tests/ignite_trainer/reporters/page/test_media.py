"""The hardest and a few augmented samples are shown; the report of a sweep finds the hardest of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.reporters.page import media, statistics
from ignite_trainer.reporters.page.render import Section

Predict = Callable[..., Predictions]


class Samples(Gallery):
    """Shows a sound of `size` bytes for each sample, except the samples in `gone`."""

    def __init__(self, size: int = 10, gone: Sequence[int] = ()) -> None:
        self._size, self._gone, self.asked = size, gone, list[int]()

    def held_out(self, positions: Sequence[int]) -> list[Portrait]:
        self.asked += positions
        sound = Exhibit(what="Sound", media_type="audio/ogg", content=bytes(self._size))
        return [Portrait(record={}, exhibits=[sound]) for one in positions if one not in self._gone]


class Louder(Gallery):
    """Shows two samples before and after augmentation, which makes all but the `quiet` ones louder."""

    def __init__(self, quiet: Sequence[int] = ()) -> None:
        self._quiet = quiet

    def augmented(self, count: int) -> list[tuple[Portrait, Portrait]]:
        return [
            (
                self._portrait({"clip": f"{one}.wav"}, 0),
                self._portrait({"clip": f"{one}.wav", "gain": one}, one),
            )
            for one in range(1, count + 1)
        ]

    def _portrait(self, record: dict[str, str | int], gain: int) -> Portrait:
        sound = bytes([0 if gain in self._quiet else gain])
        return Portrait(record=record, exhibits=[Exhibit(what="", media_type="audio/ogg", content=sound)])


@pytest.fixture
def eight(predict: Predict) -> Predictions:
    """Predict 8 samples of class 0, at positions 10 to 17: two correctly, the others increasingly wrong."""
    right = np.linspace(0.6, 0.125, 8)
    made = predict(np.stack([right, 1 - right], axis=1), [0] * 8, ["dog <b>", "cat"])
    return replace(made, positions=tuple(range(10, 18)))


def test_margins_follow_the_formula(predict: Predict) -> None:
    one = predict([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [0, 2])
    assert statistics.margins(one) == pytest.approx([0.2 - 0.7, 0.6 - 0.3])
    several = predict([[0.7, 0.2, 0.4], [0.5, 0.1, 0.1], [0.3, 0.2, 0.1]], [[0, 1], [], [0, 1, 2]])
    assert statistics.margins(several) == pytest.approx([0.4 - 0.2, 0.5 - 0.0, 0.0 - 0.1])


def hardest(predictions: Predictions, gallery: Gallery, folder: Path) -> list[Section]:
    """Save the hardest samples; return their sections."""
    media.save_hardest(predictions, gallery, folder)
    return [part for section in media.hardest_section([folder]) for part in section.parts]


def test_the_hardest_samples_come_first_and_their_number_is_limited(
    eight: Predictions, tmp_path: Path
) -> None:
    gallery = Samples()
    shown = hardest(eight, gallery, tmp_path)
    assert gallery.asked == [17, 16, 15, 14, 13, 12]
    assert shown[0] == Section(
        title="7",
        text=["True class: dog <b> (0.125). Predicted: cat (0.875)."],
        exhibits=[Exhibit(what="Sound", media_type="audio/ogg", content=bytes(10))],
    )
    assert len(list((tmp_path / "exhibits").glob("*.ogg"))) == len(shown) == media.MAX_SAMPLES


def test_correctly_classified_samples_are_not_shown(predict: Predict, tmp_path: Path) -> None:
    gallery = Samples()
    right = replace(predict([[0.5, 0.5], [0.9, 0.1]], [0, 0], ["dog", "cat"]), positions=(1, 2))
    assert hardest(right, gallery, tmp_path) == []
    assert gallery.asked == []
    three = replace(predict([[0.5, 0.5], [0.1, 0.9], [0.5, 0.5]], [0, 0, 1]), positions=(1, 2, 3))
    assert len(hardest(three, gallery, tmp_path)) == 2
    assert gallery.asked == [2, 3]
    # With several correct classes, the highest of their scores counts.
    several = replace(predict([[0.9, 0.2, 0.5], [0.2, 0.9, 0.5]], [[0, 1], [0, 2]]), positions=(1, 2))
    gallery = Samples()
    hardest(several, gallery, tmp_path)
    assert gallery.asked == [2]


def test_the_size_of_shown_samples_is_limited(eight: Predictions, tmp_path: Path) -> None:
    assert len(hardest(eight, Samples(size=media.MAX_BYTES // 2), tmp_path)) == 2


def test_samples_that_cannot_be_shown_are_omitted(eight: Predictions, tmp_path: Path) -> None:
    assert len(hardest(eight, Samples(gone=[17]), tmp_path)) == 5
    assert hardest(eight, Gallery(), tmp_path) == []
    assert not (tmp_path / "exhibits").exists()  # files of the previous report are removed, too
    assert hardest(replace(eight, positions=None), Samples(), tmp_path) == []


def test_a_sweep_shows_the_hardest_samples_of_its_runs(
    eight: Predictions, predict: Predict, tmp_path: Path
) -> None:
    worse = replace(predict([[0.05, 0.95]], [0], ["dog <b>", "cat"]), positions=(3,))
    folders = [tmp_path / f"fold-{number}" for number in (1, 2, 3)]
    for folder, predictions in zip(folders, (eight, worse, None), strict=True):
        folder.mkdir()
        if predictions:
            media.save_hardest(predictions, Samples(), folder)
    (section,) = media.hardest_section(folders)
    assert [part.title for part in section.parts] == ["0", "7", "6", "5", "4", "3"]
    (folders[1] / "exhibits/hardest-1-1.ogg").unlink()
    (section,) = media.hardest_section(folders)
    assert [len(part.exhibits) for part in section.parts] == [0, 1, 1, 1, 1, 1]
    assert media.hardest_section(folders[2:]) == []


def test_samples_are_shown_before_and_after_augmentation() -> None:
    (section,) = media.augmented_section(Louder(quiet=[1]))
    assert [(part.title, part.exhibits[0].content) for part in section.parts] == [
        ("Original: 1.wav", b"\0"),
        ("Augmented: 1.wav, gain 1", b"\0"),
        ("Original: 2.wav", b"\0"),
        ("Augmented: 2.wav, gain 2", b"\2"),
    ]


def test_samples_that_no_transform_changes_are_not_shown() -> None:
    assert media.augmented_section(Louder(quiet=[1, 2])) == []
    assert media.augmented_section(Gallery()) == []
