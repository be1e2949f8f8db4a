"""Linear probe: a linear classifier on frozen features, cross-validated over folds, or on official splits.

    python -m utils.evaluations.probe features.safetensors [--C 0.01 0.1 1] [--json]

The evaluation `utils.evaluations.LinearProbe` does the same in a run.
"""

# ruff: noqa: PLC0415 (scikit-learn is slow to import)

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ignite_trainer.support.terminal import replace_unknown_letters, show_matrix
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.split_probe import CHANCE, probe_splits

logger = logging.getLogger(__name__)

_MOST_STEPS = 2000


def probe_table(
    table: FeatureTable, *, C: Sequence[float], device: torch.device | str = "cpu"
) -> dict[str, dict[str, float]]:
    """Probe the official splits if there are any (see `probe_splits`), and otherwise the folds (see `probe`).

    Raises:
        ValueError: The table is not suitable, or several C are given without splits to choose on.
    """
    if table.splits is not None:
        return probe_splits(table, C=C, device=device)
    if len(C) > 1:
        raise ValueError(f"C is {list(C)}; without official splits there is nothing to choose on. Give one.")
    return probe(table, C=C[0])


def probe(table: FeatureTable, *, C: float = 1.0) -> dict[str, dict[str, float]]:
    """Hold out each fold in turn and train on the other folds, for every kind of features.

    The probe is scikit-learn's logistic regression (L2 penalty, L-BFGS) on features standardised over the
    training folds. Results do not depend on the number of threads.

    Args:
        table: features of a whole data set with folds and one label per clip; kinds of which a clip can have
            several rows, such as captions, are left out.
        C: inverse strength of the penalty, above 0.

    Returns:
        One row of accuracies per kind of features: "fold 1" and so on, their "mean" and their sample
        standard deviation "sd". The row "chance" is the accuracy of always predicting the most frequent class
        in the training folds.

    Raises:
        ValueError: There are fewer than two folds, a clip does not have exactly one label, the training folds
            have a single class, or C is out of range.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    penalties(C)
    targets, folds = table.targets, table.folds
    if targets is None:
        raise ValueError(
            f"the probe needs exactly one label for each clip; {table.dataset} has more or fewer."
        )
    if folds is None or len(np.unique(folds)) < 2:
        raise ValueError(
            f"the probe needs at least two folds; {table.dataset} has {'none' if folds is None else 'one'}."
        )
    numbers, split = np.unique(folds, return_inverse=True)
    probed = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=_MOST_STEPS))
    chance = DummyClassifier(strategy="most_frequent")
    rows, unfinished = {}, 0
    # Several threads would round sums differently, and wait for each other on a busy machine.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # replaced by the warning below
        for kind in [*(kind for kind in table.features if kind not in table.clips_of), CHANCE]:
            features = table.features.get(kind, np.zeros((len(targets), 1)))
            found = cross_validate(
                chance if kind == CHANCE else probed,
                features.astype(np.float64),  # in float32 the solver's line search gives up early
                targets,
                cv=PredefinedSplit(split),
                return_estimator=True,
                error_score="raise",
            )
            accuracies = [float(accuracy) for accuracy in found["test_score"]]
            rows[kind] = {f"fold {number}": value for number, value in zip(numbers, accuracies, strict=True)}
            rows[kind] |= {"mean": float(np.mean(accuracies)), "sd": float(np.std(accuracies, ddof=1))}
            if kind != CHANCE:
                unfinished += sum(fit[-1].n_iter_.max() >= _MOST_STEPS for fit in found["estimator"])
    if unfinished:
        logger.warning(
            "%d of the linear probe's fits did not converge in %d steps; a smaller C than %g converges "
            "sooner.",
            *(unfinished, _MOST_STEPS, C),
        )
    return rows


def penalties(C: object) -> tuple[float, ...]:
    """Return one or several values of C; raise ValueError unless they are positive numbers."""
    values = tuple(C) if isinstance(C, list | tuple) and C else (C,)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"C is {value}; a positive number is expected.")
    return values


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 on success, 1 on an error."""
    replace_unknown_letters()
    parser = argparse.ArgumentParser(
        prog="python -m utils.evaluations.probe",
        description="Train and test a linear probe on stored features, holding out each fold in turn, or on "
        "the official splits.",
    )
    parser.add_argument("features", type=Path, metavar="FILE", help="features.safetensors of a run")
    parser.add_argument(
        "--C",
        type=float,
        nargs="+",
        default=[1.0],
        help="inverse of the penalty (default: 1.0); of several, the best on the validation split is used",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    try:
        table = FeatureTable.read(given.features)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        rows = probe_table(table, C=penalties(given.C), device=device)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(rows, indent=2))
    else:
        what = "Accuracy of a linear probe" if table.splits is None else "Linear probe"
        strengths = ", ".join(f"{value:g}" for value in given.C)
        title = f"{what}, {table.dataset}: {len(table):,} clips, C = {strengths}"
        columns = [*next(iter(rows.values()))]
        cells = {
            kind: [f"{row[name]:.4f}" if name in row else "" for name in columns]
            for kind, row in rows.items()
        }
        show_matrix(title, columns, cells)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
