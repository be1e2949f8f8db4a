"""The index of a folder, and the command that searches it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo import indexing, search
from demo.indexing import MANIFEST, FolderIndex, Update, read_store
from demo.weights import find_demo_weights
from model.audioclip import AudioCLIP

pytestmark = pytest.mark.usefixtures("loaded_before")


@pytest.fixture
def folder(tmp_path: Path, fill: Callable[..., None]) -> Path:
    fill(tmp_path / "mine", sounds=6, pictures=4)
    fill(tmp_path / "mine/more", sounds=2, pictures=0, start=100)
    return tmp_path / "mine"


@pytest.fixture
def update(folder: Path, weights_folder: Path) -> Callable[[], Update]:
    """Update the index of the folder as a new process does."""

    def update() -> Update:
        weights = find_demo_weights(str(weights_folder))
        return FolderIndex(folder, weights).update(weights.load)

    return update


def no_model() -> AudioCLIP:
    raise AssertionError("the model was asked for")


def command(*words: str | Path) -> int:
    return search.main([str(word) for word in words])


def test_only_the_first_update_loads_the_model(
    folder: Path, weights_folder: Path, update: Callable[[], Update]
) -> None:
    assert update() == Update(found=12, embedded=12, removed=0, wrong={})
    index = FolderIndex(folder, find_demo_weights(str(weights_folder)))
    assert index.update(no_model) == Update(found=12, embedded=0, removed=0, wrong={})
    assert {"sound_0005.wav", "more/sound_0100.wav"} < {*index.paths("audio")}
    assert len(index.paths("image")) == 4


def test_embeddings_equal_those_of_the_model(
    folder: Path, weights_folder: Path, small_model: AudioCLIP
) -> None:
    weights = find_demo_weights(str(weights_folder))
    (index := FolderIndex(folder, weights)).update(weights.load)
    expected = {
        "sound_0003.wav": small_model.embed_audio(folder / "sound_0003.wav"),
        "picture_0002.png": small_model.embed_image(folder / "picture_0002.png"),
    }
    for path, embedding in expected.items():
        kept = index.embedding(path)
        assert kept is not None
        np.testing.assert_allclose(kept, embedding.numpy()[0], atol=1e-5)
    assert index.embedding("absent.wav") is None


def test_only_added_files_are_embedded(
    folder: Path, update: Callable[[], Update], fill: Callable[..., None]
) -> None:
    update()
    fill(folder, sounds=7, pictures=3, start=50)
    assert update() == Update(found=22, embedded=10, removed=0, wrong={})


def test_renamed_copied_and_touched_files_are_not_embedded_again(
    folder: Path, update: Callable[[], Update]
) -> None:
    update()
    (folder / "sound_0000.wav").rename(folder / "renamed.wav")
    shutil.copy(folder / "sound_0001.wav", folder / "copied.wav")
    (folder / "picture_0000.png").touch()
    assert update() == Update(found=13, embedded=0, removed=1, wrong={})


def test_changed_files_are_embedded_again_and_deleted_ones_dropped(
    folder: Path, update: Callable[[], Update], own_cache: Path
) -> None:
    update()
    shutil.copy(folder / "more/sound_0101.wav", folder / "sound_0000.wav")  # of content that is known
    (folder / "picture_0000.png").unlink()
    (folder / "sound_0002.wav").write_bytes((folder / "sound_0002.wav").read_bytes()[:-2] + b"\x01\x02")
    assert update() == Update(found=11, embedded=1, removed=1, wrong={})
    (store,) = own_cache.glob("index-*")
    assert len(read_store(store).embeddings) == 10  # of 11 files, two of them alike
    assert len([*store.glob("embeddings-*.npy")]) == 1


def test_unusable_files_are_listed_and_not_tried_again(folder: Path, update: Callable[[], Update]) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.flac").touch()
    (folder / "notes.txt").write_text("neither sound nor image")
    (folder / "film.mp4").write_bytes(b"no film")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    first = update()
    assert (first.found, first.embedded) == (17, 12)
    assert first.wrong.keys() == {"broken.wav", "broken.jpg", "empty.flac", "gone.png", "film.mp4"}
    assert first.wrong["film.mp4"] == "mp4 is not decoded: convert it, as by `ffmpeg -i x.m4a x.flac`"
    assert "not decodable as audio" in first.wrong["broken.wav"]
    assert "not decodable as an image" in first.wrong["broken.jpg"]
    assert first.wrong["gone.png"] == "cannot be read (No such file or directory)"
    assert update() == first._replace(embedded=0)


def test_linked_folders_are_searched_once(folder: Path, tmp_path: Path, update: Callable[[], Update]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "sound_0000.wav").rename(tmp_path / "elsewhere/moved.wav")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(folder)
    assert update() == Update(found=12, embedded=12, removed=0, wrong={})


def test_another_model_embeds_everything_again(weights_folder: Path, update: Callable[[], Update]) -> None:
    update()
    kept = weights_folder / "model.safetensors"
    content = kept.read_bytes()
    try:
        kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert update().embedded == 12
    finally:
        kept.write_bytes(content)


def test_an_interrupted_update_keeps_its_embeddings(
    folder: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch, update: Callable[[], Update]
) -> None:
    monkeypatch.setattr(indexing, "GROUP", {"audio": 3, "image": 3})
    weights = find_demo_weights(str(weights_folder))
    embed, calls = indexing.embed_files, []

    def embed_twice(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "embed_files", embed_twice)
    with pytest.raises(KeyboardInterrupt):
        FolderIndex(folder, weights).update(weights.load)
    monkeypatch.setattr(indexing, "embed_files", embed)
    assert update() == Update(found=12, embedded=6, removed=0, wrong={})


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"format": 2, "embeddings": "absent.npy"}'])
def test_a_damaged_store_is_rebuilt(update: Callable[[], Update], own_cache: Path, damage: str) -> None:
    update()
    (store,) = own_cache.glob("index-*")
    (store / MANIFEST).write_text(damage)
    assert update().embedded == 12


def test_files_are_ranked_by_cosine(
    folder: Path, weights_folder: Path, small_model: AudioCLIP, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("search", "dog barking", "--in", folder, "--weights", weights_folder, "-n", "3") == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
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
def test_a_file_is_most_like_itself(
    folder: Path, weights_folder: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert command("search", "--like", folder / path, "--in", folder, "--weights", weights_folder) == 0
    assert f"  1   1.000  {path}" in capsys.readouterr().out.splitlines()


def test_without_a_text_lines_are_read(
    folder: Path,
    weights_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nrain\n\nnot read\n"))
    assert command("search", "--in", folder, "--weights", weights_folder, "-n", "1") == 0
    assert capsys.readouterr().out.count("Sounds\n") == 2


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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = replace(find_demo_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(search, "find_demo_weights", lambda _: weights)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert command("search", *([text] if text else []), "--in", str(folder)) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "come from a run" in line]
    assert said == [
        f"These weights come from a run on 2 labels: dog, rain. Not among them: {text}. Their scores are "
        "far less reliable, however high."
        for text in untrained
    ]


def test_unprintable_names_are_escaped(
    folder: Path, weights_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "sound_0000.wav").rename(folder / "red\x1b[31m\udc80.wav")
    assert command("index", folder, "--weights", weights_folder) == 0
    said = capsys.readouterr().err
    assert r"red\x1b[31m\udc80.wav: its name cannot be printed" in said and "\x1b" not in said


def test_names_with_joiners_are_printed_unchanged(
    folder: Path, weights_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680.wav"
    (folder / "sound_0000.wav").rename(folder / name)
    assert command("search", "rain", "--in", folder, "--weights", weights_folder, "-n", "20") == 0
    captured = capsys.readouterr()
    assert name in captured.out and name not in captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "{tmp}/nowhere"], "{tmp}/nowhere: no such folder."),
        (
            ["search", "--like", "{tmp}/x.txt", "--in", "{mine}"],
            "neither a sound nor an image by its suffix",
        ),
        (["search", "--like", "{tmp}/x.wav", "--in", "{mine}"], "{tmp}/x.wav: no such audio file."),
        (
            ["search", "x", "--in", "{mine}", "--weights", "absent.pt"],
            "absent.pt: no such file or folder of runs.",
        ),
        (["search", "word " * 200, "--in", "{mine}"], "tokens"),
        (["search", "x", "--in", "{mine}", "-n", "0"], "--count is 0; it must be positive."),
    ],
)
def test_mistakes_are_reported(
    folder: Path,
    weights_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    filled = [word.format(tmp=tmp_path, mine=folder) for word in words]
    if "--weights" not in filled:
        filled += ["--weights", str(weights_folder)]
    assert command(*filled) == 1
    assert said.format(tmp=tmp_path) in capsys.readouterr().err


def test_the_manifest_describes_files_and_rows(update: Callable[[], Update], own_cache: Path) -> None:
    update()
    (store,) = own_cache.glob("index-*")
    manifest = json.loads((store / MANIFEST).read_text())
    assert len(manifest["files"]) == 12
    size, _, sha256 = manifest["files"]["sound_0000.wav"]
    assert size == (own_cache.parent / "mine/sound_0000.wav").stat().st_size
    row = manifest["contents"].index(f"audio:{sha256}")
    assert np.linalg.norm(np.load(store / manifest["embeddings"])[row]) == pytest.approx(1.0, abs=1e-5)
