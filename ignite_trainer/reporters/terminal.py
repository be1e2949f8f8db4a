"""What is printed at a terminal: tables, and lines above the progress bars."""

# ruff: noqa: PLC0415 (rich and tqdm take 0.15 s to import, which `--help` need not pay)

from __future__ import annotations

from typing import TYPE_CHECKING

from ignite_trainer.visible import visible

if TYPE_CHECKING:
    from rich.table import Table


def make_table(title: str) -> Table:
    """Make a table without rows or columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(title=Text(visible(title), style="bold"), title_justify="left", box=box.SIMPLE_HEAD)


def add_row(table: Table, *cells: str) -> None:
    """Add a row of texts."""
    from rich.text import Text

    # Text, not str: brackets in a path or a pattern are no markup.
    table.add_row(*(Text(visible(cell)) for cell in cells))


def show(content: Table | str) -> None:
    """Print above the progress bars, which are cleared and drawn again; of several processes the main one."""
    from rich.console import Console as Terminal
    from tqdm import tqdm

    from ignite_trainer.distributed import is_main

    if not is_main():
        return

    # Made anew each time: standard output and its width may have changed.
    terminal = Terminal(markup=False, highlight=False, emoji=False)
    with tqdm.external_write_mode():
        if isinstance(content, str):
            terminal.print(visible(content), soft_wrap=True)
        else:
            terminal.print(content)
