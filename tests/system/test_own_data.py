"""The command trains on a user's own table, without code."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from toy_research.protocols import Done
from toy_research.records import events

from ignite_trainer.commands import cli
from ignite_trainer.results.leakage import CHOSEN, OTHER_PART
from tests.small_backbone import SMALL_AUDIOCLIP
from tests.system.conftest import DEFAULTS, QUIET, ROOT, Command

SMALL: dict[str, Any] = {
    **SMALL_AUDIOCLIP,
    **{"image_resolution": 32, "context_length": 12, "n_fft": 1024, "hop_length": 1024, "win_length": 1024},
    **{"spec_height": 32, "spec_width": 32, "pretrained": False, "multilabel": False},
}

Train = Callable[..., Done]


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def train(command: Command) -> Train:
    """Return a function that runs a shipped protocol with a small model on the first 0.3 s of each clip."""

    def train(table: Path, *more: str, protocol: str = "own-data") -> Done:
        words = ["-R", "1", "--Dataset.args.table", str(table), "--Model.args", json.dumps(SMALL), *QUIET]
        short = [f"--Transforms.{step}.args.out_len=13230" for step in (1, 2, 3)]
        return command(protocol, *words, *more, *short, "--Task.args.window_samples", "13230")

    return train


def evaluations(table: Path) -> list[dict[str, Any]]:
    """Return the metrics of the held-out split by epoch."""
    [folder] = (table.parent / "results").glob("*/*")
    evaluated = [event for event in events(folder) if event["event"] == "evaluation"]
    return [event["metrics"] for event in evaluated if event["split"] == "test"]


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    """Write twelve clips of two classes, loud and quiet noise, and a TSV without a fold column."""
    rows = []
    for i in range(12):
        loud = i % 2
        samples = np.random.default_rng(i).normal(0, 0.2 if loud else 0.02, 13230)
        soundfile.write(tmp_path / f"{i}.wav", samples, 44100)
        rows.append({"audio": f"{i}.wav", "label": ("quiet", "loud")[loud]})
    return write_tsv(tmp_path / "own.tsv", rows)


@pytest.mark.parametrize(
    ("options", "extent", "fact"),
    [
        (["-e", "1"], "held-out part, last epoch", "Held-out split"),
        (["-e", "0"], "held-out part", "Held-out split"),
        (["-e", "0", "--Dataset.args.share", "null"], "whole set", "Evaluated"),
    ],
)
def test_results_for_a_held_out_share_name_the_share(
    train: Train, noises: Path, options: list[str], extent: str, fact: str
) -> None:
    names = ("JsonLines", "Console")
    both = ["--Reporters", json.dumps([{"class": f"ignite_trainer.reporters.{name}"} for name in names])]
    done = train(noises, "-b", "4", *options, *both)
    assert done.status == 0
    (cell,) = json.loads((noises.parent / "results/table.json").read_text())["cells"]
    assert cell["extent"] == extent
    assert re.search(rf"\b{fact} +\d+ samples", done.out)
    if options[1] == "1":
        assert all(0 <= metrics["Val. Acc."] <= 1 for metrics in evaluations(noises))
        [result] = (noises.parent / "results/own-data").glob("*/result.json")
        assert "own (12 samples, held out: 0.2 of the groups by hash)" in result.read_text()


def test_weights_trained_with_a_share_held_out_are_marked_in_the_table(train: Train, noises: Path) -> None:
    assert train(noises, "-b", "4", "-e", "1").status == 0
    [best] = (noises.parent / "results").rglob("best_*_epoch-1_*.pt")
    for share, mark in (("0.2", CHOSEN), ("null", OTHER_PART)):
        words = ["-e", "0", "--Model.args.pretrained", str(best), "--Dataset.args.share", share]
        assert train(noises, *words).status == 0
        cells = json.loads((noises.parent / "results/table.json").read_text())["cells"]
        assert [cell["extent"] for cell in cells if mark in cell["extent"]]


def test_files_that_do_not_decode_are_skipped_and_counted_on_request(train: Train, noises: Path) -> None:
    (noises.parent / "3.wav").write_bytes(b"RIFF and nothing more")
    refused = train(noises, "-b", "4", "-e", "1")
    assert refused.status == 2
    assert "1 of its 12 clips cannot be decoded" in refused.err
    skip = ["--Faults.unreadable", "skip", "--Faults.unreadable_at_most", "0.5"]
    assert train(noises, "-b", "4", "-e", "1", *skip).status == 0
    [file] = (noises.parent / "results").glob("own-data/*/result.json")
    assert json.loads(file.read_text())["faults"] == {"samples skipped": 1}


def test_a_row_without_a_label_is_an_error_before_the_run(train: Train, noises: Path) -> None:
    noises.write_text(noises.read_text().replace("3.wav\tloud", "3.wav\t"))
    refused = train(noises, "-b", "4", "-e", "1")
    assert refused.status == 2
    assert "A sample has no label: own.tsv, line 5: 3.wav. Give it one" in refused.err
    assert not (noises.parent / "results/own-data").exists()
    assert not (noises.parent / "cache").exists()  # nothing was decoded


def test_training_needs_something_held_out(train: Train, noises: Path) -> None:
    refused = train(noises, "-b", "4", "-e", "1", "--Dataset.args.share", "null")
    assert refused.status == 2
    assert "Dataset.args hold nothing out: both splits are the whole data set" in refused.err
    assert 'Name a fold, a value of the column "split", or a share (0.2: a fifth), or set' in refused.err
    assert train(noises, "-b", "4", "-e", "0", "--Dataset.args.share", "null").status == 0


def test_the_example_of_the_readme_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example is unchanged, except for a small model and three more clips to fill a training batch."""
    section = (ROOT / "README.md").read_text().partition("## Your own data")[2]
    listed, copy, command = re.findall(
        r"```text\n(.*?)```.*?```sh\n(cp .*?)\n(python .*?)\n```", section, re.DOTALL
    )[0]
    header, *rows = [line.partition("#")[0].split() for line in listed.splitlines()]
    rows += [
        [f"clips/{number}.wav", label, "2"] for number, label in enumerate(("dog", "dog", "sea"), start=3)
    ]
    write_tsv(tmp_path / "own.tsv", [dict(zip(header, row, strict=True)) for row in rows])
    (tmp_path / "clips").mkdir()
    for number, (file, *_) in enumerate(rows):
        samples = np.random.default_rng(number).normal(0, 0.1, 13230)
        soundfile.write(tmp_path / file, samples, 44100)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    monkeypatch.chdir(tmp_path)
    subprocess.run(shlex.split(copy), check=True)
    assert "fold 1" in command and '"share": 0.2' in Path("protocols/my-data.json").read_text()
    checked = shlex.split(command, comments=True)[2:]
    small = ["--Model.args", json.dumps(SMALL), "-b", "4", "-e", "1", "-R", "1", *QUIET]
    small += [f"--Transforms.{step}.args.out_len=13230" for step in (1, 2, 3)]
    assert cli.main([*checked, *small], defaults=DEFAULTS) == 0
    assert "0 errors" in capsys.readouterr().out
    trained = [word for word in checked if word != "--check"]
    assert cli.main([*trained, *small], defaults=DEFAULTS) == 0
    result = json.loads(next(tmp_path.glob("results/own-data/*/result.json")).read_text())
    assert result["held_out"] == [1] and result["samples"] == {"train": 4, "test": 1}


