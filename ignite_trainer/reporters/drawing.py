"""Common style of a run's figures, and a function that saves them."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, which `--help` need not pay)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ignite_trainer.support.files import whole_file
from ignite_trainer.support.formatting import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which most colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#444444"

_MAX_NAME_LENGTH = 32


def new_figure(width: float, height: float, *, dpi: int = 120) -> Figure:
    """Create an empty figure with constrained layout; width and height are in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set title and labels, draw a faint grid and remove the frame."""
    axes.set_title(plain(title), fontsize=11)
    axes.set_xlabel(plain(x_label))
    axes.set_ylabel(plain(y_label))
    axes.grid(visible=True, color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """Escape dollar signs, which would start math text, and replace invisible characters."""
    return visible(text).replace("$", r"\$")


def short_name(text: str) -> str:
    """Shorten a class name to one line of at most 32 characters."""
    text = " ".join(text.split())
    return plain(text if len(text) <= _MAX_NAME_LENGTH else text[: _MAX_NAME_LENGTH - 1].rstrip() + "…")


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, atomically; raise RunFailed if that fails."""
    with whole_file(path) as part:
        figure.savefig(part, format="png")
