"""The cache of decoded audio is made once, never incomplete, and made again when its sources change."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import utils.datasets.sources.cache
from model.audio_input import Waveform, read_audio
from model.storage.places import default_cache_folder
from utils.datasets import ESC50

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture
def drive() -> set[str]:
    """Names of files on an unavailable drive; tests add to them."""
    return set()


@pytest.fixture(autouse=True)
def decoded(monkeypatch: pytest.MonkeyPatch, drive: set[str]) -> list[str]:
    """Record the names of decoded files."""
    names: list[str] = []

    def read(path: Path, sample_rate: int, mono: bool | None = None) -> Waveform:
        names.append(path.name)
        if path.name in drive:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read_audio(path, sample_rate, mono)

    monkeypatch.setattr("utils.datasets.esc50.read_audio", read)
    return names


def stores(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.suffix != ".lock")


def test_every_clip_is_decoded_once_for_all_folds(
    esc50: Path, cache_folder: Path, decoded: list[str]
) -> None:
    for fold in (1, 2, None):
        for train in (True, False):
            list(ESC50(esc50, fold=fold, train=train))
    assert sorted(decoded) == sorted(path.name for path in (esc50 / "audio").iterdir())
    assert len(stores(cache_folder)) == 1


def test_a_changed_file_is_decoded_again(esc50: Path, decoded: list[str]) -> None:
    ESC50(esc50).prepare()
    path = esc50 / "audio/1-1000-A-4.wav"
    time = path.stat().st_mtime_ns
    new = np.arange(100, dtype=np.int16)  # as long as the old one
    soundfile.write(path, new, 44100)
    os.utime(path, ns=(time, time + 1000))
    np.testing.assert_array_equal(ESC50(esc50)[0].audio[0], new)
    assert len(decoded) == 30
    os.utime(path, ns=(time, time))
    ESC50(esc50).prepare()
    assert len(decoded) == 30


def test_each_setting_has_a_separate_cache(esc50: Path, cache_folder: Path, decoded: list[str]) -> None:
    settings = [{}, {"mono": True}, {"mono": False}, {"sample_rate": 22050}, {"esc10": True}]
    for _ in range(2):
        for arguments in settings:
            ESC50(esc50, **arguments).prepare()  # type: ignore[arg-type]
    assert len(stores(cache_folder)) == 5
    assert len(decoded) == 4 * 15 + 10


@pytest.mark.parametrize("what", ["format", "library", "rule"])
def test_another_version_makes_a_new_cache(
    esc50: Path, decoded: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ESC50(esc50).prepare()
    if what == "format":
        monkeypatch.setattr(utils.datasets.sources.cache, "FORMAT_VERSION", -1)
    elif what == "library":
        monkeypatch.setattr(soundfile, "__libsndfile_version__", "0.0.0")
    else:
        monkeypatch.setattr(ESC50, "decoding", "another rule")
    ESC50(esc50).prepare()
    assert len(decoded) == 30


def test_made_from_json_records_settings_and_files(esc50: Path, cache_folder: Path) -> None:
    ESC50(esc50).prepare()
    record = json.loads((stores(cache_folder)[0] / "made_from.json").read_text())
    assert record["settings"] == {"decoding": "resampled", "mono": None, "sample_rate": 44100}
    assert len(record["files"]) == 15
    path, size, time = record["files"][0]
    status = (esc50 / path).stat()
    assert (size, time) == (status.st_size, status.st_mtime_ns)


def test_a_moved_data_set_keeps_its_cache(esc50: Path, decoded: list[str]) -> None:
    ESC50(esc50).prepare()
    ESC50(esc50.rename(esc50.with_name("moved"))).prepare()
    assert len(decoded) == 15


def test_16_bit_clips_take_2_bytes_a_sample_and_others_4(esc50: Path, cache_folder: Path) -> None:
    ESC50(esc50).prepare()
    audio = stores(cache_folder)[0] / "audio.bin"
    lengths = range(100, 115)
    assert audio.stat().st_size == sum(2 * (length + length % 2) for length in lengths)

    exact = np.random.default_rng(0).uniform(-1.5, 1.5, 100).astype(np.float32)  # beyond full scale
    soundfile.write(esc50 / "audio/1-1000-A-4.wav", exact, 44100, subtype="FLOAT")
    dataset = ESC50(esc50)
    np.testing.assert_array_equal(dataset[0].audio[0], exact * np.float32(32768))
    larger = max(path.stat().st_size for path in cache_folder.glob("*/audio.bin"))
    assert larger == audio.stat().st_size + 200


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 2])
def test_stored_clips_are_identical(esc50: Path, subtype: str, channels: int) -> None:
    path = esc50 / "audio/1-1000-A-4.wav"
    soundfile.write(path, np.random.default_rng(1).uniform(-1, 1, (77, channels)), 44100, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(ESC50(esc50)[0].audio, expected.T * 32768)


def test_equal_channels_are_stored_once(esc50: Path, cache_folder: Path) -> None:
    expected = [sample.audio for sample in ESC50(esc50)]
    doubled = ESC50(esc50, mono=False)
    sizes = {path.stat().st_size for path in cache_folder.glob("*/audio.bin")}
    assert len(sizes) == 1
    for sample, audio in zip(doubled, expected, strict=True):
        np.testing.assert_array_equal(sample.audio, np.concatenate([audio, audio]))


def test_a_full_disk_is_an_error_with_folder_and_remedy(
    esc50: Path, cache_folder: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with full_disk(), pytest.raises(OSError, match="cannot be written") as caught:
        ESC50(esc50).prepare()
    message = str(caught.value)
    assert message.startswith(f"cache is {cache_folder}, where decoded audio cannot be written (")
    assert "another folder with the argument cache or the environment variable AUDIOCLIP_CACHE" in message
    assert stores(cache_folder) == []


def test_a_cache_that_cannot_be_a_folder_is_an_error(esc50: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for cache in (file, file / "deeper"):
        with pytest.raises(OSError, match=re.escape(f"cache is {cache}, where decoded audio cannot")):
            ESC50(esc50, cache=cache).prepare()


def test_the_remains_of_an_interrupted_run_are_never_used(
    esc50: Path, cache_folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            ESC50(esc50).prepare()
    assert stores(cache_folder) == []
    partial = cache_folder / next(cache_folder.glob("*.lock")).with_suffix(".partial").name
    partial.mkdir()  # a killed process cannot clean up
    (partial / "audio.bin").write_bytes(b"half")
    (partial / "index.npy").write_bytes(b"half")
    assert ESC50(esc50)[0].audio.shape == (1, 100)
    assert len(decoded) == 30
    assert [path.suffix for path in stores(cache_folder)] == [""]


@pytest.mark.parametrize("name", ["audio.bin", "index.npy"])
@pytest.mark.parametrize("keep", [None, 0, 50])
def test_a_damaged_cache_is_made_again(
    esc50: Path, cache_folder: Path, decoded: list[str], name: str, keep: int | None
) -> None:
    expected = ESC50(esc50)[14].audio
    file = stores(cache_folder)[0] / name
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    np.testing.assert_array_equal(ESC50(esc50)[14].audio, expected)
    assert len(decoded) == 30


def test_each_data_set_has_a_separate_cache(esc50: Path, cache_folder: Path) -> None:
    class Louder(ESC50):
        def decode(self, path: Path) -> Waveform:
            return 2 * super().decode(path)

    quiet, loud = ESC50(esc50)[3].audio, Louder(esc50)[3].audio
    np.testing.assert_array_equal(loud, 2 * quiet)
    assert [path.name.split("-")[0] for path in stores(cache_folder)] == ["ESC50", "Louder"]


def test_the_cache_folder_is_taken_from_the_argument_the_environment_or_the_home(
    esc50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_cache_folder() == tmp_path / "cache"
    ESC50(esc50, cache=tmp_path / "chosen").prepare()
    assert len(stores(tmp_path / "chosen")) == 1
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("AUDIOCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg/audioclip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_folder() == tmp_path / "home/.cache/audioclip"


def test_two_simultaneous_processes_decode_once(esc50: Path, cache_folder: Path) -> None:
    script = """
