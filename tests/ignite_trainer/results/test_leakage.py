"""Warnings about initial weights that an earlier run selected or trained on the evaluated samples."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from toy_research.network import Loaded
from toy_research.protocols import run_toy, sweep_toy
from toy_research.records import run_record, weights
from toy_research.signals import Tones

from ignite_trainer.results.leakage import CHOSEN, MEANING, OTHER_PART, SEEN, caution
from ignite_trainer.results.results_table import to_markdown
from ignite_trainer.results.table_cells import Found, make_entries
from ignite_trainer.runs.experiment import RunResult
from tests.page_elements import Elements


def loaded(file: Path | None) -> dict[str, Any]:
    return {"class": "toy_research.network.Loaded", "args": {"file": str(file), "sha256": ""}}


def evaluate(root: Path, file: Path | None, fold: int, **changes: Any) -> RunResult:
    reporters = [{"class": f"ignite_trainer.reporters.{name}"} for name in ("Console", "Report")]
    facts: dict[str, Any] = {"Setup__epochs": 0, "Dataset__args": {"fold": fold}, "Reporters": reporters}
    return run_toy(root, Model=loaded(file), **{**facts, **changes})


@pytest.fixture
def trained(tmp_path: Path) -> RunResult:
    """Run the toy protocol with fold 1 held out."""
    return run_toy(tmp_path / "trained", Setup__epochs=1)


def test_best_weights_are_marked_on_the_fold_that_selected_them(
    trained: RunResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = evaluate(tmp_path / "results", trained.end.best[0].checkpoint, 1)
    table = (tmp_path / "results/table.md").read_text()
    assert f"(fold 1 of 3, {CHOSEN})" in table and MEANING[CHOSEN] in table
    assert MEANING[CHOSEN] in Elements(result.folder / "report.html").words
    assert MEANING[CHOSEN] in " ".join(capsys.readouterr().out.split())
    assert MEANING[CHOSEN] in caplog.text


def test_last_weights_are_marked_only_on_other_folds(trained: RunResult, tmp_path: Path) -> None:
    last = trained.end.last_checkpoint
    assert evaluate(tmp_path, last, 1).record.caution == ""
    assert evaluate(tmp_path, last, 2).record.caution == OTHER_PART
    assert evaluate(tmp_path, trained.end.best[0].checkpoint, 2).record.caution == OTHER_PART


def test_one_trained_fold_among_several_is_enough_for_a_mark(trained: RunResult) -> None:
    model = Loaded(file=str(trained.end.last_checkpoint), sha256="")
    for held_out, mark in (((1,), ""), ((1, 2), OTHER_PART), ((), OTHER_PART)):
        tones = Tones()
        tones.held_out = held_out
        assert caution([model], Tones(train=True), tones) == mark


def test_the_mark_survives_further_training(trained: RunResult, tmp_path: Path) -> None:
    further = evaluate(tmp_path, trained.end.last_checkpoint, 2, Setup__epochs=1)
    assert further.record.caution == OTHER_PART
    assert evaluate(tmp_path, further.end.last_checkpoint, 2).record.caution == OTHER_PART
    assert evaluate(tmp_path, further.end.best[0].checkpoint, 2).record.caution == OTHER_PART


class Part(NamedTuple):
    """A data set that describes itself by its splits and a digest."""

    whole_name: str = "Part"
    held_out_splits: tuple[str, ...] = ()
    digest: str = ""


def mark(trained: RunResult, then: Part, now: Part, *, best: bool = False, train: Part | None = None) -> str:
    """Return the mark for weights from a run that held out `then`, evaluated on `now`."""
    path = trained.folder / "result.json"
    content = json.loads(path.read_text()) | then._asdict() | {"held_out": (), "folds": ()}
    path.write_text(json.dumps(content | {"nothing_held_out": False}))
    file = trained.end.best[0].checkpoint if best else trained.end.last_checkpoint
    return caution([Loaded(file=str(file), sha256="")], train or Part(), now)


def test_held_out_splits_are_marked_only_for_best_weights(trained: RunResult) -> None:
    both, test = Part(held_out_splits=("valid", "test")), Part(held_out_splits=("test",))
    assert (mark(trained, both, test), mark(trained, both, test, best=True)) == ("", CHOSEN)
    assert mark(trained, both, Part(held_out_splits=("test", "valid"))) == ""
    assert mark(trained, test, both) == OTHER_PART  # trained on the other split


def test_without_folds_and_splits_the_digest_identifies_samples(trained: RunResult) -> None:
    assert mark(trained, Part(digest="a"), Part(digest="a"), best=True) == CHOSEN
    assert mark(trained, Part(digest="a"), Part(digest="b"), best=True) == ""  # unknown
    assert mark(trained, Part(digest="a"), Part(digest="b"), train=Part(digest="b")) == OTHER_PART  # all


def test_a_data_set_without_a_description_is_not_marked(trained: RunResult) -> None:
    assert mark(trained, Part(), Part(), best=True) == ""


def test_weights_from_another_data_set_or_no_run_are_not_marked(trained: RunResult, tmp_path: Path) -> None:
    best = trained.end.best[0].checkpoint
    assert best is not None
    moved = shutil.copy(best, tmp_path)
    assert evaluate(tmp_path, Path(moved), 1).record.caution == ""
    path = trained.folder / "result.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "dataset": "Noises", "whole_name": "Noises"}))
    assert evaluate(tmp_path, best, 1).record.caution == ""


def test_a_sweep_explains_the_marks_of_its_runs(trained: RunResult, tmp_path: Path) -> None:
    best = trained.end.best[0].checkpoint
    sweep_toy(tmp_path, {"Dataset.args.fold": [1, 2, 3]}, Setup__epochs=0, Model=loaded(best))
    (path,) = (tmp_path / "Toy").glob("sweep_*/sweep.md")
    assert all(MEANING[mark] in path.read_text() for mark in (CHOSEN, OTHER_PART))


def test_a_marked_result_is_shown_without_the_published_one() -> None:
    file = weights("best.pt")
    figure = {"dataset": "Tones", "weights": file.sha256, "setting": "trained", "value": 0.9}
    record = run_record(weights=(file,), published=(figure,), caution=CHOSEN)
    (entry,) = make_entries([Found(folder="a", record=record)])
    assert entry.published is None
    assert f"| 50.0 (whole set, {CHOSEN}) |  |" in to_markdown([entry], [])


def test_what_a_model_says_of_its_training_data_is_shown_with_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = {"class": "toy_research.network.Peer", "args": {"file": str(tmp_path / "model.safetensors")}}
    result = run_toy(tmp_path / "results", Setup__epochs=0, Model=model)
    said = "owner/peer: half of Tones is training data."
    assert (result.record.caution, result.record.seen_in_training) == (SEEN, said)
    assert [file.name for file in result.record.weights] == ["owner/peer"]
    table = (tmp_path / "results/table.md").read_text()
    assert f"| Peer, owner/peer | 50.0 (fold 1 of 3, {SEEN}) |" in re.sub(r"\d+\.\d", "50.0", table)
    assert f"- Training data: {said}" in table
    assert MEANING[SEEN] in table
    assert f"{MEANING[SEEN]} {said}" in caplog.text
