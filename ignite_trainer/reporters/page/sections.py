"""Sections of a report about predictions, with the pictures they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ignite_trainer.api.media import Exhibit
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.reporters import drawing
from ignite_trainer.reporters.page import confusion, pictures, statistics
from ignite_trainer.reporters.page.render import Section, picture
from ignite_trainer.support.formatting import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 10  # classes without samples; more are only counted


def prediction_sections(predictions: Predictions, folder: Path) -> list[Section]:
    """Describe predictions, and write the pictures that are shown, such as `classes.png`, into a folder.

    There is no confusion matrix where a sample can have several classes, and no calibration where scores
    are no probabilities. Samples with scores that are not finite are left out, and counted in the text.

    Args:
        predictions: of one split, or of several, pooled.
        folder: of the pictures; each is whole or absent.
    """
    kept = statistics.finite(predictions)
    text = []
    if left_out := len(predictions) - len(kept):
        of = f"{left_out:,} of {len(predictions):,} samples"
        text.append(f"{of} have scores that are not finite. They are left out of what follows.")
    if not kept.scores.size:
        return [Section(title="Predictions", text=[*text, "There are no scores to look at."])]
    confusions = [] if kept.multilabel else [_confusions(kept, folder)]
    return [_classes(kept, folder, text), *confusions, _calibration(kept, folder)]


def _classes(predictions: Predictions, folder: Path, text: list[str]) -> Section:
    """Accuracy of each class, or its average precision where a sample can have several."""
    names, samples = predictions.class_names, predictions.targets.sum(axis=0)
    if predictions.multilabel and not samples.any():
        nothing = "No sample has any class, so no average precision is defined."
        return Section(title="Classes", text=[*text, nothing])
    if predictions.multilabel:
        measure, values = "Average precision", statistics.average_precisions(predictions)
        mean = f"The mean average precision over classes is {np.nanmean(values):.4f}."
        summary = [f"{len(predictions):,} samples.", mean]
        explanation = []
        notes = [f"{count:,} positive" for count in samples]
        header = ["class", "positives", "average precision"]
        columns = [
            [f"{n:,}" for n in samples],
            ["" if np.isnan(value) else f"{value:.4f}" for value in values],
        ]
    else:
        measure, values = "Accuracy", statistics.recalls(predictions)
        right = predictions.targets[predictions.correct].sum(axis=0)
        k, n = right.sum(), samples.sum()
        summary = [
            f"{k:,} of {n:,} samples are right: an accuracy of {_percent(k / n)} "
            f"(95 % interval {_interval(k, n)}).",
            f"The mean of the classes' accuracies is {_percent(float(np.nanmean(values)))}.",
        ]
        explanation = [
            "An interval is Wilson's: the accuracies that so many samples leave plausible, if they are "
            "independent of each other. It does not cover what another seed or other training data would "
            "change."
        ]
        notes = [f"{k:,} of {n:,}" for k, n in zip(right, samples, strict=True)]
        header = ["class", "samples", "right", "accuracy", "95 % interval"]
        counts = [[f"{count:,}" for count in column] for column in (samples, right)]
        columns = [*counts, list(map(_percent, values)), list(map(_interval, right, samples))]
    figure = pictures.classes_figure(values, notes, names, measure=measure)
    return Section(
        title="Classes",
        text=[*text, " ".join([*summary, *_absent(predictions), *_loss(predictions)]), *explanation],
        exhibits=[_save(figure, folder / "classes.png", f"{measure} of each class")],
        folded="Every class",
        header=header,
        rows=list(zip(names, *columns, strict=True)),
    )


def _confusions(predictions: Predictions, folder: Path) -> Section:
    matrix, names = statistics.confusion_matrix(predictions), predictions.class_names
    what = "Confusion matrix: rows are right classes, columns predicted ones"
    shown = _save(confusion.confusion_figure(matrix, names), folder / "confusion.png", what)
    rows = [
        [names[right], names[predicted], f"{count:,}", _percent(share)]
        for right, predicted, count, share in statistics.most_confused(matrix)
    ]
    if not rows:
        return Section(title="Confusions", text=["Nothing is confused."], exhibits=[shown])
    header = ["right class", "predicted class", "samples", "of the right class"]
    worst = Section(title="Most often confused", header=header, rows=rows, left=2)
    return Section(title="Confusions", exhibits=[shown], parts=[worst])


def _calibration(predictions: Predictions, folder: Path) -> Section:
    found = statistics.calibration(predictions)
    if found is None:
        text = "Scores leave 0..1: they are no probabilities, and cannot be calibrated."
        return Section(title="Calibration", text=[text])
    figure = pictures.calibration_figure(found, multilabel=predictions.multilabel)
    shown = _save(figure, folder / "calibration.png", "Share that is right by confidence, over a histogram")
    confidence = "Every score of a class" if predictions.multilabel else "The highest score of a sample"
    text = (
        f"The expected calibration error is {found.error:.4f}. {confidence} is a confidence; their mean is "
        f"{_percent(found.mean_confidence)}, and {_percent(found.accuracy)} are right. The error is the mean "
        f"gap between the two in {len(found.counts)} bins of equal width, weighted by the numbers in them."
    )
    return Section(title="Calibration", text=[text], exhibits=[shown])


def _save(figure: Figure, path: Path, what: str) -> Exhibit:
    drawing.save(figure, path)
    return picture(path, what)


def _absent(predictions: Predictions) -> list[str]:
    names, samples = predictions.class_names, predictions.targets.sum(axis=0)
    absent = [name for name, count in zip(names, samples, strict=True) if not count]
    if not absent:
        return []
    listed = f" ({', '.join(absent)})" if len(absent) <= _NAMED else ""
    return [f"Classes without samples: {len(absent)} of {len(names)}{listed}."]


def _loss(predictions: Predictions) -> list[str]:
    loss = statistics.cross_entropy(predictions)
    kind = "binary cross-entropy of every class" if predictions.multilabel else "cross-entropy"
    return [] if loss is None else [f"The loss (mean {kind}, in nats; without penalties) is {loss:.4f}."]


def _interval(right: int, samples: int) -> str:
    if not samples:
        return ""
    low, high = statistics.accuracy_interval(int(right), int(samples))
    return f"{percent(low)} to {percent(high)} %"


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{percent(share, decimals=2)} %"
