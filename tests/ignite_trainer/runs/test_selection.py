"""The validation split: it chooses the epoch, and ends training that no longer improves."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from toy_research.network import Loaded
from toy_research.protocols import Command, run_toy, sweep_toy
from toy_research.ranks import on_ranks, run_in_two_sessions
from toy_research.records import differences, only_run
from toy_research.signals import Tones, ValidatedTones

from ignite_trainer.results.leakage import CHOSEN, OTHER_PART, caution
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs.experiment import RunResult
from ignite_trainer.support.errors import ProtocolError, RunStopped
from tests.page_elements import Elements

SURPRISE = {"line_label": "Surprise", "class": "toy_research.learning.Surprise", "best": "min"}
# With this seed, the held-out split would choose another epoch than the validation split.
VALIDATED: dict[str, Any] = {
    "Dataset": {
        "class": "toy_research.signals.ValidatedTones",
        "args": {"fold": 1, "folds": 5, "samples": 60},
    },
    "Setup__epochs": 6,
    "Setup__seed": 10,
    "Setup__batch_train": 4,
    "Optimizer__args": {"lr": 0.1},
    "Metrics": {"Performance": {"lines": [{**SURPRISE, "is_checkpoint": True}]}},
}


def by_epoch(folder: Path, split: str) -> dict[int, float]:
    """Read the surprise at each epoch from a run's log."""
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        event["epoch"]: event["metrics"]["Surprise"]
        for event in events
        if event["event"] == "evaluation" and event["split"] == split
    }


def chosen_by_hand(folder: Path) -> tuple[int, float]:
    """Return the first epoch with the lowest surprise on validation, and the held-out surprise there."""
    validation, held_out = by_epoch(folder, "validation"), by_epoch(folder, "test")
    epoch = min(validation, key=lambda epoch: (validation[epoch], epoch == 0, epoch))
    return epoch, held_out[epoch]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    reporters = [
        {"class": f"ignite_trainer.reporters.{name}"} for name in ("JsonLines", "LearningCurve", "Report")
    ]
    return run_toy(tmp_path_factory.mktemp("validated"), **VALIDATED, Reporters=reporters)


def test_the_validation_split_chooses_the_epoch_that_is_reported(validated: RunResult) -> None:
    epoch, value = chosen_by_hand(validated.folder)
    held_out = by_epoch(validated.folder, "test")
    assert epoch != min(held_out, key=held_out.__getitem__), "the held-out split would choose another epoch"
    (best,) = RunRecord.read(validated.folder / "result.json").best
    assert (best.epoch, best.value, best.chosen_on) == (epoch, value, "validation")
    assert best.validation == by_epoch(validated.folder, "validation")[epoch]
    assert best.checkpoint == Path(f"best_surprise_epoch-{epoch}_{best.validation:.4f}.pt")
    assert (validated.folder / "checkpoints" / best.checkpoint).is_file()
    assert validated.record.last["Surprise"] == held_out[6]


def test_no_sample_is_in_two_of_the_three_parts(validated: RunResult) -> None:
    for fold in range(1, 6):
        train, test = (ValidatedTones(fold=fold, folds=5, samples=60, train=train) for train in (True, False))
        assert isinstance(train.validation, Tones)
        validation = {train.validation[i].name for i in range(len(train.validation))}
        parts = [train.names, validation, test.names]
        assert [len(part) for part in parts] == [36, 12, 12]
        assert len(set.union(*parts)) == 60
    assert validated.record.samples == {"train": 36, "validation": 12, "test": 12}


