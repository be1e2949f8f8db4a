"""Dotted overrides: their words, types and places, and suggestions for unknown keys and flags."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ignite_trainer.commands.flags import long_flags, make_parser
from ignite_trainer.protocol.overrides import (
    Override,
    apply_overrides,
    explain_words,
    keys_ending_with,
    split_overrides,
    sweep_conflicts,
)
from ignite_trainer.support.errors import ProtocolError

RAW: dict[str, Any] = {
    "Setup": {"name": "Toy", "epochs": 5, "batch_train": 8, "suffix": None, "skip_train_evaluation": False},
    "Model": {
        "class": "a.Model",
        "args": {
            "pretrained": "weights.pt",
            "layers": [3, 4, 6, 3],
            "rates": [0.1, 0.2],
            "names": ["a", "b"],
            "empty": [],
            "flag": True,
            "factor": 0.5,
            "nothing": None,
            "nested": {"deep": {"er": 1}},
        },
    },
    "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 5e-5}},
    "Dataset": {"class": "a.Data"},
    "Transforms": [{"class": "a.T", "args": {"p": 0.5}}, {"class": "a.U"}],
    "Metrics": {"Performance": {"lines": [{"class": "a.M", "line_label": "Acc."}]}},
}


def override(*argv: str) -> dict[str, Any]:
    own, overrides = split_overrides(argv)
    assert own == []
    before = copy.deepcopy(RAW)
    changed, problems = apply_overrides(RAW, overrides)
    assert before == RAW
    if problems:
        raise ProtocolError(problems)
    return changed


def arg(*argv: str) -> Any:
    """Return the model's argument NAME after the override `--Model.args.NAME words`, given `--NAME words`."""
    name = argv[0].removeprefix("--").split("=")[0]
    return override(argv[0].replace("--", "--Model.args.", 1), *argv[1:])["Model"]["args"][name]


def refusal(*argv: str) -> str:
    with pytest.raises(ProtocolError) as caught:
        override(*argv)
    (problem,) = caught.value.problems
    return problem


# Which words belong to an override


def test_an_override_takes_the_words_up_to_the_next_flag() -> None:
    argv = (
        "-c a.json b.json --Model.args.layers 1 2 -3 -b 8 --Dataset.args.root=/x --trust toy --Setup.seed 1"
    )
    own, overrides = split_overrides(argv.split())
    assert own == ["-c", "a.json", "b.json", "-b", "8", "--trust", "toy"]
    assert overrides == [
        Override(("Model", "args", "layers"), ("1", "2", "-3")),
        Override(("Dataset", "args", "root"), ("/x",)),
        Override(("Setup", "seed"), ("1",)),
    ]
    own, overrides = split_overrides(["--Setup.name=-a b=c", "word"])
    assert (own, overrides) == (["word"], [Override(("Setup", "name"), ("-a b=c",))])


def test_positions_in_a_list_have_two_notations() -> None:
    for flag in ("--Transforms.0.args.p", "--Transforms[0].args.p", "--Transforms.-2.args.p"):
        assert override(flag, "0.25")["Transforms"][0]["args"] == {"p": 0.25}
    assert override("--Model.args.layers[-1]", "7")["Model"]["args"]["layers"] == [3, 4, 6, 7]
    assert override("--Model.args.layers.1=7")["Model"]["args"]["layers"] == [3, 7, 6, 3]


@pytest.mark.parametrize(
    ("flag", "right"),
    [("--setup.epochs", "Setup"), ("--Steup.epochs", "Setup"), ("--dataset.args.root", "Dataset")],
)
def test_for_a_misspelt_section_the_nearest_one_is_suggested(flag: str, right: str) -> None:
    assert refusal(flag, "1") == (
        f'{flag}: the protocol has no "{flag[2:].split(".", maxsplit=1)[0]}"; did you mean "{right}"?'
    )


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--Model.factor", "Model.args.factor"),
        ("--factor.x", None),
        ("--Factor", "Model.args.factor"),
        ("--Setup.factor", "Model.args.factor"),
        ("--Sweep.factor", "Model.args.factor"),
        ("--args.factor", "Model.args.factor"),
    ],
)
def test_for_a_key_in_the_wrong_section_the_right_one_is_suggested(flag: str, meant: str | None) -> None:
    said = refusal(flag, "1")
    assert (f'did you mean "{meant}"?' in said) == (meant is not None)


