"""The typed protocol: errors, defaults, and conversion back to JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ignite_trainer.protocol.validation import accepts_text, json_path, keys_at, validate
from ignite_trainer.support.errors import ProtocolError

MINIMAL: dict[str, Any] = {
    "Setup": {"name": "Least", "batch_train": 4, "epochs": 1, "saved_models_path": "results"},
    "Model": {"class": "some.Model"},
    "Task": {"class": "some.Task"},
    "Optimizer": {"class": "torch.optim.SGD"},
    "Dataset": {"class": "some.Data"},
}


def minimal(**sections: Any) -> dict[str, Any]:
    """Return the smallest protocol with changes; objects are merged, other values replaced."""
    raw = json.loads(json.dumps(MINIMAL))
    for name, content in sections.items():
        raw[name] = {**raw.get(name, {}), **content} if isinstance(content, dict) else content
    return raw  # type: ignore[no-any-return]


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        validate(raw)
    return caught.value.problems


def line(label: str = "Acc.", **keys: Any) -> dict[str, Any]:
    return {"line_label": label, "class": "ignite.metrics.Accuracy", **keys}


def metrics(*lines: dict[str, Any]) -> dict[str, Any]:
    return minimal(Metrics={"Performance": {"lines": list(lines)}})


def test_errors_of_all_sections_are_reported_at_once() -> None:
    raw = minimal(
        Visdom={"port": 0},
        Setup={"epochs": -1, "batch_trian": 8, "precision": "fp64"},
        Model={"class": "nodots"},
        Task=None,
        Parameters=[{"match": "("}],
        Optimizer={"args": [1]},
        Scheduler={"class": "torch.optim.lr_scheduler.ExponentialLR", "arg": {}},
        Transforms={"class": "some.T"},
        Metrics={"Performance": {"lines": [{"line_label": "x"}]}},
        Reporters=[{"args": {}}],
        Nonsense={},
    )
    del raw["Dataset"]
    found = problems(raw)
    assert len(found) == 14
    assert set(found) >= {
        "Visdom.port is 0; input should be greater than or equal to 1.",
        "Setup.epochs is -1; input should be greater than or equal to 0.",
        'Setup.batch_trian is not a key of a protocol; did you mean "batch_train"?',
        "Setup.precision is \"fp64\"; input should be 'fp32', 'tf32', 'bf16' or 'fp16'.",
        'Model.class is "nodots"; write the dotted path of a class, such as torch.optim.SGD.',
        "Task must be a JSON object.",
        'Parameters[0].match is "("; is not a regular expression: missing ), unterminated subpattern at '
        "position 0.",
        "Optimizer.args must be a JSON object.",
        'Scheduler.arg is not a key of a protocol; did you mean "args"?',
        "Dataset is required.",
        "Transforms must be a JSON list.",
        "Metrics.Performance.lines[0].class is required.",
        "Reporters[0].class is required.",
    }
    assert any(
        problem.startswith("Nonsense is not a key of a protocol; allowed: $schema,") for problem in found
    )


def test_one_problem_is_one_line_and_several_are_a_list_that_names_the_file() -> None:
    with pytest.raises(ProtocolError) as one:
        validate(minimal(Setup={"epochs": -1}), source="a.json")
    assert str(one.value) == "a.json: Setup.epochs is -1; input should be greater than or equal to 0."
    with pytest.raises(ProtocolError) as two:
        validate(minimal(Setup={"epochs": -1, "batch_train": 0}), source="a.json")
    assert str(two.value).startswith("a.json: 2 problems:\n  - Setup.batch_train is 0;")
    assert str(two.value).count("\n  - ") == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", True),
        ("epochs", "3"),
        ("epochs", 1.5),
        ("batch_train", 0),
        ("batch_test", False),
        ("workers_train", -1),
        ("accumulate", 0),
        ("log_interval", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("skip_train_evaluation", "no"),
        ("skip_train_evaluation", 1),
        ("compile", "yes"),
        ("resume", "always"),
        ("save_every_steps", 0),
        ("save_every_minutes", 0),
        ("name", ""),
        ("name", None),
        ("suffix", [1]),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(key: str, value: Any) -> None:
    (problem,) = problems(minimal(Setup={key: value}))
    assert problem.startswith(f"Setup.{key} is {json.dumps(value)}; ")


def test_a_number_may_replace_text() -> None:
    setup = validate(minimal(Setup={"name": 12, "suffix": 3})).setup
    assert (setup.name, setup.suffix) == ("12", "3")


@pytest.mark.parametrize(("right", "wrong"), [("Setup", "setup"), ("Model", "model"), ("Setup", "Setpu")])
def test_for_a_misspelt_section_the_right_one_is_suggested(right: str, wrong: str) -> None:
    raw = minimal()
    raw[wrong] = raw.pop(right)
    assert f'{wrong} is not a key of a protocol; did you mean "{right}"?' in problems(raw)


def test_the_key_of_a_class_is_class() -> None:
    assert problems(minimal(Model={"path": "a.B"})) == [
        "Model.path is not a key of a protocol; allowed: args, class."
    ]


@pytest.mark.parametrize("path", ["SGD", "torch..SGD", "torch.optim.SGD()", "torch/optim", "", ".a", "a.b c"])
def test_a_class_is_a_dotted_path(path: str) -> None:
    assert problems(minimal(Model={"class": path})) == [
        f'Model.class is "{path}"; write the dotted path of a class, such as torch.optim.SGD.'
    ]


def test_two_lines_with_the_same_label_are_refused() -> None:
    found = problems(metrics(line("Acc."), line("Loss"), line("Acc.")))
    assert [problem.split(" is ")[0] for problem in found] == [
        "Metrics.Performance.lines[0].line_label",
        "Metrics.Performance.lines[2].line_label",
    ]


def test_a_label_too_long_for_a_file_name_is_refused() -> None:
    assert problems(metrics(line("\u00e9" * 76))) == [
        "Metrics.Performance.lines[0].line_label is too long for a file name; shorten it."
    ]
    validate(metrics(line("\u00e9" * 75)))


@pytest.mark.parametrize("keys", [{"test": False}, {"update_rate": "iteration"}])
def test_checkpoints_are_chosen_by_held_out_values(keys: dict[str, Any]) -> None:
    (problem,) = problems(metrics(line(is_checkpoint=True, **keys)))
    assert problem == (
        "Metrics.Performance.lines[0].is_checkpoint is true, but checkpoints are chosen after each epoch, "
        'which needs "test": true and "update_rate": "epoch".'
    )


def test_a_line_without_a_split_is_refused() -> None:
    assert problems(metrics(line(train=False, test=False))) == [
        'Metrics.Performance.lines[0] is not computed on any split; set "train" or "test" to true, or remove '
        "the line."
    ]
    assert problems(metrics(line(train=False, update_rate="iteration"))) == [
        'Metrics.Performance.lines[0].update_rate is "iteration", which needs "train": true.'
    ]


def test_missing_keys_have_their_documented_defaults() -> None:
    protocol = validate(minimal(Metrics={"P": {"lines": [line()]}}, Transforms=[{"class": "a.b"}]))
    setup = protocol.setup
    assert (setup.batch_test, setup.workers_train, setup.workers_test, setup.log_interval) == (None, 0, 0, 10)
    assert (setup.seed, setup.precision, setup.accumulate, setup.suffix) == (None, "fp32", 1, None)
    assert (setup.compile, setup.resume, setup.skip_train_evaluation) == (False, "never", False)
    assert protocol.visdom.model_dump() == {"host": None, "port": None, "env_path": None}
    assert (protocol.scheduler, protocol.reporters) == (None, None)
    assert [rule.match for rule in protocol.parameters] == [".*"]
    (transform,) = protocol.transforms
    assert (transform.train, transform.test, transform.field, transform.args) == (True, True, None, {})
    window = protocol.metrics["P"]
    assert (window.window_name, window.x_label, window.width, window.height) == (None, "#Epochs", 1890, 416)
    (metric,) = window.lines
    assert (metric.train, metric.test, metric.is_checkpoint, metric.best) == (True, True, False, "max")
    assert metric.update_rate == "epoch"


def test_a_protocol_is_frozen() -> None:
    protocol = validate(minimal())
    with pytest.raises(ValidationError, match="frozen"):
        protocol.setup.epochs = 3  # type: ignore[misc]


def test_validation_does_not_change_its_argument() -> None:
    raw = minimal(Metrics={"P": {"lines": [line()]}})
    before = json.dumps(raw)
    validate(raw)
    assert json.dumps(raw) == before


def test_a_protocol_written_and_read_again_is_equal() -> None:
    protocol = validate(
        minimal(
            Metrics={"P": {"lines": [line(best="min", is_checkpoint=True)]}},
            Transforms=[{"class": "a.b", "args": {"x": [1, {"y": None}]}, "test": False, "field": "image"}],
            Parameters=[
                {"match": "a.*", "args": {"lr": 1e-5}},
                {"match": ".*", "train": False, "mode": "eval"},
            ],
            Scheduler={"class": "a.b", "args": {"gamma": 0.96}},
            Reporters=[{"class": "a.b"}],
            Visdom={"port": 9000},
            **{"$schema": "./schema.json"},
        )
    )
    again = validate(json.loads(json.dumps(protocol.to_json())))
    assert again == protocol
    assert again.to_json() == protocol.to_json()


def test_lines_are_listed_by_their_json_path() -> None:
    raw = minimal(Metrics={"A": {"lines": [line("a"), line("b")]}, "B c": {"lines": [line("c")]}})
    assert list(validate(raw).lines) == ["Metrics.A.lines[0]", "Metrics.A.lines[1]", "Metrics.B c.lines[0]"]


# The schema as overrides and messages use it


def test_locations_are_written_as_json_paths() -> None:
    assert json_path(("Metrics", "P", "lines", 0, "class")) == "Metrics.P.lines[0].class"
    assert json_path(()) == ""


def test_keys_are_listed_by_location() -> None:
    assert keys_at(("Model",)) == ["args", "class"]
    assert keys_at(("Scheduler",)) == ["args", "class", "interval", "lasts"]
    assert keys_at(("Scheduler", 1)) == keys_at(("Scheduler",))
    assert "line_label" in keys_at(("Metrics", "any", "lines", 0))
    assert keys_at(("Reporters", 3)) == ["args", "class"]
    assert keys_at(("Model", "args")) == keys_at(("Model", "args", "deep", "er")) == []
    assert "Setup" in keys_at(())


def test_only_text_keys_accept_text() -> None:
    assert accepts_text(("Setup", "suffix"))
    assert accepts_text(("Visdom", "host"))
    for other in [("Setup", "seed"), ("Scheduler",), ("Model", "args", "x"), ("Nowhere",), ("Reporters",)]:
        assert not accepts_text(other)


def test_frozen_parameters_have_no_optimizer_arguments() -> None:
    rules = [{"match": ".*", "train": False, "args": {"lr": 1}}]
    [problem] = problems(minimal(Parameters=rules))
    assert problem == (
        'Parameters[0].args is {"lr": 1}; parameters that are not trained have no optimizer '
        "arguments; remove args."
    )


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "is not a regular expression: missing ), unterminated subpattern"),
        ("[[a]--b]", "is not a regular expression: Possible nested set"),
    ],
)
def test_an_invalid_pattern_is_refused(pattern: str, said: str) -> None:
    (problem,) = problems(minimal(Parameters=[{"match": pattern}]))
    assert said in problem


def test_huge_sizes_are_refused() -> None:
    for key in ("batch_train", "batch_test", "workers_train", "epochs", "accumulate"):
        (problem,) = problems(minimal(Setup={key: 10**12}))
        assert problem == f"Setup.{key} is {10**12}; input should be less than or equal to 1000000."
    (problem,) = problems(minimal(Sweep={"Setup.seed": [*range(50)], "Dataset.args.fold": [*range(50)]}))
    assert problem == "Sweep has 2,500 combinations; at most 2,000 are allowed."
