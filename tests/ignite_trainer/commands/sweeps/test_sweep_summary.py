"""The table of a sweep: which runs are averaged together, and the remarks about them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import draw_toy
from toy_research.records import run_record, weights

from ignite_trainer.api.reporter import Best
from ignite_trainer.commands.sweeps.combinations import Combination
from ignite_trainer.commands.sweeps.sweep_summary import (
    Pooled,
    Summary,
    remarks,
    to_cells,
    to_json,
    to_markdown,
)
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.formatting import EPOCH_0

FOLD, SEED, LR = "Dataset.args.fold", "Setup.seed", "Optimizer.args.lr"
BLUEPRINT = draw_toy(Path("none"))


def planned(sweep: dict[str, list[Any]]) -> tuple[Combination, ...]:
    rows = itertools.product(*sweep.values())
    return tuple(
        Combination(name=f"run {number}", values=dict(zip(sweep, row, strict=True)), blueprint=BLUEPRINT)
        for number, row in enumerate(rows)
    )


def summary(sweep: dict[str, list[Any]], *records: RunRecord | None, **facts: Any) -> Summary:
    """Return a summary of runs with these records, in order; None stands for an unfinished run."""
    runs = planned(sweep)
    found = {run.name: record for run, record in zip(runs, records, strict=True) if record}
    return Summary(name="Toy", runs=runs, records=found, failures={}, **facts)


def test_folds_and_seeds_are_averaged_over_and_other_keys_are_not() -> None:
    values = [0.50, 0.60, 0.70, 0.90, 0.10, 0.20, 0.30, 0.20]
    records = [
        run_record(fold=fold, seed=seed, last=value, best=value + 0.05)
        for (_, fold, seed), value in zip(itertools.product((0, 1), (1, 2), (3, 4)), values, strict=True)
    ]
    found = summary({LR: [0.1, 0.2], FOLD: [1, 2], SEED: [3, 4]}, *records)
    first, second = found.groups
    assert (first.values, second.values) == ({LR: 0.1}, {LR: 0.2})
    assert (first.held_out, first.folds, first.seeds) == ((1, 2), (1, 2, 3, 4, 5), (3, 4))
    last, best = first.metrics["Acc."]
    # The mean over folds of 0.55 and 0.80, their means over seeds.
    assert last == pytest.approx((0.675, math.sqrt(2 * 0.125**2), 2))
    assert best == pytest.approx((0.725, last[1], 2))  # type: ignore[index]
    _, _, means = to_cells(found)
    wide = ["2 of 5 folds", "2 seeds"]
    assert means == [
        ["mean ± sd, n = 2 folds, 4 runs", "0.1", *wide, "0.6750 ± 0.1768", "0.7250 ± 0.1768"],
        ["mean ± sd, n = 2 folds, 4 runs", "0.2", *wide, "0.2000 ± 0.0707", "0.2500 ± 0.0707"],
    ]
    assert remarks(found)[0].startswith(
        "± is the sample standard deviation over n folds, after averaging the seeds of each. The best epoch"
    )


def test_every_fold_has_equal_weight_however_many_of_its_seeds_are_finished() -> None:
    values = {(1, 3): 0.9, (1, 4): 0.7, (2, 3): 0.2}
    records = [run_record(fold=fold, seed=seed, last=value) for (fold, seed), value in values.items()]
    found = summary({FOLD: [1, 2], SEED: [3, 4]}, *records, None)
    # Not (0.9 + 0.7 + 0.2) / 3.
    assert found.groups[0].metrics["Acc."].last == pytest.approx((0.5, math.sqrt(2 * 0.3**2), 2))
    assert to_cells(found)[2][0][0] == "mean ± sd, n = 2 folds, 3 of 4 runs"


def test_every_run_has_a_row_with_last_and_best_values_and_their_epochs() -> None:
    header, runs, means = to_cells(summary({FOLD: [1, 2]}, run_record(fold=1), None))
    assert header == ["run", "fold", "Acc., last epoch (epoch)", "Acc., chosen on held-out split (epoch)"]
    assert runs == [["run 0", "1", "0.5000 (9)", "0.6000 (4)"], ["run 1", "2", "missing", "missing"]]
    assert means == [["n = 1 of 2", "1 of 5 folds", "0.5000", "0.6000"]]


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_best_epoch_of_0_is_explained(epoch: int) -> None:
    best = (Best(label="Acc.", value=0.6, epoch=epoch, checkpoint=None),)
    found = summary({FOLD: [1, 2]}, run_record(fold=1), run_record(fold=2).model_copy(update={"best": best}))
    assert (EPOCH_0 in " ".join(remarks(found))) == (epoch == 0)


def test_each_metric_has_columns_but_no_best_column_without_a_best_epoch() -> None:
    record = run_record(fold=1, last=0.5).model_copy(update={"last": {"Acc.": 0.5, "Loss": 1e-7}})
    header, runs, means = to_cells(summary({FOLD: [1, 2]}, record, None))
    assert header[3:] == ["Acc., chosen on held-out split (epoch)", "Loss, last epoch (epoch)"]
    assert [row[3:] for row in runs] == [["0.6000 (4)", "1.000e-07 (9)"], ["missing", "missing"]]
    assert means[0][3:] == ["0.6000", "1.000e-07"]


def test_a_sweep_without_training_has_no_columns_for_best_epochs() -> None:
    header, runs, means = to_cells(summary({SEED: [1, 2]}, run_record(seed=1), run_record(seed=2)))
    assert header == ["run", "seed", "Acc., last epoch (epoch)"]
    assert {len(row) for row in (*runs, *means)} == {3}


def test_a_non_finite_value_is_not_hidden_by_averaging() -> None:
    found = summary({FOLD: [1, 2]}, run_record(fold=1), run_record(fold=2, last=None))
    _, runs, means = to_cells(found)
    assert runs[1][2] == "not finite (9)"
    assert means[0][2:] == ["", "0.6000 ± 0.0000"]
    assert to_json(found)["groups"][0]["metrics"]["Acc."]["last"] is None


def test_nothing_is_averaged_before_a_run_is_finished() -> None:
    found = summary({FOLD: [1, 2]}, None, None)
    assert to_cells(found)[2] == []
    assert remarks(found) == [
        "0 of 2 runs are finished. Missing: run 0, run 1. Repeat the command to continue."
    ]


BEST_IS_OPTIMISTIC = (
    "The best epoch was chosen on the held-out split, so its value is optimistic; the last epoch is unbiased."
)


def test_a_remark_says_which_value_is_unbiased() -> None:
    assert remarks(summary({FOLD: [1]}, run_record(fold=1))) == [BEST_IS_OPTIMISTIC]
    assert remarks(summary({FOLD: [1, 2]}, run_record(fold=1), run_record(fold=2))) == [
        f"± is the sample standard deviation over n runs. {BEST_IS_OPTIMISTIC}"
    ]


def test_remarks_that_do_not_apply_are_omitted() -> None:
    assert remarks(summary({SEED: [1]}, run_record(seed=1))) == []
    assert remarks(summary({SEED: [1, 2]}, run_record(seed=1), run_record(seed=2))) == [
        "± is the sample standard deviation over n runs."
    ]
    unfinite = [run_record(seed=seed, last=None) for seed in (1, 2)]
    assert remarks(summary({SEED: [1, 2]}, *unfinite)) == []


@pytest.mark.parametrize(
    ("held_out", "accuracy", "said"),
    [
        (5, None, "predictions.csv has the predictions on all 5 folds after the last epoch: 10 samples."),
        (
            2,
            0.25,
            "predictions.csv has the predictions on the 2 folds held out (of 5) after the last epoch: 10 "
            "samples; pooled accuracy 0.2500. It weights every sample equally, while the "
            "mean weights every fold equally, so the two differ if folds differ in size.",
        ),
    ],
)
def test_a_remark_says_which_predictions_are_pooled(held_out: int, accuracy: float | None, said: str) -> None:
    pooled = Pooled(held_out=held_out, folds=5, samples=10, accuracy=accuracy)
    assert remarks(summary({FOLD: [1]}, run_record(fold=1), pooled=pooled))[-1] == said


# Runs that are not averaged


REDO = "Rename the folders of the runs that you want to repeat, then run the command again."


def no_mean(sweep: dict[str, list[Any]], *records: RunRecord) -> list[str | None]:
    found = summary(sweep, *records)
    for group in found.groups:
        empty = all(figures == (None, None) for figures in group.metrics.values())
        assert empty is (group.no_mean is not None)
    return [group.no_mean for group in found.groups]


def test_runs_from_different_weights_are_not_averaged() -> None:
    old, new = weights("a.pt"), weights("a.pt", "new")
    records = [run_record(fold=1, weights=(old,)), run_record(fold=2, weights=(new,))]
    (said,) = no_mean({FOLD: [1, 2]}, *records)
    assert said == (
        f"the runs started from different weights: a.pt (sha256 {old.sha256[:12]}...) in run 0; "
        f"a.pt (sha256 {new.sha256[:12]}...) in run 1. {REDO}"
    )
    found = summary({FOLD: [1, 2]}, *records)
    assert to_cells(found)[2] == [["no mean, n = 2", "2 of 5 folds", "", ""]]
    assert remarks(found) == [f"No mean: {said} {BEST_IS_OPTIMISTIC}"]


def test_runs_that_learned_from_different_weights_are_not_averaged() -> None:
    records = [run_record(fold=fold, task_weights=(weights("a.pt", str(fold)),)) for fold in (1, 2)]
    (said,) = no_mean({FOLD: [1, 2]}, *records)
    assert (said or "").startswith("the runs learned from different weights: a.pt (sha256 ")
    assert no_mean({"Task.args.teacher": ["a", "b"]}, *records) == [None, None]


def test_weights_may_differ_between_swept_models_but_not_between_learning_rates() -> None:
    records = [run_record(fold=1), run_record(fold=1, weights=(weights("a.pt"),))]
    assert no_mean({"Model.args.pretrained": [False, "a.pt"]}, *records) == [None, None]
    first, second = no_mean({LR: [0.1, 0.2]}, *records)
    assert first == second
    assert (first or "").startswith("the runs started from different weights: random weights in run 0; a.pt ")


def test_runs_on_different_data_are_not_averaged() -> None:
    other = run_record(fold=2, dataset="part of Tones")
    assert no_mean({FOLD: [1, 2]}, run_record(fold=1), other) == [
        f"the runs used different data sets: Tones in run 0; part of Tones in run 1. {REDO}"
    ]
    assert no_mean({"Dataset.args.part": [False, True]}, run_record(fold=1), other) == [None, None]
    fewer = run_record(fold=1, seed=8, samples={"train": 19, "test": 10})
    assert no_mean({SEED: [7, 8]}, run_record(fold=1), fewer) == [
        "the runs had different numbers of samples: 10 (test) and 20 (train) in run 0; "
        f"10 (test) and 19 (train) in run 1. {REDO}"
    ]


def test_folds_may_differ_in_size_and_different_totals_are_reported() -> None:
    sizes = [{"train": 18, "test": 10}, {"train": 21, "test": 9}, {"train": 20, "test": 8}]
    records = [run_record(fold=fold, samples=size) for fold, size in enumerate(sizes, start=1)]
    records[0] = records[0].model_copy(update={"excluded": {"ESC-50": 2}})
    assert no_mean({FOLD: [1, 2, 3]}, *records) == [None]
    assert remarks(summary({FOLD: [1, 2]}, *records[:2])) == [
        f"± is the sample standard deviation over n runs. {BEST_IS_OPTIMISTIC}"
    ]
    assert remarks(summary({FOLD: [1, 2, 3]}, *records))[-1] == (
        "The runs differ in the total number of samples in all splits: 28, 30."
    )


@pytest.mark.parametrize("other", [(), (1, 2)])
def test_folds_that_overlap_are_not_averaged(other: tuple[int, ...]) -> None:
    assert no_mean({FOLD: [1, None]}, run_record(fold=1), run_record(fold=2, held_out=other)) == [
        "run 0 and run 1 evaluated some of the same samples; sweep folds that do not overlap."
    ]


def test_different_source_revisions_are_reported() -> None:
    found = summary({FOLD: [1, 2]}, run_record(fold=1), run_record(fold=2, revision="def456"))
    assert remarks(found)[-1] == "The runs were made with different source revisions: abc123, def456."


def test_markup_in_names_is_escaped() -> None:
    text = to_markdown(
        summary({LR: ["<b>|x"]}, run_record(fold=1).model_copy(update={"last": {"A|<i>": 0.5}, "best": ()}))
    )
    assert "&lt;b&gt;\\|x" in text
    assert "A\\|&lt;i&gt;, last" in text
    assert "<" not in text
