"""The part of a report that predictions make up: sections of Markdown, and the pictures they show."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from ignite_trainer import drawing
from ignite_trainer.formatting import percent
from ignite_trainer.markdown import folded, inert, picture, table
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import confusion, pictures, statistics
from ignite_trainer.report.statistics import Calibration, Counts, Floats

_NAMED = 10  # classes without samples; more are only counted


def prediction_sections(predictions: Predictions, folder: Path) -> str:
    """Write `classes.png`, `confusion.png` and `calibration.png`, and describe the predictions beside them.

    There is no confusion matrix where a sample can have several classes, and no calibration where scores
    are no probabilities. Samples with scores that are not finite are left out, and counted in the text.

    Args:
        predictions: of one split, or of several, pooled.
        folder: where the pictures go; each is whole or absent.

    Returns:
        Markdown sections of the second level; they name the pictures relative to `folder`.
    """
    kept = statistics.finite(predictions)
    sections = []
    left_out = len(predictions) - len(kept)
    if left_out:
        sections.append(
            f"**{left_out:,} of {len(predictions):,} samples have scores that are not finite.** They are "
            "left out of what follows."
        )
    if not kept.scores.size:
        return "\n\n".join(["## Predictions", *sections, "There are no scores to look at."]) + "\n"
    if predictions.multilabel:
        sections += _ranked_classes(kept, folder)
    else:
        matrix = statistics.confusion_matrix(kept)
        sections += [*_classes(matrix, kept, folder), *_confusions(matrix, kept, folder)]
    sections += _calibration(kept, folder)
    return "\n\n".join(sections) + "\n"


def _classes(matrix: Counts, predictions: Predictions, folder: Path) -> list[str]:
    """Accuracy by class."""
    names = predictions.class_names
    values, samples, right = statistics.class_accuracies(matrix), matrix.sum(axis=1), matrix.diagonal()
    notes = [f"{part:,} of {whole:,}" for part, whole in zip(right, samples, strict=True)]
    figure = pictures.classes_figure(values, notes, names, measure="Accuracy")
    drawing.save(figure, folder / "classes.png")
    intervals = [_interval(k, n) for k, n in zip(right, samples, strict=True)]
    rows = zip(names, map(_count, samples), map(_count, right), map(_percent, values), intervals, strict=True)
    return [
        "## Classes",
        f"{right.sum():,} of {samples.sum():,} samples are right: an accuracy of "
        f"{_percent(right.sum() / samples.sum())} (95 % interval {_interval(right.sum(), samples.sum())}). "
        f"The mean of the classes' accuracies is {_percent(float(np.nanmean(values)))}."
        f"{_absent(values, names)}{_loss(predictions)}",
        "An interval is Wilson's: the accuracies that so many samples leave plausible, if they are "
        "independent of each other. It does not cover what another seed or other training data would change.",
        picture(PurePath("classes.png"), "Accuracy of each class"),
        folded("Every class", table(["class", "samples", "right", "accuracy", "95 % interval"], rows)),
    ]


def _ranked_classes(predictions: Predictions, folder: Path) -> list[str]:
    """Average precision by class, where a sample can have several."""
    names = predictions.class_names
    values, positives = statistics.average_precisions(predictions), predictions.targets.sum(axis=0)
    sections = ["## Classes"]
    if not positives.any():
        return [*sections, "No sample has any class, so no average precision is defined."]
    notes = [f"{count:,} positive" for count in positives]
    figure = pictures.classes_figure(values, notes, names, measure="Average precision")
    drawing.save(figure, folder / "classes.png")
    rows = zip(names, map(_count, positives), map(_decimals, values), strict=True)
    return [
        *sections,
        f"{len(predictions):,} samples. The mean average precision over classes is "
        f"{_decimals(float(np.nanmean(values)))}.{_absent(values, names)}{_loss(predictions)}",
        picture(PurePath("classes.png"), "Average precision of each class"),
        folded("Every class", table(["class", "positives", "average precision"], rows)),
    ]


def _confusions(matrix: Counts, predictions: Predictions, folder: Path) -> list[str]:
    names = predictions.class_names
    drawing.save(confusion.confusion_figure(matrix, names), folder / "confusion.png")
    rows = [
        (names[error.target], names[error.predicted], _count(error.count), _percent(error.share))
        for error in statistics.most_confused(matrix)
    ]
    header = ["right class", "predicted class", "samples", "of the right class"]
    worst = f"Most often confused:\n\n{table(header, rows, left=2)}" if rows else "Nothing is confused."
    return [
        "## Confusions",
        picture(
            PurePath("confusion.png"), "Confusion matrix: rows are right classes, columns predicted ones"
        ),
        worst,
    ]


def _calibration(predictions: Predictions, folder: Path) -> list[str]:
    found = statistics.calibration(predictions)
    if found is None:
        return ["## Calibration", "Scores leave 0..1: they are no probabilities, and cannot be calibrated."]
    figure = pictures.calibration_figure(found, multilabel=predictions.multilabel)
    drawing.save(figure, folder / "calibration.png")
    return [
        "## Calibration",
        _calibration_text(found, multilabel=predictions.multilabel),
        picture(PurePath("calibration.png"), "Share that is right by confidence, over a histogram"),
    ]


def _calibration_text(found: Calibration, *, multilabel: bool) -> str:
    what = "Every score of a class" if multilabel else "The highest score of a sample"
    return (
        f"The expected calibration error is {found.error:.4f}. {what} is a confidence; their mean is "
        f"{_percent(found.mean_confidence)}, and {_percent(found.accuracy)} are right. The error is the mean "
        f"gap between the two in {len(found.counts)} bins of equal width, weighted by the numbers in them."
    )


def _absent(values: Floats, names: tuple[str, ...]) -> str:
    """Say which classes have no value, to be added to a sentence."""
    absent = [name for name, value in zip(names, values, strict=True) if np.isnan(value)]
    if not absent:
        return ""
    count = f" Classes without samples: {len(absent)} of {len(names)}"
    return f"{count} ({', '.join(map(inert, absent))})." if len(absent) <= _NAMED else f"{count}."


def _loss(predictions: Predictions) -> str:
    """Say how large the loss is, to be added to a sentence."""
    loss = statistics.cross_entropy(predictions)
    if loss is None:
        return ""
    kind = "binary cross-entropy of every class" if predictions.multilabel else "cross-entropy"
    return f" The loss (mean {kind}, in nats; without penalties) is {_decimals(loss)}."


def _interval(right: int, samples: int) -> str:
    if not samples:
        return ""
    low, high = statistics.accuracy_interval(int(right), int(samples))
    return f"{percent(low)} to {percent(high)} %"


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{percent(value, decimals=2)} %"


def _decimals(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"
