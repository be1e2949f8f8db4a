"""`table.md`: cells, published results next to them, details below."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import run_toy
from toy_research.records import run_record, weights

from ignite_trainer.protocol.sections import PublishedResult
from ignite_trainer.results import results_table
from ignite_trainer.results.record import RunRecord
from ignite_trainer.results.results_table import to_markdown
from ignite_trainer.results.table_cells import Found, make_entries
from ignite_trainer.support.formatting import CHOSEN_ON

FULL = weights("Full.pt")


def published(value: float = 0.9715, **changes: Any) -> PublishedResult:
    facts = {"dataset": "Tones", "weights": FULL.sha256, "setting": "trained"}
    return PublishedResult(**{**facts, "value": value, **changes})


def all_folds(**changes: Any) -> list[RunRecord]:
    return [run_record(fold=fold, weights=(FULL,), **changes) for fold in range(1, 6)]


def table_of(*records: RunRecord) -> str:
    found = [Found(folder=f"run-{number}", record=record) for number, record in enumerate(records)]
    return to_markdown(make_entries(found), [])


def rows(*records: RunRecord) -> list[list[str]]:
    """Return the table's cells, without the rule below the header."""
    lines = [line for line in table_of(*records).split("\n\n")[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (lines[0], *lines[2:])]


def ours(*records: RunRecord) -> str:
    """Return the only cell."""
    _, (_, cell, _) = rows(*records)
    return cell


def test_a_cell_shows_the_mean_after_the_last_epoch_in_per_cent() -> None:
    values = [0.961, 0.972, 0.969, 0.965, 0.978]
    mean = sum(values) / 5
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    found = rows(*(run_record(fold=fold, last=value) for fold, value in enumerate(values, start=1)))
    assert found == [
        ["model, initial weights", "Tones, trained", "published"],
        [
            "TwoTowers, random weights",
            f"{100 * mean:.1f} ± {100 * deviation:.1f} (5 of 5 folds, last epoch)",
            "",
        ],
    ]
    assert found[1][1] == "96.9 ± 0.7 (5 of 5 folds, last epoch)"


@pytest.mark.parametrize(
    ("records", "cell"),
    [
        ([run_record(fold=2)], "50.0 (fold 2 of 5, last epoch)"),
        ([run_record()], "50.0 (whole set)"),
        ([run_record(fold=1), run_record(fold=2)], "50.0 ± 0.0 (2 of 5 folds, last epoch)"),
        ([run_record(fold=1), run_record(fold=1, seed=8)], "50.0 ± 0.0 (fold 1 of 5, 2 seeds, last epoch)"),
        (  # the mean of fold 1, 0.8, counts as much as fold 2
            [
                run_record(fold=fold, seed=seed, last=last)
                for fold, seed, last in ((1, 7, 0.9), (1, 8, 0.7), (2, 7, 0.2))
            ],
            f"50.0 ± {100 * math.sqrt(0.3**2 + 0.3**2):.1f} (2 of 5 folds, 2 seeds, 3 runs, last epoch)",
        ),
        ([run_record(fold=None, epochs=9)], "50.0 (training data, last epoch)"),
        ([run_record(epochs=9, folds=(), nothing_held_out=False)], "50.0 (held-out part, last epoch)"),
        ([run_record(folds=())], "50.0 (evaluated split)"),  # unknown, as in older records
        ([run_record(folds=(), nothing_held_out=True)], "50.0 (whole set)"),
        ([run_record(fold=1, last=39 / 48)], "81.3 (fold 1 of 5, last epoch)"),
        ([run_record(fold=1, last=2.5, share=False)], "2.5000 (fold 1 of 5, last epoch)"),
        ([run_record(fold=1, last=0.5, share=False)], "0.5000 (fold 1 of 5, last epoch)"),
        ([run_record(fold=1, last=None)], "not finite (fold 1 of 5, last epoch)"),
    ],
)
def test_a_cell_states_how_many_runs_and_folds_it_averages(records: list[RunRecord], cell: str) -> None:
    assert ours(*records) == cell


@pytest.mark.parametrize("changes", [{"metric": None}, {"listed": False}])
def test_runs_without_a_metric_and_unlisted_runs_have_no_cell(changes: dict[str, Any]) -> None:
    assert rows(run_record(fold=1, **changes)) == [["model, initial weights"]]


def test_only_the_latest_of_equal_runs_counts() -> None:
    early = run_record(fold=1, last=0.1, finished="2024-01-01T00:00:00+00:00")
    late = run_record(fold=1, last=0.9, finished="2024-01-03T00:00:00+00:00")
    assert ours(early, late) == ours(late, early) == "90.0 (fold 1 of 5, last epoch)"


def test_an_earlier_run_is_listed_below() -> None:
    early = run_record(fold=1, last=0.125, finished="2024-01-01T00:00:00+00:00")
    late = run_record(fold=1, last=0.875, finished="2024-01-03T00:00:00+00:00")
    text = table_of(early, late, run_record(fold=2, last=0.5))
    counted, earlier = text.split(
        "Earlier runs with the same fold and seed, which the results above do not include:"
    )
    assert all(f"| run-{number} |" in counted for number in (1, 2))
    assert "| run-0 | 1 | 7 | 0.1250 |" in earlier
    (entry,) = make_entries([Found(folder="a", record=early), Found(folder="b", record=late)])
    content = results_table.to_json([entry], [])["cells"][0]
    assert [run["folder"] for run in content["earlier"]] == ["a"]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({"name": "Toy-a"}, {"name": "Toy-b"}, ["Toy-a", "Toy-b"]),
        ({"suffix": "before"}, {"suffix": None}, ["no suffix", "suffix before"]),
        (
            {"samples": {"train": 20, "test": 5}},
            {"samples": {"train": 200, "test": 50}},
            ["25 samples", "250 samples"],
        ),
        (
            {"task_weights": ()},
            {"task_weights": (weights("a.pt"),)},
            [f"weights of the task {weights('a.pt').sha256[:12]}", "weights of the task none"],
        ),
    ],
)
def test_runs_with_the_same_variant_may_differ_too_much_to_be_averaged(
    first: dict[str, Any], second: dict[str, Any], labels: list[str]
) -> None:
    found = rows(
        run_record(fold=1, last=0.25, seed=1, **first), run_record(fold=1, last=0.75, seed=2, **second)
    )
    assert [row[0] for row in found[1:]] == [f"TwoTowers, random weights, {label}" for label in labels]
    assert sorted(row[1] for row in found[1:]) == [
        "25.0 (fold 1 of 5, last epoch)",
        "75.0 (fold 1 of 5, last epoch)",
    ]


