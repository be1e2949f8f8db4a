"""Faults that tasks find in a data set before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from ignite_trainer.api.findings import Finding
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from tests.utils.tasks.test_tasks import Clips, batch_of, loss_of, tiny_audioclip
from utils.datasets import MadeScenes, Sample, Shards, Table
from utils.shards.checking import index
from utils.shards.making import Options, make
from utils.tasks import AudioTextContrastive, Classification, Contrastive
from utils.tasks.labels import check_samples

Places = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def single() -> AudioCLIP:
    return tiny_audioclip().eval()


@pytest.fixture(scope="module")
def several() -> AudioCLIP:
    return tiny_audioclip(multilabel=True).eval()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of four rows in two folds, with 1, 0, 2 and 1 labels; the last row has no sound."""
    for number in range(3):
        samples = np.random.default_rng(number).integers(-9999, 9999, 4410).astype(np.int16)
        soundfile.write(tmp_path / f"{number}.wav", samples, 44100)
    Image.new("RGB", (8, 8)).save(tmp_path / "3.png")
    rows = ["file,image,labels,fold", "0.wav,,dog,1", "1.wav,,,2", "2.wav,,dog;rain,2", ",3.png,rain,1"]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def found(task: Any, model: Any, path: Path, *, train_is_scored: bool = True, **args: Any) -> Places:
    splits = {
        name: Table(path, fold=1, separator=";", train=name == "train", **args) for name in ("train", "test")
    }
    task.prepare(model, **splits)
    findings: list[Finding] = list(task.check(model, **splits, train_is_scored=train_is_scored))
    return [(one.severity, one.what, one.where) for one in findings if one.what != NOT_TRAINED_ON]


NOT_TRAINED_ON = "A class has no clip to train on."
NO_LABEL = "A sample has no label."
TOO_MANY = "A sample has several labels, but only one is allowed."
NO_SOUND = "A sample has no sound, which this task needs."


def test_rows_without_a_label_or_with_too_many_are_named_with_their_lines(
    single: AudioCLIP, several: AudioCLIP, table: Path
) -> None:
    none, two = "own.csv, line 3: 1.wav", "own.csv, line 4: 2.wav (dog, rain)"
    labels = [("error", NO_LABEL, none), ("error", TOO_MANY, two)]
    silent = ("error", NO_SOUND, "own.csv, line 5: 3.png")
    assert found(AudioTextContrastive(), single, table) == [*labels, silent]
    assert found(AudioTextContrastive(), several, table) == [labels[0], silent]
    assert found(Contrastive(), single, table) == labels
    assert found(Contrastive(), several, table) == []
    classifier = ESResNeXt(num_classes=2, pretrained=False)
    assert found(Classification(), classifier, table) == labels
    assert found(Classification(multilabel=True), classifier, table) == [("warning", NO_LABEL, none)]


def test_an_unscored_training_split_needs_only_what_training_needs(single: AudioCLIP, table: Path) -> None:
    none, two = "own.csv, line 3: 1.wav", "own.csv, line 4: 2.wav (dog, rain)"
    silent = ("error", NO_SOUND, "own.csv, line 5: 3.png")
    for positives in ("diagonal", "same_label"):
        task = Contrastive(positives=positives)
        assert found(task, single, table, train_is_scored=False) == []
    # The texts of this task are made from the labels.
    missing = ("error", NO_LABEL, none)
    assert found(AudioTextContrastive(), single, table, train_is_scored=False) == [missing, silent]
    classifier = ESResNeXt(num_classes=2, pretrained=False)
    needed = [missing, ("error", TOO_MANY, two)]
    assert found(Classification(), classifier, table, train_is_scored=False) == needed
    # Held-out samples are always scored.
    table.write_text(table.read_text().replace("0.wav,,dog,", "0.wav,,dog;rain,"))
    held_out = ("error", TOO_MANY, "own.csv, line 2: 0.wav (dog, rain)")
    assert found(Contrastive(), single, table, train_is_scored=False) == [held_out]


def test_checks_decode_nothing_into_the_cache(single: AudioCLIP, table: Path, cache_folder: Path) -> None:
    found(Contrastive(), single, table)
    assert not cache_folder.exists()
    dataset = Table(table, fold=1, separator=";", train=False)
    unprepared, prepared = dataset.look_at(0), dataset[0]
    np.testing.assert_array_equal(unprepared.audio, prepared.audio)
    assert unprepared.labels == prepared.labels


def test_texts_that_are_cut_are_warnings_and_those_that_cannot_be_cut_errors(
    single: AudioCLIP, tmp_path: Path
) -> None:
    """The tower accepts 12 tokens: ten words between start and end tokens."""
    soundfile.write(tmp_path / "a.wav", np.full(4410, 999, np.int16), 44100)
    fits, long = " ".join(["dog"] * 10), " ".join(["dog"] * 11)
    path = tmp_path / "own.tsv"
    path.write_text(f"file\ttext\tfold\na.wav\t{fits}\t1\na.wav\t{long}\t2\n")
    cut = (
        "A text exceeds the text tower's limit of 12 tokens, including start and end tokens, and is cut off."
    )
    assert found(Contrastive(), single, path) == [("warning", cut, "own.tsv, line 3: a.wav (13 tokens)")]
    names = ";".join(f"dog {number}" for number in range(6))
    path.write_text(f"file\tlabels\tfold\na.wav\t{names}\t1\na.wav\tdog 1\t2\n")
    model = tiny_audioclip(multilabel=True).eval()
    too_long = "A text exceeds the text tower's limit of 12 tokens, including start and end tokens."
    assert found(AudioTextContrastive(), model, path) == [
        ("error", too_long, "own.tsv, line 2: a.wav (19 tokens)")
    ]