import sys, time
from utils.datasets import ESC50

class Slow(ESC50):
    def decode(self, path):
        print("decoding", path.name)
        time.sleep(0.02)
        return super().decode(path)

print("ready", flush=True)
sys.stdin.readline()
print("sum", int(sum(abs(sample.audio).sum(dtype=float) for sample in Slow(sys.argv[1]))))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "error", "-c", script, str(esc50)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(output.count("decoding") for output in outputs) == 15
    sums = {output.splitlines()[-1] for output in outputs}
    expected = sum(np.abs(sample.audio).sum(dtype=float) for sample in ESC50(esc50))
    assert sums == {f"sum {int(expected)}"}
    assert len(list(cache_folder.glob("Slow-*/audio.bin"))) == 1


# During a run


def test_an_open_cache_survives_its_deletion(esc50: Path, cache_folder: Path) -> None:
    data = ESC50(esc50)
    before = data[3].audio
    shutil.rmtree(cache_folder)
    assert np.array_equal(data[3].audio, before)


@pytest.mark.parametrize("in_batches", [False, True])
def test_a_cache_deleted_before_its_first_access_is_an_error(
    esc50: Path, cache_folder: Path, in_batches: bool
) -> None:
    data = ESC50(esc50)
    data.prepare()
    (file,) = cache_folder.glob("*/audio.bin")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"audio\.bin was deleted .* decoded again"):
        data.read_batch([0]) if in_batches else data[0]