def test_suffixes_that_name_folds_do_not_prevent_averaging() -> None:
    records = [run_record(fold=fold, suffix=f"CV{fold}") for fold in range(1, 6)]
    assert ours(*records) == "50.0 ± 0.0 (5 of 5 folds, last epoch)"


def test_samples_left_out_of_training_in_some_folds_do_not_prevent_averaging() -> None:
    left_out = [0, 3, 1, 0, 0]
    records = [
        run_record(fold=fold, samples={"train": 20 - count, "test": 10}, excluded={"ESC-50": count})
        for fold, count in enumerate(left_out, start=1)
    ]
    assert ours(*records) == "50.0 ± 0.0 (5 of 5 folds, last epoch)"


def test_settings_and_data_sets_are_columns_and_weights_are_rows() -> None:
    found = rows(
        run_record(weights=(FULL,), setting="zero-shot", dataset="Noises"),
        run_record(weights=(FULL, weights("Other.pt")), fold=1),
        run_record(fold=1, last=0.25, model="OneTower"),
        run_record(weights=(FULL,), fold=1, last=0.75, variant="another"),
    )
    assert found == [
        ["model, initial weights", "Noises, zero-shot", "published", "Tones, trained", "published"],
        ["OneTower, random weights", "", "", "25.0 (fold 1 of 5, last epoch)", ""],
        ["TwoTowers, Full.pt", "50.0 (whole set)", "", "75.0 (fold 1 of 5, last epoch)", ""],
        ["TwoTowers, Full.pt + Other.pt", "", "", "50.0 (fold 1 of 5, last epoch)", ""],
    ]