def test_samples_of_shards_are_checked_from_the_manifest(
    single: AudioCLIP, table: Path, tmp_path: Path
) -> None:
    data: Any = Table(table, separator=";", cache=False)
    make({None: data}, tmp_path / "set", Options(seed=None), made_from={})
    shards = Shards(str(tmp_path / "set/manifest.jsonl"))
    task = AudioTextContrastive()
    task.prepare(single, train=shards, test=shards)
    assert [(one.severity, one.what, one.where) for one in task.check(single, train=shards, test=shards)] == [
        ("error", NO_SOUND, "fold-1-000000.tar: 3.png"),
        ("error", NO_LABEL, "fold-2-000000.tar: 1.wav"),
        ("error", TOO_MANY, "fold-2-000000.tar: 2.wav (dog, rain)"),
    ]


def test_the_longest_text_of_a_shard_is_named_before_a_run(single: AudioCLIP, tmp_path: Path) -> None:
    rows = ["file\ttext", *(f"{words}.wav\t{'dog ' * words}" for words in (3, 11, 10))]
    for words in (3, 11, 10):
        soundfile.write(tmp_path / f"{words}.wav", np.full(4410, 999, np.int16), 44100)
    (tmp_path / "own.tsv").write_text("\n".join(rows) + "\n")
    make({None: Table(tmp_path / "own.tsv", cache=False)}, tmp_path / "set", Options(seed=None), made_from={})
    manifest = tmp_path / "set/manifest.jsonl"
    shards = Shards(str(manifest))
    [finding] = list(Contrastive().check(single, train=shards, test=shards))
    assert finding.what.startswith("A text exceeds the text tower's limit of 12 tokens")
    index([str(tmp_path / "set/000000.tar")], name="again").manifest.write(tmp_path / "again.jsonl")
    with_index = Shards(str(tmp_path / "set/000000.tar"), manifest=str(tmp_path / "again.jsonl"))
    assert list(with_index.listings()) == list(shards.listings())
    older = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [one["position"] for one in older[1].pop("examples")] == [0, 1]
    manifest.write_text("\n".join(map(json.dumps, older)))
    assert list(Shards(str(manifest)).listings()) == []


def test_unknown_labels_of_shards_are_named_before_a_run(tmp_path: Path, table: Path) -> None:
    make({None: Table(table, cache=False)}, tmp_path / "set", Options(), made_from={})
    manifest = tmp_path / "set/manifest.jsonl"
    lines = manifest.read_text().splitlines()
    about = {**json.loads(lines[0]), "class_names": ["dog", "dog;rain"]}
    manifest.write_text("\n".join([json.dumps(about), *lines[1:]]))
    shards = Shards(str(manifest))
    [finding] = check_samples(shards, shards, lambda *_: ())
    assert (finding.severity, finding.where) == ("error", "rain")
    assert finding.what == "A label of the data set is not among its class_names."


def test_a_clip_as_quiet_as_one_16_bit_step_is_accepted(single: AudioCLIP) -> None:
    whole = Clips()
    whole.audio = np.sign(whole.audio)  # only -1 and 1
    AudioTextContrastive().prepare(single, train=whole, test=whole)
    one_quiet = Clips()
    one_quiet.audio[0] = 0.9 * np.sign(one_quiet.audio[0])  # as resampling leaves it
    AudioTextContrastive().prepare(single, train=one_quiet, test=one_quiet)
    one_quiet.audio[1:] /= 32768
    with pytest.raises(
        ValueError, match=r"Sample 0 has a peak of 0\.9, and no other sample is louder than 1"
    ):
        AudioTextContrastive().prepare(single, train=one_quiet, test=one_quiet)


def test_an_unexpected_sample_rate_is_a_warning(single: AudioCLIP) -> None:
    clips = Clips()
    clips.sample_rate = 22050
    task = AudioTextContrastive()
    task.prepare(single, train=clips, test=clips)
    [finding] = task.check(single, train=clips, test=clips)
    assert (finding.severity, finding.what) == (
        "warning",
        "The data set is sampled at 22050 Hz; the released weights expect 44100.",
    )


def test_tasks_find_no_faults_in_made_scenes(several: AudioCLIP) -> None:
    scenes = MadeScenes(scenes=8, held_out_scenes=4)
    task = Contrastive()
    task.prepare(several, train=scenes, test=scenes)
    assert list(task.check(several, train=scenes, test=scenes)) == []


def test_a_batch_without_sounds_does_not_train_a_classifier() -> None:
    task, model = Classification(), ESResNeXt(num_classes=4, pretrained=False)
    task.prepare(model, train=Clips(), test=Clips())
    batch = batch_of(Clips())
    output = task.training_step(model, Sample(None, None, batch.labels))
    assert loss_of(output).item() == 0.0
    loss_of(output).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert output.y_pred.shape == (0, 4) and output.y.shape == (0,)
