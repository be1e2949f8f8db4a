"""The benchmark on toy protocols: timing, comparison with baselines, tables and file."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.utils import manual_seed
from toy_research.protocols import TRUSTED, Command, draw_toy, run_toy, toy

from ignite_trainer.api.reporter import Split
from ignite_trainer.commands.benchmark import (
    OURS,
    Benchmark,
    Quartiles,
    Speed,
    contenders,
    measure,
    show_benchmark,
)
from ignite_trainer.commands.stopwatch import Stopwatch, project
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.support.errors import ProtocolError

ASLEEP = {"class": "toy_research.measuring.Asleep", "args": {"seconds": 0.02}}


def benchmark(root: Path, *, rounds: int = 3, turn_seconds: float = 0.0, **changes: Any) -> Benchmark:
    blueprints = contenders(validate(toy(root, **changes)), trusted=TRUSTED)
    return measure(blueprints, rounds=rounds, turn_seconds=turn_seconds)


def ratio(speed: Speed) -> Quartiles:
    assert speed.cost is not None
    return speed.cost


# Timing


@pytest.mark.parametrize("turns", [[1] * 7, [3, 4], [2, 5]])
def test_timed_steps_equal_the_steps_of_a_run(turns: list[int], tmp_path: Path) -> None:
    """Seven steps are two epochs of two batches and three batches of the next two epochs; none is skipped."""
    weights = []
    for parts_of_a_run in (turns, [sum(turns)]):
        blueprint = draw_toy(tmp_path)
        manual_seed(7)
        parts = assemble(blueprint, seed=7)
        watch = Stopwatch.of_training(blueprint, parts)
        for steps in parts_of_a_run:
            watch.run(steps)
        weights.append(parts.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_timed_steps_of_complete_epochs_give_the_weights_of_a_run(tmp_path: Path) -> None:
    # Every pass over a loader takes a number from the generator that dropout draws from.
    blueprint = draw_toy(tmp_path, Model__args__dropout=0.0)
    manual_seed(7)
    parts = assemble(blueprint, seed=7)
    watch = Stopwatch.of_training(blueprint, parts)
    for _ in range(2 * len(parts.training)):
        watch.run()
    folder = run_toy(tmp_path, Model__args__dropout=0.0).folder
    saved = torch.load(folder / "checkpoints/last_epoch-2.pt", weights_only=True)["model"]
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, saved[name], msg=name)


def test_a_turn_has_as_many_steps_as_fit_and_counts_the_samples_of_smaller_batches(tmp_path: Path) -> None:
    blueprint = draw_toy(tmp_path, Setup__batch_test=4)
    parts = assemble(blueprint, seed=7)
    watch = Stopwatch.of_evaluation(blueprint, parts)
    held_out = len(parts.evaluation["test"].dataset)  # type: ignore[arg-type]
    assert held_out == 10
    turns = [watch.turn() for _ in range(6)]
    assert [turn.samples for turn in turns] == [4, 4, 2, 4, 4, 2]
    assert all(turn.steps == 1 for turn in turns)
    watch.warm_up(steps=1, turn_seconds=0.2)
    turn = watch.turn()
    assert turn.steps == watch.steps_per_turn > 1
    assert turn.seconds_per_step * turn.steps == pytest.approx(turn.seconds)
    assert 2 * turn.steps < turn.samples <= 4 * turn.steps


# Comparison


def test_a_protocol_is_compared_with_its_baselines_round_by_round(tmp_path: Path) -> None:
    found = benchmark(tmp_path, Yardsticks={"asleep": ASLEEP})
    assert list(found.activities) == ["training", "evaluation"]
    for activity in found.activities.values():
        ours, asleep = activity.speeds[OURS], activity.speeds["asleep"]
        assert ours.cost is None
        assert ours.gain is None
        assert asleep.seconds_per_step.first_quartile >= 0.02
        assert asleep.gain is not None
        assert asleep.gain.median == pytest.approx(1 / ratio(asleep).median)  # the number of rounds is odd
        assert asleep.gain.median > 1
        assert ratio(asleep).first_quartile <= ratio(asleep).median <= ratio(asleep).third_quartile
        assert asleep.steps_per_round == 1
        shares = activity.shares
        beside = {name for name in shares if "beside" in name}
        assert sum(share for name, share in shares.items() if name not in beside) == pytest.approx(1)
    training = set(found.activities["training"].shares)
    assert {"data wait", "backward", "optimizer", "other"} <= training
    assert "backward" not in found.activities["evaluation"].shares
    speed = found.activities["training"].speeds["asleep"]
    assert speed.samples_per_second * speed.seconds_per_step.median == pytest.approx(8)  # the batch


def test_a_protocol_without_baselines_that_trains_nothing_is_measured_alone(tmp_path: Path) -> None:
    found = benchmark(tmp_path, rounds=1, Setup__epochs=0)
    assert [(name, list(activity.speeds)) for name, activity in found.activities.items()] == [
        ("evaluation", [OURS])
    ]


SIZES: dict[Split, int] = {"train": 1600, "test": 400}
# Samples: both splits after each epoch, the held-out one also before the first.
EVALUATED = 50 * 1600 + 51 * 400


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 50 * 1600 / 100 + EVALUATED / 1000),
        ({"Setup__batch_train": 1000}, 50 * 1000 / 100 + EVALUATED / 1000),  # without an incomplete batch
        ({"Setup__skip_train_evaluation": True}, 50 * 1600 / 100 + 51 * 400 / 1000),
        ({"Setup__epochs": 0}, 400 / 1000),
        (
            {"Sweep": {"Dataset.args.fold": [1, 2, 3], "Setup.seed": [1, 2]}},
            6 * (50 * 1600 / 100 + EVALUATED / 1000),
        ),
    ],
)
def test_time_is_projected_from_samples_and_speeds(
    changes: dict[str, Any], expected: float, tmp_path: Path
) -> None:
    protocol = validate(toy(tmp_path, **{"Setup__epochs": 50, "Setup__batch_train": 64, **changes}))
    found = project(protocol, SIZES, {"training": 100.0, "evaluation": 1000.0})
    assert found.seconds == pytest.approx(expected)
    assert found.seconds == pytest.approx(found.runs * found.seconds_per_run)
    assert found.epochs == protocol.setup.epochs


# Output


def test_the_file_contains_all_measurements(tmp_path: Path) -> None:
    found = benchmark(tmp_path, Yardsticks={"asleep": ASLEEP})
    assert not list(tmp_path.iterdir())
    content = json.loads(found.write(tmp_path).read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    assert content["rounds"] == 3
    assert list(content["protocols"]) == [OURS, "asleep"]
    assert content["protocols"]["asleep"]["Task"]["args"] == {"seconds": 0.02}
    again = validate(content["protocols"][OURS])
    assert again.setup.seed == 7
    assert content["environment"]["packages"]["torch"]
    assert content["environment"]["cuda"] is None
    # Nothing depends on the folder, so the file can be moved.
    assert str(tmp_path) not in json.dumps({**content, "protocols": None})
    assert content["projection"] == asdict(found.projection)
    assert content["activities"]["training"]["utilisation"] is None
    assert content["peak_memory_bytes"] == found.peak_memory_bytes
    if Path("/proc/self/status").is_file():
        assert 2**26 < found.peak_memory_bytes["resident"] < 2**36
    speeds = content["activities"]["training"]["speeds"]
    assert speeds["asleep"]["cost"]["median"] == ratio(found.activities["training"].speeds["asleep"]).median
    assert speeds[OURS]["cost"] is None


def test_the_table_shows_the_load_of_an_accelerator_and_the_time_of_a_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = benchmark(tmp_path, rounds=1, Sweep={"Dataset.args.fold": [1, 2]})
    training = replace(found.activities["training"], utilisation=0.9625)
    device = {"device": "cuda", "accelerator": "NVIDIA H100", "cuda": {"CUDA": "13.0", "cuDNN": 91300}}
    found = replace(
        found,
        activities={**found.activities, "training": training},
        environment={**found.environment, **device},
    )
    show_benchmark(found)
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("Device busy, training 96.3%", "NVIDIA H100", "CUDA 13.0, cuDNN 91300"):
        assert text in printed, text
    assert "Device busy, evaluation" not in printed
    assert "for 2 epochs with evaluation, " in printed and " for 2 runs" in printed


# Errors


def test_a_baseline_that_cannot_be_built_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without_recomputation = {"class": "toy_research.measuring.Recomputing"}
    found = benchmark(tmp_path, Yardsticks={"recomputing": without_recomputation})
    assert set(found.activities["training"].speeds) == {OURS}
    assert "Yardsticks.recomputing is skipped. Setup.recompute is true, but TwoTowers" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class": "toy_research.measuring.Asleep"}, "Yardsticks.asleep.args.seconds is required."),
        ({"class": "toy_research.measuring.Asleeep"}, 'did you mean "Asleep"?'),
        (
            {"class": "toy_research.learning.Matching"},
            "must be a subclass of ignite_trainer.api.yardstick.Yardstick",
        ),
        ({"class": "toy_research.measuring.Unfit"}, "Yardsticks.asleep: there is nothing of its kind."),
        (
            {"class": "toy_research.measuring.Unfit", "args": {"broken": True}},
            "Yardsticks.asleep: Setup.batch_train is 0; ",
        ),
    ],
)
def test_a_baseline_that_does_not_fit_is_named(spec: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as error:
        benchmark(tmp_path, Yardsticks={"asleep": spec})
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


# The command


def test_the_command_uses_the_baselines_of_the_model_and_prints_tables_and_then_the_path(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = functools.partial(measure, turn_seconds=0.0)
    monkeypatch.setattr("ignite_trainer.commands.benchmark.measure", quick)
    defaults = {"toy_research.network.TwoTowers": {"Yardsticks": {"asleep": ASLEEP}}}
    command.defaults.write_text(json.dumps(defaults))
    argv = "--benchmark 2 --Yardsticks.asleep.args.seconds 0.1 --Setup.suffix x"
    status, printed, _ = command("-c", command.write(), *argv.split())
    assert status == 0
    path = Path(printed.splitlines()[-1])
    assert path.parent.parent == command.results / "Toy"
    assert path.parent.name.endswith("_benchmark_fold-1_seed-7")
    content = json.loads(path.read_text())
    assert content["rounds"] == 2
    assert content["activities"]["training"]["speeds"]["asleep"]["seconds_per_step"]["median"] >= 0.1
    texts = ["Toy: benchmark", "Precision", "asleep", "time ratio", "Projected time", "backward"]
    for text in (*texts, "2 epochs with evaluation", "Share of this protocol's time"):
        assert text in printed, text


def test_the_command_runs_seven_rounds_by_default(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def measured(*_: Any, rounds: int, **__: Any) -> None:
        planned.append(rounds)
        raise ProtocolError("enough")

    monkeypatch.setattr("ignite_trainer.commands.benchmark.measure", measured)
    assert command("-c", command.write(), "--benchmark").status == 2
    assert planned == [7]


@pytest.mark.parametrize("word", ["0", "-1", "few"])
def test_the_number_of_rounds_is_positive(word: str, command: Command) -> None:
    said = command("-c", command.write(), f"--benchmark={word}").err
    assert f'argument --benchmark: "{word}" is not a positive number' in said