# Types


@pytest.mark.parametrize("form", [["--factor", "{}"], ["--factor={}"]])
@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2", 2),
        ("0.25", 0.25),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e-3", 0.001),
        ("-1", -1),
        ("-.5", -0.5),
        ("1.E2", 100.0),
    ],
)
def test_a_number_replaces_a_number(form: list[str], word: str, value: float) -> None:
    found = arg(*[part.format(word) for part in form])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["pretrained", "layers", "flag", "factor", "nothing", "nested"])
@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), ("null", None)])
def test_json_literals_replace_anything(name: str, word: str, value: bool | None) -> None:
    if name == "layers" and value is not None:
        value = [value]  # type: ignore[assignment]
    assert arg(f"--{name}", word) == value


@pytest.mark.parametrize("word", ['"null"', "'true'", '"5"', "''"])
@pytest.mark.parametrize("name", ["pretrained", "factor", "flag", "nothing", "new"])
def test_quotes_make_a_string(name: str, word: str) -> None:
    assert arg(f"--{name}", word) == word[1:-1]


@pytest.mark.parametrize("word", ["5", "1e-3", "[1]", "True", "", "a=b", "é", "NaN", '"'])
def test_a_word_that_replaces_text_stays_text(word: str) -> None:
    assert arg(f"--pretrained={word}") == word


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("3", 3),
        (".5", 0.5),
        ("text", "text"),
        ("[1, 2]", [1, 2]),
        ('{"a": null}', {"a": None}),
        ("007", "007"),
    ],
)
@pytest.mark.parametrize("name", ["nothing", "new"])
def test_a_new_value_is_json_or_else_text(name: str, word: str, value: Any) -> None:
    assert arg(f"--{name}", word) == value


@pytest.mark.parametrize("word", ["1.10", "1e3", "007", "5", "[a]"])
def test_words_for_a_text_key_that_is_null_are_not_changed(word: str) -> None:
    assert override("--Setup.suffix", word)["Setup"]["suffix"] == word
    assert override("--Visdom.host", word)["Visdom"] == {"host": word}
    assert override("--Setup.suffix", "null")["Setup"]["suffix"] is None


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--layers", "1", "2"], [1, 2]),
        (["--layers", "5"], [5]),
        (["--layers=[1, [2]]"], [1, [2]]),
        (["--layers", "[]"], []),
        (["--layers", "null"], None),
        (["--rates", "1e-3", "-1"], [0.001, -1]),
        (["--names", "x", "5", "null"], ["x", "5", None]),
        (["--empty", "x", "5", ".5"], ["x", 5, 0.5]),
        (["--new", "x", "5"], ["x", 5]),
        (['--nested={"a": [1]}'], {"a": [1]}),
        (["--nothing", "1", "2"], [1, 2]),
    ],
)
def test_lists_and_objects_are_words_or_json(argv: list[str], value: Any) -> None:
    assert arg(*argv) == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["factor", "fast"], 'is "fast", but must be a number.'),
        (["factor", "NaN"], 'is "NaN", but must be a number.'),
        (["factor", "1e999"], 'is "1e999", but must be a number.'),
        (["flag", "yes"], 'is "yes", but must be true or false.'),
        (["flag", "1"], 'is "1", but must be true or false.'),
        (["layers", "3", "x"], 'is "x", but must be a number.'),
        (["layers", "[1, 2"], 'is "[1, 2", but must be a JSON list.'),
        (["nested", "5"], 'is "5", but must be a JSON object.'),
        (
            ["nested", '{"a": 1, "a": 2}'],
            'is "{"a": 1, "a": 2}", but must be a JSON object.',
        ),
        (["flag", "flase"], 'is "flase", but must be true or false.'),
        (["factor", "1", "x"], 'is "x", but must be a number.'),
        (["factor"], "has no value; write --Model.args.factor VALUE."),
    ],
)
def test_words_of_another_type_are_refused(argv: list[str], said: str) -> None:
    flag = f"--Model.args.{argv[0]}"
    assert refusal(flag, *argv[1:]) == f"{flag} {said}"


