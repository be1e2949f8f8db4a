"""The protocols of Clotho and AudioCaps run on miniatures; their figures equal brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.ranks import on_ranks
from toy_research.records import events

from ignite_trainer.commands import cli
from ignite_trainer.commands.named_data import data_from_protocol
from ignite_trainer.support.formatting import percent
from model.audioclip import AudioCLIP
from model.weights.loading import read_state_dict
from tests.miniatures import write_audiocaps, write_clotho
from tests.small_backbone import small_backbone
from tests.small_clap import save_clap, small_clap
from tests.system.conftest import DEFAULTS, QUIET, ROOT, Command
from utils.datasets import AudioCaps, Clotho

SIZES: dict[str, Any] = {
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": (1, 1, 1, 1),
    "vision_width": 8,
    "context_length": 16,
    "transformer_width": 32,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "spec_height": 32,
    "spec_width": 32,
}
SAMPLES = 8820  # of a window and of a training clip
SMALL = ["--Model.args.pretrained", "false", "-w", "0", "-W", "0", "-R", "3", "-b", "2", "-B", "2"]
SMALL += ["--Task.args.window_samples", str(SAMPLES), "--Dataset.args.progress", "false"]
for place in (1, 2, 3):
    SMALL += [f"--Transforms.{place}.args.out_len", str(SAMPLES)]
for name, size in SIZES.items():
    SMALL += [f"--Model.args.{name}", *map(str, size if isinstance(size, tuple) else (size,))]


def written(kind: str, root: Path) -> Path:
    """Write a miniature; its sounds have one window and a bit of the next, so they are averaged over two."""
    write = write_clotho if kind == "clotho" else write_audiocaps
    return write(root, samples=SAMPLES + 3000, rate=44100)


def figures(model: AudioCLIP, data: Clotho | AudioCaps) -> dict[str, dict[str, float]]:
    """Rank one by one, as DCASE and papers on retrieval define the figures."""
    audio, text, owners = [], [], []
    for clip in range(len(data)):
        sound, _, _, captions = tuple(data[clip])
        begins = (0, sound.shape[1] - SAMPLES)
        windows = torch.stack([torch.from_numpy(sound[:, begin : begin + SAMPLES]) for begin in begins])
        audio.append(torch.nn.functional.normalize(model.encode_audio(windows), dim=1).mean(dim=0))
        text += [model.encode_text([caption])[0] for caption in captions]
        owners += [clip] * len(captions)
    sounds, texts = (
        torch.nn.functional.normalize(torch.stack(rows).double(), dim=1) for rows in (audio, text)
    )
    ranks = [
        1 + sum(float(other @ caption) > float(sounds[owner] @ caption) for other in sounds)
        for caption, owner in zip(texts, owners, strict=True)
    ]
    by_caption = {f"R@{k}": mean([rank <= k for rank in ranks]) for k in (1, 5, 10)}
    by_caption["mAP@10"] = mean([1 / rank if rank <= 10 else 0 for rank in ranks])
    by_caption["medR"] = float(torch.tensor(ranks).double().quantile(0.5))
    rows = []
    for clip, sound in enumerate(sounds):
        ranking = sorted(range(len(texts)), key=lambda caption: -float(sound @ texts[caption]))
        hits = [owners[caption] == clip for caption in ranking]
        total = sum(hits)
        row = {f"R@{k}": sum(hits[:k]) / total for k in (1, 5, 10)}
        row |= {f"hit@{k}": float(any(hits[:k])) for k in (5, 10)}
        precisions = [sum(hits[:rank]) / rank for rank in range(1, min(10, len(hits)) + 1) if hits[rank - 1]]
        row["mAP@10"] = sum(precisions) / min(10, total)
        rows.append(row)
    by_sound = {name: mean([row[name] for row in rows]) for name in rows[0]}
    return {"text -> audio": by_caption, "audio -> text": by_sound}


def mean(values: list[Any]) -> float:
    return float(sum(values) / len(values))


@pytest.mark.parametrize(("kind", "data_set"), [("clotho", Clotho), ("audiocaps", AudioCaps)])
def test_the_zero_shot_figures_equal_brute_force(
    command: Command,
    tmp_path: Path,
    kind: str,
    data_set: type[Clotho | AudioCaps],
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = written(kind, tmp_path / "data")
    done = command(f"audioclip-{kind}-zeroshot", *SMALL, *QUIET, "--Dataset.args.root", root)
    assert done.status == 0, done.err
    assert len([message for message in caplog.messages if " clips published, " in message]) == 1
    (folder,) = (tmp_path / "results/Zero-shot").iterdir()
    (measured,) = [event for event in events(folder) if event["event"] == "measurement"]
    (evaluated,) = [event for event in events(folder) if event["event"] == "evaluation"]
    torch.manual_seed(3)
    model = AudioCLIP(pretrained=False, multilabel=False, **SIZES).eval()
    with torch.inference_mode():
        expected = figures(model, data_set(root, train=False, cache=False))
    for direction, values in expected.items():
        found = {name: measured["table"][direction][name] for name in values}
        assert found == pytest.approx(values, abs=1e-9), direction
    by_caption = expected["text -> audio"]
    shown = f"{percent(by_caption['mAP@10'])} (whole set)"
    assert shown in (tmp_path / "results/table.md").read_text()
    assert evaluated["metrics"] == pytest.approx({name: by_caption[name] for name in ("mAP@10", "R@1")})


def test_data_of_which_nothing_is_held_out_are_one_split(tmp_path: Path) -> None:
    words = ["--Dataset.args.root", str(write_clotho(tmp_path / "data"))]
    protocol = ROOT / "protocols/audioclip-clotho-zeroshot.json"
    assert list(data_from_protocol(protocol, words, defaults=DEFAULTS).splits) == [None]


@pytest.mark.parametrize("kind", ["clotho", "audiocaps"])
def test_a_peer_is_ranked_by_the_same_captions(command: Command, tmp_path: Path, kind: str) -> None:
    root = written(kind, tmp_path / "data")
    folder = save_clap(small_clap(), tmp_path / "clap")
    words = ["--Model.args.pretrained", folder, "--Dataset.args.root", root, "-b", "2", "-W", "0"]
    done = command(f"clap-{kind}-zeroshot", *words, *QUIET)
    assert done.status == 0, done.err
    record = json.loads(next((tmp_path / "results").rglob("result.json")).read_text())
    assert (record["model"], record["setting"]) == ("Clap", "zero-shot")
    table = record["evaluations"]["querying"]
    clips = {"clotho": 3, "audiocaps": 2}[kind]
    assert {direction: row["queries"] for direction, row in table.items()} == {
        "audio -> text": clips,
        "text -> audio": 5 * clips,
    }


def test_fine_tuning_trains_the_towers_of_audio_and_text(command: Command, tmp_path: Path) -> None:
    root = written("clotho", tmp_path / "data")
    words = ["--Dataset.args.root", root, "-e", "1", "--Optimizer.args.lr", "0.01"]
    done = command("audioclip-clotho", *SMALL, *QUIET, *words)
    assert done.status == 0, done.err
    torch.manual_seed(3)
    before = AudioCLIP(pretrained=False, multilabel=False, **SIZES).state_dict()
    after = read_state_dict(next(tmp_path.rglob("last_epoch-1.pt")))
    still = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    of_images = {name for name in after if name.startswith("visual.")}
    assert still == of_images | {"logit_scale", "logit_scale_ai", "audio.window", "audio.fbsp.bias"}


def test_the_validation_clips_choose_the_epoch_and_its_table_can_be_computed(
    command: Command, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", written("clotho", tmp_path / "data")]
    assert (
        command("audioclip-clotho", *SMALL, *QUIET, *words, "-e", "3", "--Optimizer.args.lr", "0.01").status
        == 0
    )
    (folder,) = (tmp_path / "results/Clotho").iterdir()
    record = json.loads((folder / "result.json").read_text())
    assert record["samples"] == {"train": 4, "validation": 2, "test": 3}
    passes = [event for event in events(folder) if event["event"] == "evaluation" and event["epoch"]]
    validation, held_out = (
        {event["epoch"]: event["metrics"]["mAP@10"] for event in passes if event["split"] == split}
        for split in ("validation", "test")
    )
    (best,) = record["best"]
    assert best["epoch"] == max(validation, key=lambda epoch: validation[epoch])
    assert best["value"] == held_out[best["epoch"]]
    words += ["-e", "0", "--Model.args.pretrained", folder]
    assert command("audioclip-clotho", *[*SMALL, *QUIET, *words][2:]).status == 0
    (again,) = {*(tmp_path / "results/Clotho").iterdir()} - {folder}
    table = json.loads((again / "result.json").read_text())["evaluations"]["querying"]
    assert table["text -> audio"]["mAP@10"] == pytest.approx(best["value"], abs=1e-6)


def test_a_check_names_captions_that_are_too_long(command: Command, tmp_path: Path) -> None:
    table = written("clotho", tmp_path / "data") / "clotho_captions_development.csv"
    table.write_text(table.read_text().replace("caption 4 of development 2", "rain " * 15))
    done = command("audioclip-clotho", *SMALL, "--Dataset.args.root", tmp_path / "data", "--check")
    assert done.status == 0, done.err
    said = " ".join((done.out + done.err).split())
    assert "exceeds the text tower's limit of 16 tokens" in said
    assert "development/Clip 2.wav (17 tokens)" in said


@pytest.mark.processes
def test_training_with_captions_lifts_r_at_1_above_chance(command: Command, tmp_path: Path) -> None:
    """Four of the 84 held-out scenes share each set of labels, so R@1 is at most 0.25 on average."""
    words = ["--Dataset.args.scenes", "168", "-e", "8", "-b", "12", "-R", "1"]
    with small_backbone():
        assert command("captioned-scenes", *words, *QUIET).status == 0
    (folder,) = (tmp_path / "results/Captioned-Scenes").iterdir()
    (measured,) = [event for event in events(folder) if event["event"] == "measurement"]
    table = measured["table"]
    assert table["text -> audio"]["queries"] == 420
    assert table["text -> audio"]["R@1 by chance"] == 1 / 84
    assert table["text -> audio"]["R@1"] > 3 / 84
    assert table["audio -> text"]["P@1"] > 3 / 84


@pytest.mark.processes
def test_workers_do_not_change_the_captions_that_are_drawn(command: Command, tmp_path: Path) -> None:
    weights = []
    for workers in ("0", "1"):
        words = ["--Dataset.args.scenes", "24", "--Dataset.args.held_out_scenes", "4", "-e", "2", "-b", "8"]
        words += ["-M", str(tmp_path / workers), "-R", "1", "-w", workers]
        with small_backbone():
            assert command("captioned-scenes", *words, *QUIET).status == 0
        weights.append(read_state_dict(next((tmp_path / workers).rglob("last_epoch-2.pt"))))
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def evaluate_scenes(results: str) -> int:
    """Evaluate random weights on 13 scenes with 5 captions, so that batches and ranks differ in size."""
    with small_backbone():  # fixtures have no effect in other processes
        return cli.main(
            [
                *("-c", str(ROOT / "protocols/captioned-scenes.json"), "-M", results, "-e", "0", "-b", "4"),
                *("--Dataset.args.held_out_scenes", "13", "--Reporters", "[]", "-R", "1"),
            ],
            defaults=DEFAULTS,
        )


@pytest.mark.processes
def test_two_processes_rank_the_same_captions_as_one(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, evaluate_scenes, str(tmp_path / "two")) == [0, 0]
    assert evaluate_scenes(str(tmp_path / "one")) == 0
    one, two = (
        json.loads(next((tmp_path / name).rglob("result.json")).read_text()) for name in ("one", "two")
    )
    assert two["last"] == pytest.approx(one["last"], abs=1e-12)
    assert one["evaluations"]["querying"]["text -> audio"]["queries"] == 65
    for direction, row in one["evaluations"]["querying"].items():
        assert two["evaluations"]["querying"][direction] == pytest.approx(row, abs=1e-12)
