"""Dotted paths: trusted packages, kinds of classes, and their arguments."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.metrics import Metric
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from toy_research.augment import GlobalHiss, scale
from toy_research.network import TwoTowers
from toy_research.protocols import TRUSTED, toy

from ignite_trainer.api.task import Task
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.instantiate import build, check_arguments, resolve, resolve_callable
from ignite_trainer.protocol.sections import ClassSpec
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError, RunFailed


def spec(path: str, **args: Any) -> ClassSpec:
    return ClassSpec.model_validate({"class": path, "args": args})


def refusal(path: str, kind: type[Any] = nn.Module, trusted: tuple[str, ...] = TRUSTED) -> str:
    with pytest.raises(ProtocolError) as caught:
        resolve(spec(path), kind, where="Model", trusted=trusted)
    return str(caught.value)


# Trust


@pytest.mark.parametrize(
    "path", ["os.system", "builtins.eval", "subprocess.Popen", "toy_research.network.TwoTowers"]
)
def test_a_package_that_is_not_trusted_is_refused(path: str) -> None:
    package = path.split(".", maxsplit=1)[0]
    assert refusal(path, trusted=()) == (
        f'Model.class is {path}; "{package}" is not trusted. Allowed: ignite, ignite_trainer, model, torch, '
        f"torchaudio, torchvision, utils. If you know this code, add --trust {package}."
    )


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("torch.os.system", "posix"),
        ("ignite_trainer.commands.cli.glob", "glob"),
        ("ignite_trainer.commands.cli.argparse.ArgumentParser", "argparse"),
        ("toy_research.signals.np.random.Generator", "numpy"),
        ("torch.serialization.pickle", "pickle"),
    ],
)
def test_a_path_through_a_trusted_module_to_foreign_code_is_refused(path: str, home: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        resolve_callable(spec(path), where="Transforms[0]", trusted=TRUSTED)
    said = f'Transforms[0].class is {path}, which is defined in "{home}", a package that is not trusted.'
    assert str(caught.value) == said


@pytest.mark.parametrize("path", ["torchvision.datasets.FakeData", "torchaudio.datasets.YESNO"])
def test_data_sets_that_fetch_need_explicit_trust(path: str) -> None:
    home = path.split(".", maxsplit=1)[0]
    with pytest.raises(ProtocolError, match=rf"to any path.* add --trust {home}\.$"):
        resolve(spec(path), Dataset, where="Dataset")
    assert issubclass(resolve(spec(path), Dataset, where="Dataset", trusted=[home]), Dataset)


def test_a_path_to_a_value_is_refused() -> None:
    path = "torch.backends.mkldnn.enabled"
    assert refusal(path) == f"Model.class is {path}, which is a bool, not a class."


@pytest.mark.parametrize(
    ("path", "private"),
    [
        ("torch.nn.Module.__init__.__builtins__", "__init__"),
        ("torch.nn.Module.__subclasses__", "__subclasses__"),
        ("torch.testing._internal.common_utils.TestCase", "_internal"),
    ],
)
def test_private_names_are_not_looked_up(path: str, private: str) -> None:
    assert refusal(path) == (
        f'Model.class is {path}; "{private}" is a private name, which protocols must not use.'
    )
    assert "torch.testing._internal.common_utils" not in sys.modules


def test_an_attribute_that_raises_does_not_exist() -> None:
    assert refusal("torch.classes.there.isnone").startswith("Model.class is torch.classes.there.isnone; ")


def test_modules_that_are_not_trusted_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (canary / "inner").mkdir(parents=True)
    cry = f"import pathlib; pathlib.Path({str(tmp_path / 'cry')!r}).touch()\n"
    (canary / "__init__.py").write_text(cry)
    (canary / "inner" / "__init__.py").write_text(cry + "class Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    raw = toy(tmp_path, Scheduler={"class": "canary.Scheduler"})
    for section in ("Model", "Task", "Optimizer", "Dataset"):
        raw[section]["class"] = "canary.inner.Model"
    raw["Transforms"][0]["class"] = raw["Reporters"][0]["class"] = "canary.inner.Model"
    raw["Metrics"]["Performance"]["lines"][0]["class"] = "canary.inner.Model"
    with pytest.raises(ProtocolError) as caught:
        draw(validate(raw), trusted=TRUSTED)
    assert len([problem for problem in caught.value.problems if '"canary" is not trusted' in problem]) == 8
    assert "canary" not in sys.modules
    assert not (tmp_path / "cry").exists()
    with pytest.raises(ProtocolError):  # with trust, they are imported
        draw(validate(raw), trusted=(*TRUSTED, "canary"))
    assert (tmp_path / "cry").exists()
    for name in ("canary", "canary.inner"):
        del sys.modules[name]


# Kinds


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        (
            "torch.optim.SGD",
            nn.Module,
            "which extends Optimizer; it must be a subclass of torch.nn.modules.module.Module.",
        ),
        ("torch.nn.functional.relu", nn.Module, "which is a function; it must be a subclass of "),
        (
            "torch.optim",
            Optimizer,
            "which is a module; it must be a subclass of torch.optim.optimizer.Optimizer",
        ),
        (
            "ignite.metrics.Accuracy",
            Task,
            "which extends _BaseClassification; it must be a subclass of ignite_trainer.api.task.T",
        ),
        ("toy_research.augment.GlobalHiss", Dataset, "which extends no class; it must be a subclass of "),
    ],
)
def test_a_class_of_another_kind_is_refused(path: str, kind: type[Any], said: str) -> None:
    assert refusal(path, kind).startswith(f"Model.class is {path}, {said}")


@pytest.mark.parametrize(
    ("path", "kind", "lacks"),
    [
        ("ignite_trainer.api.task.Task", Task, "evaluation_step, training_step"),
        ("ignite.metrics.Metric", Metric, "compute, reset, update"),
    ],
)
def test_an_abstract_class_is_refused(path: str, kind: type[Any], lacks: str) -> None:
    assert (
        refusal(path, kind)
        == f"Model.class is {path}, which does not implement {lacks}; name a complete class."
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("torch.optin.SGD", 'torch has no "optin"; did you mean "optim"?'),
        ("torch.optim.SDG", 'torch.optim has no "SDG"; did you mean "SGD"?'),
        ("toy_research.netwrok.TwoTowers", 'toy_research has no "netwrok"; did you mean "network"?'),
        (
            "toy_research.network.twotowers",
            'toy_research.network has no "twotowers"; did you mean "TwoTowers"?',
        ),
        ("utils.dataset.ESC50", 'utils has no "dataset"; did you mean "datasets"?'),
        ("torch.zzzzzz.A", 'torch has no "zzzzzz"; allowed: '),
    ],
)
def test_for_a_misspelt_path_the_nearest_one_is_suggested(path: str, said: str) -> None:
    found = refusal(path)
    assert found.startswith(f"Model.class is {path}; {said}")
    assert len(found) < 600


def test_a_failed_import_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wanting.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("wanting.Model", trusted=("wanting",)) == (
        "Model.class is wanting.Model; importing wanting failed: No module named 'a_package_that_nobody_has'."
    )
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    assert refusal("leaving.Model", trusted=("leaving",)) == (
        "Model.class is leaving.Model; importing leaving failed: SystemExit: 3."
    )
    assert refusal("absent_pkg.Model", trusted=("absent_pkg",)) == (
        "Model.class is absent_pkg.Model; importing absent_pkg failed: No module named 'absent_pkg'."
    )


def test_a_class_of_the_expected_kind_is_found() -> None:
    assert (
        resolve(spec("toy_research.network.TwoTowers"), nn.Module, where="Model", trusted=TRUSTED)
        is TwoTowers
    )
    assert resolve(spec("torch.optim.SGD"), Optimizer, where="Optimizer") is torch.optim.SGD


# Transforms: classes that are called, and functions


def test_transforms_are_classes_with_a_call_or_functions() -> None:
    found = resolve_callable(spec("toy_research.augment.GlobalHiss"), where="T", trusted=TRUSTED)
    assert found is GlobalHiss
    assert resolve_callable(spec("torch.nn.Identity"), where="T") is nn.Identity
    function = resolve_callable(spec("toy_research.augment.scale"), where="T", trusted=TRUSTED)
    assert float(function(factor=3.0)(torch.tensor(2.0))) == 6.0


@pytest.mark.parametrize(
    "path",
    [
        "torch.nn.functional.relu",
        "torch.save",
        "torch.load",
        "ignite_trainer.runs.experiment.run",
        "utils.fetching.unpack.unpack",
        "toy_research.signals.Tones",
    ],
)
def test_library_functions_and_classes_without_call_are_not_transforms(path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        resolve_callable(spec(path), where="Transforms[1]", trusted=TRUSTED)
    assert str(caught.value) == (
        f"Transforms[1].class is {path}; it must be a class with __call__, or a function in a package that "
        "--trust names."
    )


# Arguments


class Example:
    def __init__(self, first: int, *, second: int, third: int = 0, fourth: int = 0) -> None: ...


class Open:
    def __init__(self, first: int, **options: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "args", "problems"),
    [
        (Example, {"first": 1, "second": 2}, []),
        (Example, {"third": 1}, ["M.args.first is required.", "M.args.second is required."]),
        (
            Example,
            {"first": 1, "second": 2, "tird": 3},
            ['M.args.tird is not an argument; did you mean "third"?'],
        ),
        (Open, {"first": 1, "whatever": 2}, []),
        (Open, {"whatever": 2}, ["M.args.first is required."]),
        (nn.Identity, {"anything": 1}, []),
        (object, {"x": 1}, ["M.args.x is not an argument; nothing is allowed here."]),
        (functools.partial(functools.partial, scale), {"factor": 2.0}, []),
        (
            functools.partial(functools.partial, scale),
            {"factr": 2.0},
            ['M.args.factr is not an argument; did you mean "factor"?'],
        ),
        (
            functools.partial(functools.partial, scale),
            {"value": 2.0},
            ["M.args.value is supplied by the trainer; remove it."],
        ),
    ],
)
def test_arguments_are_compared_with_the_signature(
    target: Any, args: dict[str, Any], problems: list[str]
) -> None:
    assert check_arguments(target, args, where="M.args") == problems


def test_arguments_of_the_trainer_must_not_be_given() -> None:
    assert check_arguments(Example, {"second": 2}, where="M.args", supplied=("first",)) == []
    assert check_arguments(Example, {"first": 1, "second": 2}, where="M.args", supplied=("first",)) == [
        "M.args.first is supplied by the trainer; remove it."
    ]
    assert check_arguments(Example, {"first": 1, "second": 2}, where="M.args", supplied=("thirt",)) == [
        'M.args.thirt is supplied by the trainer, but is not an argument; did you mean "third"?'
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"Optimizer__args": {"lr": 1, "params": []}},
            "Optimizer.args.params is supplied by the trainer; remove it.",
        ),
        (
            {"Parameters": [{"match": ".*", "args": {"wieght_decay": 0}}]},
            'Parameters[0].args.wieght_decay is not an argument; did you mean "weight_decay"?',
        ),
        (
            {"Scheduler": {"class": "torch.optim.lr_scheduler.ExponentialLR"}},
            "Scheduler.args.gamma is required.",
        ),
        (
            {"Scheduler": {"class": "torch.optim.lr_scheduler.ReduceLROnPlateau"}},
            "Scheduler.class is ReduceLROnPlateau, whose step needs arguments that the trainer "
            "does not have. Choose another.",
        ),
        ({"Dataset__args": {"train": True}}, "Dataset.args.train is supplied by the trainer; remove it."),
        (
            {"Dataset__args": {"training": {"key": "trian", "yes": 1, "no": 0}}},
            'Dataset.args.trian is supplied by the trainer, but is not an argument; did you mean "train"?',
        ),
        (
            {"Dataset__args": {"training": "train"}},
            "Dataset.args.training names the argument that selects the split, and its two values; "
            'write {"key": "train", "yes": true, "no": false}.',
        ),
        ({"Dataset__args": {"dl_shuffle": 1}}, "Dataset.args.dl_shuffle is 1, but must be true or false."),
        (
            {"Transforms": [{"class": "toy_research.augment.scale", "args": {"facto": 1}}]},
            'Transforms[0].args.facto is not an argument; did you mean "factor"?',
        ),
        (
            {
                "Metrics": {
                    "P": {
                        "lines": [{"class": "ignite.metrics.Accuracy", "line_label": "A", "args": {"x": 1}}]
                    }
                }
            },
            "Metrics.P.lines[0].args.x is not an argument; allowed: device, is_multilabel, skip_unrolling.",
        ),
        (
            {"Reporters": [{"class": "toy_research.watching.Notebook", "args": {"x": 1}}]},
            "Reporters[0].args.x is not an argument; nothing is allowed here.",
        ),
    ],
)
def test_wrong_arguments_of_every_section_are_reported(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError) as caught:
        draw(validate(toy(tmp_path, **changes)), trusted=TRUSTED)
    assert caught.value.problems == [said]


# Building


def failing(error: BaseException) -> Any:
    def make(**_: Any) -> None:
        raise error

    return make


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("fold is 11; there are folds 1 to 5."),
            "Dataset.args.fold is 11; there are folds 1 to 5.",
        ),
        (ValueError("fold.last is 11."), "Dataset.args.fold.last is 11."),
        (ValueError("other is 11."), "Dataset: other is 11."),
        (FileNotFoundError(2, "No such file", "x.csv"), "Dataset: [Errno 2] No such file: 'x.csv'"),
        (ValueError(), f"Dataset: ValueError:  ({__file__}, line "),
        (KeyError("column"), f"Dataset: KeyError: 'column' ({__file__}, line "),
        (TypeError("no len()"), f"Dataset: TypeError: no len() ({__file__}, line "),
        (RuntimeError("negative size -1"), f"Dataset: RuntimeError: negative size -1 ({__file__}, line "),
        (ZeroDivisionError("by 0"), f"Dataset: ZeroDivisionError: by 0 ({__file__}, line "),
        (NameError("no x"), f"Dataset: NameError: no x ({__file__}, line "),
        (AssertionError(), f"Dataset: AssertionError:  ({__file__}, line "),
        (ProtocolError("said already."), "said already."),
    ],
)
def test_errors_of_a_constructor_name_its_path(error: Exception, said: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        build(failing(error), {"fold": 11}, where="Dataset")
    assert re.sub(r"line \d+\)$", "line ", str(caught.value)) == said
    assert caught.value is error or caught.value.__cause__ is error


def test_a_failed_run_is_not_reported_as_an_invalid_protocol() -> None:
    with pytest.raises(RunFailed, match="no room"):
        build(failing(RunFailed("no room")), {}, where="Model")
