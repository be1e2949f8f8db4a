"""`embed`: the files that it writes, and going on after the process was killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pyarrow import parquet
from safetensors import safe_open
from toy_research.protocols import Done

from model.audioclip import AudioCLIP
from model.commands import embed as embedding
from model.commands import index as indexing
from model.commands.store import read_store

ROOT = Path(__file__).parents[3]


def expected(model: AudioCLIP, paths: list[str]) -> NDArray[np.float32]:
    """Embed each file alone."""
    rows = [
        (model.embed_audio if path.endswith(".wav") else model.embed_image)(path).numpy()[0] for path in paths
    ]
    return np.stack(rows)


def sha256s(paths: list[str]) -> list[str]:
    return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]


def weights_sha256s(folder: Path) -> dict[str, str]:
    names = ["config.json", "model.safetensors"]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_parquet_has_the_embeddings_of_the_files(
    folder: Path, command: Callable[..., Done], small_model: AudioCLIP, weights_folder: Path
) -> None:
    out = folder.parent / "embeddings.parquet"
    out.write_text("old")
    done = command("embed", folder / "more", folder, "--out", out, "--batch-size", "3")
    assert done == (0, "", "8 sounds, 4 images; newly embedded: 12\n")
    table = parquet.read_table(out)
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<element: float")
    columns = table.to_pydict()
    paths = columns["path"]
    assert paths[:3] == [
        f"{folder}/more/sound_0100.wav",
        f"{folder}/more/sound_0101.wav",
        f"{folder}/picture_0000.png",
    ]
    assert columns["kind"] == ["audio" if path.endswith(".wav") else "image" for path in paths]
    assert columns["sha256"] == sha256s(paths)
    np.testing.assert_allclose(columns["embedding"], expected(small_model, paths), atol=1e-5)
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert facts["weights"] == "small" and json.loads(facts["weights_sha256"]) == weights_sha256s(
        weights_folder
    )


def test_safetensors_has_the_embeddings_of_the_files(
    folder: Path, command: Callable[..., Done], small_model: AudioCLIP, weights_folder: Path
) -> None:
    out = folder.parent / "embeddings.safetensors"
    assert command("embed", folder, "--out", out).status == 0
    with safe_open(out, framework="numpy") as file:
        rows, facts = file.get_tensor("embeddings"), file.metadata()
    paths = json.loads(facts["paths"])
    assert rows.dtype == np.float32 and len(paths) == 12
    np.testing.assert_allclose(rows, expected(small_model, paths), atol=1e-5)
    assert json.loads(facts["kinds"]).count("image") == 4
    assert json.loads(facts["sha256"]) == sha256s(paths)
    assert facts["weights"] == "small" and json.loads(facts["weights_sha256"]) == weights_sha256s(
        weights_folder
    )


def test_unusable_files_are_named_and_the_others_written(folder: Path, command: Callable[..., Done]) -> None:
    (folder / "broken.wav").write_bytes(b"RIFF and no more")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "notes.txt").write_text("neither")  # as part of a folder, it is skipped
    out = folder.parent / "embeddings.parquet"
    done = command("embed", folder, folder / "notes.txt", "--out", out)
    assert (done.status, done.out) == (1, "")
    first, *wrong = done.err.splitlines()
    assert first == "8 sounds, 4 images; newly embedded: 12, unusable: 3"
    assert sorted(wrong) == [
        f"{folder}/broken.wav: not decodable as audio (Format not recognised).",
        f"{folder}/gone.png: cannot be read (No such file or directory)",
        f"{folder}/notes.txt: neither a sound nor an image by its suffix",
    ]
    assert parquet.read_table(out).num_rows == 12


def test_a_broken_link_is_named_too_if_it_is_given(folder: Path, command: Callable[..., Done]) -> None:
    gone, out = folder.parent / "gone.png", folder.parent / "embeddings.parquet"
    gone.symlink_to(folder / "nowhere.png")
    done = command("embed", gone, folder, "--out", out)
    assert done.status == 1
    assert done.err.splitlines()[1:] == [f"{gone}: cannot be read (No such file or directory)"]
    assert parquet.read_table(out).num_rows == 12


def test_errors_control_no_terminal(folder: Path, command: Callable[..., Done]) -> None:
    done = command("embed", folder / "a\x1b[31m.wav", "--out", folder.parent / "x.parquet")
    assert done.err == f"{folder}/a\\x1b[31m.wav: no such file or folder.\n"


def test_a_full_memory_of_the_gpu_is_explained(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(indexing, "embed_files", run_out)
    done = command("embed", folder, "--out", folder.parent / "x.parquet")
    assert done.status == 1 and "--batch-size" in done.err


def test_without_a_usable_file_nothing_is_written(folder: Path, command: Callable[..., Done]) -> None:
    out = folder.parent / "embeddings.safetensors"
    (folder.parent / "empty").mkdir()
    done = command("embed", folder.parent / "empty", "--out", out)
    assert done.status == 1
    assert done.err.splitlines()[-1] == f"There is no sound or image; {out} is not written."
    assert not out.exists()


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if weights are looked for."""

    def open_weights(source: str | None) -> None:
        raise AssertionError(f"looked for weights {source}")

    monkeypatch.setattr(embedding, "open_weights", open_weights)


