"""The runs of a sweep: their order and names, and errors found before the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import TRUSTED, toy
from toy_research.signals import Tones

from ignite_trainer.commands.sweeps.combinations import Combination, combinations
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError

LR = "Optimizer.args.lr"
FOLD = "Dataset.args.fold"


def runs_of(sweep: dict[str, list[Any]], **changes: Any) -> tuple[Combination, ...]:
    return combinations(validate(toy(Path("none"), Sweep=sweep, **changes)), trusted=TRUSTED)


def problems_of(sweep: dict[str, list[Any]], **changes: Any) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        runs_of(sweep, **changes)
    return caught.value.problems


def test_every_combination_is_a_run_and_the_last_key_varies_fastest() -> None:
    runs = runs_of({LR: [0.1, 0.2], FOLD: [3, 1]})
    assert [run.name for run in runs] == [
        "lr-0.1_fold-3",
        "lr-0.1_fold-1",
        "lr-0.2_fold-3",
        "lr-0.2_fold-1",
    ]
    assert runs[2].values == {LR: 0.2, FOLD: 3}
    assert runs[2].blueprint.protocol == validate(
        toy(Path("none"), Optimizer__args__lr=0.2, Dataset__args__fold=3, Sweep={})
    )


def test_keys_may_be_new_arguments_and_positions_in_lists() -> None:
    runs = runs_of({"Model.args.dropout": [0.5], "Transforms.-3.args.level": [0.1, 0.2]})
    assert [run.name for run in runs] == ["dropout-0.5_level-0.1", "dropout-0.5_level-0.2"]
    assert [run.blueprint.protocol.transforms[1].args["level"] for run in runs] == [0.1, 0.2]
    assert list(runs[0].values) == ["Model.args.dropout", "Transforms[1].args.level"]


def test_names_are_distinct_and_valid_for_folders() -> None:
    lengths = runs_of({"Transforms[2].args.length": [16], "Transforms[3].args.length": [16]})
    assert [run.name for run in lengths] == ["Transforms-2-.args.length-16_Transforms-3-.args.length-16"]
    suffixes = ["a/b", "a b", "A-B", "x" * 41, "../up", None]
    names = [run.name for run in runs_of({"Setup.suffix": suffixes})]
    assert names[:3] == ["suffix-a-b", "suffix-a-b_2", "suffix-A-B_3"]
    assert len(names[3]) == len("suffix-") + 12  # a digest
    assert names[4:] == ["suffix-up", "suffix-null"]


def test_values_must_have_the_protocols_types() -> None:
    assert problems_of({"Setup.epochs": [1, -1, "x"]}) == [
        "Setup.epochs is -1; input should be greater than or equal to 0.",
        'Setup.epochs is "x"; input should be a valid integer.',
    ]


def test_a_problem_in_several_runs_is_reported_once() -> None:
    found = problems_of(
        {FOLD: [1, 6], LR: [0.1, 0.2, 0.3], "Model.class": ["toy_research.network.TwoTower"]},
        Transforms=[{"class": "toy_research.augment.Fit", "args": {"lenght": 16}}],
    )
    assert found == [
        'Model.class is toy_research.network.TwoTower; toy_research.network has no "TwoTower"; '
        'did you mean "TwoTowers"?',
        'Transforms[0].args.lenght is not an argument; did you mean "length"?',
        "Transforms[0].args.length is required.",
    ]


def test_every_fold_is_built_before_the_first_run_and_only_once_for_all_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[int, bool]] = []
    construct = Tones.__init__

    def note(self: Tones, *, fold: int, train: bool, **others: Any) -> None:
        made.append((fold, train))
        construct(self, fold=fold, train=train, **others)

    monkeypatch.setattr(Tones, "__init__", note)
    found = problems_of({FOLD: [1, 2, 6, 7], "Setup.seed": [1, 2, 3]}, Dataset__args={})
    assert found == [
        "Dataset.args.fold is 6; there are folds 1 to 3.",
        "Dataset.args.fold is 7; there are folds 1 to 3.",
    ]
    assert made[:4] == [(1, True), (1, False), (2, True), (2, False)]


def test_settings_that_the_data_must_allow_are_tried_before_the_first_run() -> None:
    (found,) = problems_of({"Setup.sampling": ["each", "balanced"]}, Dataset__args={"dl_shuffle": False})
    assert found.startswith('Dataset.args.dl_shuffle is false, but Setup.sampling is "balanced"')


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("Setup.epohs", 'Sweep.Setup.epohs: Setup has no "epohs"; did you mean "epochs"?'),
        ("Dataset.arg.fold", 'Sweep.Dataset.arg.fold: Dataset has no "arg"; did you mean "args"?'),
        (
            "dataset.args.fold",
            'Sweep.dataset.args.fold: the protocol has no "dataset"; did you mean "Dataset"?',
        ),
        (
            "Transforms.9.args.p",
            "Sweep.Transforms.9.args.p: Transforms is a list of length 4; use an index from 0 to 3, not 9.",
        ),
        ("Sweep", "Sweep.Sweep cannot be swept: a sweep cannot contain a sweep; remove it."),
        ("Sweep.Setup.seed", 'Sweep.Sweep.Setup.seed: Sweep has no "Setup"; nothing is allowed here.'),
        (
            "Setup.saved_models_path",
            "Sweep.Setup.saved_models_path cannot be swept: all runs of a sweep share one folder; remove it.",
        ),
        ("Setup.name", "Sweep.Setup.name cannot be swept: all runs of a sweep share one folder; remove it."),
        (
            "Visdom.port",
            "Sweep.Visdom.port cannot be swept: the dashboard does not affect results; remove it.",
        ),
        ("Reporters", "Sweep.Reporters cannot be swept: reporters do not affect results; remove it."),
    ],
)
def test_a_key_that_cannot_be_swept_is_refused_with_the_reason(key: str, said: str) -> None:
    assert problems_of({key: [1]}) == [said]


def test_a_section_with_a_fixed_key_cannot_be_swept() -> None:
    (first, *_) = problems_of({"Setup": [{}]})
    assert first == "Sweep.Setup cannot be swept: all runs of a sweep share one folder; remove it."


def test_keys_must_not_overlap_and_values_must_not_repeat() -> None:
    assert problems_of({"Optimizer.args": [{"lr": 1.0}], LR: [0.1, 0.2, 0.1]}) == [
        "Sweep.Optimizer.args.lr and Sweep.Optimizer.args overlap; keep one of them.",
        "Sweep.Optimizer.args.lr lists 0.1 more than once; keep one.",
    ]
    (said,) = problems_of({"Transforms.1.args.level": [0.1], "Transforms[-3].args.level": [0.2]})
    assert said == (
        "Sweep.Transforms[-3].args.level and Sweep.Transforms[1].args.level overlap; keep one of them."
    )


def test_numbers_keep_their_size_and_sign_in_names() -> None:
    runs = runs_of({LR: [1e30, 1e-30, -0.5, 0.5, [-2e20, 1.5], True]})
    assert [run.name for run in runs] == [
        *("lr-1e30", "lr-1e-30", "lr--0.5", "lr-0.5", "lr--2e20-1.5", "lr-true"),
    ]
