"""Another model in AudioCLIP's place: the same protocols, and a row beside AudioCLIP's in the same table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from model.audio_input import read_audio
from model.clap import Clap
from model.losses import normalised
from tests.small_backbone import SMALL_AUDIOCLIP
from tests.small_clap import SMALL_CLAP, save_clap, small_clap
from tests.system.conftest import QUIET, ROOT, Command
from utils.datasets import MadeSounds
from utils.tasks.contrastive_base import encode_clips


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set in ESC-50's layout: 6 classes, 5 folds, one clip of 0.5 s each."""
    folder = tmp_path_factory.mktemp("sounds")
    made = MadeSounds(folder / "ESC-50", seconds=0.5, clips_per_class_and_fold=1, cache=folder / "cache")
    return made.root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clap(small_clap(), tmp_path_factory.mktemp("clap") / "clap-htsat-unfused")


def with_model(protocol: str, name: str, **args: Any) -> dict[str, Any]:
    """Return a shipped protocol in which only the model is another one."""
    return {
        "extends": str(ROOT / f"protocols/{protocol}.json"),
        "Model": {"class": f"model.{name.lower()}.{name}", "args": args},
    }


def run_of(model: str, results: Path) -> Path:
    """Return the folder of the only run of a model."""
    found = [path.parent for path in results.rglob("result.json")]
    (folder,) = [run for run in found if json.loads((run / "result.json").read_text())["model"] == model]
    return folder


def predictions(run: Path) -> dict[str, dict[str, float]]:
    """Return each clip's scores by class."""
    with (run / "predictions.csv").open(newline="") as file:
        return {
            row["clip"]: {
                key.removeprefix("score: "): float(row[key]) for key in row if key.startswith("score: ")
            }
            for row in csv.DictReader(file)
        }


def row_of(model: str, table: Path) -> bytes:
    (row,) = [line for line in table.read_bytes().splitlines() if line.startswith(f"| {model},".encode())]
    return row


def test_a_peer_gets_its_row_by_the_same_protocol_and_leaves_audioclips_unchanged(
    command: Command, sounds: Path, folder: Path, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", sounds, "-b", "16", "-W", "0", "--Transforms.1.args.out_len", "22050"]
    ours = with_model("audioclip-esc50-zeroshot", "AudioCLIP", **SMALL_AUDIOCLIP, pretrained=False)
    ours["Model"]["args"]["multilabel"] = False
    assert command(ours, *words, *QUIET).status == 0
    table = tmp_path / "results/table.md"
    before = row_of("AudioCLIP", table)
    theirs = with_model("audioclip-esc50-zeroshot", "Clap", pretrained=str(folder))
    assert command(theirs, *words, *QUIET).status == 0
    assert row_of("AudioCLIP", table) == before
    row = row_of("Clap", table).decode()
    assert row.startswith("| Clap, clap-htsat-unfused |") and "training data may overlap" in row
    assert "399 are in the training split of FSD50K" in table.read_text()
    run = run_of("Clap", tmp_path / "results")
    record = json.loads((run / "result.json").read_text())
    assert (record["setting"], record["dataset"]) == ("zero-shot", "part of ESC-50 (30 clips, 6 classes)")
    assert set(record["evaluations"]["querying"]) == {"audio -> text", "text -> audio"}

    clap, found = Clap.from_pretrained(folder), predictions(run)
    assert len(found) == 30
    texts = clap.embed_text(list(next(iter(found.values()))))
    clips = np.stack([read_audio(sounds / clip, 44100) for clip in list(found)[::7]])
    with torch.no_grad():
        audio = normalised(encode_clips(clap, torch.from_numpy(clips), sample_rate=44100))
    by_hand = (clap.network.logit_scale_a.exp() * audio @ texts.T).softmax(dim=-1)
    scores = torch.tensor([list(scores.values()) for scores in found.values()])[::7]
    torch.testing.assert_close(scores, by_hand, atol=1e-5, rtol=0)


def test_the_shipped_protocol_prepares_clips_of_any_length_as_the_checkpoint_does(
    command: Command, folder: Path, tmp_path: Path
) -> None:
    """At the model's own rate nothing is resampled, so scores equal those of `classify`."""
    root = tmp_path / "ESC-50"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    lines = ["filename,fold,target,category"]
    for number, seconds in enumerate((0.3, 4.0, 11.0)):
        name = f"{number + 1}-{number}-A-{number}.wav"
        samples = 0.3 * np.sin(np.arange(round(48000 * seconds)) * (0.02 + 0.05 * number))
        soundfile.write(root / "audio" / name, samples, 48000, subtype="FLOAT")
        lines.append(f"{name},{number + 1},{number},{('dog', 'rain', 'sea_waves')[number]}")
    (root / "meta/esc50.csv").write_text("\n".join(lines))
    words = ["--Dataset.args.root", root, "--Dataset.args.sample_rate", "48000", "-b", "2", "-W", "0"]
    words += ["--Task.args.window_samples", "480000", "--Model.args.pretrained", folder]
    words += ["--Metrics.Performance.lines.1.args.k", "2"]
    assert command("clap-esc50-zeroshot", *words, *QUIET).status == 0
    found = predictions(run_of("Clap", tmp_path / "results"))
    paths = [root / clip for clip in found]
    expected = Clap.from_pretrained(folder).classify(
        paths, ["dog", "rain", "sea waves"], template="This is a sound of {}"
    )
    scores = torch.tensor([list(scores.values()) for scores in found.values()])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)


