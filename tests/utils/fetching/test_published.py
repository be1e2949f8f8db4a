"""Data sets are downloaded and unpacked completely, safely and once, by an argument or by command."""

from __future__ import annotations

import errno
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from model.weights import releases
from model.weights.fetch import FetchError
from utils import fetch as command
from utils.datasets import ESC50, FoldDataset, MadeSounds, UrbanSound8K
from utils.fetching import published
from utils.fetching.published import ESC_50, URBAN_SOUND_8K, Published, fetch_data_set
from utils.fetching.unpack import ArchiveError, unpack

if TYPE_CHECKING:
    from tests.conftest import Web

REPOSITORY = Path(__file__).parents[3]


def zip_of(members: Mapping[Any, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tar_gz_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.arange(100, dtype=np.int16), 44100, format="WAV")
    return out.getvalue()


ESC_FILES = {
    "ESC-50-master/": b"",
    "ESC-50-master/README.md": b"read me",
    "ESC-50-master/meta/esc50.csv": b"filename,fold,target,category,esc10\n"
    b"1-1-A-0.wav,1,0,dog,True\n2-2-A-1.wav,2,1,sea_waves,False\n",
    "ESC-50-master/audio/1-1-A-0.wav": sound(),
    "ESC-50-master/audio/2-2-A-1.wav": sound(),
}
URBAN_FILES = {
    "._UrbanSound8K": b"a Macintosh was here",
    "UrbanSound8K/metadata/UrbanSound8K.csv": b"slice_file_name,fold,classID,class\n"
    b"1-0-0-0.wav,1,0,air_conditioner\n2-1-0-0.wav,2,1,car_horn\n",
    "UrbanSound8K/audio/fold1/1-0-0-0.wav": sound(),
    "./UrbanSound8K/audio/fold2/2-1-0-0.wav": sound(),
}


@pytest.fixture
def publish(web: Web, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Published]]:
    """Return a function that replaces the published archives by small ones on the test's server."""

    def publish() -> dict[str, Published]:
        web.files["ESC-50-master.zip"] = zip_of(ESC_FILES)
        web.files["UrbanSound8K.tar.gz"] = tar_gz_of(URBAN_FILES)
        small = {}
        for data_set, kind in ((ESC_50, ESC50), (URBAN_SOUND_8K, UrbanSound8K)):
            archive = replace(data_set.archive, size_bytes=None, digest=None)
            few = replace(data_set, archive=archive, clips=2, archive_bytes=1000, unpacked_bytes=1000)
            monkeypatch.setattr(kind, "published", few)
            small[few.name] = few
        monkeypatch.setattr(published, "DATA_SETS", small)
        monkeypatch.setattr(command, "DATA_SETS", small)
        monkeypatch.setenv("AUDIOCLIP_MIRROR", web.url)
        return small

    return publish


