"""Plots of similarity matrices whose axes show waveforms, images and texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax

from model.audio_input import read_audio
from model.clip.image_input import read_image
from model.embedding import SAMPLE_RATE

_THUMBNAIL = 200  # pixels
_WAVEFORM_POINTS = 400


@dataclass(frozen=True)
class Item:
    """The label of a row or column of a matrix.

    Attributes:
        name: short name, of a few words.
        image: thumbnail of an image, uint8 `[H, W, 3]`; None for a sound or a text.
        waveform: minimum and maximum of each segment of a sound, `[2, segments]`; None for other items.
    """

    name: str
    image: NDArray[np.uint8] | None = None
    waveform: NDArray[np.float32] | None = None


def sound_item(path: Path) -> Item:
    """Return a sound's item, with its waveform."""
    samples = read_audio(path, SAMPLE_RATE, mono=True)[0]
    parts = np.array_split(samples, min(_WAVEFORM_POINTS, len(samples)))
    return Item(name_of(path), waveform=np.array([[p.min() for p in parts], [p.max() for p in parts]]))


def image_item(path: Path) -> Item:
    """Return an image's item, with its thumbnail."""
    image = read_image(path)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return Item(name_of(path), image=np.asarray(image))


def name_of(path: Path) -> str:
    """Return the words in a file name: "car horn" for `car_horn_1-24074-A-43.wav`."""
    words = re.split(r"[\W\d_]+", path.stem)
    found = [word for word in words if len(word) > 1]
    return " ".join(found) or path.stem


def show_similarities(
    similarities: NDArray[Any],
    rows: Sequence[Item],
    columns: Sequence[Item],
    *,
    logits: NDArray[Any],
    title: str,
) -> Figure:
    """Plot a similarity matrix: row items on the left, column items on top, and the cosine in every cell.

    A cell's colour is the model's probability, 0 to 1, of the column given the row: the softmax of the row's
    logits. Differences that are irrelevant to the model therefore do not show as colour.

    Args:
        similarities: cosine similarities, `[rows, columns]`.
        rows, columns: items that are compared.
        logits: cosines times the model's learned scale, `[rows, columns]`.
        title: title of the figure.

    Raises:
        ValueError: The shape of `similarities` does not match the numbers of items.
    """
    if similarities.shape != (len(rows), len(columns)):
        raise ValueError(
            f"similarities has shape {list(similarities.shape)}; these rows and columns need "
            f"[{len(rows)}, {len(columns)}]."
        )
    size = (2.4 + 0.95 * len(columns), 1.7 + 0.75 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(
        len(rows) + 1,
        len(columns) + 1,
        width_ratios=[1.8] + [1] * len(columns),
        height_ratios=[1.2] + [1] * len(rows),
    )
    heat = figure.add_subplot(grid[1:, 1:], label="similarities")
    probabilities = softmax(logits, axis=1)
    heat.imshow(probabilities, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    heat.set(xticks=[], yticks=[])
    for (row, column), value in np.ndenumerate(similarities):
        colour = "black" if probabilities[row, column] > 0.5 else "white"
        heat.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    for place, item in enumerate(columns, start=1):
        _draw(figure.add_subplot(grid[0, place]), item)
    for place, item in enumerate(rows, start=1):
        _draw(figure.add_subplot(grid[place, 0]), item)
    return figure


def _draw(axes: Axes, item: Item) -> None:
    axes.set_axis_off()
    if item.image is not None:
        axes.imshow(item.image)
    elif item.waveform is not None:
        lowest, highest = item.waveform
        axes.fill_between(np.arange(len(lowest)), lowest, highest, linewidth=0.4, edgecolor="C0")
    else:
        axes.text(0.5, 0.5, item.name, ha="center", va="center", wrap=True, fontsize=9)
        return
    axes.set_title(item.name, fontsize=7, pad=2)


def ranking_table(
    similarities: NDArray[Any], queries: Sequence[str], items: Sequence[str], *, k: int = 3
) -> str:
    """Return a Markdown table of the `k` nearest items (columns) of each query (row), best first."""
    first = "| query | " + " | ".join(f"{place}." for place in range(1, min(k, len(items)) + 1)) + " |"
    lines = [first, "|---" * (first.count("|") - 1) + "|"]
    for query, row in zip(queries, similarities, strict=True):
        best = np.argsort(-row, kind="stable")[:k]
        lines.append(
            "| ".join(["", f"{query} ", *(f"{items[place]} {row[place]:.2f} " for place in best)]) + "|"
        )
    return "\n".join(lines)