@pytest.mark.parametrize(
    ("others", "labels"),
    [
        ({"variant": "ba9876543210"}, ["variant 0123456789ab", "variant ba9876543210"]),
        ({"metric": "Top-5", "last": 0.9}, ["Acc.", "Top-5"]),
        ({"fold": None}, ["folds", "whole set"]),
    ],
)
def test_different_experiments_are_not_averaged(others: dict[str, Any], labels: list[str]) -> None:
    _, *found = rows(run_record(fold=1), run_record(**{"fold": 2, **others}))
    assert [row[0] for row in found] == [f"TwoTowers, random weights, {label}" for label in labels]


def test_weights_with_the_same_name_show_their_hashes() -> None:
    other = weights("Full.pt", "other")
    _, *found = rows(run_record(weights=(FULL,)), run_record(weights=(other,)))
    assert [row[0] for row in found] == [
        f"TwoTowers, Full.pt ({sha256[:12]})" for sha256 in sorted((FULL.sha256, other.sha256))
    ]


@pytest.mark.parametrize(
    ("figure", "beside"),
    [
        (published(), "97.15"),
        (published(value=0.694), "69.40"),
        (published(metric="Acc."), "97.15"),
        (published(metric="Top-5"), ""),
        (published(setting="zero-shot"), ""),
        (published(dataset="part of Tones"), ""),
        (published(weights=weights("Partial.pt").sha256), ""),
    ],
)
def test_a_published_result_is_shown_only_for_the_same_data_set_setting_metric_and_weights(
    figure: PublishedResult, beside: str
) -> None:
    _, (_, _, cell) = rows(*all_folds(published=(figure,)))
    assert cell == beside


NINE: dict[str, Any] = {"epochs": 9, "weights": (FULL,), "published": (published(),)}


@pytest.mark.parametrize(
    ("records", "cells"),
    [
        (
            all_folds(published=(published(0.125),), share=False),
            ["0.5000 ± 0.0000 (5 of 5 folds, last epoch)", "0.1250"],
        ),
        (all_folds(published=(published(),))[:4], ["50.0 ± 0.0 (4 of 5 folds, last epoch)", ""]),
        ([run_record(**NINE, fold=None)], ["50.0 (training data, last epoch)", ""]),
        ([run_record(**NINE, folds=())], ["50.0 (evaluated split, last epoch)", "97.15"]),
        ([run_record(**{**NINE, "epochs": 0})], ["50.0 (whole set)", "97.15"]),
        ([run_record(**{**NINE, "epochs": 0, "weights": ()})], ["50.0 (whole set)", ""]),
    ],
)
def test_a_published_result_is_shown_only_for_a_complete_data_set_and_published_weights(
    records: list[RunRecord], cells: list[str]
) -> None:
    assert rows(*records)[1][1:] == cells


def test_a_value_has_the_decimals_of_its_source() -> None:
    figures = [(0.686, 1, "68.6"), (0.68, 0, "68"), (0.7, 2, "70.00"), (0.28449, None, "28.45")]
    for value, decimals, text in figures:
        assert rows(*all_folds(published=(published(value, decimals=decimals),)))[1][2] == text
    _, (_, _, cell) = rows(*all_folds(published=(published(1.5, decimals=2),), share=False))
    assert cell == "1.50"


def test_runs_with_overlapping_folds_are_not_averaged() -> None:
    pairs = [(1, 2), (2, 3), (3, 4)]
    _, *found = rows(
        *(run_record(fold=1, held_out=pair, last=0.1 * number) for number, pair in enumerate(pairs, 1))
    )
    assert [row[:2] for row in found] == [
        ["TwoTowers, random weights, held out 1+2 and 3+4", "20.0 ± 14.1 (4 of 5 folds, last epoch)"],
        ["TwoTowers, random weights, held out 2+3", "20.0 (2 of 5 folds, last epoch)"],
    ]


def test_a_protocol_can_be_unlisted(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=0, Table={"listed": False})
    assert (result.folder / "result.json").exists()
    assert json.loads((tmp_path / "table.json").read_text())["cells"] == []


def row_labels(*identities: dict[str, Any], names: tuple[str, ...] = ("Toy",) * 9) -> list[str]:
    found = [
        Found(folder=f"run-{i}", record=run_record(fold=1, name=names[i], variant=f"{i}" * 12), identity=one)
        for i, one in enumerate(identities)
    ]
    return [entry.row.removeprefix("TwoTowers, random weights, ") for entry in make_entries(found)]


