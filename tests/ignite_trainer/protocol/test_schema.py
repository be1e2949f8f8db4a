"""The schema for editors: up to date, valid for all protocols, and equivalent to the program's checks."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.reading import read_json, read_protocol
from ignite_trainer.protocol.schema import FILE_NAME, make_schema, to_text
from ignite_trainer.protocol.sections import ClassSpec
from ignite_trainer.protocol.setup_section import Section
from ignite_trainer.protocol.validation import json_path
from ignite_trainer.support.errors import ProtocolError

FOLDER = Path(__file__).parents[3] / "protocols"
LOCK = FOLDER.parent / "requirements.lock"
DEFAULTS = FOLDER / "defaults.json"
SHIPPED = sorted(set(FOLDER.glob("*.json")) - {DEFAULTS, FOLDER / FILE_NAME})
SCHEMA: dict[str, Any] = json.loads((FOLDER / FILE_NAME).read_text())
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker(["regex"]))


def paths_of(errors: list[ValidationError]) -> Iterator[str]:
    """Yield the JSON paths of schema errors.

    If all alternatives fail, only those of the alternative of the right type with the fewest errors count.
    """
    for error in errors:
        if error.validator in {"anyOf", "oneOf"} and error.context:
            options: dict[Any, list[ValidationError]] = {}
            for inner in error.context:
                options.setdefault(inner.schema_path[0], []).append(inner)
            of_type = [
                some for some in options.values() if all(e.validator != "type" or e.path for e in some)
            ]
            if of_type:
                yield from paths_of(min(of_type, key=len))
                continue
        keys: list[str] = []
        if error.validator == "required":
            keys = [str(re.search(r"'(.+)' is a required property", error.message)[1])]  # type: ignore[index]
        elif error.validator == "additionalProperties":
            keys = sorted(set(error.instance) - set(error.schema["properties"]))
        elif error.validator in {"then", "else", "allOf"} and error.context:
            yield from paths_of(list(error.context))
            continue
        yield from (json_path((*error.absolute_path, *more)) for more in ([[key] for key in keys] or [[]]))


def schema_error_paths(raw: dict[str, Any]) -> set[str]:
    return set(paths_of(list(VALIDATOR.iter_errors(raw))))


def program_error_paths(raw: dict[str, Any], folder: Path) -> set[str]:
    """Return the path of every problem, which is its first word."""
    path = folder / "protocol.json"
    path.write_text(json.dumps(raw))
    try:
        draw(load(path, defaults=DEFAULTS))
    except ProtocolError as error:
        return {problem.split()[0].rstrip(":") for problem in error.problems}
    return set()


@pytest.mark.skipif(
    f"\ntorch=={metadata.version('torch').partition('+')[0]} " not in LOCK.read_text(),
    reason="arguments of optimizers depend on torch's version: the schema is that of requirements.lock",
)
def test_the_schema_is_up_to_date() -> None:
    made = to_text(make_schema(FOLDER))
    assert made == (FOLDER / FILE_NAME).read_text(), "run python -m ignite_trainer.protocol.schema"


def test_the_schema_is_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_protocols_match_the_schema_before_and_after_merging(path: Path) -> None:
    raw = read_json(path)
    assert raw["$schema"] == "./schema.json"
    assert schema_error_paths(raw) == set()
    assert schema_error_paths(read_protocol(path)) == set()
    complete = load(path, defaults=DEFAULTS).to_json()
    assert schema_error_paths(complete) == set()


def test_every_key_of_a_protocol_is_described() -> None:
    for name, definition in SCHEMA["$defs"].items():
        if "." not in name:
            for key, value in definition.get("properties", {}).items():
                target = SCHEMA["$defs"][value["$ref"].rsplit("/", 1)[-1]] if "$ref" in value else {}
                options = value.get("anyOf", [{}])
                if "$ref" in options[0]:
                    target = SCHEMA["$defs"][options[0]["$ref"].rsplit("/", 1)[-1]]
                assert value.get("description") or target.get("description"), f"{name}.{key}"


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets the value at a path."""

    def apply(raw: dict[str, Any]) -> None:
        *above, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        place: Any = raw
        for key in above:
            place = place[key]
        place[last] = value

    return apply


def remove(path: str) -> Callable[[dict[str, Any]], None]:
    def apply(raw: dict[str, Any]) -> None:
        *above, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        place: Any = raw
        for key in above:
            place = place[key]
        del place[last]

    return apply