def names(folder: Path) -> list[str]:
    """List everything in a folder except locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_the_published_data_sets_are_described() -> None:
    assert ESC_50.archive.url == "https://github.com/karolpiczak/ESC-50/archive/master.zip"
    assert (ESC_50.clips, URBAN_SOUND_8K.clips) == (2000, 8732)
    assert URBAN_SOUND_8K.archive.url.endswith("/1203745/files/UrbanSound8K.tar.gz")
    assert (ESC50.published, UrbanSound8K.published) == (ESC_50, URBAN_SOUND_8K)


@pytest.mark.parametrize("kind", [ESC50, UrbanSound8K])
def test_a_missing_data_set_is_fetched_and_unpacked(
    kind: type[FoldDataset], publish: Callable[[], object], web: Web, tmp_path: Path
) -> None:
    publish()
    root = tmp_path / "data" / kind.title
    for _ in range(2):
        assert len(kind(root, fold=1, download=True)) == 1
    assert names(root.parent) == [kind.title]
    assert sum(map(len, web.asked.values())) == 1
    assert len(kind(root)) == 2


def test_an_empty_root_is_filled_and_any_other_is_not_changed(
    publish: Callable[[], object], web: Web, tmp_path: Path
) -> None:
    publish()
    (tmp_path / "data/empty").mkdir(parents=True)
    assert len(ESC50(tmp_path / "data/empty", download=True)) == 2
    with pytest.raises(FileNotFoundError, match=r"a folder deeper: use .*/empty"):
        ESC50(tmp_path / "data", download=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    with pytest.raises(FetchError, match=r"other: contains something other than ESC-50\. Name a folder"):
        ESC50(tmp_path / "other", download=True)
    assert names(tmp_path / "other") == ["thesis.tex"]
    assert sum(map(len, web.asked.values())) == 1


def test_nothing_is_fetched_without_a_request(
    publish: Callable[[], object], web: Web, tmp_path: Path
) -> None:
    publish()
    with pytest.raises(FileNotFoundError, match="is not a folder; ESC-50 is expected there"):
        ESC50(tmp_path / "data")
    with pytest.raises(ValueError, match="download is 'false'; true or false is expected"):
        ESC50(tmp_path / "data", download="false")  # type: ignore[arg-type]
    arguments: dict[str, Any] = {"download": True}
    with pytest.raises(TypeError, match="download"):
        MadeSounds(tmp_path / "data", **arguments)

    class Mine(UrbanSound8K):
        published = None

    with pytest.raises(ValueError, match="can only be put into its root by hand"):
        Mine(tmp_path / "data", download=True)
    assert not web.asked


CLIP, TABLE = "ESC-50-master/audio/1-1-A-0.wav", "ESC-50-master/meta/esc50.csv"


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (
            {k: v for k, v in ESC_FILES.items() if k != CLIP},
            "contains 1 of the 2 clips in its table; ESC-50 has 2",
        ),
        (
            {**ESC_FILES, TABLE: b"filename\n1-1-A-0.wav\n"},
            "contains 1 of the 1 clips in its table; ESC-50 has 2",
        ),
        ({k: v for k, v in ESC_FILES.items() if k != TABLE}, "its meta/esc50.csv cannot be read"),
        ({**ESC_FILES, TABLE: b"a,b\n1,2\n"}, "cannot be read"),
        ({}, "has no folder ESC-50-master, so it is not the expected archive"),
    ],
)
def test_an_incomplete_archive_is_deleted(
    files: dict[str, bytes], complaint: str, publish: Callable[[], object], web: Web, tmp_path: Path
) -> None:
    publish()
    web.files["ESC-50-master.zip"] = zip_of(files)
    with pytest.raises(ArchiveError, match=re.escape(complaint)):
        ESC50(tmp_path / "data/ESC-50", download=True)
    assert names(tmp_path / "data") == []
    web.files["ESC-50-master.zip"] = zip_of(ESC_FILES)
    assert len(ESC50(tmp_path / "data/ESC-50", download=True)) == 2


def test_a_damaged_archive_is_deleted(publish: Callable[[], object], web: Web, tmp_path: Path) -> None:
    publish()
    for name, kind in (("ESC-50-master.zip", ESC50), ("UrbanSound8K.tar.gz", UrbanSound8K)):
        whole = web.files[name]
        flipped = whole[:200] + bytes([whole[200] ^ 16]) + whole[201:]  # a bit of the first member
        for cut in (whole[: len(whole) // 2], whole[:-10], b"<html>", b"", flipped):
            web.files[name] = cut
            with pytest.raises((ArchiveError, FetchError), match=re.escape(name)):
                kind(tmp_path / "data/set", download=True)
            assert names(tmp_path / "data") == []


def test_an_archive_downloaded_by_hand_is_used_and_kept(
    publish: Callable[[], object], web: Web, tmp_path: Path
) -> None:
    publish()
    (tmp_path / "ESC-50-master.zip").write_bytes(zip_of({"a": b""}))
    with pytest.raises(ArchiveError, match=r"not the expected archive\. Remove it to download it again\."):
        ESC50(tmp_path / "ESC-50", download=True)
    (tmp_path / "ESC-50-master.zip").write_bytes(web.files["ESC-50-master.zip"])
    assert len(ESC50(tmp_path / "ESC-50", download=True)) == 2
    assert (tmp_path / "ESC-50-master.zip").exists()
    assert not web.asked


def test_only_one_of_several_threads_downloads(
    publish: Callable[[], dict[str, Published]], web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_ROOM", 10_000)
    data_set = publish()["UrbanSound8K"]
    web.delay_seconds = 0.2
    with ThreadPoolExecutor(4) as pool:
        roots = list(pool.map(lambda _: fetch_data_set(data_set, tmp_path / "data/US8K"), range(4)))
    assert roots == [tmp_path / "data/US8K"] * 4
    assert web.asked["/UrbanSound8K.tar.gz"] == [""]


def test_a_full_disk_is_an_error_before_the_download(
    publish: Callable[[], dict[str, Published]], web: Web, tmp_path: Path
) -> None:
    huge = replace(publish()["ESC-50"], unpacked_bytes=10**18)
    with pytest.raises(FetchError, match=r"not enough space; 1\d{18} bytes are needed"):
        fetch_data_set(huge, tmp_path / "data/ESC-50")
    assert not web.asked
    assert names(tmp_path / "data") == []


def test_a_disk_that_fills_up_while_unpacking_leaves_no_incomplete_data_set(
    publish: Callable[[], dict[str, Published]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data_set = publish()["ESC-50"]
    monkeypatch.setattr("utils.fetching.unpack.shutil.copyfileobj", full)
    with pytest.raises(FetchError, match=r"ESC-50 cannot be written there .*No space left"):
        fetch_data_set(data_set, tmp_path / "disk/set")
    assert names(tmp_path / "disk") == ["ESC-50-master.zip"]


def extract(folder: Path, archive: bytes, *, most_bytes: int = 1000) -> Path:
    """Unpack an archive into a new folder."""
    (folder / "archive").write_bytes(archive)
    (folder / "out").mkdir()
    unpack(folder / "archive", folder / "out", top="top", most_bytes=most_bytes)
    return folder / "out"


def tar_of(*entries: tuple[str, dict[str, Any]]) -> bytes:
    """Make a tar archive of empty members with these attributes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, attributes in entries:
            entry = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(entry, key, value)
            archive.addfile(entry)
    return out.getvalue()