def test_a_peer_is_probed(command: Command, sounds: Path, folder: Path, tmp_path: Path) -> None:
    protocol = with_model("audioclip-esc50-probe", "Clap", pretrained=str(folder))
    words = [
        "--Dataset.args.root",
        sounds,
        "-B",
        "16",
        "-W",
        "0",
        "--Evaluations.probe.args.baseline",
        "null",
    ]
    assert command(protocol, *words, *QUIET).status == 0
    record = json.loads(next((tmp_path / "results").rglob("result.json")).read_text())
    probe = record["evaluations"]["probe"]
    assert set(probe) == {"audio", "chance"}
    assert probe["audio"]["mean"] > 2 * probe["chance"]["mean"]  # six kinds of synthetic sounds
    assert record["evaluations"]["features"]["audio"] == {"items": 30.0, "dimensions": 16.0}


@pytest.mark.parametrize("trained", [False, True])
def test_training_a_peer_is_refused_before_it_begins(command: Command, sounds: Path, trained: bool) -> None:
    protocol = with_model("audioclip-esc50", "Clap", pretrained=False, config=SMALL_CLAP)
    protocol["Parameters"] = [{"match": ".*", "train": trained}]
    words = ["--Dataset.args.root", sounds, "-b", "8", "-w", "0", "-W", "0", *QUIET]
    status, _, error = command(protocol, *words)
    assert status == 2
    assert (
        "trains only AudioCLIP models; a Clap can only be evaluated. Set Setup.epochs to 0" in error
    ) == trained
    assert ("no rule trains anything" in error) != trained


@pytest.mark.real_data
def test_a_peer_of_random_weights_classifies_real_clips(
    command: Command, real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    source, root = real_data("esc18"), tmp_path / "ESC-50"
    lines = (source / "meta/esc50.csv").read_text().splitlines()
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text("\n".join([lines[0], *lines[1::90]]))
    (root / "audio").symlink_to(source / "audio")
    protocol = with_model("audioclip-esc50-zeroshot", "Clap", pretrained=False, config=SMALL_CLAP)
    words = ["--Dataset.args.root", root, "-b", "8", "-W", "0", *QUIET]
    protocol["Metrics"] = {
        "Performance": {"lines": [{"line_label": "Val. Acc.", "class": "ignite.metrics.Accuracy"}]}
    }
    assert command(protocol, *words).status == 0
    row = row_of("Clap", tmp_path / "results/table.md").decode()
    assert row.startswith("| Clap, random weights |") and "overlap" not in row
