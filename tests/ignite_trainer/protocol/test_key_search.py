"""Words that are neither flags nor keys: what somebody may have meant."""

from __future__ import annotations

import pytest

from ignite_trainer.commands.flags import long_flags, make_parser
from ignite_trainer.protocol.key_search import explain_words, keys_ending

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
def test_an_unknown_flag_suggests_the_key_or_flag_that_is_meant(word: str, meant: str) -> None:
    assert explained(word, "1") == f"{word.partition('=')[0]} is no flag; did you mean {meant}?" + (
        '; "1" stands without a flag; protocols are named with -c' if "=" in word else ""
    )


def test_a_flag_that_nothing_is_near_to_leads_to_the_help() -> None:
    assert explained("--zzz", "-3").startswith("--zzz is no flag; see --help.")


def test_a_protocol_without_a_flag_is_told_to_have_one() -> None:
    assert (
        explained("protocols/x.json") == '"protocols/x.json" stands without a flag; write -c protocols/x.json'
    )
    assert explained("--lr", "1", "x.jsonc").endswith("write -c x.jsonc")
    assert explained("train") == '"train" stands without a flag; protocols are named with -c'


def test_of_many_keys_of_one_name_the_shortest_three_are_named() -> None:
    assert keys_ending(CONTENT, ["class"]) == ["Model.class", "Optimizer.class", "Dataset.class"]
    assert keys_ending(CONTENT["Optimizer"], ["LR"], ("Optimizer",)) == ["Optimizer.args.lr"]
    assert keys_ending(CONTENT, ["Setup", "epochs"]) == []  # not below: it is there