def zip_of_a_link() -> bytes:
    entry = zipfile.ZipInfo("top/link")
    entry.external_attr = 0o120777 << 16
    return zip_of({entry: b"/etc"})


LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
HOLE = {"pax_headers": {"GNU.sparse.size": str(10**15), "GNU.sparse.map": "0,0"}}
TOO_MUCH = "contains more than 100,000 files or 1,000 bytes"
OUTSIDE = ("../evil", "top/../../evil", "/tmp/evil", "top/a\\..\\..\\evil")
UNSAFE: list[tuple[bytes, str]] = [
    *((zip_of({"top/good": b"1", name: b"2"}), "unsafe; .* would be written outside") for name in OUTSIDE),
    *((tar_gz_of({"top/good": b"1", name: b"2"}), "unsafe; .* would be written outside") for name in OUTSIDE),
    *(
        (tar_of(("top/link", {"type": kind, "linkname": "x"})), "unsafe; top/link is a link")
        for kind in LINKS
    ),
    (zip_of_a_link(), "unsafe; top/link is a link or a device"),
    (zip_of({"top/small": b"1", "top/zeros": bytes(10**7)}), TOO_MUCH),
    (tar_gz_of({"top/small": b"1", "top/zeros": bytes(10**7)}), TOO_MUCH),
    (tar_of(("top/hole", HOLE)), "unsafe; it contains more than"),
    (tar_of(("top/a", {}), ("top/a/b", {})), "unsafe; top/a/b occurs twice, or is both a file and a folder"),
    (tar_of(("top/a", {}), ("top/a", {})), "unsafe; top/a occurs twice, or is both a file and a folder"),
]


