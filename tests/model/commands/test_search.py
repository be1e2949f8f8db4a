"""`search`: rankings by text or file."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from toy_research.protocols import Done

from model.audioclip import AudioCLIP
from model.commands import messages
from model.weights.described import describe_weights


def test_files_are_ranked_by_cosine(
    folder: Path, command: Callable[..., Done], small_model: AudioCLIP
) -> None:
    done = command("search", "dog barking", "--in", folder, "-n", "3")
    assert done.status == 0
    printed = [line.split() for line in done.out.splitlines()]
    query = small_model.embed_text("dog barking")[0]
    for title, pattern, embed in (
        ("Sounds", "*.wav", small_model.embed_audio),
        ("Images", "*.png", small_model.embed_image),
    ):
        paths = sorted(folder.rglob(pattern))
        cosine = (embed(paths) @ query).tolist()
        best = sorted(zip(cosine, paths, strict=True), reverse=True)[:3]
        start = printed.index([title])
        shown = printed[start + 1 : start + 4]
        assert [row[0] for row in shown] == ["1", "2", "3"]
        assert [row[2] for row in shown] == [path.relative_to(folder).as_posix() for _, path in best]
        assert [float(row[1]) for row in shown] == pytest.approx([value for value, _ in best], abs=6e-4)


@pytest.mark.parametrize("path", ["more/sound_0100.wav", "picture_0003.png"])
def test_a_file_is_most_similar_to_itself(folder: Path, command: Callable[..., Done], path: str) -> None:
    done = command("search", "--like", folder / path, "--in", folder)
    assert done.status == 0
    assert f"  1   1.000  {path}" in done.out.splitlines()


def test_without_a_text_queries_are_read_from_the_input(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nrain\n\nsiren\n"))
    done = command("search", "--in", folder, "-n", "1")
    lines = done.out.splitlines()
    assert done.status == 0 and len(lines) == 15
    assert lines[::5] == ["dog", "rain", "siren"] and lines[1::5] == ["Sounds"] * 3
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\n\nnot read\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert command("search", "--in", folder, "-n", "1").out.splitlines() == lines[:5]


def test_a_text_that_cannot_be_used_keeps_its_place(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{'word ' * 200}\nrain\x1b\n"))
    done = command("search", "--in", folder, "-n", "1")
    assert done.status == 1 and "tokens" in done.err
    long, rain, *_ = done.out.splitlines()
    assert long == ("word " * 200).strip() and rain == r"rain\x1b"


@pytest.mark.parametrize("words", [["--like", "broken.wav"], ["--like", "gone.wav"], ["word " * 200]])
def test_a_query_that_cannot_be_used_does_not_wait_for_the_folder(
    folder: Path, command: Callable[..., Done], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("broken.wav").write_bytes(b"RIFF and no more")
    done = command("search", *words, "--in", folder, "--store", "store")
    assert (done.status, done.out) == (1, "") and "newly embedded" not in done.err
    assert not Path("store").exists()


def test_folders_of_the_user_are_found_behind_an_equals_sign(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    done = command("search", "rain", "--in=~/mine", "--store=~/store")
    assert done.status == 0 and "8 sounds, 4 images" in done.err
    assert len([*folder.parent.glob("store/index-*")]) == 1


@pytest.mark.parametrize(
    ("text", "typed", "untrained"),
    [("dog", "", []), ("a cat", "", ["a cat"]), (None, "dog\ncat\nbell\n\n", ["cat"])],
)
def test_one_line_warns_of_an_untrained_text(
    text: str | None,
    typed: str,
    untrained: list[str],
    folder: Path,
    weights_folder: Path,
    command: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = replace(describe_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(messages, "describe_weights", lambda _: weights)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    done = command("search", *([text] if text else []), "--in", folder)
    assert done.status == 0
    assert [line for line in done.err.splitlines() if "come from a run" in line] == [
        f"These weights come from a run on 2 labels: dog, rain. Not among them: {text}. Their scores are "
        "far less reliable, however high."
        for text in untrained
    ]


def test_unprintable_names_are_escaped(folder: Path, command: Callable[..., Done]) -> None:
    (folder / "sound_0000.wav").rename(folder / "red\x1b[31m\udc80.wav")
    status, _, said = command("search", "x", "--in", folder)
    assert status == 0
    assert r"red\x1b[31m\udc80.wav: its name cannot be printed" in said and "\x1b" not in said


def test_names_with_joiners_are_printed_unchanged(folder: Path, command: Callable[..., Done]) -> None:
    name = "\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680.wav"
    (folder / "sound_0000.wav").rename(folder / name)
    done = command("search", "rain", "--in", folder, "-n", "20")
    assert done.status == 0
    assert name in done.out and name not in done.err


def test_several_folders_are_searched(
    folder: Path, tmp_path: Path, fill: Callable[..., None], command: Callable[..., Done]
) -> None:
    fill(tmp_path / "others", sounds=1, pictures=0, start=50)
    done = command("search", "rain", "--in", folder, tmp_path / "others")
    assert done.err == "9 sounds, 4 images; newly embedded: 13\n"
    assert f"{tmp_path / 'others' / 'sound_0050.wav'}\n" in done.out


def test_an_empty_text_is_refused(folder: Path, command: Callable[..., Done]) -> None:
    assert command("search", " ", "--in", folder) == (2, "", "The text to search for is empty.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "x", "--in", "{tmp}/nowhere"], "{tmp}/nowhere: no such folder."),
        (
            ["search", "--like", "{tmp}/x.txt", "--in", "{mine}"],
            "neither a sound nor an image by its suffix",
        ),
        (["search", "--like", "{tmp}/x.wav", "--in", "{mine}"], "{tmp}/x.wav: no such file."),
        (
            ["search", "x", "--in", "{mine}", "--weights", "absent.pt"],
            "absent.pt: no such file or folder of runs.",
        ),
        (
            ["search", "--in", "{mine}", "rain"],
            "rain: no such folder. (A text to search for comes before --in.)",
        ),
        (["search", "word " * 200, "--in", "{mine}"], "tokens"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, tmp_path: Path, command: Callable[..., Done], words: list[str], said: str
) -> None:
    done = command(*(word.format(tmp=tmp_path, mine=folder) for word in words))
    assert done.status == 1
    assert said.format(tmp=tmp_path) in done.err