@pytest.mark.parametrize(
    ("flag", "word", "value"),
    [
        ("--Reporters", '[{"class": "a.Reporter"}]', [{"class": "a.Reporter"}]),
        ("--Scheduler", '{"class": "a.S"}', {"class": "a.S"}),
        ("--Scheduler", '[{"class": "a.S"}]', [{"class": "a.S"}]),
        ("--Optimizer", "null", None),
    ],
)
def test_a_section_is_replaced_by_json(flag: str, word: str, value: Any) -> None:
    assert override(flag, word)[flag[2:]] == value


def test_an_argument_can_become_a_list_or_a_text() -> None:
    assert arg("--factor", "[1, 2]") == [1, 2]
    assert override("--Model.args.factor", "1", "2")["Model"]["args"]["factor"] == [1, 2]
    assert override("--Model.args.flag", "weights.pt")["Model"]["args"]["flag"] == "weights.pt"


def test_a_key_of_a_section_accepts_one_value() -> None:
    assert refusal("--Setup.name", "a", "b") == "--Setup.name takes one value, not 2: a b"


# Places


def test_arguments_may_be_new() -> None:
    changed = override("--Dataset.args.root", "/data", "--Model.args.nested.deep.new", "2")
    assert changed["Dataset"]["args"] == {"root": "/data"}
    assert changed["Model"]["args"]["nested"] == {"deep": {"er": 1, "new": 2}}


def test_missing_sections_are_created() -> None:
    changed = override("--Visdom.port", "9000", "--Scheduler.class", "a.S", "--Scheduler.args.gamma", "0.9")
    assert changed["Visdom"] == {"port": 9000}
    assert changed["Scheduler"] == {"class": "a.S", "args": {"gamma": 0.9}}
    assert override("--Transforms.1.args.length", "3")["Transforms"][1] == {
        "class": "a.U",
        "args": {"length": 3},
    }


def test_keys_of_a_section_may_be_new() -> None:
    assert override("--Setup.seed", "3")["Setup"]["seed"] == 3
    assert override("--Transforms.0.test", "false")["Transforms"][0]["test"] is False
    line = override("--Metrics.Performance.lines.0.best", "min")["Metrics"]["Performance"]["lines"][0]
    assert line["best"] == "min"


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--Setup.epohs", 'Setup has no "epohs"; did you mean "epochs"?'),
        ("--Dataset.arg.root", 'Dataset has no "arg"; did you mean "args"?'),
        ("--Optimizer.lr", 'Optimizer has no "lr"; did you mean "Optimizer.args.lr"?'),
        ("--Metrics.Perfomance.width", 'Metrics has no "Perfomance"; did you mean "Performance"?'),
        (
            "--Metrics.Performance.lines.0.label",
            'Metrics.Performance.lines[0] has no "label"; did you mean "line_label"?',
        ),
        ("--Model.args.nestd.deep", 'Model.args has no "nestd"; did you mean "nested"?'),
        ("--Transforms.2.args.p", "Transforms is a list of length 2; use an index from 0 to 1, not 2."),
        (
            "--Transforms.first.args",
            "Transforms is a list of length 2; use an index from 0 to 1, not first.",
        ),
        ("--Transforms.-3.args", "Transforms is a list of length 2; use an index from 0 to 1, not -3."),
        (
            "--Model.args.empty.0",
            "Model.args.empty is an empty list; replace the whole list.",
        ),
        ("--Setup.epochs.x", "Setup.epochs is 5, which has no keys."),
        ("--Model.args.nothing.x", "Model.args.nothing is null, which has no keys."),
        ("--Setup..epochs", 'Setup has no ""; allowed: '),
    ],
)
def test_for_an_unknown_place_the_nearest_one_is_suggested(flag: str, said: str) -> None:
    assert refusal(flag, "1").startswith(f"{flag}: {said}")