LINE = "Metrics.Performance.lines"
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "negative epochs": (change("Setup.epochs", -1), "Setup.epochs"),
    "epochs as text": (change("Setup.epochs", "50"), "Setup.epochs"),
    "a fraction of an epoch": (change("Setup.epochs", 0.5), "Setup.epochs"),
    "epochs as a boolean": (change("Setup.epochs", True), "Setup.epochs"),
    "an empty batch": (change("Setup.batch_train", 0), "Setup.batch_train"),
    "a misspelt key": (change("Setup.batch_trian", 64), "Setup.batch_trian"),
    "a misspelt section": (change("Optimiser", {"class": "torch.optim.SGD"}), "Optimiser"),
    "a section in lower case": (change("setup", {}), "setup"),
    "no name": (remove("Setup.name"), "Setup.name"),
    "an empty name": (change("Setup.name", ""), "Setup.name"),
    "no model": (remove("Model"), "Model"),
    "no data set": (remove("Dataset"), "Dataset"),
    "training without an optimizer": (remove("Optimizer"), "Optimizer"),
    "an unknown precision": (change("Setup.precision", "fp64"), "Setup.precision"),
    "yes instead of true": (change("Setup.compile", "yes"), "Setup.compile"),
    "1 instead of true": (change("Setup.skip_train_evaluation", 1), "Setup.skip_train_evaluation"),
    "a negative seed": (change("Setup.seed", -5), "Setup.seed"),
    "a decay of one": (change("Setup.ema", 1), "Setup.ema"),
    "a port out of range": (change("Visdom.port", 80_000), "Visdom.port"),
    "a class without a package": (change("Model.class", "AudioCLIP"), "Model.class"),
    "a call instead of a class": (change("Task.class", "utils.tasks.AudioTextContrastive()"), "Task.class"),
    "a section without its class": (remove("Optimizer.class"), "Optimizer.class"),
    "a misspelt argument of a model": (change("Model.args.pretraind", True), "Model.args.pretraind"),
    "a misspelt argument of an optimizer": (
        change("Optimizer.args.momentun", 0.9),
        "Optimizer.args.momentun",
    ),
    "a misspelt argument of a scheduler": (change("Scheduler.args.gama", 0.9), "Scheduler.args.gama"),
    "a misspelt argument of a data set": (change("Dataset.args.folds", 1), "Dataset.args.folds"),
    "a misspelt argument of a transform": (change("Transforms.1.args.prob", 0.5), "Transforms[1].args.prob"),
    "an argument that the trainer supplies": (change("Dataset.args.train", True), "Dataset.args.train"),
    "a list of arguments": (change("Optimizer.args", [0.1]), "Optimizer.args"),
    "a transform that is not in a list": (change("Transforms", {"class": "utils.x.Y"}), "Transforms"),
    "a misspelt split of a transform": (change("Transforms.1.tset", False), "Transforms[1].tset"),
    "a metric without a label": (remove(f"{LINE}.0.line_label"), f"{LINE}[0].line_label"),
    "an unknown direction of a metric": (change(f"{LINE}.0.best", "high"), f"{LINE}[0].best"),
    "checkpoints selected by a training metric": (
        change(f"{LINE}.0.test", False),
        f"{LINE}[0].is_checkpoint",
    ),
    "an invalid pattern": (change("Parameters.0.match", "audio.("), "Parameters[0].match"),
    "optimizer arguments for frozen parameters": (
        change("Parameters.1.args", {"lr": 1.0}),
        "Parameters[1].args",
    ),
    "a decay above 1 by depth": (change("Parameters.0.depth_decay", 2.0), "Parameters[0].depth_decay"),
    "a limit for frozen parameters": (
        change("Parameters.1.max_gradient_norm", 1.0),
        "Parameters[1].max_gradient_norm",
    ),
    "an average after all epochs": (change("Setup.swa", 1.0), "Setup.swa"),
    "an unknown interval": (change("Scheduler.interval", "batch"), "Scheduler.interval"),
    "a sweep without values": (change("Sweep", {"Dataset.args.fold": []}), "Sweep.Dataset.args.fold"),
    "a swept value that is not in a list": (change("Sweep", {"Setup.seed": 1}), "Sweep.Setup.seed"),
    "a truncated hash": (change("Table.published.0.weights", "2441d35b"), "Table.published[0].weights"),
    "an evaluation every 0 epochs": (change("Evaluations.probe.every", 0), "Evaluations.probe.every"),
    "reporters by name": (change("Reporters", ["Console"]), "Reporters[0]"),
    "an unknown response to faults": (change("Faults.not_finite", "ignore"), "Faults.not_finite"),
}


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    """Return a valid protocol with every section that MISTAKES changes."""
    raw = load(FOLDER / "audioclip-esc50.json", defaults=DEFAULTS).to_json()
    raw["Parameters"] = [{"match": "audio\\..*"}, {"match": ".*", "train": False}]
    raw["Evaluations"] = {"probe": {"class": "utils.evaluations.LinearProbe"}}
    return raw


