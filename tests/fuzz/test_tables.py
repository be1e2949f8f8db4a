"""Mutated tables: each becomes a data set or causes an error that names the table."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from utils.datasets.esc50 import ESC50
from utils.datasets.folds import FoldDataset
from utils.datasets.us8k import UrbanSound8K

if TYPE_CHECKING:
    from tests.fuzz.conftest import TryCases

HOSTILE = [
    *("", " ", "-1", "1.0", "9" * 5000, "\u0663", "true", "NaN", "../../../etc/passwd", "/etc/passwd", ".."),
    *("a\0b", "\x1b[31m", "\u202e", "=1+1", "<script>alert(1)</script>", '"', '"unfinished', "a\nb", "a\rb"),
    *("x" * 300, "x" * 200_000, "," * 20_000),
]
TABLES: dict[type[FoldDataset], list[list[str]]] = {
    ESC50: [
        ["filename", "fold", "target", "category", "esc10", "src_file", "take"],
        *(
            [f"{i}.wav", str(i % 5 + 1), str(i % 3), "abc"[i % 3], str(i % 3 > 0), str(i), "A"]
            for i in range(15)
        ),
    ],
    UrbanSound8K: [
        ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"],
        *([f"{i}.wav", str(i), "0", "4.0", "1", str(i % 5 + 1), str(i % 2), "ab"[i % 2]] for i in range(15)),
    ],
}


def mutated(rows: list[list[str]], rng: random.Random) -> bytes:
    """Change cells, rows, columns, and then bytes of a table."""
    rows = [list(row) for row in rows]
    for _ in range(rng.randrange(1, 4)):
        row, kind = rng.choice(rows or [[]]), rng.randrange(7)
        if kind <= 2 and row:
            row[rng.randrange(len(row))] = rng.choice(HOSTILE)
        elif kind == 3 and row:
            del row[rng.randrange(len(row))]
        elif kind == 4:
            row.append(rng.choice(HOSTILE))
        elif kind == 5 and rows:
            rows.remove(row)
        else:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
    end = rng.choice(("\n", "\r\n", "\r"))
    comma = rng.choice(",,,,,,,;")
    content = end.join(comma.join(row) for row in rows).encode()
    at = rng.randrange(len(content) + 1)
    spoilt = rng.randrange(8)
    if spoilt == 0:
        return content[:at]
    if spoilt == 1:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if spoilt == 2:
        return content.decode().encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    return content


@pytest.mark.parametrize("cases", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_mutated_table_is_an_error_or_a_data_set(
    try_cases: TryCases, tmp_path_factory: pytest.TempPathFactory, cases: int
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for kind in TABLES:
        for place in ("audio", *(f"audio/fold{fold}" for fold in range(1, 6))):
            (folder / kind.__name__ / place).mkdir(parents=True, exist_ok=True)
            for i in range(15):
                (folder / kind.__name__ / place / f"{i}.wav").touch()
        (folder / kind.__name__ / kind.table).parent.mkdir()

    def case(rng: random.Random) -> bool:
        kind = rng.choice(list(TABLES))
        (folder / kind.__name__ / kind.table).write_bytes(mutated(TABLES[kind], rng))
        return check(kind, folder / kind.__name__)

    try_cases(cases, case)


def check(kind: type[FoldDataset], root: Path) -> bool:
    try:
        dataset = kind(root, fold=1)
    except (ValueError, FileNotFoundError) as error:
        # The error is ours: it names the table, the root, or the argument that does not fit.
        assert str(root) in str(error) or str(error).startswith("fold is 1; ")
        assert len(str(error)) < 2000
        return False
    assert all(label.isprintable() and label for label in dataset.class_names)
    assert all((root / clip.path).resolve().is_relative_to(root) for clip in dataset.clips)
    return True
