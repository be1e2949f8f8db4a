"""A class without training clips is a warning, for every data set and task."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ignite_trainer.api.findings import Finding
from ignite_trainer.commands import cli
from tests.utils.tasks.test_tasks import tiny_audioclip
from utils.datasets import ESC50, AudioSet, MadeScenes, Shards, Table, UrbanSound8K
from utils.shards.making import Options, make
from utils.tasks import AudioTextContrastive, Classification, Contrastive
from utils.tasks.labels import check_samples

RATE = 44100


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(str(path))).integers(-9999, 9999, RATE // 10)
    soundfile.write(path, samples.astype(np.int16), RATE)
    return path.name


def absent_classes(train: Any) -> list[Finding]:
    return list(check_samples(train, None, lambda *_: ()))


def write_rows(path: Path, *rows: tuple[object, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


# Each data set has "cat" and "dog" to train on; "sea" is only in the held-out part.


def in_folds(root: Path, table: str, header: tuple[str, ...], audio: str) -> dict[str, Any]:
    """Write a data set in official folds; `audio` is the pattern of its files."""
    clips = [("cat", 1), ("dog", 1), ("cat", 2), ("sea", 2)]
    rows = [
        (put(root / audio.format(fold=fold, clip=i)), fold, ("cat", "dog", "sea").index(label), label)
        for i, (label, fold) in enumerate(clips)
    ]
    write_rows(root / table, header, *rows)
    return {"root": str(root), "fold": 2}


def esc50(root: Path) -> dict[str, Any]:
    header = ("filename", "fold", "target", "category")
    return in_folds(root, "meta/esc50.csv", header, "audio/{clip}.wav")


def us8k(root: Path) -> dict[str, Any]:
    header = ("slice_file_name", "fold", "classID", "class")
    return in_folds(root, "metadata/UrbanSound8K.csv", header, "audio/fold{fold}/{clip}.wav")


def table(root: Path) -> dict[str, Any]:
    rows = [(put(root / f"{i}.wav"), label, i // 2) for i, label in enumerate(("cat", "dog", "cat", "sea"))]
    return {"table": str(write_rows(root / "own.csv", ("file", "label", "fold"), *rows)), "fold": 1}


def folder(root: Path) -> dict[str, Any]:
    for name in ("train/cat/1", "train/dog/2", "test/cat/3", "test/sea/4"):
        put(root / f"{name}.wav")
    return {"table": str(root)}


def audioset(root: Path) -> dict[str, Any]:
    names = ("cat", "dog", "sea")
    rows = [(number, f"/m/{name}", name) for number, name in enumerate(names)]
    write_rows(root / "class_labels_indices.csv", ("index", "mid", "display_name"), *rows)
    for split, labels in (("balanced_train", ("cat", "dog")), ("eval", ("cat", "sea"))):
        lines = [
            f'{put(root / f"{label}-{split[:7]:_<7}.wav")[:11]}, 0, 10, "/m/{label}"' for label in labels
        ]
        (root / f"{split}_segments.csv").write_text("\n".join(lines) + "\n")
    return {"root": str(root), "modalities": ["audio"]}


def shards(root: Path) -> dict[str, Any]:
    args = folder(root / "own")
    splits: dict[str | None, Table] = {
        name: Table(**args, train=name == "train", cache=False) for name in ("train", "test")
    }
    make(splits, root / "set", Options(samples=1), made_from={})
    return {"urls": str(root / "set/manifest.jsonl")}


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        *[(ESC50, esc50), (UrbanSound8K, us8k), (Table, table), (Table, folder), (AudioSet, audioset)],
        (Shards, shards),
    ],
)
def test_a_class_without_training_clips_is_found_in_every_data_set(
    kind: Any, write: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    data = kind(**write(tmp_path), train=True)
    assert sorted(data.class_names) == ["cat", "dog", "sea"]
    assert [(one.severity, one.what, one.where) for one in absent_classes(data)] == [
        ("warning", "A class has no clip to train on.", "sea")
    ]


def test_every_task_warns_about_a_class_without_training_clips(tmp_path: Path) -> None:
    splits: dict[str, Any] = {
        name: Table(**folder(tmp_path), train=name == "train") for name in ("train", "test")
    }
    model = tiny_audioclip().eval()
    for task in (AudioTextContrastive(), Contrastive()):
        task.prepare(model, **splits)
        found: list[Finding] = list(task.check(model, **splits))
        assert [one.where for one in found] == ["sea"]
    assert [one.where for one in Classification().check(model, **splits)] == ["sea"]


def test_a_data_set_that_does_not_know_its_labels_causes_no_warning(tmp_path: Path) -> None:
    assert absent_classes(MadeScenes(scenes=8, held_out_scenes=4)) == []
    args = shards(tmp_path)
    manifest = Path(args["urls"])
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text(
        "\n".join(json.dumps({k: v for k, v in line.items() if k != "labels"}) for line in lines)
    )
    assert absent_classes(Shards(**args, train=True)) == []


def test_the_check_of_a_protocol_names_a_class_without_training_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = shards(tmp_path / "data")
    protocol = {
        "Setup": {"name": "C", "batch_train": 2, "epochs": 1, "saved_models_path": str(tmp_path / "none")},
        "Model": {"class": "torch.nn.Linear", "args": {"in_features": 1, "out_features": 1}},
        "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 0.1}},
        "Task": {"class": "utils.tasks.Classification"},
        "Dataset": {"class": "utils.datasets.Shards", "args": args},
    }
    (tmp_path / "protocol.json").write_text(json.dumps(protocol))
    (tmp_path / "defaults.json").write_text("{}")
    cli.main(["-c", str(tmp_path / "protocol.json"), "--check"], defaults=tmp_path / "defaults.json")
    output = capsys.readouterr().out
    assert "warning: A class has no clip to train on.\n    sea\n" in output


def test_a_listing_is_read_once_for_classes_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = table(tmp_path)
    train, test = (Table(**args, train=train) for train in (True, False))
    read: list[str] = []
    listing = Table.listing

    def counting(data: Table, index: int) -> Any:
        read.append(data.entries[index].name)
        return listing(data, index)

    monkeypatch.setattr(Table, "listing", counting)
    model = tiny_audioclip()
    for task in (AudioTextContrastive(), Classification()):
        read.clear()
        findings = list(task.check(model, train=train, test=test))
        assert [one.where for one in findings if "no clip to train on" in one.what] == ["sea"]
        assert sorted(read) == ["0.wav", "1.wav", "2.wav", "3.wav"]
