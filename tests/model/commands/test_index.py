"""The index of files: what is embedded, what is kept, and what is lost if the process is killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.audioclip import AudioCLIP
from model.commands import index as indexing
from model.commands.embedding import embed_files
from model.commands.index import FolderIndex, Index, Update
from model.commands.store import MANIFEST, read_store, write_store
from model.weights.described import describe_weights


@pytest.fixture
def new_index(folder: Path, weights_folder: Path) -> Callable[[], FolderIndex]:
    """Return a function that opens the index of the folder as a new process does."""
    return lambda: FolderIndex(folder, describe_weights(str(weights_folder)))


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
    monkeypatch.setattr(indexing, "BATCH_SIZES", {"audio": 3, "image": 3})
    embed, calls = embed_files, []

    def embed_twice(*given: object, **named: object) -> object:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*given, **named)  # type: ignore[arg-type]

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


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_store_with_damaged_rows_is_rebuilt(
    update: Callable[[], Update], cache_folder: Path, damage: bytes
) -> None:
    update()
    (rows,) = cache_folder.glob("index-*/embeddings-*.npy")
    rows.write_bytes(damage)
    assert update().embedded == 12


def test_a_command_on_one_file_keeps_the_embeddings_of_renamed_files(
    folder: Path, update: Callable[[], Update], weights_folder: Path, small_model: AudioCLIP
) -> None:
    update()
    (folder / "sound_0000.wav").rename(folder / "renamed.wav")
    index = Index([folder / "sound_0005.wav"], describe_weights(str(weights_folder)))
    assert index.update(lambda: small_model) == Update(found=1, embedded=0, removed=0, wrong={})
    assert update() == Update(found=12, embedded=0, removed=1, wrong={})


def test_a_file_system_without_locks_is_an_error_that_names_the_cache(
    monkeypatch: pytest.MonkeyPatch, update: Callable[[], Update]
) -> None:
    def no_locks(_: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("model.commands.index.FileLock.acquire", no_locks)
    with pytest.raises(OSError, match=r"index-\w+: its file system has no locks\. Set AUDIOCLIP_CACHE"):
        update()


def test_the_manifest_describes_files_and_rows(
    folder: Path, update: Callable[[], Update], cache_folder: Path
) -> None:
    update()
    (store,) = cache_folder.glob("index-*")
    manifest = json.loads((store / MANIFEST).read_text())
    assert len(manifest["files"]) == 12
    size, _, sha256 = manifest["files"][str(folder / "sound_0000.wav")]
    assert size == (folder / "sound_0000.wav").stat().st_size
    row = manifest["contents"].index(f"audio:{sha256}")
    assert np.linalg.norm(np.load(store / manifest["embeddings"])[row]) == pytest.approx(1.0, abs=1e-5)


def test_names_start_as_the_paths_do(
    folder: Path, weights_folder: Path, small_model: AudioCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    given = [Path("mine/more"), folder / "picture_0001.png", Path("mine")]
    index = Index(given, describe_weights(str(weights_folder)), batch_size=5)
    assert index.update(lambda: small_model) == Update(found=12, embedded=12, removed=0, wrong={})
    paths = [entry.path for entry in index.entries]
    assert paths[:3] == ["mine/more/sound_0100.wav", "mine/more/sound_0101.wav", f"{folder}/picture_0001.png"]
    assert paths[3] == "mine/picture_0000.png" and len(paths) == 12


def test_a_missing_model_leaves_the_store_unchanged(
    weights_folder: Path, new_index: Callable[[], FolderIndex], update: Callable[[], Update]
) -> None:
    update()
    config = weights_folder / "config.json"
    content = config.read_text()

    def no_model() -> AudioCLIP:
        raise OSError("the weights are damaged")

    try:
        config.write_text(f"{content} ")
        with pytest.raises(OSError, match="the weights are damaged"):
            new_index().update(no_model)
    finally:
        config.write_text(content)
    assert update().embedded == 0


def test_the_store_is_saved_every_second_at_first_and_seldom_if_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, update: Callable[[], Update]
) -> None:
    now, saves = 0.0, list[float]()
    embed = embed_files

    def slow_embed(*given: object, **named: object) -> object:
        nonlocal now
        now += 0.6
        return embed(*given, **named)  # type: ignore[arg-type]

    def slow_write(*given: object) -> None:
        nonlocal now
        saves.append(round(now, 1))
        now += 0.1
        write_store(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "BATCH_SIZES", {"audio": 1, "image": 1})
    monkeypatch.setattr(indexing, "embed_files", slow_embed)
    monkeypatch.setattr(indexing, "write_store", slow_write)
    monkeypatch.setattr("time.monotonic", lambda: now)
    update()
    assert saves == [1.2, 3.7, 6.2, 7.5]  # the last one at the end


def test_a_store_leaves_other_files_alone(
    folder: Path, tmp_path: Path, weights_folder: Path, small_model: AudioCLIP
) -> None:
    results = tmp_path / "results"
    (results / "embeddings-old").mkdir(parents=True)
    (results / "embeddings-2024.parquet").write_text("mine")
    (results / MANIFEST).write_text("mine, too")
    for _ in range(2):
        index = FolderIndex(folder, describe_weights(str(weights_folder)), store=results)
        index.update(lambda: small_model)
    assert (results / "embeddings-2024.parquet").read_text() == "mine"
    assert (results / MANIFEST).read_text() == "mine, too"
    (store,) = results.glob("index-*")
    (store / "embeddings-2024.parquet").write_text("mine")
    (store / "manifest.json.0a1b2c3d.part").write_text("of a killed process")
    (folder / "sound_0000.wav").unlink()
    FolderIndex(folder, describe_weights(str(weights_folder)), store=results).update(lambda: small_model)
    assert (store / "embeddings-2024.parquet").read_text() == "mine"
    assert len([*store.iterdir()]) == 4  # with the lock, the manifest and the array


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    folder: Path, update: Callable[[], Update], small_model: AudioCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, final = folder / "sound_0000.wav", (folder / "sound_0001.wav").read_bytes()
    (folder / "sound_0001.wav").unlink()
    embed = small_model.embed_audio

    def embed_changed(*given: object, **named: object) -> object:
        changing.write_bytes(final + b"more")
        return embed(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(small_model, "embed_audio", embed_changed)
        first = update()
    assert first == Update(11, 10, 0, {"sound_0000.wav": "changed while it was read"})
    assert update() == Update(11, 1, 0, {})


def test_a_passing_error_is_not_kept(
    folder: Path, update: Callable[[], Update], small_model: AudioCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handles(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(small_model, "embed_audio", no_handles)
        first = update()
    assert (first.found, first.embedded, len(first.wrong)) == (12, 4, 8)
    assert {*first.wrong.values()} == {"cannot be read (Too many open files)"}
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", no_handles)
        (folder / "picture_0000.png").rename(folder / "renamed.png")
        (folder / "renamed.png").write_bytes((folder / "renamed.png").read_bytes() + b" ")
        assert update().wrong == {"renamed.png": "cannot be read (Too many open files)"}
    assert update() == Update(12, 1, 0, {})


def test_unusable_files_are_tried_again_by_another_decoder(
    folder: Path, update: Callable[[], Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = (folder / "sound_0000.wav").read_bytes()
    (folder / "sound_0000.wav").write_bytes(usable + b" ")

    def not_decodable(*_: object) -> None:
        raise ValueError("not decodable")

    with monkeypatch.context() as patch:
        patch.setattr("model.embedding.read_audio", not_decodable)
        assert len(update().wrong) == 8
    assert len(update().wrong) == 8
    monkeypatch.setattr(indexing, "_DECODERS", "newer ones")
    assert update() == Update(12, 8, 0, {})


def test_the_folder_of_any_command_has_its_embeddings(
    folder: Path,
    tmp_path: Path,
    weights_folder: Path,
    small_model: AudioCLIP,
    fill: Callable[..., None],
    cache_folder: Path,
) -> None:
    fill(tmp_path / "other", sounds=1, pictures=1, start=500)

    def embedded(*paths: Path) -> int:
        index = Index(paths, describe_weights(str(weights_folder)))
        update = index.update(lambda: small_model)
        assert update.found == len(index.entries)
        assert {*index.embedding(index.entries[0].path).shape} == {16}  # type: ignore[union-attr]
        return update.embedded

    assert embedded(folder) == 12
    assert embedded(folder / "picture_0000.png", folder / "sound_0001.wav") == 0
    assert embedded(tmp_path / "other", folder) == 2  # only those of the other folder
    assert embedded(folder / "picture_0001.png", tmp_path / "other/sound_0500.wav") == 0
    assert embedded(folder / "more", folder) == 2  # a new store, whose embeddings the next one takes
    assert embedded(folder) == embedded(tmp_path / "other") == embedded(folder / "more") == 0
    assert sorted(len(read_store(store).embeddings) for store in cache_folder.glob("index-*")) == [2, 2, 12]


def test_nested_folders_share_new_embeddings(
    folder: Path, weights_folder: Path, small_model: AudioCLIP
) -> None:
    index = Index([folder / "more", folder], describe_weights(str(weights_folder)))
    assert index.update(lambda: small_model).embedded == 12
    for path, files in ((folder, 12), (folder / "more", 2)):
        later = Index([path], describe_weights(str(weights_folder)))
        assert later.update(lambda: small_model) == Update(files, 0, 0, {})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_read(folder: Path, update: Callable[[], Update]) -> None:
    os.mkfifo(folder / "pipe.wav")
    assert update().wrong == {"pipe.wav": "cannot be read (not a regular file)"}


def test_files_that_cannot_be_looked_for_are_kept(folder: Path, update: Callable[[], Update]) -> None:
    update()
    (folder / "more").rename(folder.parent / "away")
    (folder / "more").symlink_to(folder / "more")  # a loop
    assert update() == Update(10, 0, 0, {})
    (folder / "more").unlink()
    (folder.parent / "away").rename(folder / "more")
    assert update() == Update(12, 0, 0, {})


def test_a_second_update_does_not_rank_deleted_files(
    folder: Path, new_index: Callable[[], FolderIndex], small_model: AudioCLIP
) -> None:
    index = new_index()
    index.update(lambda: small_model)
    for picture in folder.glob("*.png"):
        picture.unlink()
    update = index.update(lambda: small_model)
    assert update.removed == 4 and index.summary(update).endswith(
        "; newly embedded: 0, deleted files dropped: 4"
    )
    assert index.rank(index.entries[0].embedding, "image") == []