def test_a_valid_protocol_has_no_errors(valid: dict[str, Any], tmp_path: Path) -> None:
    assert schema_error_paths(valid) == program_error_paths(valid, tmp_path) == set()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_schema_and_program_report_a_mistake_at_the_same_place(
    mistake: str, valid: dict[str, Any], tmp_path: Path
) -> None:
    make, place = MISTAKES[mistake]
    raw = copy.deepcopy(valid)
    make(raw)
    assert schema_error_paths(raw) == program_error_paths(raw, tmp_path) == {place}


# Protocols that extend another


@pytest.mark.parametrize(
    "change",
    [
        {"Setup": {"epochs": 3}},
        {"Optimizer": {"args": {"lr": 1e-3}}, "Scheduler": None, "Evaluations": {"probe": None}},
        {"Model": {"class": "my.own.Model"}, "Task": None, "Transforms": None},
        {"Setup": {"log_interval": None, "precision": None}, "Sweep": None},
    ],
)
def test_a_protocol_that_extends_another_may_omit_keys(change: dict[str, Any]) -> None:
    assert schema_error_paths({"extends": "audioclip-esc50.json", **change}) == set()
    assert schema_error_paths(change) != set()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"Setup": {"epoch": 3}}, "Setup.epoch"),
        ({"Setup": {"epochs": "3"}}, "Setup.epochs"),
        ({"Optimizer": {"class": "torch.optim.SGD", "args": {"momentun": 0.9}}}, "Optimizer.args.momentun"),
        ({"Transforms": [{"args": {}}]}, "Transforms[0].class"),
        ({"Optimiser": None}, "Optimiser"),
    ],
)
def test_the_keys_of_a_protocol_that_extends_another_are_checked(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    base = tmp_path / "base.json"
    base.write_text((FOLDER / "audioclip-esc50.json").read_text())
    raw = {"extends": "base.json", **change}
    assert schema_error_paths(raw) == program_error_paths(raw, tmp_path) == {place}


# Arguments of classes


def test_arguments_have_types_defaults_and_descriptions() -> None:
    fold = SCHEMA["$defs"]["utils.datasets.ESC50"]["properties"]["fold"]
    assert {"type": "integer"} in fold["anyOf"]
    assert fold["default"] is None
    # Inherited from its base class.
    assert fold["description"].startswith("number or numbers of the held-out folds.")
    assert SCHEMA["$defs"]["utils.transforms.RandomFlip"]["properties"]["axis"]["enum"] == ["channel", "time"]
    assert list(SCHEMA["$defs"]["torch.optim.SGD"]["properties"])[:2] == ["lr", "momentum"]


def test_known_classes_are_listed_as_examples_in_their_section() -> None:
    offered = {
        name: definition["properties"]["class"]["examples"]
        for name, definition in SCHEMA["$defs"].items()
        if "examples" in definition.get("properties", {}).get("class", {})
    }
    assert "model.audioclip.AudioCLIP" in offered["Model"]
    assert "utils.datasets.UrbanSound8K" in offered["Dataset"]
    assert "utils.tasks.Classification" in offered["Task"]
    assert "utils.transforms.RandomNoise" in offered["TransformSpec"]
    assert "utils.evaluations.Querying" in offered["EvaluationSpec"]
    assert "torch.optim.AdamW" in offered["Optimizer"]
    assert "torch.optim.lr_scheduler.LinearLR" in offered["ScheduleSpec"]
    assert "ignite.metrics.Accuracy" in offered["LineSpec"]
    assert "ignite_trainer.reporters.Console" in offered["Reporters"]


def test_the_readme_describes_every_key() -> None:
    written = (FOLDER / "README.md").read_text()
    for name, definition in SCHEMA["$defs"].items():
        if "." not in name:
            for key in definition.get("properties", {}):
                assert re.search(rf"(?m)^\| `([A-Za-z]+\.)?{re.escape(key)}` \|", written), f"{name}.{key}"


@pytest.mark.parametrize(
    "section", [*Section.__subclasses__(), *ClassSpec.__subclasses__()], ids=lambda section: section.__name__
)
def test_the_readme_describes_a_key_in_the_words_of_the_schema(section: type[Section]) -> None:
    written = (FOLDER / "README.md").read_text()
    for name, field in section.model_fields.items():
        key, words = re.escape(field.alias or name), re.escape(str(field.description))
        row = rf"(?m)^\| `([A-Za-z]+\.)?{key}` \|.*\| {words} \|$"
        assert re.search(row, written), f"{section.__name__}.{name}: {field.description}"


def test_examples_in_the_readme_match_the_schema() -> None:
    rows = re.findall(
        r"^\| .* \| `(\{.*?\}|\"[A-Z]\w+\": .*?)`", (FOLDER / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    for row in rows:
        if '"match"' in row and not row.startswith('"'):  # an entry of a list
            continue
        text = row if row.startswith("{") else "{" + row + "}"
        if "..." not in text and not text.endswith('"Transforms"}'):
            assert schema_error_paths({"extends": "audioclip-esc50.json", **json.loads(text)}) == set(), row
