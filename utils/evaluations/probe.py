"""Linear probe: accuracy of a linear classifier on frozen features, cross-validated over the official folds.

    python -m utils.evaluations.probe features.safetensors [--C 1.0] [--json]

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

from ignite_trainer.support.terminal import replace_unknown_letters, show_matrix
from utils.evaluations.feature_files import FeatureTable

logger = logging.getLogger(__name__)

CHANCE = "chance"
_MOST_STEPS = 2000


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

    check_penalty(C)
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


def check_penalty(C: object) -> None:
    """Raise ValueError unless C is a positive number."""
    if isinstance(C, bool) or not isinstance(C, int | float) or not 0 < C < math.inf:
        raise ValueError(f"C is {C}; a positive number is expected.")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 on success, 1 on an error."""
    replace_unknown_letters()
    parser = argparse.ArgumentParser(
        prog="python -m utils.evaluations.probe",
        description="Train and test a linear probe on stored features, holding out each fold in turn.",
    )
    parser.add_argument("features", type=Path, metavar="FILE", help="features.safetensors of a run")
    parser.add_argument("--C", type=float, default=1.0, help="inverse of the penalty (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    given = parser.parse_args(arguments)
    try:
        table = FeatureTable.read(given.features)
        rows = probe(table, C=given.C)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(rows, indent=2))
    else:
        title = f"Accuracy of a linear probe, {table.dataset}: {len(table):,} clips, C = {given.C:g}"
        cells = {kind: [f"{value:.4f}" for value in row.values()] for kind, row in rows.items()}
        show_matrix(title, [*next(iter(rows.values()))], cells)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
