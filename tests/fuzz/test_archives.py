"""Mutated archives: each is unpacked or causes an error that names it; nothing is written elsewhere."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
import zipfile
from typing import TYPE_CHECKING, Literal

import pytest

from utils.fetching.unpack import ArchiveError, unpack

if TYPE_CHECKING:
    from tests.fuzz.conftest import TryCases

MOST_BYTES = 10_000
NAMES = {"top/a": 0, "top/d/b": 100, "top/" + "d/" * 60 + "c": 300}


def make_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in NAMES.items():
            archive.writestr(name, bytes(size))
    return file.getvalue()


def make_tar(mode: Literal["w:", "w:gz", "w:bz2", "w:xz"]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, size in NAMES.items():
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(bytes(size)))
    return file.getvalue()


ARCHIVES = [make_zip(), make_tar("w:"), make_tar("w:gz"), make_tar("w:bz2"), make_tar("w:xz")]


def mutated(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        at, kind = rng.randrange(len(found)), rng.randrange(4)
        if kind <= 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            found[at : at + width] = bytes([rng.choice((0, 0xFF, 0x7F, ord("7")))]) * width
        elif len(found) > 100:
            del found[at : at + rng.randrange(1, 50)]
    return bytes(found)


@pytest.mark.parametrize("cases", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_mutated_archive_is_an_error_or_unpacked(
    try_cases: TryCases, tmp_path_factory: pytest.TempPathFactory, cases: int
) -> None:
    root = tmp_path_factory.mktemp("archives")

    def case(rng: random.Random) -> bool:
        (root / "archive").write_bytes(mutated(rng.choice(ARCHIVES), rng))
        shutil.rmtree(root / "folder", ignore_errors=True)
        (root / "folder").mkdir()
        try:
            unpack(root / "archive", root / "folder", top="top", most_bytes=MOST_BYTES, progress=False)
            done = True
        except ArchiveError as error:
            assert str(error).startswith(f"{root / 'archive'}: ")
            done = False
        assert sorted(path.name for path in root.iterdir()) == ["archive", "folder"]
        assert sum(path.stat().st_size for path in root.rglob("folder/**/*") if path.is_file()) <= MOST_BYTES
        return done

    try_cases(cases, case)
