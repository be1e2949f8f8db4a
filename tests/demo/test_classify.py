"""`search.py classify`: labels with probabilities, errors by file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_research.protocols import Done

from demo import search
from demo.weights import find_demo_weights
from model.audioclip import AudioCLIP

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
    names = ["absent.wav", "broken.wav", "notes.txt", "sound_0000.wav"]
    done = classify(*names, "--labels", "dog", "rain", "--labels", "bell")
    assert done.status == 1
    assert done.out.splitlines()[0] == "sound_0000.wav" and len(done.out.splitlines()) == 4
    wrong = done.err.splitlines()
    assert len(wrong) == 3
    assert wrong[0].startswith("absent.wav: no such audio file")
    assert wrong[1].startswith("broken.wav: not decodable as audio")
    assert wrong[2].startswith("notes.txt: neither a sound nor an image by its suffix")


def test_one_line_warns_of_untrained_labels(
    classify: Callable[..., Done], weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = replace(find_demo_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(search, "find_demo_weights", lambda _: trained)
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "dog"], "--labels has only 'dog'; give two or more, separated by spaces."),
        (
            ["--labels", "dog", "rain", "sound_0001.wav"],
            "--labels has 'sound_0001.wav', which is a file; name files before --labels.",
        ),
        (["--labels", "dog", "Dog"], "labels[0] 'dog' and labels[1] 'Dog' are the same text; remove one."),
        (["--labels", "dog", ""], "labels[1] is ''; expected a text that is not empty."),
        (["--labels", "dog", "rain", "--template", "a dog"], "The template 'a dog' lacks a {} for the text."),
        (["--labels", "dog", "rain", "-n", "0"], "--count is 0; it must be positive."),
    ],
)
def test_invalid_labels_are_reported(classify: Callable[..., Done], words: list[str], said: str) -> None:
    assert classify("sound_0000.wav", *words) == (1, "", f"{said}\n")
