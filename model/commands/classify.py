"""`classify`: ranks labels for sounds and images, or writes all probabilities to a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from ..storage.atomic import whole_file
from ..zero_shot import embed_labels
from .checks import SCORES_COLUMNS
from .embedding import score_labels
from .index import Entry, Index
from .messages import loader, name_unusable, open_weights, warn_of_untrained
from .printing import escaped, say


def classify(
    paths: Sequence[Path],
    labels: Sequence[str],
    *,
    template: str,
    count: int,
    out: Path | None,
    weights: str | None,
) -> int:
    """Print the most probable labels of each file, or write the probabilities of all labels as CSV.

    Args:
        paths: existing files and folders.
        labels: two or more candidate labels.
        template: prompt template, with `{}` where the label goes.
        count: maximum number of labels to print per file.
        out: .csv file to write instead, replaced atomically, with the columns path, kind, and one for each
            label.
        weights: see `describe_weights`; None for the released ones.

    Returns:
        1 if a file is unusable, otherwise 0.

    Raises:
        ValueError: A label or the template cannot be used, or there is no usable file.
    """
    index = Index(paths, open_weights(weights))
    warn_of_untrained(index.weights, labels, template)
    load = loader(index.weights)
    model = load()
    texts = embed_labels(model, labels, template)
    update = index.update(load)
    if out is not None:
        say(index.summary(update))
    name_unusable(update.wrong)
    if not index.entries:
        raise ValueError(f"There is no {'usable ' if update.wrong else ''}sound or image.")
    scores = [score_labels(model, entry.kind, entry.embedding, texts) for entry in index.entries]
    if out is not None:
        _write(out, index.entries, labels, scores)
        return int(bool(update.wrong))
    for entry, row in zip(index.entries, scores, strict=True):
        print(escaped(entry.path))
        best = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])[:count]
        for label, probability in best:
            print(f"  {probability:6.3f}  {escaped(label)}")
    return int(bool(update.wrong))


def _write(
    file: Path, entries: Sequence[Entry], labels: Sequence[str], scores: Sequence[Sequence[float]]
) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([*SCORES_COLUMNS, *labels])
    for entry, row in zip(entries, scores, strict=True):
        writer.writerow([entry.path, entry.kind, *(f"{probability:.6f}" for probability in row)])
    with whole_file(file) as content:
        content.write(table.getvalue().encode())