def test_a_missing_list_has_no_positions() -> None:
    assert refusal("--Reporters.0.class", "a.B") == (
        "--Reporters.0.class: the protocol omits Reporters; write the whole list, --Reporters '[...]'."
    )


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ProtocolError) as caught:
        override("--Setup.epohs", "1", "--Model.args.factor", "x", "--Setup.epochs", "3", "--Nowhere.x", "1")
    assert [problem.split(":")[0].split(" is")[0] for problem in caught.value.problems] == [
        "--Setup.epohs",
        "--Model.args.factor",
        "--Nowhere.x",
    ]


def test_the_last_of_equal_overrides_wins() -> None:
    assert override("--Setup.epochs", "1", "--Setup.epochs=2")["Setup"]["epochs"] == 2


# Sweeps


@pytest.mark.parametrize(
    ("argv", "sweep"),
    [
        (["--Sweep.Optimizer.args.lr", "1e-3", ".5", "1"], {"Optimizer.args.lr": [0.001, 0.5, 1]}),
        (["--Sweep.Setup.epochs=3"], {"Setup.epochs": [3]}),
        (["--Sweep.Setup.seed", "1", "2"], {"Setup.seed": [1, 2]}),
        (["--Sweep.Setup.suffix", "01", "null"], {"Setup.suffix": ["01", None]}),
        (["--Sweep.Model.args.pretrained", "5", "true"], {"Model.args.pretrained": ["5", True]}),
        (["--Sweep.Model.args.layers", "[1, 2]", "3"], {"Model.args.layers": [[1, 2], [3]]}),
        (["--Sweep.Model.args.new", "x", "2"], {"Model.args.new": ["x", 2]}),
        (["--Sweep.Scheduler.args.gamma", ".9"], {"Scheduler.args.gamma": [0.9]}),
        (["--Sweep.Transforms.-2.args.p", "0", "1"], {"Transforms[0].args.p": [0, 1]}),
        (
            ["--Sweep", '{"Setup.epochs": [1]}', "--Sweep.Setup.seed", "4"],
            {"Setup.epochs": [1], "Setup.seed": [4]},
        ),
        (["--Sweep.Setup.seed", "4", "--Sweep", "null"], {}),
        (["--Sweep.Setup.seed", "4", "--Sweep", "{}"], {}),
    ],
)
def test_values_of_a_swept_key_have_the_type_of_its_value(argv: list[str], sweep: dict[str, Any]) -> None:
    changed = override(*argv)
    assert changed["Sweep"] == sweep
    assert {name: section for name, section in changed.items() if name != "Sweep"} == RAW


def test_swept_values_are_typed_after_all_other_overrides() -> None:
    changed = override("--Sweep.Model.args.flag", "2", "--Model.args.flag", "null")
    assert changed["Sweep"] == {"Model.args.flag": [2]}


def test_the_command_replaces_the_values_of_a_key_that_the_protocol_sweeps() -> None:
    raw = {**RAW, "Sweep": {"Transforms.0.args.p": [0.1], "Setup.epochs": [1]}}
    _, overrides = split_overrides(["--Sweep.Transforms[0].args.p", "0.2", "0.3"])
    changed, problems = apply_overrides(raw, overrides)
    assert (changed["Sweep"], problems) == ({"Setup.epochs": [1], "Transforms[0].args.p": [0.2, 0.3]}, [])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--Sweep.Setup.epohs", "1"], '--Sweep.Setup.epohs: Setup has no "epohs"; did you mean "epochs"?'),
        (
            ["--Sweep.Setup.epochs", "1", "x"],
            '--Sweep.Setup.epochs is "x", but must be a number.',
        ),
        (["--Sweep.Setup.epochs"], "--Sweep.Setup.epochs has no value; write --Sweep.Setup.epochs VALUE."),
        (["--Sweep", "5"], '--Sweep is "5", but must be a JSON object.'),
    ],
)
def test_a_sweep_of_an_unknown_place_or_a_wrong_value_is_refused(argv: list[str], said: str) -> None:
    assert refusal(*argv) == said