def test_reports_and_tables_name_how_the_epoch_was_chosen(
    validated: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch, value = chosen_by_hand(validated.folder)
    table = (validated.folder.parents[1] / "table.md").read_text()
    assert f"{value:.4f} (fold 1 of 5, epoch chosen on validation split)" in table
    assert "from the epoch that was best on the validation split" in table
    assert "its value on the held-out split is unbiased" in table
    last = by_epoch(validated.folder, "test")[6]
    assert f"| 1 | 2 | {validated.record.seed} | {last:.4f} | {value:.4f} ({epoch}) |" in table
    page = Elements(validated.folder / "report.html")
    assert page.texts["th"][:3] == ["metric", "last epoch (6)", "chosen on validation split"]
    assert "Validation split" in page.words and "12 samples" in page.words
    as_published = run_toy(
        tmp_path, Setup__epochs=1, Reporters=[{"class": "ignite_trainer.reporters.Console"}]
    )
    assert "chosen on held-out split (epoch)" in capsys.readouterr().out
    assert "(fold 1 of 3, last epoch)" in (tmp_path / "table.md").read_text()
    assert as_published.record.chosen_on == "test"


def test_best_weights_are_marked_only_on_the_split_that_chose_them(validated: RunResult) -> None:
    (best,) = validated.end.best
    model = Loaded(file=str(best.checkpoint), sha256="")

    def mark(fold: int) -> str:
        splits = (Tones(fold=fold, folds=5, samples=60, train=train) for train in (True, False))
        return caution([model], *splits)

    assert validated.record.dataset == "ValidatedTones"
    record = validated.folder / "result.json"
    original = record.read_text()
    record.write_text(original.replace("ValidatedTones", "Tones"))
    assert [mark(fold) for fold in (1, 2, 3)] == ["", CHOSEN, OTHER_PART]
    record.write_text(original)


@pytest.mark.parametrize("patience", [1, 2])
def test_training_ends_when_validation_has_not_improved_for_as_long_as_patience_allows(
    tmp_path: Path, patience: int
) -> None:
    evaluations = {"Confidence": {"class": "toy_research.measuring.Confidence"}}
    result = run_toy(
        tmp_path, **{**VALIDATED, "Setup__epochs": 40}, Setup__patience=patience, Evaluations=evaluations
    )
    values = by_epoch(result.folder, "validation")
    best, last = 0, 0
    for epoch in range(1, 41):  # by hand
        best = epoch if values[epoch] < values[best] or (best == 0 and values[epoch] == values[0]) else best
        last = epoch
        if epoch - best >= patience:
            break
    assert 1 < last < 40
    assert max(values) == last == result.end.last_epoch == result.record.epochs
    assert result.end.stopped_early
    assert result.record.best[0].epoch == best
    assert set(result.record.evaluations) == {"Confidence"}, "evaluations follow the last epoch"
    assert (result.folder / "predictions.csv").exists()
    again = run_toy(
        tmp_path, **{**VALIDATED, "Setup__epochs": 40}, Setup__patience=patience, Setup__resume="auto"
    )
    assert again.folder != result.folder, "the run has finished"


def test_a_run_that_is_stopped_and_resumed_ends_early_at_the_same_epoch(tmp_path: Path) -> None:
    changes = {**VALIDATED, "Setup__epochs": 40, "Setup__patience": 2, "Setup__resume": "auto"}
    task: dict[str, Any] = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM"}}
    whole = run_toy(tmp_path / "whole", **changes, Task=task)
    batches = sum(-(-len(part) // 4) for part in (range(12), range(12)))
    for number, args in enumerate([{"step": 11}, {"batch": 2 * batches + 1}, {"batch": 1 + 12 // 4}]):
        stopped = tmp_path / f"stopped {number}"
        with pytest.raises(RunStopped):
            run_toy(stopped, **changes, Task={**task, "args": {**task["args"], **args}})
        path = only_run(stopped) / "protocol.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "Task": task}))
        assert differences(whole.folder, run_toy(stopped, **changes, Task=task).folder) == []


@pytest.mark.processes
def test_two_processes_resume_after_an_epoch_and_end_early_together(tmp_path: Path) -> None:
    changes = {key: value for key, value in VALIDATED.items() if key != "Setup__epochs"}
    changes |= {"Setup__patience": 2, "Setup__batch_of": "all"}
    sessions = functools.partial(run_in_two_sessions, first=2, epochs=40)
    on_ranks(2, tmp_path, sessions, tmp_path, changes)
    whole, resumed = only_run(tmp_path / "whole"), only_run(tmp_path / "resumed")
    assert differences(whole, resumed) == []
    record = RunRecord.read(resumed / "result.json")
    assert record.stopped_early
    assert record.epochs == record.best[0].epoch + 2 == chosen_by_hand(resumed)[0] + 2


def test_patience_without_a_metric_that_chooses_the_epoch_is_refused(tmp_path: Path) -> None:
    lines = [{**SURPRISE, "is_checkpoint": False}]
    changes = {**VALIDATED, "Metrics": {"Performance": {"lines": lines}}}
    with pytest.raises(
        ProtocolError, match=r"Setup\.patience is 3, but no metric shows whether training improves"
    ):
        run_toy(tmp_path, **changes, Setup__patience=3)


def test_patience_without_a_validation_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"Setup\.patience is 3, but the data set has no validation split"
    ):
        run_toy(tmp_path, Setup__patience=3)


def test_a_sweep_that_rotates_both_folds_is_killed_and_resumed(command: Command) -> None:
    marker = command.folder / "kill"
    marker.touch()
    task = {"class": "toy_research.learning.Killed", "args": {"fold": 3, "marker": str(marker)}}
    path = command.write(**{**VALIDATED, "Task": task, "Setup__save_every_steps": 2, "Setup__epochs": 3})
    words = ["-c", str(path), *["--Sweep.Dataset.args.fold", "1", "2", "3", "4", "5"]]
    command.be_killed(*words)
    marker.unlink()
    assert command(*words).status == 0
    (sweep,) = (command.results / "Toy").iterdir()
    records = [RunRecord.read(sweep / f"fold-{fold}" / "result.json") for fold in range(1, 6)]
    assert [(record.held_out, record.validation) for record in records] == [
        ((1,), (2,)),
        ((2,), (3,)),
        ((3,), (4,)),
        ((4,), (5,)),
        ((5,), (1,)),
    ]
    whole = sweep_toy(
        command.results / "whole",
        {"Dataset.args.fold": [1, 2, 3, 4, 5]},
        **{**VALIDATED, "Task": task, "Setup__save_every_steps": 2, "Setup__epochs": 3},
    )
    by_hand = [chosen_by_hand(sweep / f"fold-{fold}") for fold in range(1, 6)]
    assert [(best.epoch, best.value) for record in records for best in record.best] == by_hand
    assert [whole.records[f"fold-{fold}"].best for fold in range(1, 6)] == [record.best for record in records]
    mean = sum(value for _, value in by_hand) / 5
    deviation = (sum((value - mean) ** 2 for _, value in by_hand) / 4) ** 0.5
    table = (command.results / "table.md").read_text()
    assert f"{mean:.4f} ± {deviation:.4f} (5 of 5 folds, epoch chosen on validation split)" in table
    assert f"{mean:.4f} ± {deviation:.4f}" in (sweep / "sweep.md").read_text()
    assert "Surprise, chosen on validation split (epoch)" in (sweep / "sweep.md").read_text()
