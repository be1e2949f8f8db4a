"""Terminal output: tables, and text above the progress bars."""

# ruff: noqa: PLC0415 (rich and tqdm take 0.15 s to import, which `--help` does not need)

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ignite_trainer.support.formatting import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_NAME_SHARE = 0.45  # maximum width of row names, as a share of the terminal's width
_PADDING = 3  # characters around a cell, with the separator
_TIGHT = 2  # the same in a matrix whose columns would not fit otherwise


def make_table(title: str) -> Table:
    """Make a table without rows and columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # rich would fold to the width of the table, not of the terminal.
    folded = "\n".join(textwrap.wrap(visible(title), max(1, _terminal().width)))
    heading = Text(folded, style="bold", no_wrap=True, overflow="ignore")
    return Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD)


def add_row(table: Table, *cells: str) -> None:
    """Add a row of cells; fold a long first cell, and indent its continuation lines."""
    from rich.text import Text

    name, *others = map(visible, cells)
    width = max(1, int(_NAME_SHARE * _terminal().width))
    folded = textwrap.wrap(name, width, subsequent_indent="  ", break_on_hyphens=False)
    # Use Text, because brackets in a str are markup.
    table.add_row(*map(Text, ["\n".join(folded), *others]))


def show_rows(title: str, rows: Iterable[Sequence[str]], *, columns: Sequence[str] = ()) -> None:
    """Print rows of cells under column names, or rows of names and values without `columns`."""
    table = make_table(title)
    table.show_header = bool(columns)
    for column in columns:
        table.add_column(column, overflow="fold")
    if not columns:
        table.add_column(style="bold")
        table.add_column(overflow="fold")
    for row in rows:
        add_row(table, *row)
    show(table)


def show_matrix(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a table of values without truncating any cell.

    A table wider than the terminal gets narrower padding or, if that is not enough, is printed in parts, each
    with the row names.
    """
    widths = [
        max(map(len, (name, *(cells[number] for cells in rows.values()))))
        for number, name in enumerate(columns)
    ]
    room = _terminal().width - max((len(row) for row in rows), default=0) - 2 * _PADDING
    wide, tight = (sum(widths) + padding * len(widths) for padding in (_PADDING, _TIGHT))
    is_tight = tight <= room < wide
    for begin, end in [(0, len(widths))] if is_tight else _parts(widths, room):
        table = make_table(title if not begin else "")
        table.padding = (0, 1, 0, 0) if is_tight else (0, 1)
        table.add_column("", overflow="fold")
        for name in columns[begin:end]:
            table.add_column(visible(name), justify="right", no_wrap=True)
        for row, cells in rows.items():
            add_row(table, row, *cells[begin:end])
        show(table)


def _parts(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield the first column of each part and the column after its last one."""
    begin, taken = 0, 0
    for number, width in enumerate(widths):
        if number > begin and taken + width + _PADDING > room:
            yield begin, number
            begin, taken = number, 0
        taken += width + _PADDING
    yield begin, len(widths)


def show(content: Table | str) -> None:
    """Print `content` above the progress bars, only in the main process."""
    from tqdm import tqdm

    from ignite_trainer.support.distributed import is_main

    if not is_main():
        return
    with tqdm.external_write_mode():
        if isinstance(content, str):
            _terminal().print(visible(content), soft_wrap=True)
        else:
            _terminal().print(content)


def _terminal() -> Console:
    """Return a new console each time, because standard output and its width may change."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def replace_unknown_letters() -> None:
    """Make standard output print a question mark for each character that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