def test_a_key_cannot_have_one_value_and_several() -> None:
    raw = {"Sweep": {"Dataset.args.fold": [1, 2], "Optimizer.args": [{}], "Transforms[1].args.p": [0.1]}}
    argv = "--Dataset.args.fold 3 --Optimizer.args.lr 1 --Transforms.1.args.p 0 --Dataset.args.root x"
    _, overrides = split_overrides(argv.split())
    assert [problem.split(" sets")[0] for problem in sweep_conflicts(raw, overrides)] == [
        "--Dataset.args.fold",
        "--Optimizer.args.lr",
        "--Transforms.1.args.p",
    ]
    assert sweep_conflicts(raw, overrides)[0] == (
        "--Dataset.args.fold sets one value, but Sweep.Dataset.args.fold sets several; remove one of "
        "the two (--Sweep null turns off the protocol's sweep)."
    )
    assert sweep_conflicts({"Sweep": {}}, overrides) == sweep_conflicts({}, overrides) == []


# Suggestions

CONTENT = {
    "Setup": {"epochs": 3, "batch_train": 8},
    "Model": {"class": "a.B", "args": {"layers": [1], "nested": {"rate": 1}, "pretrained": True}},
    "Optimizer": {"class": "a.C", "args": {"lr": 0.1, "weight_decay": 0.0}},
    "Dataset": {"class": "a.D", "args": {"fold": 1, "root": "data"}},
    "Transforms": [{"class": "a.E", "args": {"p": 0.5}}, {"class": "a.F", "args": {"max_scale": 1.5}}],
}


def explained(*words: str) -> str:
    return explain_words(words, flags=long_flags(make_parser()), content=CONTENT)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--lr", "--Optimizer.args.lr"),
        ("-lr", "--Optimizer.args.lr"),
        ("--lr=1e-4", "--Optimizer.args.lr"),
        ("--learning-rate", "--Optimizer.args.lr"),
        ("--weight-decay", "--Optimizer.args.weight_decay"),
        ("--weight_decy", "--Optimizer.args.weight_decay"),
        ("--epoch", "--epochs"),
        ("--batch_size", "--batch-train"),
        ("--batch_test", "--batch-test"),
        ("--num-workers", "--workers-train"),
        ("--workers", "--workers-train"),
        ("--batch", "--batch-train"),
        ("--data-root", "--Dataset.args.root"),
        ("--checkpoint", "--Model.args.pretrained"),
        ("--fp16", "--Setup.precision"),
        ("--confg", "--config"),
        ("--fold", "--Dataset.args.fold"),
        ("--seed", "--Setup.seed"),
        ("--precision", "--Setup.precision"),
        ("--max_scale", "--Transforms.1.args.max_scale"),
        ("--rate", "--Model.args.nested.rate"),
        ("--explian", "--explain"),
    ],
)
def test_for_an_unknown_flag_the_nearest_key_or_flag_is_suggested(word: str, meant: str) -> None:
    assert explained(word, "1") == f"{word.partition('=')[0]} is not a flag; did you mean {meant}?" + (
        '; "1" is not preceded by a flag; use -c to name a protocol' if "=" in word else ""
    )


def test_the_help_is_suggested_for_a_flag_unlike_any_other() -> None:
    assert explained("--zzz", "-3").startswith("--zzz is not a flag; see --help.")


def test_the_flag_c_is_suggested_for_a_protocol_without_a_flag() -> None:
    assert (
        explained("protocols/x.json")
        == '"protocols/x.json" is not preceded by a flag; write -c protocols/x.json'
    )
    assert explained("--lr", "1", "x.jsonc").endswith("write -c x.jsonc")
    assert explained("train") == '"train" is not preceded by a flag; use -c to name a protocol'


def test_the_three_shortest_keys_with_a_name_are_suggested() -> None:
    assert keys_ending_with(CONTENT, ["class"]) == ["Model.class", "Optimizer.class", "Dataset.class"]
    assert keys_ending_with(CONTENT["Optimizer"], ["LR"], ("Optimizer",)) == ["Optimizer.args.lr"]
    assert keys_ending_with(CONTENT, ["Setup", "epochs"]) == []  # the keys themselves are no suggestion