@pytest.mark.parametrize(("archive", "said"), UNSAFE, ids=range(len(UNSAFE)))
def test_an_unsafe_archive_is_refused(archive: bytes, said: str, tmp_path: Path) -> None:
    """Members outside the folder, links, devices, too large contents and repeated names are unsafe."""
    with pytest.raises(ArchiveError, match=said):
        extract(tmp_path, archive)
    assert names(tmp_path) == ["archive", "out"]
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 1


def test_an_archive_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.fetching.unpack.MOST_FILES", 10)
    with pytest.raises(ArchiveError, match="unsafe; it contains more than 10 files"):
        extract(tmp_path, zip_of({f"top/{number}": b"" for number in range(11)}))


def test_unpacked_files_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    folder = extract(tmp_path, tar_of(("top/program", {"mode": 0o4777})))
    assert not (folder / "program").stat().st_mode & 0o7111


def test_the_command_downloads_by_name(
    publish: Callable[[], object],
    web: Web,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish()
    monkeypatch.chdir(tmp_path)
    assert command.main(["ESC-50", "UrbanSound8K", "ESC-50"]) == 0
    assert (tmp_path / "data/ESC-50/meta/esc50.csv").is_file()
    data = tmp_path / "data"
    assert capsys.readouterr().out == f"ESC-50: {data}/ESC-50\nUrbanSound8K: {data}/UrbanSound8K\n"
    assert command.main(["ESC-50", "--to", "elsewhere", "--mirror", f"{web.url}/none"]) == 1
    assert "elsewhere/ESC-50-master.zip: missing, and" in capsys.readouterr().err

    web.files["CLIP.pt"] = b"not the published file"
    assert command.main(["CLIP", "ESC-50", "--to", "here"]) == 1
    captured = capsys.readouterr()
    assert "the server's file has 22 bytes instead of 408415159" in captured.err
    assert captured.out == f"ESC-50: {tmp_path}/here/ESC-50\n"
    assert names(tmp_path / "here") == ["ESC-50"]


def test_the_command_puts_weights_into_the_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "DEFAULT_ASSETS", tmp_path)
    assert releases.DEFAULT_ASSETS == REPOSITORY / "assets"
    (tmp_path / "CLIP.pt").write_bytes(b"weights")
    clip = replace(releases.RELEASES["CLIP"], size_bytes=7)
    monkeypatch.setattr(command, "RELEASES", {"CLIP": clip})
    assert command.main(["CLIP"]) == 0
    assert capsys.readouterr().out == f"CLIP: {tmp_path}/CLIP.pt\n"


def test_the_help_lists_names_sizes_and_places_without_importing_torch() -> None:
    run = [sys.executable, "-X", "importtime", "-m", "utils.fetch", "--help"]
    result = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    entries = [f"  {name} " for name in (*releases.RELEASES, *published.DATA_SETS)]
    sizes = ["537 MB  assets/AudioCLIP-Full-Training.pt", "6024 MB  data/UrbanSound8K/"]
    for part in (*entries, *sizes, "AUDIOCLIP_MIRROR"):
        assert part in result.stdout
    assert not re.search(r"\| +torch$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("AudioCLIP-Full-Traning", "AudioCLIP-Full-Training"), ("ESC50", "ESC-50"), ("esc50", "ESC-50")],
)
def test_a_misspelt_name_is_an_error_with_a_suggestion(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["ESC-50", name])
    said = f'"{name}" is not the name of weights or a data set; did you mean "{meant}"?'
    assert said in capsys.readouterr().err