def test_a_truncated_cache_is_an_error_and_does_not_kill_the_process(esc50: Path, cache_folder: Path) -> None:
    data = ESC50(esc50)
    data[0]
    (file,) = cache_folder.glob("*/audio.bin")
    with file.open("r+b") as opened:
        opened.truncate(10)
    with pytest.raises(OSError, match=r"audio\.bin was cut short .* decoded again"):
        data[14]


def test_clips_that_do_not_decode_are_skipped_on_request(esc50: Path, cache_folder: Path) -> None:
    (esc50 / "audio/1-1000-A-4.wav").write_bytes(b"RIFF and nothing more")
    dataset = ESC50(esc50)
    with pytest.raises(ValueError, match=r'1 of its \d+ clips cannot be decoded:\n.*\n.*"skip" continues'):
        dataset.prepare()
    assert not stores(cache_folder)
    dataset.prepare(skip_unreadable=True)
    broken = next(i for i, clip in enumerate(dataset.clips) if clip.path.endswith("1-1000-A-4.wav"))
    others = [i for i in range(len(dataset)) if i != broken]
    with pytest.raises(OSError, match=r"1-1000-A-4\.wav"):
        dataset[broken]
    with pytest.raises(OSError, match=r"1-1000-A-4\.wav"):
        dataset.read_batch([others[0], broken])
    for index in others[:3]:
        np.testing.assert_array_equal(dataset[index].audio, dataset.look_at(index).audio)
    assert len(dataset.read_batch(others).labels) == len(others)


def test_an_incomplete_cache_is_an_error_unless_clips_may_be_skipped(esc50: Path, decoded: list[str]) -> None:
    (esc50 / "audio/1-1000-A-4.wav").write_bytes(b"RIFF and nothing more")
    ESC50(esc50).prepare(skip_unreadable=True)
    count = len(decoded)
    ESC50(esc50, fold=1).prepare(skip_unreadable=True)
    with pytest.raises(ValueError, match=r"1 of its \d+ clips cannot be decoded"):
        ESC50(esc50).prepare()
    assert decoded[count:] == ["1-1000-A-4.wav"] * 2  # each data set tries this clip again


