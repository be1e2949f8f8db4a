"""The index of a folder, and the commands that search it and serve it as a page."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_research.protocols import Done

from demo import app, indexing, search
from demo.indexing import MANIFEST, FolderIndex, Update, read_store
from demo.weights import find_demo_weights
from model.audioclip import AudioCLIP


@pytest.fixture
def folder(tmp_path: Path, fill: Callable[..., None]) -> Path:
    fill(tmp_path / "mine", sounds=6, pictures=4)
    fill(tmp_path / "mine/more", sounds=2, pictures=0, start=100)
    return tmp_path / "mine"


@pytest.fixture
def new_index(folder: Path, weights_folder: Path) -> Callable[[], FolderIndex]:
    """Return a function that opens the index of the folder as a new process does."""
    return lambda: FolderIndex(folder, find_demo_weights(str(weights_folder)))


@pytest.fixture
def update(new_index: Callable[[], FolderIndex], small_model: AudioCLIP) -> Callable[[], Update]:
    """Return a function that updates the index of the folder as a new process does."""
    return lambda: new_index().update(lambda: small_model)


def test_only_the_first_update_loads_the_model(
    new_index: Callable[[], FolderIndex], update: Callable[[], Update]
) -> None:
    assert update() == Update(found=12, embedded=12, removed=0, wrong={})

    def no_model() -> AudioCLIP:
        raise AssertionError("the model was asked for")

    index = new_index()
    assert index.update(no_model) == Update(found=12, embedded=0, removed=0, wrong={})
    assert {"sound_0005.wav", "more/sound_0100.wav"} < {*index.paths("audio")}
    assert len(index.paths("image")) == 4


def test_embeddings_equal_those_of_the_model(
    folder: Path, new_index: Callable[[], FolderIndex], small_model: AudioCLIP
) -> None:
    index = new_index()
    index.update(lambda: small_model)
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


def test_changed_files_are_embedded_again_and_deleted_ones_are_dropped(
    folder: Path, update: Callable[[], Update], cache_folder: Path
) -> None:
    update()
    shutil.copy(folder / "more/sound_0101.wav", folder / "sound_0000.wav")  # its content is already embedded
    (folder / "picture_0000.png").unlink()
    (folder / "sound_0002.wav").write_bytes((folder / "sound_0002.wav").read_bytes()[:-2] + b"\x01\x02")
    assert update() == Update(found=11, embedded=1, removed=1, wrong={})
    (store,) = cache_folder.glob("index-*")
    assert len(read_store(store).embeddings) == 10  # 11 files, two of them identical
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
    assert (
        first.wrong["film.mp4"] == "mp4 is not decoded: convert it, for example with `ffmpeg -i x.m4a x.flac`"
    )
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
    monkeypatch: pytest.MonkeyPatch, update: Callable[[], Update]
) -> None:
    monkeypatch.setattr(indexing, "GROUP", {"audio": 3, "image": 3})
    embed, calls = indexing.embed_files, []

    def embed_twice(*given: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(indexing, "embed_files", embed_twice)
        update()
    assert update() == Update(found=12, embedded=6, removed=0, wrong={})


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"format": 2, "embeddings": "absent.npy"}'])
def test_a_damaged_store_is_rebuilt(update: Callable[[], Update], cache_folder: Path, damage: str) -> None:
    update()
    (store,) = cache_folder.glob("index-*")
    (store / MANIFEST).write_text(damage)
    assert update().embedded == 12


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
    monkeypatch.setattr("sys.stdin", io.StringIO("dog\nrain\n\nnot read\n"))
    done = command("search", "--in", folder, "-n", "1")
    assert (done.status, done.out.count("Sounds\n")) == (0, 2)


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
    weights = replace(find_demo_weights(str(weights_folder)), trained_labels=("dog", "rain"))
    monkeypatch.setattr(search, "find_demo_weights", lambda _: weights)
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
    status, _, said = command("index", folder)
    assert status == 0
    assert r"red\x1b[31m\udc80.wav: its name cannot be printed" in said and "\x1b" not in said


def test_names_with_joiners_are_printed_unchanged(folder: Path, command: Callable[..., Done]) -> None:
    name = "\u0645\u06cc\u200c\u0634 \U0001f469\u200d\U0001f680.wav"
    (folder / "sound_0000.wav").rename(folder / name)
    done = command("search", "rain", "--in", folder, "-n", "20")
    assert done.status == 0
    assert name in done.out and name not in done.err


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
    folder: Path, tmp_path: Path, command: Callable[..., Done], words: list[str], said: str
) -> None:
    done = command(*(word.format(tmp=tmp_path, mine=folder) for word in words))
    assert done.status == 1
    assert said.format(tmp=tmp_path) in done.err


def test_the_manifest_describes_files_and_rows(update: Callable[[], Update], cache_folder: Path) -> None:
    update()
    (store,) = cache_folder.glob("index-*")
    manifest = json.loads((store / MANIFEST).read_text())
    assert len(manifest["files"]) == 12
    size, _, sha256 = manifest["files"]["sound_0000.wav"]
    assert size == (cache_folder.parent / "mine/sound_0000.wav").stat().st_size
    row = manifest["contents"].index(f"audio:{sha256}")
    assert np.linalg.norm(np.load(store / manifest["embeddings"])[row]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.usefixtures("_loaded_before")
def test_without_a_folder_synthetic_examples_are_served(
    monkeypatch: pytest.MonkeyPatch, weights_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []

    async def stop(application: Any, port: int) -> None:
        served.append(application)
        assert port == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_serve", stop)
    assert app.main(["--weights", str(weights_folder), "--port", "0"]) == 0
    assert len(served) == 1
    assert app.main(["nowhere", "--weights", str(weights_folder)]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
