"""One command runs all stages of training on three modalities, on synthetic scenes."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_research.ranks import on_ranks

from ignite_trainer.commands import cli
from tests.small_backbone import small_backbone
from tests.system.conftest import DEFAULTS, ROOT

STAGES = ("Scenes-1-Audio", "Scenes-2-Partial", "Scenes-3-Full")
DIRECTIONS = {f"{a} -> {b}" for a, b in itertools.permutations(("audio", "image", "text"), 2)}


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder like a user's; each stage finds the previous one's results there."""
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    monkeypatch.chdir(tmp_path)


def run_all(*more: str) -> list[dict[str, Any]]:
    """Run the three protocols in one command and return their results."""
    assert cli.main(["-c", "protocols/scenes-*.json", *more], defaults=DEFAULTS) == 0
    results = []
    for stage in STAGES:
        [file] = Path("results", stage).glob("*/result.json")
        results.append(json.loads(file.read_text()))
    return results


@pytest.mark.usefixtures("own_folder")
def test_each_stage_starts_from_the_previous_best_weights() -> None:
    small = ["--Dataset.args.scenes", "24", "--Dataset.args.held_out_scenes", "24", "-e", "1", "-b", "12"]
    small += ["--Dataset.args.seconds", "0.2", "--Reporters", "[]"]
    results = run_all(*small)
    for before, after in itertools.pairwise(results):
        best = next(entry for entry in before["best"] if entry["label"] == "mAP")
        assert [weights["name"] for weights in after["weights"]] == [best["checkpoint"]]
        assert set(after["evaluations"]["querying"]) == DIRECTIONS
    assert results[0]["weights"] == []


def evaluate(results: str) -> int:
    """Evaluate random weights on 25 scenes, with an incomplete last batch."""
    command = ["-c", str(ROOT / "protocols/scenes-3-full.json"), "-M", results, "-e", "0", "-b", "6"]
    command += ["--Model.args.pretrained", "false", "--Dataset.args.held_out_scenes", "25"]
    command += ["--Dataset.args.seconds", "0.2", "--Reporters", "[]"]
    with small_backbone():  # fixtures have no effect in other processes
        return cli.main(command, defaults=DEFAULTS)


@pytest.mark.processes
def test_two_processes_compute_the_same_results_as_one(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, evaluate, str(tmp_path / "two")) == [0, 0]
    assert evaluate(str(tmp_path / "one")) == 0
    figures, scores = [], []
    for folder in ("two", "one"):
        [file] = (tmp_path / folder).glob("*/*/result.json")
        result = json.loads(file.read_text())
        figures.append({"all": result["last"], **result["evaluations"]["querying"]})
        with (file.parent / "predictions.csv").open(newline="") as rows:
            scores.append(list(csv.reader(rows)))
    assert figures[0].keys() == {"all"} | DIRECTIONS
    for name, expected in figures[1].items():
        assert figures[0][name] == pytest.approx(expected, abs=1e-12), name
    assert len(scores[0]) == 26
    assert [row[:2] for row in scores[0]] == [row[:2] for row in scores[1]]


@pytest.mark.slow
@pytest.mark.usefixtures("own_folder")
def test_after_three_stages_all_six_directions_find_matching_items() -> None:
    """R@1 among 84 held-out scenes, with the shipped protocols unchanged."""
    querying = run_all()[-1]["evaluations"]["querying"]
    assert set(querying) == DIRECTIONS
    for direction, figures in querying.items():
        assert figures["R@1 by chance"] == pytest.approx(1 / 84)
        assert figures["R@1"] >= 0.15, direction  # twelve times chance
