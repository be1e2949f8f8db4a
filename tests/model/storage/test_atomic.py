"""Files are replaced whole: several writers, links, and errors that name the file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from model.storage.atomic import whole_file


def test_of_two_writers_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert [*tmp_path.iterdir()] == [path]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write(b"new")
    assert link.is_symlink() and target.read_text() == "new"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device: '{path}'"),
        (OSError("7168 requested and 4968 written"), "{path}: 7168 requested and 4968 written"),
    ],
)
def test_a_failed_write_names_the_file_and_keeps_the_old_one(
    tmp_path: Path, error: OSError, said: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(OSError, match=r"device|requested") as caught, whole_file(path):
        raise error
    assert str(caught.value).endswith(said.format(path=path)) and caught.value.errno == error.errno
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
