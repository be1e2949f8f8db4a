"""Complete runs of a toy experiment with its own data set, metric and task."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import ignite
import pytest
import torch
from torch import Tensor, nn
from toy_research.learning import Matching
from toy_research.network import TwoTowers
from toy_research.protocols import TRUSTED, run_toy, sweep_toy, toy
from toy_research.records import last_state, only_run
from toy_research.signals import Tones
from toy_research.watching import Notebook

from ignite_trainer.api.task import StepOutput
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.reading import read_json
from ignite_trainer.protocol.validation import validate
from ignite_trainer.results import run_folder
from ignite_trainer.runs import experiment
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.experiment import RunResult, run
from ignite_trainer.support.errors import ProtocolError, RunFailed

EXPONENTIAL = {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.5}}


def last_weights(result: RunResult) -> dict[str, Tensor]:
    return last_state(result)["model"]  # type: ignore[no-any-return]


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def evaluations() -> list[tuple[int, str]]:
    return [(found.epoch, found.split) for found in Notebook.last.of("evaluation")]


# Results


def test_a_run_writes_a_folder_with_its_results(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__suffix="CV 1", Setup__epochs=5)
    assert result.folder.parent == tmp_path / "Toy"
    assert re.fullmatch(r"\d{8}-\d{6}_CV-1_fold-1_seed-7", result.folder.name)
    assert {path.name for path in result.folder.iterdir()} - {"run.lock"} == {
        "protocol.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "predictions.csv",
        "result.json",
    }
    names = sorted(path.name for path in (result.folder / "checkpoints").glob("*.pt"))
    assert len(names) == 4
    assert all(re.fullmatch(r"best_val-acc_epoch-\d_[01]\.\d{4}\.pt", name) for name in names[:3])
    assert names[3] == "last_epoch-5.pt"
    environment = json.loads((result.folder / "environment.json").read_text())
    assert environment["seed"] == 7
    assert environment["device"] == "cpu"
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["packages"]["pytorch-ignite"] == ignite.__version__
    assert datetime.fromisoformat(environment["started"]).tzinfo is not None
    assert {"python", "platform", "command", "revision", "threads"} <= environment.keys()


def test_the_saved_protocol_reproduces_bit_identical_weights(tmp_path: Path) -> None:
    first = run_toy(tmp_path, Scheduler=EXPONENTIAL)
    again = run(draw(validate(read_json(first.folder / "protocol.json")), trusted=TRUSTED))
    assert again.folder != first.folder
    assert_bit_equal(last_weights(first), last_weights(again))
    saved = [(result.folder / "protocol.json").read_text() for result in (first, again)]
    assert saved[0] == saved[1]


def test_weights_depend_on_the_seed_and_not_on_workers(tmp_path: Path) -> None:
    first, helped, other = (
        last_weights(run_toy(tmp_path, **changes))
        for changes in ({}, {"Setup__workers_train": 2, "Setup__workers_test": 1}, {"Setup__seed": 8})
    )
    assert_bit_equal(first, helped)
    assert not torch.equal(first["left.linear.weight"], other["left.linear.weight"])


def test_a_seed_of_null_is_drawn_and_recorded(tmp_path: Path) -> None:
    drawn = [run_toy(tmp_path, Setup__seed=None, Setup__epochs=1) for _ in range(2)]
    seeds = [read_json(result.folder / "protocol.json")["Setup"]["seed"] for result in drawn]
    assert seeds[0] != seeds[1]
    for result, seed in zip(drawn, seeds, strict=True):
        assert json.loads((result.folder / "environment.json").read_text())["seed"] == seed
        assert result.folder.name.endswith(f"_seed-{seed}")
    again = run(draw(validate(read_json(drawn[0].folder / "protocol.json")), trusted=TRUSTED))
    assert_bit_equal(last_weights(drawn[0]), last_weights(again))


def test_runs_started_in_the_same_second_have_different_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Noon:
            return cls(2024, 1, 2, 12, 0, 0, tzinfo=tz)

    monkeypatch.setattr(run_folder, "datetime", Noon)
    folders = [run_toy(tmp_path, Setup__epochs=0, Dataset__args={"fold": fold}).folder for fold in (2, 2, 3)]
    assert [folder.name for folder in folders] == [
        "20240102-120000_fold-2_seed-7",
        "20240102-120000_fold-2_seed-7_2",
        "20240102-120000_fold-3_seed-7",
    ]


def test_names_are_made_valid_for_folders(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__name="../up / é", Setup__suffix="a/b:c", Setup__epochs=0)
    assert result.folder.parent == tmp_path / "up-é"
    assert "_a-b-c_" in result.folder.name


# Order of events


def test_a_run_evaluates_before_training_and_after_every_epoch(tmp_path: Path) -> None:
    run_toy(tmp_path)
    assert evaluations() == [(0, "test"), (1, "train"), (1, "test"), (2, "train"), (2, "test")]
    assert [found.iteration for found in Notebook.last.of("evaluation")] == [0, 2, 2, 4, 4]
    kinds = [name for name, _ in Notebook.last.events]
    assert (kinds[0], kinds[-2:]) == ("start", ["end", "close"])
    assert kinds.count("close") == 1


def test_the_evaluation_of_the_training_split_can_be_skipped(tmp_path: Path) -> None:
    run_toy(tmp_path, Setup__skip_train_evaluation=True)
    assert evaluations() == [(0, "test"), (1, "test"), (2, "test")]


def test_without_epochs_a_run_only_evaluates(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=0)
    assert evaluations() == [(0, "test")]
    assert not Notebook.last.of("iteration")
    assert (result.end.last_epoch, result.end.best, result.end.last_checkpoint) == (0, (), None)
    torch.manual_seed(7)
    model, fit = TwoTowers().eval(), [Tones(train=False)[index] for index in range(10)]
    signals = torch.stack([torch.from_numpy(sample.signal[:, :16]) for sample in fit])
    with torch.no_grad():
        hits = model(signals).argmax(1) == torch.tensor([sample.target for sample in fit])
    assert result.end.last == {"Val. Acc.": pytest.approx(float(hits.double().mean()))}


def test_without_epochs_no_complete_batch_is_needed(tmp_path: Path) -> None:
    assert run_toy(tmp_path, Setup__epochs=0, Setup__batch_train=64).end.last_epoch == 0


def test_the_scheduler_steps_once_per_epoch(tmp_path: Path) -> None:
    run_toy(tmp_path, Setup__epochs=3, Scheduler=EXPONENTIAL)
    rates = [step.learning_rates[0] for step in Notebook.last.of("iteration")]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_progress_is_reported_at_log_intervals_and_at_the_end_of_each_epoch(tmp_path: Path) -> None:
    run_toy(tmp_path, Setup__epochs=3, Setup__batch_train=4, Setup__log_interval=4)
    steps = Notebook.last.of("iteration")
    expected = [(1, 4), (1, 5), (2, 8), (2, 10), (3, 12), (3, 15)]
    assert [(step.epoch, step.iteration) for step in steps] == expected
    assert min(steps[0].loss, steps[0].samples_per_second) > 0


def test_the_start_states_the_facts_of_the_run(tmp_path: Path) -> None:
    rules = [{"match": "left\\..*|scale"}, {"match": ".*", "train": False}]
    result = run_toy(tmp_path, Setup__epochs=1, Parameters=rules)
    (start,) = Notebook.last.of("start")
    threads = torch.get_num_threads()
    assert start.facts == {
        "Started": read_json(result.folder / "environment.json")["started"],
        "Model": "toy_research.network.TwoTowers",
        "Initial weights": "random, unless the model loads weights itself",
        "Optimizer": "SGD (momentum 0.9)",
        "Learning rate": "0.1",
        "Batch": "8 samples",
        "Device": f"cpu ({threads} thread{'s' * (threads > 1)})",
        "Precision": "fp32",
        "Seed": "7",
        "Parameters left\\..*|scale": "153 in 5 tensors, trained",
        "Parameters .*": "48 in 4 tensors, frozen, eval mode",
        "Data": "Tones",
        "Training split": "20 samples, 2 batches",
        "Held-out split": "10 samples",
        "Results": str(result.folder),
    }
    assert start.protocol == read_json(result.folder / "protocol.json")
    assert (start.epochs, start.iterations_per_epoch) == (1, 2)


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"Setup__batch_train": 21},
            "Setup.batch_train is 21, but the training split has 20 samples, fewer than one batch. "
            "Lower it to 20 or less with -b.",
        ),
        ({"Dataset__args": {"fold": 4}}, "Dataset.args.fold is 4; there are folds 1 to 3."),
        ({"Dataset__args": {"samples": 0}}, "Dataset.args leave no samples in the training split."),
        ({"Optimizer__args": {"lr": -1.0}}, "Optimizer: Invalid learning rate: -1.0"),
        ({"Optimizer__args": {"lr": "a"}}, "Optimizer: TypeError: '<' not supported between"),
        ({"Optimizer__args": {"lr": 0.1, "differentiable": True}}, "Optimizer: RuntimeError: "),
        ({"Model__args": {"length": -1}}, "Model: RuntimeError: Trying to create tensor with negative dim"),
        ({"Parameters": [{"match": ".*", "args": {"weight_decay": "a"}}]}, "Optimizer: TypeError: "),
        (
            {"Scheduler": {"class": "torch.optim.lr_scheduler.StepLR", "args": {"step_size": 0}}},
            "Scheduler: ZeroDivisionError: ",
        ),
        (
            {
                "Setup__epochs": 3,
                "Scheduler": {
                    "class": "torch.optim.lr_scheduler.OneCycleLR",
                    "args": {"max_lr": 1, "total_steps": 2},
                },
            },
            "Scheduler: Tried to step 3 times. The specified number of total steps is 2",
        ),
        (
            {"Model": {"class": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 1}}},
            "Task: matching needs TwoTowers, not Linear.",
        ),
        (
            {"Parameters": [{"match": "lift.*"}, {"match": ".*"}]},
            'Parameters[0].match is "lift.*"; it matches no parameter of the model. Names begin with left, '
            "right, scale.",
        ),
    ],
)
def test_errors_are_found_before_a_folder_is_made(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path, **changes)
    (problem,) = caught.value.problems
    assert problem.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_reporter_that_cannot_be_built_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Notebook) -> None:
        raise ValueError("no pen.")

    monkeypatch.setattr(Notebook, "__init__", fail)
    with pytest.raises(ProtocolError, match=r"^Reporters\[0\]: no pen\.$"):
        run_toy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "assemble", lambda *_, **__: pytest.fail("something was built"))
    root = tmp_path / "file" / "results"
    root.parent.touch()
    with pytest.raises(ProtocolError) as caught:
        run_toy(root)
    assert str(caught.value) == (
        f'Setup.saved_models_path is "{root}", but files cannot be written there (Not a directory); '
        "choose another folder with -M."
    )


@pytest.mark.parametrize("sweep", [{}, {"Sweep": {"Dataset.args.fold": [1, 2]}}])
def test_an_unusable_folder_of_runs_is_refused_before_anything_is_built(
    sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "assemble", lambda *_, **__: pytest.fail("something was built"))
    (tmp_path / "Toy").touch()
    run = sweep_toy if sweep else run_toy
    more = {"sweep": sweep["Sweep"]} if sweep else {}
    with pytest.raises(
        ProtocolError, match=r"but files cannot be written in its folder Toy \(File exists\); choose"
    ):
        run(tmp_path, **more)
    with pytest.raises(
        ProtocolError, match=r"files cannot be written in its folder .* \(File name too long\); choose"
    ):
        run(tmp_path, **more, Setup__name="\U00020000" * 100)


def test_a_suffix_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"cannot be created \(File name too long\); choose another Setup"
    ):
        run_toy(tmp_path, Setup__suffix="\U00020000" * 60)


def test_a_non_finite_loss_ends_the_run_and_keeps_earlier_epochs(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        run_toy(tmp_path, Setup__epochs=3, Task__args={"explode_at": 4})
    folder = only_run(tmp_path)
    (stopped,) = Notebook.last.of("fault")
    assert len(stopped.samples) == 8
    assert str(caught.value) == (
        f"The loss is inf at epoch 2, iteration 4, in a step with {', '.join(stopped.samples)}. The results "
        f"of earlier epochs are kept in {folder}. Inspect these samples, or start a new run with a lower "
        'Optimizer.args.lr. Set Faults.not_finite to "skip" to skip such steps; this also works with '
        "--resume."
    )
    names = {path.name.split("_0")[0] for path in (folder / "checkpoints").glob("*.pt")}
    assert names == {"last_epoch-1.pt", "best_val-acc_epoch-0", "best_val-acc_epoch-1"}
    assert evaluations()[-1] == (1, "test")
    assert [name for name, _ in Notebook.last.events][-1] == "close"


def test_a_non_finite_loss_is_noticed_by_the_end_of_the_epoch(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"^The loss is inf at epoch 1, iteration 1, in a step with sample"):
        run_toy(tmp_path, Setup__log_interval=100, Task__args={"explode_at": 1})


def test_an_interrupted_run_closes_its_reporters(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, Task__class="toy_research.learning.Interrupted")
    kinds = [name for name, _ in Notebook.last.events]
    assert kinds.count("iteration") == 2
    assert "end" not in kinds
    assert kinds[-1] == "close"


def test_a_reporter_that_fails_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = {"class": "toy_research.watching.Broken"}
    with caplog.at_level(logging.WARNING):
        result = run_toy(tmp_path, Reporters=[broken, {"class": "toy_research.watching.Notebook"}])
    assert len(Notebook.last.of("iteration")) == 4
    assert result.end.last_checkpoint is not None
    (record,) = [record for record in caplog.records if record.name.startswith("ignite_trainer")]
    assert (
        record.getMessage()
        == "The reporter Broken failed (OSError: no space left in Toy). The run continues without it."
    )


# Data


def test_the_split_argument_can_be_chosen(tmp_path: Path) -> None:
    args = {"fold": 2, "training": {"key": "train", "yes": False, "no": True}, "dl_shuffle": False}
    run_toy(tmp_path, Setup__epochs=1, Dataset__args=args)
    (start,) = Notebook.last.of("start")
    assert (start.facts["Training split"], start.facts["Held-out split"]) == (
        "10 samples, 1 batches",
        "20 samples",
    )


def test_every_epoch_has_its_own_order_and_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    step = Matching.training_step

    def note(self: Matching, model: nn.Module, batch: Any) -> StepOutput:
        seen.append(torch.cat([batch.weight[:, None], batch.signal.flatten(1)], dim=1))
        return step(self, model, batch)

    monkeypatch.setattr(Matching, "training_step", note)
    run_toy(tmp_path, Setup__batch_train=20)
    first, second = seen  # the weight of a toy sample identifies it
    assert first[:, 0].tolist() != second[:, 0].tolist()
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist())
    first, second = first[first[:, 0].argsort(), 1:], second[second[:, 0].argsort(), 1:]
    assert not any(torch.allclose(one, other) for one, other in zip(first, second, strict=True))


def test_both_splits_are_evaluated_in_order_with_the_held_out_transforms(tmp_path: Path) -> None:
    parts = assemble(draw(validate(toy(tmp_path)), trusted=TRUSTED), seed=7)
    for split, train in (("train", True), ("test", False)):
        data = Tones(train=train)
        rows = torch.cat([batch.sample.signal for batch in parts.evaluation[split]])  # type: ignore[index]
        expected = torch.stack([torch.from_numpy(data[index].signal[:, :16]) for index in range(len(data))])
        assert torch.equal(rows, expected)


def test_a_run_learns_to_classify_the_toy_signals(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=12, Dataset__args={"samples": 60}, Optimizer__args={"lr": 0.5})
    assert result.end.last["Val. Acc."] >= 0.9
    steps = Notebook.last.of("iteration")
    assert steps[-1].loss < 0.9 * steps[0].loss


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_precision_and_accumulation_work_together(precision: str, tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__precision=precision, Setup__accumulate=3, Setup__batch_train=4)
    assert result.end.last_epoch == 2
    kinds = {value.dtype for value in last_weights(result).values()}
    assert kinds == {torch.float32, torch.int64}