def test_a_data_set_without_decodable_clips_is_always_an_error(esc50: Path) -> None:
    for path in (esc50 / "audio").iterdir():
        path.write_bytes(b"RIFF and nothing more")
    with pytest.raises(ValueError, match=r"cannot be decoded"):
        ESC50(esc50).prepare(skip_unreadable=True)


def test_lack_of_memory_is_not_taken_for_a_damaged_clip(esc50: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> Waveform:
        raise MemoryError

    monkeypatch.setattr("utils.datasets.esc50.read_audio", read)
    with pytest.raises(MemoryError):
        ESC50(esc50).prepare(skip_unreadable=True)


def test_the_next_run_retries_only_failed_clips(esc50: Path, decoded: list[str], drive: set[str]) -> None:
    damaged = "1-1001-A-0.wav"
    (esc50 / f"audio/{damaged}").write_bytes(b"RIFF and nothing more")
    drive |= {"1-1000-A-4.wav"}
    first = ESC50(esc50)
    first.prepare(skip_unreadable=True)
    names = [Path(clip.path).name for clip in first.clips]
    away, broken = names.index("1-1000-A-4.wav"), names.index(damaged)
    with pytest.raises(OSError, match=r"Input/output error.*1-1000-A-4\.wav"):
        first[away]

    decoded.clear()
    ESC50(esc50).prepare(skip_unreadable=True)  # the drive is still unavailable
    assert sorted(decoded) == ["1-1000-A-4.wav", damaged]
    drive.clear()
    second = ESC50(esc50)
    second.prepare(skip_unreadable=True)
    assert sorted(decoded) == ["1-1000-A-4.wav"] * 2 + [damaged] * 2
    for index in set(range(len(names))) - {broken}:
        np.testing.assert_array_equal(second[index].audio, second.look_at(index).audio)
        if index != away:
            np.testing.assert_array_equal(first[index].audio, second[index].audio)
    with pytest.raises(OSError, match=damaged):
        second[broken]
    with pytest.raises(OSError, match="Input/output error"):
        first[away]  # a run keeps the clips with which it started

    decoded.clear()
    ESC50(esc50, fold=1).prepare(skip_unreadable=True)
    assert decoded == [damaged]


def test_clips_that_can_be_read_again_cause_no_error(esc50: Path, drive: set[str]) -> None:
    drive |= {"1-1000-A-4.wav"}
    ESC50(esc50).prepare(skip_unreadable=True)
    with pytest.raises(ValueError, match=r"1 of its \d+ clips cannot be decoded"):
        ESC50(esc50).prepare()
    drive.clear()
    ESC50(esc50).prepare()


def test_failures_in_an_older_cache_are_retried(
    esc50: Path, cache_folder: Path, decoded: list[str], drive: set[str]
) -> None:
    drive |= {"1-1000-A-4.wav"}
    ESC50(esc50).prepare(skip_unreadable=True)
    (failed,) = cache_folder.glob("*/failed.json")
    older = {key: [error, True] for key, error in json.loads(failed.read_text()).items()}
    failed.write_text(json.dumps(older))
    drive.clear()
    decoded.clear()
    ESC50(esc50).prepare()
    assert decoded == ["1-1000-A-4.wav"]


def test_a_truncated_cache_with_appended_clips_is_made_again(
    esc50: Path, cache_folder: Path, drive: set[str], decoded: list[str]
) -> None:
    drive |= {"1-1000-A-4.wav"}
    ESC50(esc50).prepare(skip_unreadable=True)
    drive.clear()
    ESC50(esc50).prepare(skip_unreadable=True)
    (file,) = cache_folder.glob("*/audio.bin")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 4)
    decoded.clear()
    ESC50(esc50).prepare()
    assert len(decoded) == 15
