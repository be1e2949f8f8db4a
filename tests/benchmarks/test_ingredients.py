"""Each ingredient of the modern recipe can be left out, and the table is that of a hand computation."""

import shlex
from pathlib import Path

import pytest

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from tests.benchmarks import ingredients

ROOT = Path(__file__).parents[2]


def protocol_of(variant: ingredients.Variant) -> dict[str, object]:
    """Return the complete protocol of a variant."""
    left, overrides = split_overrides(shlex.split(variant.words))
    assert not left
    path = ROOT / f"protocols/{variant.protocol}.json"
    protocol = load(path, overrides, defaults=ROOT / "protocols/defaults.json")
    draw(protocol)
    return protocol.to_json()


@pytest.mark.parametrize("name", ingredients.WITHOUT)
def test_a_recipe_without_an_ingredient_differs_from_the_modern_recipe_in_one_section(name: str) -> None:
    modern, without = (
        protocol_of(ingredients.VARIANTS[of]) for of in (ingredients.MODERN, f"without {name}")
    )
    assert sum(modern[section] != without[section] for section in modern) == 1


def test_both_recipes_have_the_same_steps_data_and_network() -> None:
    published, modern = (
        protocol_of(ingredients.VARIANTS[of]) for of in (ingredients.PUBLISHED, ingredients.MODERN)
    )
    assert all(published[section] == modern[section] for section in ("Model", "Dataset", "Optimizer"))
    setups = [dict(recipe["Setup"]) for recipe in (published, modern)]  # type: ignore[call-overload]
    for setup in setups:
        del setup["name"], setup["swa"]
    assert setups[0] == setups[1]


def test_the_table_compares_means_over_seeds_fold_by_fold() -> None:
    modern = {(1, 1): 50.0, (1, 2): 60.0, (2, 1): 54.0, (2, 2): 62.0}
    other = {(1, 1): 51.0, (1, 2): 52.0, (2, 1): 53.0, (2, 2): 52.0}
    lines = ingredients.table({ingredients.MODERN: modern, "without it": other}, [1, 2]).splitlines()
    assert lines[0] == "| | fold 1 | fold 2 | mean ± sd | minus the modern recipe |"
    assert lines[2] == "| modern recipe | 52.0 | 61.0 | 56.5 ± 6.4 % |  |"
    # differences: 0 and -9
    assert lines[3] == "| without it | 52.0 | 52.0 | 52.0 ± 0.0 % | -4.5 ± 6.4 |"