def test_rows_are_named_by_the_keys_that_differ() -> None:
    same = {"Setup": {"epochs": 2}, "Task": {"args": {}}}
    rate = [{**same, "Optimizer": {"args": {"lr": lr}}} for lr in (0.1, 1e-5)]
    assert row_labels(*rate) == ["Optimizer.args.lr 0.1", "Optimizer.args.lr 1e-05"]
    transforms = [{**same, "Transforms": [{"p": p}] if p else []} for p in (0.5, None)]
    assert row_labels(*transforms) == ["Transforms[0].p 0.5", "Transforms[0].p absent"]


def test_rows_are_named_by_a_few_of_many_differing_keys() -> None:
    many = [dict.fromkeys("abcd", value) for value in (1, 2)]
    assert row_labels(*many) == ["a 1, ...", "a 2, ..."]
    windows: list[dict[str, Any]] = [{"Task": {"length": 16, "template": "{}"}}, {"Task": {"length": 16}}]
    epochs = [{**windows[min(number, 1)], "Setup": {"epochs": number}} for number in range(3)]
    assert row_labels(*epochs) == [f"Setup.epochs {number}, ..." for number in range(3)]
    pairs = [{"a": a, "b": b} for a in (1, 2) for b in (1, 2)]
    assert row_labels(*pairs) == [f"a {each['a']}, b {each['b']}" for each in pairs]
    powers = [{f"bit {bit}": number >> bit & 1 for bit in range(4)} for number in range(9)]
    assert row_labels(*powers) == [f"variant {str(number) * 12}" for number in range(9)]


def test_rows_are_named_by_protocols_if_many_keys_differ() -> None:
    assert row_labels({"a": 1, "b": 1}, {"a": 2, "b": 2}, names=("large", "small")) == ["large", "small"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("Toy", "Toy"), ["Model.args.depth 2, ...", "Model.args.depth 8, ..."]),
        (("large", "small"), ["large", "small"]),
    ],
)
def test_models_with_different_arguments_have_separate_rows(
    names: tuple[str, str], labels: list[str]
) -> None:
    args = ({"depth": 8, "width": 512}, {"depth": 2, "width": 64})
    entries = make_entries(
        Found(
            folder=f"{name} {dataset}",
            record=run_record(fold=1, name=name, variant=name + dataset, dataset=dataset),
            identity={"Model": {"class": "TwoTowers", "args": own}},
        )
        for name, own, datasets in zip(names, args, (("Tones", "Noises"), ("Sounds",)), strict=True)
        for dataset in datasets
    )
    rows = {entry.row: [e.column.split(",")[0] for e in entries if e.row == entry.row] for entry in entries}
    assert sorted(rows) == [f"TwoTowers, random weights, {label}" for label in labels]
    assert sorted(map(sorted, rows.values())) == [["Noises", "Tones"], ["Sounds"]]


@pytest.mark.parametrize("identities", [({"a": 1}, {}), ({"a": "x" * 50}, {"a": "x" * 51}), ({}, {})])
def test_variants_without_a_visible_difference_are_named_by_digest(
    identities: tuple[dict[str, Any], ...],
) -> None:
    assert row_labels(*identities) == ["variant 000000000000", "variant 111111111111"]


def said(*records: RunRecord) -> str:
    """Return the paragraph below the table."""
    return table_of(*records).split("\n\n")[2]


def test_the_table_has_only_the_remarks_that_apply() -> None:
    shares = "Values are from the last epoch; metrics with values between 0 and 1 are in per cent."
    assert said(run_record()) == shares
    assert said(run_record(fold=1)) == f"{shares} {CHOSEN_ON['test']}"
    assert "sample standard deviation" in said(run_record(fold=1), run_record(fold=2))
    assert said(run_record(epochs=9)).endswith(
        '"Training data" marks values on samples that the model was trained on, which are not results.'
    )
    assert "A published result is shown next to ours only for" in said(run_record(published=(published(),)))
    assert to_markdown([], []).split("\n\n")[2:] == []


