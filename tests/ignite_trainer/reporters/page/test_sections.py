"""The sections say what can be said of predictions, and show pictures that are there."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ignite_trainer.api.predictions import Predictions
from ignite_trainer.reporters.page import prediction_sections
from ignite_trainer.reporters.page.render import Section

PAIRS = [(0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (2, 1), (2, 0), (2, 2), (2, 2)]


def text_of(*sections: Section) -> str:
    """All that is said: paragraphs, and the rows of tables."""
    rows = [" | ".join(row) for section in sections for row in section.rows]
    inner = [text_of(*section.parts) for section in sections]
    return "\n".join([*(said for section in sections for said in section.text), *rows, *inner])


def contents(sections: Sequence[Section]) -> list[bytes]:
    return [exhibit.content for section in sections for exhibit in section.exhibits]


def test_the_pictures_that_are_shown_are_all_that_is_written(guesses: Any, tmp_path: Path) -> None:
    shown = contents(prediction_sections(guesses(PAIRS, classes=4), tmp_path))
    names = ["classes.png", "confusion.png", "calibration.png"]
    assert shown == [(tmp_path / name).read_bytes() for name in names]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for content in shown:
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()


def test_figures_are_those_of_the_predictions(guesses: Any, tmp_path: Path) -> None:
    names = ["dog", "cat", "a|b", "rain"]
    text = text_of(*prediction_sections(guesses(PAIRS, classes=4, names=names), tmp_path))
    assert "5 of 9 samples are right: an accuracy of 55.56 % (95 % interval 26.7 to 81.1 %)." in text
    assert f"The mean of the classes' accuracies is {100 * (0.5 + 1 + 0.5) / 3:.2f} %." in text
    assert "Classes without samples: 1 of 4 (rain)." in text
    assert "dog | 4 | 2 | 50.00 % | 15.0 to 85.0 %" in text
    assert "rain | 0 | 0 |  | \n" in text
    loss = -(5 * math.log(0.6) + 4 * math.log(0.4 / 3)) / 9
    assert f"The loss (mean cross-entropy, in nats; without penalties) is {loss:.4f}." in text
    assert "dog | cat | 2 | 50.00 %\na|b | dog | 1 | 25.00 %" in text
    assert f"The expected calibration error is {abs(5 / 9 - 0.6):.4f}." in text
    assert "their mean is 60.00 %, and 55.56 % are right" in text


def test_a_perfect_result_has_nothing_confused(guesses: Any, tmp_path: Path) -> None:
    assert "Nothing is confused." in text_of(
        *prediction_sections(guesses([(0, 0), (1, 1)], classes=2), tmp_path)
    )


def test_one_class_is_enough(guesses: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(guesses([(0, 0)], classes=1), tmp_path))
    assert "1 of 1 samples are right: an accuracy of 100.00 % (95 % interval 20.7 to 100.0 %)." in text


@pytest.mark.parametrize("samples", [0, 3])
def test_without_a_finite_score_there_is_nothing_to_show(tmp_path: Path, samples: int) -> None:
    predictions = Predictions(
        scores=np.full((samples, 2), np.nan, dtype=np.float32),
        targets=np.eye(2, dtype=bool)[[0] * samples],
        class_names=("a", "b"),
        records=({"sample": 1},) * samples,
    )
    text = text_of(*prediction_sections(predictions, tmp_path))
    assert "There are no scores to look at." in text
    assert ("3 of 3 samples have scores that are not finite" in text) == bool(samples)
    assert list(tmp_path.iterdir()) == []


def test_samples_without_finite_scores_are_counted_and_left_out(predict: Any, tmp_path: Path) -> None:
    scores = [[0.9, 0.1], [math.nan, 0.4], [0.3, 0.7]]
    text = text_of(*prediction_sections(predict(scores, [0, 1, 1]), tmp_path))
    assert "1 of 3 samples have scores that are not finite." in text
    assert "2 of 2 samples are right" in text


def test_scores_that_are_no_probabilities_have_no_calibration(predict: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(predict([[3.0, -1.0], [-2.0, 4.0]], [0, 1]), tmp_path))
    assert "Scores leave 0..1: they are no probabilities, and cannot be calibrated." in text
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "confusion.png"}
    assert "The loss" not in text


def test_several_labels_have_average_precision_and_no_confusion(predict: Any, tmp_path: Path) -> None:
    scores = [[0.9, 0.5, 0.9], [0.8, 0.5, 0.7], [0.7, 0.5, 0.6], [0.1, 0.5, 0.1]]
    text = text_of(*prediction_sections(predict(scores, [[0], [2], [0], []]), tmp_path))
    assert f"The mean average precision over classes is {(5 / 6 + 1 / 2) / 2:.4f}." in text
    assert "Classes without samples: 1 of 3 (class 1)." in text
    assert "The loss (mean binary cross-entropy of every class" in text
    assert "class 0 | 2 | 0.8333" in text
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "calibration.png"}


def test_several_labels_of_which_no_sample_has_any(predict: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(predict([[0.5, 0.1]], [[]]), tmp_path))
    assert "No sample has any class, so no average precision is defined." in text
    assert {path.name for path in tmp_path.iterdir()} == {"calibration.png"}
