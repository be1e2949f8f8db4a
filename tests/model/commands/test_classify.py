"""`classify`: labels with probabilities, a table of them, errors by file."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_research.protocols import Done

from model.audioclip import AudioCLIP
from model.commands import messages
from model.commands.store import read_store
from model.weights.described import describe_weights

LABELS = ["dog", "rain", "sea waves"]


@pytest.fixture
def classify(
    tmp_path: Path,
    fill: Callable[..., None],
    command: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Done]:
    """Return a function that classifies files of the current folder."""
    fill(tmp_path, sounds=2, pictures=1)
    monkeypatch.chdir(tmp_path)
    return functools.partial(command, "classify")


def test_labels_are_printed_with_the_probabilities_of_the_model(
    classify: Callable[..., Done], small_model: AudioCLIP
) -> None:
    files = ["sound_0001.wav", "picture_0000.png"]
    done = classify(*files, "--labels", *LABELS, "--template", "a sound of {}")
    assert done.status == 0
    lines = done.out.splitlines()
    for name, heading, shown in zip(files, lines[::4], (lines[1:4], lines[5:8]), strict=True):
        assert heading == name
        expected = small_model.classify(name, LABELS, template="a sound of {}")[0].tolist()
        best = sorted(zip(expected, LABELS, strict=True), reverse=True)
        assert shown == [f"  {probability:6.3f}  {label}" for probability, label in best]


def test_an_unusable_file_does_not_stop_classification(classify: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and no more")
    (tmp_path / "notes.txt").write_text("neither")
    names = ["broken.wav", "notes.txt", "sound_0000.wav"]
    done = classify(*names, "--labels", "dog", "rain", "--labels", "bell")
    assert done.status == 1
    assert done.out.splitlines()[0] == "sound_0000.wav" and len(done.out.splitlines()) == 4
    wrong = done.err.splitlines()
    assert sorted(line[:45] for line in wrong) == [
        "broken.wav: not decodable as audio (Format no",
        "notes.txt: neither a sound nor an image by it",
    ]


def test_one_line_warns_of_untrained_labels(
    classify: Callable[..., Done], weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = replace(describe_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(messages, "describe_weights", lambda _: trained)
    files = ["sound_0000.wav", "sound_0001.wav"]
    done = classify(*files, "--labels", "dog", "rain")
    assert (done.status, done.err) == (0, "")
    done = classify(*files, "--labels", "dog", "cat\x1b", "bell")
    assert done.status == 0
    (said,) = done.err.splitlines()
    assert said.startswith(
        "These weights come from a run on 2 labels: dog, rain. Not among them: cat\\x1b, bell."
    )


def test_only_the_most_probable_labels_are_shown(classify: Callable[..., Done]) -> None:
    done = classify("sound_0000.wav", "--labels", *LABELS, "-n", "1")
    assert (done.status, len(done.out.splitlines())) == (0, 2)


def test_a_folder_is_classified_into_a_table(
    classify: Callable[..., Done], small_model: AudioCLIP, tmp_path: Path
) -> None:
    (tmp_path / "scores.csv").write_text("old")
    done = classify(tmp_path, "--labels", *LABELS, "--out", "scores.csv")
    assert (done.status, done.out) == (0, "")
    assert done.err == "2 sounds, 1 image; newly embedded: 3\n"
    with (tmp_path / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["kind"]) for row in rows] == [
        (f"{tmp_path}/picture_0000.png", "image"),
        (f"{tmp_path}/sound_0000.wav", "audio"),
        (f"{tmp_path}/sound_0001.wav", "audio"),
    ]
    expected = small_model.classify([row["path"] for row in rows], LABELS).numpy()
    np.testing.assert_allclose([[float(row[name]) for name in LABELS] for row in rows], expected, atol=2e-6)


def test_files_of_an_indexed_folder_are_not_embedded_again(
    classify: Callable[..., Done], command: Callable[..., Done], tmp_path: Path, cache_folder: Path
) -> None:
    assert command("search", "rain", "--in", tmp_path).status == 0
    done = classify("sound_0001.wav", "--labels", *LABELS, "--out", "scores.csv")
    assert done.err == "1 sound, 0 images; newly embedded: 0\n"
    (store,) = cache_folder.glob("index-*")
    assert len(read_store(store).embeddings) == 3


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--labels", "dog"], 2, "--labels has only 'dog'; give two or more, separated by spaces."),
        (
            ["--labels", "dog", "rain", "sound_0001.wav"],
            2,
            "--labels has 'sound_0001.wav', the name of a file; name files and folders before --labels.",
        ),
        (
            ["--labels", "dog", "absent.flac"],
            2,
            "--labels has 'absent.flac', the name of a file; name files and folders before --labels.",
        ),
        (
            ["--labels", "dog", "./rain"],
            2,
            "--labels has './rain', the name of a folder; name files and folders before --labels.",
        ),
        (["--labels", "dog", "caf\udce9"], 2, r"--labels has 'caf\udce9', which is not UTF-8."),
        (
            ["--labels", "dog", "kind", "--out", "scores.csv"],
            2,
            "--labels has 'kind', which is another column of scores.csv; reword it.",
        ),
        (["--labels", "dog", "Dog"], 1, "labels[0] 'dog' and labels[1] 'Dog' are the same text; remove one."),
        (["--labels", "dog", ""], 1, "labels[1] is ''; expected a text that is not empty."),
        (
            ["--labels", "dog", "rain", "--template", "a dog"],
            1,
            "The template 'a dog' lacks a {} for the text.",
        ),
        (["--labels", "dog", "rain", "--out", "scores.txt"], 2, "scores.txt must end in .csv."),
    ],
)
def test_invalid_labels_are_reported(
    classify: Callable[..., Done], words: list[str], status: int, said: str
) -> None:
    Path("rain").mkdir()  # a label may have the name of a folder
    assert classify("sound_0000.wav", *words) == (status, "", f"{said}\n")


def test_a_long_label_with_a_dot_is_a_label(classify: Callable[..., Done]) -> None:
    label = f"e.g. {'a' * 300} dog"
    done = classify("sound_0000.wav", "--labels", label, "rain")
    assert done.status == 0 and f"  {label}\n" in done.out


def test_a_pattern_that_the_shell_left_is_expanded(classify: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "[1].wav").write_bytes((tmp_path / "sound_0001.wav").read_bytes())
    done = classify("sound_*.wav", "[1].wav", "--labels", *LABELS, "-n", "1")
    assert done.status == 0
    assert done.out.splitlines()[::2] == ["sound_0000.wav", "sound_0001.wav", "[1].wav"]
    assert classify("absent_*.wav", "--labels", *LABELS).err == "absent_*.wav: no such file or folder.\n"


def test_absent_files_are_reported_before_anything_is_embedded(classify: Callable[..., Done]) -> None:
    done = classify("absent.wav", "sound_0000.wav", "nowhere", "--labels", *LABELS)
    said = "absent.wav: no such file or folder.\nnowhere: no such file or folder.\n"
    assert done == (1, "", said)
