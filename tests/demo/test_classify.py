"""`search.py classify`: labels with probabilities, errors by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from demo import search
from demo.weights import find_demo_weights
from model.audioclip import AudioCLIP

pytestmark = pytest.mark.usefixtures("loaded_before")

LABELS = ["dog", "rain", "sea waves"]


@pytest.fixture
def folder(tmp_path: Path, fill: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path, sounds=2, pictures=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(weights_folder: Path, folder: Path) -> Callable[..., int]:
    def command(*words: str) -> int:
        return search.main(["classify", "--weights", str(weights_folder), *words])

    assert folder.is_dir()
    return command


def test_labels_are_printed_with_the_probabilities_of_the_model(
    command: Callable[..., int], small_model: AudioCLIP, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["sound_0001.wav", "picture_0000.png"]
    assert command(*files, "--labels", *LABELS, "--template", "a sound of {}") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, heading, shown in zip(files, lines[::4], (lines[1:4], lines[5:8]), strict=True):
        assert heading == name
        expected = small_model.classify(name, LABELS, template="a sound of {}")[0].tolist()
        best = sorted(zip(expected, LABELS, strict=True), reverse=True)
        assert shown == [f"  {probability:6.3f}  {label}" for probability, label in best]


def test_an_unusable_file_does_not_stop_classification(
    command: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "notes.txt").write_text("neither")
    names = ["absent.wav", "broken.wav", "notes.txt", "sound_0000.wav"]
    assert command(*names, "--labels", "dog", "rain", "--labels", "bell") == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "sound_0000.wav" and len(said.out.splitlines()) == 4
    wrong = said.err.splitlines()
    assert len(wrong) == 3
    assert wrong[0].startswith("absent.wav: no such audio file")
    assert wrong[1].startswith("broken.wav: not decodable as audio")
    assert wrong[2].startswith("notes.txt: neither a sound nor an image by its suffix")


def test_one_line_warns_of_untrained_labels(
    command: Callable[..., int],
    weights_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = replace(find_demo_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(search, "find_demo_weights", lambda _: trained)
    assert command("sound_0000.wav", "sound_0001.wav", "--labels", "dog", "rain") == 0
    assert capsys.readouterr().err == ""
    assert command("sound_0000.wav", "sound_0001.wav", "--labels", "dog", "cat\x1b", "bell") == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        "These weights come from a run on 2 labels: dog, rain. Not among them: cat\\x1b, bell."
    )


def test_only_the_most_probable_labels_are_shown(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("sound_0000.wav", "--labels", *LABELS, "-n", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


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
def test_wrong_labels_are_reported(
    command: Callable[..., int], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("sound_0000.wav", *words) == 1
    assert capsys.readouterr().err.splitlines() == [said]
