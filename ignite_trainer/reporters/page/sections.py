"""Report sections about predictions, with their figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ignite_trainer.api.media import Exhibit
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.reporters import drawing
from ignite_trainer.reporters.page import plots, statistics
from ignite_trainer.reporters.page.render import Section, picture
from ignite_trainer.support.formatting import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_NAMED = 10  # classes without samples; if there are more, they are only counted


def prediction_sections(predictions: Predictions, folder: Path) -> list[Section]:
    """Describe predictions, and write the sections' figures, such as `classes.png`, into a folder.

    The confusion matrix is omitted if samples can have several classes, and the calibration if scores are not
    probabilities. Samples with non-finite scores are excluded and counted in the text.
    """
    kept = statistics.finite(predictions)
    text = []
    if excluded := len(predictions) - len(kept):
        share = f"{excluded:,} of {len(predictions):,} samples"
        text.append(f"{share} have non-finite scores; they are excluded below.")
    if not kept.scores.size:
        return [Section(title="Predictions", text=[*text, "There are no scores."])]
    confusions = [] if kept.multilabel else [_confusions(kept, folder)]
    return [_classes(kept, folder, text), *confusions, _calibration(kept, folder)]


def _classes(predictions: Predictions, folder: Path, text: list[str]) -> Section:
    """Show the accuracy of each class, or its average precision if samples can have several classes."""
    names, samples = predictions.class_names, predictions.targets.sum(axis=0)
    if predictions.multilabel and not samples.any():
        nothing = "No sample has a class, so average precision is undefined."
        return Section(title="Classes", text=[*text, nothing])
    if predictions.multilabel:
        measure, values = "Average precision", statistics.average_precisions(predictions)
        summary = [
            f"Mean average precision over classes: {np.nanmean(values):.4f}, on {len(predictions):,} samples."
        ]
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
            f"Accuracy: {_percent(k / n)} ({k:,} of {n:,} samples; 95 % interval {_interval(k, n)}).",
            f"Mean accuracy over classes: {_percent(float(np.nanmean(values)))}.",
        ]
        explanation = [
            "Intervals are Wilson score intervals for independent samples. They do not include the variation "
            "between seeds or training sets."
        ]
        notes = [f"{k:,} of {n:,}" for k, n in zip(right, samples, strict=True)]
        header = ["class", "samples", "correct", "accuracy", "95 % interval"]
        counts = [[f"{count:,}" for count in column] for column in (samples, right)]
        columns = [*counts, list(map(_percent, values)), list(map(_interval, right, samples))]
    absent = [name for name, count in zip(names, samples, strict=True) if not count]
    if absent:
        listed = f" ({', '.join(absent)})" if len(absent) <= _MAX_NAMED else ""
        summary.append(f"Classes without samples: {len(absent)} of {len(names)}{listed}.")
    loss = statistics.cross_entropy(predictions)
    if loss is not None:
        kind = "binary cross-entropy over classes" if predictions.multilabel else "cross-entropy"
        summary.append(f"Mean {kind} (in nats, without penalties): {loss:.4f}.")
    figure = plots.classes_figure(values, notes, names, measure=measure)
    return Section(
        title="Classes",
        text=[*text, " ".join(summary), *explanation],
        exhibits=[_save(figure, folder / "classes.png", f"{measure} of each class")],
        folded="All classes",
        header=header,
        rows=list(zip(names, *columns, strict=True)),
    )


def _confusions(predictions: Predictions, folder: Path) -> Section:
    matrix, names = statistics.confusion_matrix(predictions), predictions.class_names
    what = "Confusion matrix: rows are true classes, columns predicted classes"
    shown = _save(plots.confusion_figure(matrix, names), folder / "confusion.png", what)
    rows = [
        [names[right], names[predicted], f"{count:,}", _percent(share)]
        for right, predicted, count, share in statistics.most_confused(matrix)
    ]
    if not rows:
        return Section(title="Confusions", text=["No sample is misclassified."], exhibits=[shown])
    header = ["true class", "predicted class", "samples", "share of the true class"]
    worst = Section(title="Most frequent confusions", header=header, rows=rows, left=2)
    return Section(title="Confusions", exhibits=[shown], parts=[worst])


def _calibration(predictions: Predictions, folder: Path) -> Section:
    found = statistics.calibration(predictions)
    if found is None:
        text = "Some scores are outside 0..1, so they are not probabilities and have no calibration error."
        return Section(title="Calibration", text=[text])
    figure = plots.calibration_figure(found, multilabel=predictions.multilabel)
    shown = _save(figure, folder / "calibration.png", "Share correct by confidence, and a histogram below")
    confidence = "every score of a class" if predictions.multilabel else "the highest score of a sample"
    text = (
        f"Expected calibration error: {found.error:.4f}. It is the mean gap between confidence "
        f"({confidence}) and the share that is correct, in {len(found.counts)} bins of equal width, weighted "
        f"by the number of scores in each. On average, confidence is {_percent(found.mean_confidence)}, and "
        f"{_percent(found.accuracy)} are correct."
    )
    return Section(title="Calibration", text=[text], exhibits=[shown])


def _save(figure: Figure, path: Path, what: str) -> Exhibit:
    drawing.save(figure, path)
    return picture(path, what)


def _interval(right: int, samples: int) -> str:
    if not samples:
        return ""
    low, high = statistics.accuracy_interval(int(right), int(samples))
    return f"{percent(low)} to {percent(high)} %"


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{percent(share, decimals=2)} %"