@pytest.mark.real_data
def test_a_table_with_three_columns_trains_on_real_clips(
    real_data: Callable[[str], Path], train: Train, tmp_path: Path
) -> None:
    """Train on all clips of two classes, with an official fold held out."""
    folder = real_data("esc18")
    with (folder / "meta/esc50.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    classes = sorted({row["category"] for row in listed})[:2]
    rows = [
        {"audio": str(folder / "audio" / row["filename"]), "label": row["category"], "fold": row["fold"]}
        for row in listed
        if row["category"] in classes
    ]
    table = write_tsv(tmp_path / "esc.tsv", rows)
    assert train(table, "-b", "32", "-e", "2", "--Dataset.args.fold", "1", "-S").status == 0
    assert len(rows) == 80
    assert len(evaluations(table)) == 3
    [folder] = (tmp_path / "results/own-data").iterdir()
    with (folder / "predictions.csv").open(newline="") as file:
        held_out = {row["clip"] for row in csv.DictReader(file)}
    assert held_out == {row["audio"] for row in rows if row["fold"] == "1"}


def train_on_pairs(train: Train, table: Path, *more: str) -> dict[str, Any]:
    """Run the shipped protocol on pairs of a sound and an image; return the result."""
    sizes = [f"--Transforms.{step}.args.size=32" for step in (4, 5, 6)]
    assert train(table, "-b", "4", "-e", "1", "-S", *sizes, *more, protocol="own-pairs").status == 0
    [file] = (table.parent / "results/own-pairs").glob("*/result.json")
    result: dict[str, Any] = json.loads(file.read_text())
    assert set(result["evaluations"]["querying"]) == {"audio -> image", "image -> audio"}
    assert all(-1 <= metrics["Cosine"] <= 1 for metrics in evaluations(table))
    assert len(evaluations(table)) == 2
    return result


def test_pairs_of_sound_and_image_train_without_labels(train: Train, tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        random = np.random.default_rng(i)
        soundfile.write(tmp_path / f"{i}.wav", random.normal(0, 0.1, 13230), 44100)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"audio": f"{i}.wav", "image": f"{i}.png", "fold": i % 3})
    result = train_on_pairs(train, write_tsv(tmp_path / "pairs.tsv", rows), "--Dataset.args.fold", "1")
    assert result["samples"] == {"train": 8, "test": 4}
    assert result["evaluations"]["querying"]["audio -> image"]["R@1 by chance"] == 0.25


@pytest.mark.real_data
def test_real_clips_and_photographs_train_as_pairs(
    real_data: Callable[[str], Path], train: Train, tmp_path: Path
) -> None:
    """Each clip is paired with both photographs of its class; the second pair is held out."""
    folder = real_data("demo")
    shows = {
        "alarm_clock": "clock",
        "car_horn": "cars",
        "cat": "cat",
        "coughing": "coughing",
        "thunder": "lightning",
    }
    rows = [
        {
            "audio": str(clip),
            "image": str(folder / f"images/{shows[clip.stem.rpartition('_')[0]]}_{number}.jpg"),
            "split": "train" if number == 1 else "test",
        }
        for clip in sorted((folder / "audio").glob("*.wav"))
        for number in (1, 2)
    ]
    table = write_tsv(tmp_path / "pairs.tsv", rows)
    result = train_on_pairs(train, table, "--Dataset.args.split", "test", "--Dataset.args.share", "null")
    assert result["samples"] == {"train": 5, "test": 5}
