"""Sections show the plots of predictions, and omit those that are undefined."""

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
    """Return the paragraphs and table rows of sections."""
    rows = [" | ".join(row) for section in sections for row in section.rows]
    inner = [text_of(*section.parts) for section in sections]
    return "\n".join([*(said for section in sections for said in section.text), *rows, *inner])


def contents(sections: Sequence[Section]) -> list[bytes]:
    return [exhibit.content for section in sections for exhibit in section.exhibits]


def test_only_the_plots_that_are_shown_are_written(guesses: Any, tmp_path: Path) -> None:
    shown = contents(prediction_sections(guesses(PAIRS, classes=4), tmp_path))
    names = ["classes.png", "confusion.png", "calibration.png"]
    assert shown == [(tmp_path / name).read_bytes() for name in names]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for content in shown:
        with Image.open(io.BytesIO(content)) as picture:
            picture.verify()


def test_values_come_from_the_predictions(guesses: Any, tmp_path: Path) -> None:
    names = ["dog", "cat", "a|b", "rain"]
    text = text_of(*prediction_sections(guesses(PAIRS, classes=4, names=names), tmp_path))
    assert "Accuracy: 55.56 % (5 of 9 samples; 95 % interval 26.7 to 81.1 %)." in text
    assert f"Mean accuracy over classes: {100 * (0.5 + 1 + 0.5) / 3:.2f} %." in text
    assert "Classes without samples: 1 of 4 (rain)." in text
    assert "dog | 4 | 2 | 50.00 % | 15.0 to 85.0 %" in text
    assert "rain | 0 | 0 |  | \n" in text
    loss = -(5 * math.log(0.6) + 4 * math.log(0.4 / 3)) / 9
    assert f"Mean cross-entropy (in nats, without penalties): {loss:.4f}." in text
    assert "dog | cat | 2 | 50.00 %\na|b | dog | 1 | 25.00 %" in text
    assert f"Expected calibration error: {abs(5 / 9 - 0.6):.4f}." in text
    assert "confidence is 60.00 %, and 55.56 % are correct" in text


def test_a_perfect_result_has_no_confused_classes(guesses: Any, tmp_path: Path) -> None:
    assert "No sample is misclassified." in text_of(
        *prediction_sections(guesses([(0, 0), (1, 1)], classes=2), tmp_path)
    )


def test_one_class_is_enough(guesses: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(guesses([(0, 0)], classes=1), tmp_path))
    assert "Accuracy: 100.00 % (1 of 1 samples; 95 % interval 20.7 to 100.0 %)." in text


@pytest.mark.parametrize("samples", [0, 3])
def test_without_a_finite_score_nothing_is_shown(tmp_path: Path, samples: int) -> None:
    predictions = Predictions(
        scores=np.full((samples, 2), np.nan, dtype=np.float32),
        targets=np.eye(2, dtype=bool)[[0] * samples],
        class_names=("a", "b"),
        records=({"sample": 1},) * samples,
    )
    text = text_of(*prediction_sections(predictions, tmp_path))
    assert "There are no scores." in text
    assert ("3 of 3 samples have non-finite scores" in text) == bool(samples)
    assert list(tmp_path.iterdir()) == []


def test_samples_with_non_finite_scores_are_excluded_and_counted(predict: Any, tmp_path: Path) -> None:
    scores = [[0.9, 0.1], [math.nan, 0.4], [0.3, 0.7]]
    text = text_of(*prediction_sections(predict(scores, [0, 1, 1]), tmp_path))
    assert "1 of 3 samples have non-finite scores; they are excluded below." in text
    assert "(2 of 2 samples; " in text


def test_scores_that_are_not_probabilities_have_no_calibration(predict: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(predict([[3.0, -1.0], [-2.0, 4.0]], [0, 1]), tmp_path))
    assert (
        "Some scores are outside 0..1, so they are not probabilities and have no calibration error." in text
    )
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "confusion.png"}
    assert "cross-entropy" not in text


def test_several_labels_have_average_precision_and_no_confusion_matrix(predict: Any, tmp_path: Path) -> None:
    scores = [[0.9, 0.5, 0.9], [0.8, 0.5, 0.7], [0.7, 0.5, 0.6], [0.1, 0.5, 0.1]]
    text = text_of(*prediction_sections(predict(scores, [[0], [2], [0], []]), tmp_path))
    assert f"Mean average precision over classes: {(5 / 6 + 1 / 2) / 2:.4f}, on 4 samples." in text
    assert "Classes without samples: 1 of 3 (class 1)." in text
    assert "Mean binary cross-entropy over classes (in nats" in text
    assert "class 0 | 2 | 0.8333" in text
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "calibration.png"}


def test_average_precision_is_undefined_if_no_sample_has_a_label(predict: Any, tmp_path: Path) -> None:
    text = text_of(*prediction_sections(predict([[0.5, 0.1]], [[]]), tmp_path))
    assert "No sample has a class, so average precision is undefined." in text
    assert {path.name for path in tmp_path.iterdir()} == {"calibration.png"}