def test_the_details_of_a_cell_are_below_the_table() -> None:
    records = [run_record(fold=fold, weights=(FULL,), best=0.6 + fold / 10) for fold in (1, 2)]
    below = table_of(*records).split("## TwoTowers, Full.pt: Tones, trained")[1]
    assert "- Protocol: Toy, variant 0123456789ab\n- Epochs: 9\n- Metric: Acc.\n" in below
    assert (
        f"- Chosen on held-out split: 75.0 ± 7.1\n- Initial weights: Full.pt (sha256 {FULL.sha256})\n"
        in below
    )
    for number, record in enumerate(records):
        assert record.checkpoint is not None
        best, checkpoint = f"{record.best[0].value:.4f} (4)", record.checkpoint.sha256[:12]
        assert f"| run-{number} | {number + 1} | 7 | 0.5000 | {best} | {checkpoint} | abc123 |" in below


def test_empty_columns_of_the_details_are_omitted() -> None:
    below = table_of(run_record()).split("## ")[1]
    assert "| run | seed | last epoch | last checkpoint, sha256 | source revision |" in below
    assert "| run-0 | 7 | 0.5000 |" in below


def test_names_are_escaped() -> None:
    text = to_markdown(
        make_entries([Found(folder="a|b", record=run_record(model="<b>", dataset="x|y", name="<i>"))]), []
    )
    assert "<" not in text
    assert "| &lt;b&gt;, random weights |" in text
    assert "x\\|y, trained" in text


def test_the_order_of_results_does_not_matter() -> None:
    found = [
        Found(folder=f"run-{fold}-{model}", record=run_record(fold=fold, model=model, last=fold / 10))
        for fold in (1, 2, 3)
        for model in "ab"
    ]
    assert to_markdown(make_entries(found), []) == to_markdown(make_entries(found[::-1]), [])


def test_the_table_is_rewritten_from_all_results_after_every_run(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=1)
    first = (tmp_path / "table.md").read_text()
    assert "Reports: " not in first
    assert "(fold 1 of 3, last epoch)" in first
    run_toy(tmp_path, Setup__epochs=1, Setup__name="Other", Dataset__args={"fold": 2})
    (cell,) = json.loads((tmp_path / "table.json").read_text())["cells"]
    assert cell["extent"] == "2 of 3 folds, last epoch"
    assert len(cell["runs"]) == 2
    values = [run["last"]["Val. Acc."] for run in cell["runs"]]
    assert cell["last"]["mean"] == pytest.approx(sum(values) / 2)
    assert result.folder.relative_to(tmp_path).as_posix() in {run["folder"] for run in cell["runs"]}


def test_rows_of_real_runs_are_named_by_their_protocols(tmp_path: Path) -> None:
    reporters = [{"class": "ignite_trainer.reporters.Report"}]
    first = run_toy(tmp_path, Setup__epochs=1, Reporters=reporters)
    run_toy(tmp_path, Setup__epochs=1, Optimizer__args={"lr": 0.2, "momentum": 0.9})
    text = (tmp_path / "table.md").read_text()
    assert "| TwoTowers, random weights, Optimizer.args.lr 0.1 |" in text
    assert "| TwoTowers, random weights, Optimizer.args.lr 0.2 |" in text
    report = f"{first.folder.relative_to(tmp_path).as_posix()}/report.html"
    (line,) = [line for line in text.splitlines() if line.startswith("Reports: ")]
    assert line.endswith(f"]({report})")


def test_unreadable_results_are_listed(tmp_path: Path) -> None:
    for name, content in (("b", b"{"), ("a", b"{}"), ("c", b"\xff\xfe{\x00"), (".hidden", b"{")):
        (tmp_path / "Toy" / name).mkdir(parents=True)
        (tmp_path / "Toy" / name / "result.json").write_bytes(content)
    run_toy(tmp_path, Setup__epochs=0)
    text = (tmp_path / "table.md").read_text()
    assert "(fold 1 of 3)" in text
    assert text.endswith(
        "## Unreadable results, which are omitted\n\n"
        "- Toy/a/result.json\n- Toy/b/result.json\n- Toy/c/result.json\n"
    )


def test_a_table_that_cannot_be_written_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "table.md.part").mkdir()
    with caplog.at_level(logging.WARNING):
        results_table.update(tmp_path)
    assert f"The table of results in {tmp_path} could not be written: " in caplog.text