@pytest.mark.usefixtures("_no_work")
@pytest.mark.parametrize(
    ("out", "status", "said"),
    [
        ("{tmp}/x.csv", 2, "{tmp}/x.csv must end in .parquet or .safetensors."),
        ("{tmp}/absent/x.parquet", 1, "{tmp}/absent/x.parquet: the folder {tmp}/absent does not exist."),
        ("{tmp}/folder.parquet", 1, "{tmp}/folder.parquet is a folder; name a file."),
    ],
)
def test_wrong_outputs_are_reported_first(
    folder: Path, tmp_path: Path, command: Callable[..., Done], out: str, status: int, said: str
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    done = command("embed", folder, "--out", out.format(tmp=tmp_path))
    assert done == (status, "", said.format(tmp=tmp_path) + "\n")


@pytest.mark.usefixtures("_no_work")
def test_without_pyarrow_the_error_says_what_to_install(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = command("embed", folder, "--out", folder.parent / "x.parquet")
    assert done.status == 1
    assert done.err.startswith(".parquet files need pyarrow, which cannot be imported (")
    assert done.err.endswith('pip install ".[parquet]". A .safetensors file needs nothing more.\n')


def test_an_interrupted_command_says_that_it_can_be_continued(
    folder: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(indexing, "embed_files", interrupt)
    done = command("embed", folder, "--out", folder.parent / "x.parquet")
    assert done == (130, "", "Stopped. Finished embeddings are kept; the same command continues.\n")


@pytest.mark.processes
def test_after_a_kill_the_same_command_embeds_only_the_rest(
    tmp_path: Path, fill: Callable[..., None], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.small_backbone import SMALL_AUDIOCLIP, published_backbone

    count = 150
    fill(tmp_path / "mine", sounds=count, pictures=0, seconds=0.5)
    with published_backbone():
        AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False).save_pretrained(tmp_path / "weights")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [sys.executable, "-m", "model", "embed", "mine", "--out", "x.safetensors", "--weights", "weights"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AUDIOCLIP_CACHE": str(cache_folder)}
    command = subprocess.Popen([*words, "--batch-size", "1"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 120
    while not (stores := [*cache_folder.glob("index-*/manifest.json")]):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    command.send_signal(signal.SIGKILL)
    command.wait()
    kept = len(read_store(stores[0].parent).embeddings)
    assert 0 < kept < count and not (tmp_path / "x.safetensors").exists()
    again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert again.stderr == (f"{count} sounds, 0 images; newly embedded: {count - kept}\n")
    with safe_open(tmp_path / "x.safetensors", framework="numpy") as file:
        assert file.get_slice("embeddings").get_shape() == [count, 16]
    assert len([*stores[0].parent.glob("embeddings-*")]) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
@pytest.mark.parametrize("columns", [0, 100])
def test_a_terminal_shows_loading_and_a_bar(
    folder: Path,
    weights_folder: Path,
    columns: int,
    command: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", columns and 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert command("embed", folder, "--out", folder.parent / "x.safetensors").status == 0
        terminal.flush()
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert f"Loading the weights {weights_folder.name} ..." in shown
    assert "12/12" in shown and "files/s" in shown
