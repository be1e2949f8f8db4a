"""The examples in docstrings have the stated results, and are well typed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from textwrap import indent
from types import ModuleType

import pytest
from mypy import api as mypy

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for package in ("ignite_trainer", "model", "utils")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text()
)


def examples(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_an_example_has_the_stated_result(name: str) -> None:
    found = examples(name)
    assert found
    told: list[str] = []
    for test in found:
        doctest.DocTestRunner().run(test, out=told.append)
    assert not told, "".join(told)


def test_examples_are_well_typed(tmp_path: Path) -> None:
    script = tmp_path / "examples.py"
    script.write_text("\n\n".join(_function(test) for name in MODULES for test in examples(name)))
    told, _, status = mypy.run(["--config-file", str(ROOT / "pyproject.toml"), str(script)])
    assert status == 0, told


def _function(test: doctest.DocTest) -> str:
    """Put the statements of a docstring's examples into a function that knows the names of the module."""
    named = [(name, value) for name, value in test.globs.items() if name in "".join(_sources(test))]
    lines = [
        f"import {value.__name__} as {name}"
        if isinstance(value, ModuleType)
        else f"from {home} import {name}"
        for name, value in sorted(named, key=lambda pair: pair[0])
        if isinstance(value, ModuleType) or (home := getattr(value, "__module__", None))
    ]
    lines += _sources(test)
    head = f"def example_of_{test.name.replace('.', '_')}() -> None:"
    return head + "\n" + indent("\n".join(lines), "    ") + "\n"


def _sources(test: doctest.DocTest) -> list[str]:
    return [example.source.strip() for example in test.examples]
