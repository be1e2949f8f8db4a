"""CITATION.cff can be read, and agrees with the package and its licence."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import model

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_required_keys_are_present(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    works = [citation, citation["preferred-citation"], *citation["references"]]
    for work in works:
        assert work["type"] and work["title"]
        assert all("name" in author or "family-names" in author for author in work["authors"])
    assert all("message" in work or "url" in work for work in works)


def test_version_and_licence_are_those_of_the_package(citation: dict[str, Any]) -> None:
    assert citation["version"] == model.__version__
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")


def test_cited_papers_are_those_of_the_readme(citation: dict[str, Any]) -> None:
    cited = [citation["preferred-citation"], *citation["references"]]
    readme = (ROOT / "README.md").read_text()
    for paper in cited:
        assert paper["url"].removeprefix("https://arxiv.org/abs/") in readme, paper["title"]
