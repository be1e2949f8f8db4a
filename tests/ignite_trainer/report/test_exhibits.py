"""The samples that a model is most wrong about are shown, within bounds, and found again for a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ignite_trainer.exhibit import Exhibit, Gallery, Portrait
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import exhibits, statistics

Predict = Callable[..., Predictions]


class Samples(Gallery):
    """Shows a sound of so many bytes of each sample; not of those that are gone."""

    def __init__(self, size: int = 10, gone: Sequence[int] = ()) -> None:
        self._size, self._gone, self.asked = size, gone, list[int]()

    def held_out(self, positions: Sequence[int]) -> list[Portrait]:
        self.asked += positions
        sound = Exhibit(what="Sound", media_type="audio/ogg", content=bytes(self._size))
        return [Portrait(record={}, exhibits=[sound]) for one in positions if one not in self._gone]

    def model(self) -> list[Exhibit]:
        explained = "A line > 0 *rises*."
        return [Exhibit(what="Weights <then>", media_type="image/png", content=b"png", explanation=explained)]


@pytest.fixture
def eight(predict: Predict) -> Predictions:
    """Eight samples of class 0, all but the first two wrong, the later the more, at positions 10 to 17."""
    right = np.linspace(0.6, 0.125, 8)
    made = predict(np.stack([right, 1 - right], axis=1), [0] * 8, ["dog <b>", "cat"])
    return replace(made, positions=tuple(range(10, 18)))


def test_margins_are_those_of_the_formula(predict: Predict) -> None:
    one = predict([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], [0, 2])
    assert statistics.margins(one) == pytest.approx([0.2 - 0.7, 0.6 - 0.3])
    several = predict([[0.7, 0.2, 0.4], [0.5, 0.1, 0.1], [0.3, 0.2, 0.1]], [[0, 1], [], [0, 1, 2]])
    assert statistics.margins(several) == pytest.approx([0.4 - 0.2, 0.5 - 0.0, 0.0 - 0.1])


def test_the_hardest_come_first_and_are_few(eight: Predictions, tmp_path: Path) -> None:
    gallery = Samples()
    text = exhibits.hardest_section(eight, gallery, tmp_path)
    assert gallery.asked == [17, 16, 15, 14, 13, 12]
    first = text.partition("### ")[2].partition("### ")[0]
    assert first == (
        "7\n\nRight: dog &lt;b&gt; (0.125). Predicted: cat (0.875).\n\n"
        '[Sound](exhibits/hardest-1-1.ogg "audio/ogg")\n\n'
    )
    assert len(list((tmp_path / "exhibits").glob("*.ogg"))) == exhibits.MOST_SAMPLES


def test_what_was_classified_right_is_no_mistake(predict: Predict, tmp_path: Path) -> None:
    gallery = Samples()
    right = replace(predict([[0.5, 0.5], [0.9, 0.1]], [0, 0], ["dog", "cat"]), positions=(1, 2))
    assert exhibits.hardest_section(right, gallery, tmp_path) == ""
    assert gallery.asked == []
    three = replace(predict([[0.5, 0.5], [0.1, 0.9], [0.5, 0.5]], [0, 0, 1]), positions=(1, 2, 3))
    assert exhibits.hardest_section(three, gallery, tmp_path).count("### ") == 2
    assert gallery.asked == [2, 3]
    # Of several classes that are right the highest score is of one.
    several = replace(predict([[0.9, 0.2, 0.5], [0.2, 0.9, 0.5]], [[0, 1], [0, 2]]), positions=(1, 2))
    gallery = Samples()
    exhibits.hardest_section(several, gallery, tmp_path)
    assert gallery.asked == [2]


def test_a_sweep_leaves_out_what_a_run_listed_though_it_was_right(tmp_path: Path) -> None:
    entry = {"record": {"clip": "a"}, "margin": -0.5, "files": []}
    entries = [
        {**entry, "right": [["dog", 0.7]], "predicted": ["dog", 0.7]},
        {**entry, "right": [["dog", 0.3]], "predicted": ["cat", 0.7], "margin": 0.4},
    ]
    (tmp_path / "fold-1/exhibits").mkdir(parents=True)
    (tmp_path / "fold-1/exhibits/hardest.json").write_text(json.dumps(entries))
    text = exhibits.hardest_of_all([tmp_path / "fold-1"], tmp_path)
    assert text.count("### ") == 1
    assert "Predicted: cat" in text


def test_what_is_shown_is_bounded_in_size(eight: Predictions, tmp_path: Path) -> None:
    text = exhibits.hardest_section(eight, Samples(size=exhibits.MOST_BYTES // 2), tmp_path)
    assert text.count("### ") == 2


def test_samples_that_cannot_be_shown_are_left_out(eight: Predictions, tmp_path: Path) -> None:
    assert exhibits.hardest_section(eight, Samples(gone=[17]), tmp_path).count("### ") == 5
    assert exhibits.hardest_section(eight, Gallery(), tmp_path) == ""
    assert not (tmp_path / "exhibits").exists()  # nor is there anything of the report before
    assert exhibits.hardest_section(replace(eight, positions=None), Samples(), tmp_path) == ""


def test_a_sweep_shows_the_hardest_of_its_runs(eight: Predictions, predict: Predict, tmp_path: Path) -> None:
    worse = replace(predict([[0.05, 0.95]], [0], ["dog <b>", "cat"]), positions=(3,))
    for name, predictions in (("fold-1", eight), ("fold-2", worse), ("fold-3", None)):
        (tmp_path / name).mkdir()
        if predictions:
            exhibits.hardest_section(predictions, Samples(), tmp_path / name)
    text = exhibits.hardest_of_all([tmp_path / f"fold-{n}" for n in (1, 2, 3)], tmp_path)
    assert text.count("### ") == exhibits.MOST_SAMPLES
    assert text.index("fold-2/exhibits/hardest-1-1.ogg") < text.index("fold-1/exhibits/hardest-1-1.ogg")
    assert exhibits.hardest_of_all([tmp_path / "fold-3"], tmp_path) == ""


def test_what_was_learned_is_shown_as_its_task_does(tmp_path: Path) -> None:
    text = exhibits.model_section(Samples(), tmp_path)
    explained = "A line &gt; 0 \\*rises\\*."
    assert text == f"## What was learned\n\n{explained}\n\n![Weights &lt;then&gt;](exhibits/model-1.png)"
    assert (tmp_path / "exhibits" / "model-1.png").read_bytes() == b"png"
    assert exhibits.model_section(Gallery(), tmp_path) == ""
