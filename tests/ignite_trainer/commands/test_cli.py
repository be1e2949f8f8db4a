"""The command line: flags, patterns, errors, exit statuses, and a quick `--help`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
from toy_research.protocols import Command

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs import experiment
from ignite_trainer.support.errors import RunFailed

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        ("-H dashboard.example", "visdom.host", "dashboard.example"),
        ("--visdom-port 8099", "visdom.port", 8099),
        ("-E /tmp/envs", "visdom.env_path", "/tmp/envs"),
        ("-b 4", "setup.batch_train", 4),
        ("--batch-train 4", "setup.batch_test", 4),
        ("-b 4 -B 3", "setup.batch_test", 3),
        ("-b 4 --Setup.batch_test 5", "setup.batch_test", 5),
        ("--batch-test 3", "setup.batch_train", 8),
        ("-w 2", "setup.workers_train", 2),
        ("--workers-train 2", "setup.workers_test", 0),
        ("--workers-test 1", "setup.workers_test", 1),
        ("-e 0", "setup.epochs", 0),
        ("-L 5", "setup.log_interval", 5),
        ("--saved-models-path 5", "setup.saved_models_path", "5"),
        ("-R 99", "setup.seed", 99),
        ("-s 02", "setup.suffix", "02"),
        ("-S", "setup.skip_train_evaluation", True),
        ("", "setup.batch_test", None),
    ],
)
def test_flags_set_keys(argv: str, key: str, value: Any, command: Command, ran: list[Protocol]) -> None:
    assert command("-c", command.write(), *argv.split()).status == 0
    section, name = key.split(".")
    assert getattr(getattr(ran[0], section), name) == value


def test_task_and_parameters_can_be_overridden_where_the_defaults_supply_them(
    command: Command, ran: list[Protocol]
) -> None:
    path = command.write()
    raw = json.loads(path.read_text())
    task = raw.pop("Task")
    path.write_text(json.dumps(raw))
    rules = [{"match": "left.*", "args": {"lr": 0.1}}, {"match": ".*", "train": False}]
    command.defaults.write_text(json.dumps({raw["Model"]["class"]: {"Task": task, "Parameters": rules}}))
    argv = ["--Task.args.smoothing", "0.25", "--Parameters.0.args.lr", "0.5"]
    assert command("-c", path, *argv).status == 0
    assert ran[0].task.args == {"smoothing": 0.25}
    assert ran[0].parameters[0].args == {"lr": 0.5}


def test_every_file_that_matches_runs_once_and_in_order(command: Command, ran: list[Protocol]) -> None:
    b2, a, b1, _ = (command.write(f"{name}.json", Setup__name=name) for name in ("b2", "a", "b1", "c"))
    assert command("-c", b2.with_name("b*.json"), b1, "-c", a).status == 0
    assert [protocol.setup.name for protocol in ran] == ["b1", "b2", "a"]


def test_a_file_name_may_contain_pattern_characters(command: Command, ran: list[Protocol]) -> None:
    (command.folder / "a[b]").mkdir()
    path = command.write("a[b]/c*.json")
    command.write("a[b]/c2.json")
    assert command("-c", path).status == 0
    assert len(ran) == 1
    path.rename(path.with_name("protocol.json"))
    ran.clear()
    assert command("--resume", path.parent).status == 0
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Setup__epochs": -1}, "Setup.epochs is -1; input should be greater than or equal to 0."),
        ({"Model__class": "toy_research.network.Towers"}, "Model.class is toy_research.network.Towers; "),
        (
            {"Optimizer__args": {"momentun": 1}},
            'Optimizer.args.momentun is not an argument; did you mean "momentum"?',
        ),
        # Every run of every sweep, too.
        (
            {"Sweep": {"Dataset.args.fold": [1, 6], "Setup.seed": [1, 2]}},
            "Dataset.args.fold is 6; there are folds 1 to 3.\n",
        ),
    ],
)
def test_all_protocols_are_checked_before_the_first_runs(
    changes: dict[str, Any], said: str, command: Command, ran: list[Protocol]
) -> None:
    command.write("a.json")
    bad = command.write("b.json", **changes)
    done = command("-c", command.folder / "*.json")
    assert (done.status, ran) == (2, [])
    assert done.err.startswith(f"error: {bad}: {said}")
    assert not command.results.exists()


def test_a_protocol_that_fails_late_does_not_stop_the_others(command: Command) -> None:
    first = command.write("a.json", Setup__batch_train=21)  # only found once the data are loaded
    second = command.write("b.json", Task__args={"explode_at": 1})
    third = command.write("c.json", Setup__name="Third", Setup__epochs=0)
    done = command("-c", first, second, third)
    assert done.status == 2
    assert "error: Setup.batch_train is 21, but the training split has 20" in done.err
    assert done.err.endswith(f"2 of 3 protocols failed: {first}, {second}\n")
    assert len(list((command.results / "Third").glob("*/result.json"))) == 1


def test_an_unexpected_error_does_not_stop_the_other_protocols(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[str] = []

    def run(blueprint: Blueprint, **_: Any) -> None:
        if blueprint.protocol.setup.name == "Bad":
            raise AttributeError("no such thing")
        finished.append(blueprint.protocol.setup.name)

    monkeypatch.setattr(experiment, "run", run)
    bad = command.write("a.json", Setup__name="Bad")
    done = command("-c", bad, command.write("b.json", Setup__name="Good"))
    assert (done.status, finished) == (1, ["Good"])
    assert "AttributeError: no such thing" in done.err
    with pytest.raises(AttributeError):
        command("-c", bad)


def test_a_pattern_without_a_match_is_an_error_with_the_nearest_file(command: Command) -> None:
    near, missing = command.write("protocol.json"), command.folder / "protcol.json"
    said = f'error: --config: no file matches "{missing}"; did you mean "{near}"?\n'
    assert command("-c", missing) == (2, "", said)


def test_a_shipped_protocol_is_suggested_if_the_folder_has_none(command: Command) -> None:
    shipped = command.defaults.with_name("shipped.json")
    shipped.write_text("{}")
    mine = command.folder / "mine.json"
    done = command("-c", mine)
    assert done.status == 2
    assert f'no file matches "{mine}"; ' in done.err and str(shipped) in done.err
    said = f'error: --config: no file matches "shipped"; did you mean "{shipped}"?\n'
    assert command("-c", "shipped") == (2, "", said)


@pytest.mark.parametrize(
    "present", [(), ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")]
)
def test_without_the_requirements_the_error_says_how_to_get_them(
    present: tuple[str, ...], tmp_path: Path
) -> None:
    """The second Python has all packages that reading protocols needs, but no torch."""
    packages = Path(pydantic.__file__).parents[1]
    for name in (*present, *["typing_extensions.py"] * bool(present)):
        (tmp_path / name).symlink_to(packages / name)
    bare = subprocess.run(
        [sys.executable, "-S", "main.py", "-c", "x.json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 1
    assert bare.stderr.startswith(f"error: No module named '{'torch' if present else 'pydantic'}")
    assert "`. .venv/bin/activate`" in bare.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_help_is_quick_and_threads_do_not_spin_for_long_unless_the_user_says_so(
    given: dict[str, str], expected: str
) -> None:
    script = (
        "import atexit, os, runpy, sys; sys.argv[1:] = ['--help']\n"
        "slow = {'torch', 'ignite', 'numpy', 'matplotlib'}\n"
        "atexit.register(lambda: print(slow & set(sys.modules), os.environ.get('GOMP_SPINCOUNT')))\n"
        "runpy.run_path('main.py', run_name='__main__')"
    )
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-c", script]
    run = subprocess.run(words, cwd=ROOT, env=unset | given, capture_output=True, text=True, check=False)
    # Torch reads the variable when imported.
    assert run.stdout.splitlines()[-1] == f"set() {expected}", run.stderr


def test_an_unknown_override_runs_nothing(command: Command, ran: list[Protocol]) -> None:
    path = command.write()
    done = command("-c", path, "--Setup.epohs", "3", "-b", "0")
    assert (done.status, ran) == (2, [])
    assert done.err.startswith(f"error: {path}: 3 problems:\n")
    assert '  - --Setup.epohs: Setup has no "epohs"; did you mean "epochs"?\n' in done.err
    assert "  - Setup.batch_train is 0;" in done.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("-c {} --lr 1e-4", "--lr is not a flag; did you mean --Optimizer.args.lr?"),
        ("-c {} --epoch 3", "--epoch is not a flag; did you mean --epochs?"),
        ("-c {} -epochs 3", "-epochs has two hyphens: --epochs"),
        ("-config {}", "-config has two hyphens: --config"),
        ("{}", '"{}" is not preceded by a flag; write -c {}'),
        ("{} --lr 3", "write -c {}; --lr is not a flag; did you mean --Optimizer.args.lr?"),
        ("--lr 3", "--lr is not a flag; see --help. Write protocol keys in full"),
    ],
)
def test_an_invalid_command_line_is_explained(
    argv: str, said: str, command: Command, ran: list[Protocol]
) -> None:
    path = str(command.write())
    done = command(*(word.replace("{}", path) for word in argv.split()))
    assert (done.status, ran) == (2, [])
    assert said.replace("{}", path) in done.err


def test_a_copied_protocol_gets_the_path_of_its_schema(
    command: Command, ran: list[Protocol], caplog: pytest.LogCaptureFixture
) -> None:
    schema = command.defaults.with_name("schema.json")
    schema.write_text("{}")
    path = command.write("copy.json", **{"$schema": "./schema.json"})
    assert command("-c", path).status == 0
    assert f'{path}: "$schema" is "./schema.json", but that file does not exist' in caplog.text
    assert 'Write "$schema": "defaults/schema.json".' in caplog.text
    caplog.clear()
    assert command("-c", command.write("copy.json", **{"$schema": "defaults/schema.json"})).status == 0
    assert caplog.text == ""
    assert ran[-1].schema_path == str(schema.resolve())


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (RunFailed("The loss is nan."), 1, "error: The loss is nan.\n"),
        (KeyboardInterrupt(), 130, "interrupted; --resume continues from the last saved state\n"),
    ],
)
def test_each_early_end_of_a_run_has_its_own_exit_status(
    error: BaseException, status: int, said: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(experiment, "run", fail)
    assert command("-c", command.write()) == (status, "", said)


def test_code_is_run_only_if_it_is_trusted(command: Command, ran: list[Protocol]) -> None:
    done = command("-c", command.write(), trust="another")
    assert (done.status, ran) == (2, [])
    assert "If you know this code, add --trust toy_research." in done.err


@pytest.mark.parametrize(
    "argv", ["", "--check", "--explain", "--benchmark 1", "--Sweep.Dataset.args.fold 98 99", "--epochs 0"]
)
def test_problems_of_the_data_are_reported_before_weights_are_fetched(argv: str, command: Command) -> None:
    fetched = command.folder / "fetched"
    model = {"class": "toy_research.network.Fetching", "args": {"fetched": str(fetched)}}
    done = command("-c", command.write(Model=model, Dataset__args={"fold": 99}), *argv.split())
    assert "Dataset.args.fold is 99; there are folds 1 to 3." in done.out + done.err
    assert not fetched.exists()


def test_the_model_is_checked_without_data_and_its_weights_are_fetched_only_with_data(
    command: Command,
) -> None:
    fetched = command.folder / "fetched"
    args = {"fetched": str(fetched)}
    model = {"class": "toy_research.network.Fetching", "args": {**args, "width": 0}}
    for argv in ([], ["--check"]):
        done = command("-c", command.write(Model=model, Dataset__args={"fold": 99}), *argv)
        assert "width is 0; it is at least 1." in done.out + done.err
    assert command("-c", command.write(Model={**model, "args": args}), "-e", "0").status == 0
    assert fetched.exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "argv", ["-e 0", "--check", "--explain -e 0", "--Sweep.Setup.seed 1 2 -e 0", "-e 0 -b x"]
)
def test_characters_outside_the_terminals_encoding_are_replaced(
    encoding: str, argv: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporters = [{"class": f"ignite_trainer.reporters.{name}"} for name in ("Console", "Report")]
    path = command.write("音.json", Setup__name="Vögel 音", Reporters=reporters)
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding=encoding))
    assert command("-c", path, *argv.split()).status == (2 if "x" in argv.split() else 0)
    sys.stdout.flush()
    said = printed.getvalue().decode(encoding)
    assert argv == "-e 0 -b x" or "?" in said
    for report in command.results.rglob("report.html"):
        assert "音" in report.read_text(encoding="utf-8")


def test_a_protocol_runs_from_the_command_line(command: Command) -> None:
    argv = "-e 1 -b 5 -w 0 -S -s CV2 --Dataset.args.fold 2 --Optimizer.args.lr 1e-2 --Model.args.dropout .5"
    assert command("-c", command.write(), *argv.split()).status == 0
    (folder,) = (command.results / "Toy").iterdir()
    assert folder.name.endswith("_CV2_fold-2_seed-7")
    saved = json.loads((folder / "protocol.json").read_text())
    assert (saved["Setup"]["batch_test"], saved["Setup"]["skip_train_evaluation"]) == (5, True)
    assert saved["Optimizer"]["args"] == {"lr": 0.01, "momentum": 0.9}
    assert saved["Model"]["args"] == {"dropout": 0.5}
    assert (folder / "checkpoints" / "last_epoch-1.pt").exists()


# Sweeps


def test_a_sweep_runs_from_the_command_line(command: Command) -> None:
    argv = "-e 0 --Sweep.Dataset.args.fold 1 2 --Sweep.Setup.seed 3"
    done = command("-c", command.write(), *argv.split())
    assert done.status == 0
    (folder,) = (command.results / "Toy").iterdir()
    assert {path.name for path in folder.glob("fold-*")} == {"fold-1_seed-3", "fold-2_seed-3"}
    assert done.out.splitlines()[-1] == f"Report: {(folder / 'report.html').as_uri()}"
    assert (command.results / "table.md").exists()


def test_a_sweep_of_the_protocol_can_be_switched_off(command: Command, ran: list[Protocol]) -> None:
    path = command.write(Sweep={"Dataset.args.fold": [1, 2]})
    assert command("-c", path, "--Sweep", "null", "--Dataset.args.fold", "3").status == 0
    assert [protocol.dataset.args["fold"] for protocol in ran] == [3]


def test_one_value_and_a_sweep_over_the_same_key_are_refused(command: Command) -> None:
    path = command.write(Sweep={"Setup.seed": [1, 2]})
    said = (
        f"error: {path}: --Setup.seed sets one value, but Sweep.Setup.seed sets several; remove one of "
        "the two (--Sweep null turns off the protocol's sweep).\n"
    )
    assert command("-c", path, "-R", "3") == (2, "", said)


def test_the_command_fails_if_a_run_of_a_sweep_fails(command: Command) -> None:
    argv = "--Sweep.Task.args.explode_at 1 null -e 1"
    done = command("-c", command.write(), *argv.split())
    assert done.status == 1
    assert "error: explode_at-1: The loss is inf" in done.err
    assert "1 of 2 runs are finished. Missing: explode_at-1." in done.out
