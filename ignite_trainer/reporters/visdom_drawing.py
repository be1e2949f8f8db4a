"""What the dashboard shows, drawn with visdom's client: charts, tables, pictures and sounds."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Evaluated, Event, Iteration, Line, RunStart, Split, Window
from ignite_trainer.reporters.drawing import COLOURS
from ignite_trainer.reporters.page import confusion, statistics
from ignite_trainer.reporters.page.render import element
from ignite_trainer.support.sanitize import visible

if TYPE_CHECKING:
    import visdom

_WIDEST = 1230  # pixels of a window, for which a browser of 1280 has room
_LINE, _LETTER = 24, 7.5  # pixels: height of a line of text, width of a letter
_SAMPLES = 3
_LOSS, _SPEED, _RATE = "iteration.loss", "iteration.speed", "iteration.rates[{}]"  # keys of lines
_BLUES = [[0, "#f7fbff"], [0.5 ** (1 / 0.6), "#6baed6"], [1, "#08306b"]]  # by share, as in the report


class Panel(NamedTuple):
    """A window of HTML; a later one of the same name replaces it."""

    name: str
    title: str
    content: str


class _Curve(NamedTuple):
    """A line of a chart, and the environment that the chart is in."""

    environment: str
    chart: str
    window: Window
    line: Line
    style: Mapping[str, Mapping[str, str]]


class Drawing:
    """Draws one run.

    Attributes:
        environments: names of the run's own, and of its sweep's, which has the held-out metrics of all runs.
    """

    def __init__(self, run: RunStart, client: visdom.Visdom) -> None:
        self._client = client
        self._curves = list(_curves(run))
        self._drawn = set[int]()
        self.environments = [run.name, *([run.sweep] if run.sweep else [])]
        lines = sum(1 + len(value) // 110 for value in run.facts.values())
        client.text(
            _summary(run),
            win="summary",
            opts={"title": run.name, "width": _WIDEST, "height": _LINE * (5 + lines)},
        )

    def draw(self, events: Sequence[Event | Panel]) -> None:
        """Draw what happened, with one update for each line that grew."""
        told = [_values(event) for event in events if isinstance(event, Iteration | Evaluated)]
        for number, curve in enumerate(self._curves):
            kind = (curve.line.split, curve.line.by_iteration)
            points = [
                (x, values[curve.line.key])
                for told_kind, x, values in told
                if told_kind == kind and curve.line.key in values
            ]
            if points:
                self._extend(curve, points, is_new=number not in self._drawn)
                self._drawn.add(number)
        latest = {event.name: event for event in events if isinstance(event, Panel)}
        for panel in latest.values():
            options = {"title": _inert(panel.title), "width": 1100, "height": 720}
            self._client.text(panel.content, win=panel.name, opts=options)
        predictions = [event.predictions for event in events if isinstance(event, Evaluated)]
        if scored := [one for one in predictions if one is not None]:
            self._draw_confusion(scored[-1])

    def _extend(self, curve: _Curve, points: Sequence[tuple[int, float]], *, is_new: bool) -> None:
        """Append points; a resumed run begins its lines anew, also in the chart of its sweep."""
        place = {"win": curve.chart, "env": curve.environment}
        update: str | None = "append"
        if is_new:
            update = "replace" if self._client.win_exists(**place) else None
        label = _inert(curve.line.label)
        self._client.line(
            [y if math.isfinite(y) else math.nan for _, y in points],
            [x for x, _ in points],
            **place,
            name=label,
            update=update,
            opts={
                "title": _inert(curve.window.name),
                "xlabel": _inert(curve.window.x_label),
                "ylabel": _inert(curve.window.y_label),
                "width": min(curve.window.width, _WIDEST),
                "height": curve.window.height,
                "showlegend": True,
                "markers": True,
                "traceopts": {"plotly": {label: curve.style}},
            },
        )

    def _draw_confusion(self, predictions: Predictions) -> None:
        """Draw the matrix of the report: shares of the rows, with the counts written over them."""
        kept = statistics.finite(predictions)
        if kept.multilabel or not len(kept):
            return
        matrix = statistics.confusion_matrix(kept)
        chosen = confusion.chosen_classes(matrix)
        cells = np.ix_(chosen, chosen)
        names = [_inert(" ".join(kept.class_names[number].split())) for number in chosen]
        heat = {
            "type": "heatmap",
            "x": names,
            "y": names,
            "z": confusion.row_shares(matrix)[cells].tolist(),
            "text": [[str(count or "") for count in row] for row in matrix[cells].tolist()],
            "texttemplate": "%{text}",
            "colorscale": _BLUES,
            "zmin": 0,
            "zmax": 1,
            "colorbar": {"title": "share of the row", "tickformat": ".0%"},
        }
        axis = {"type": "category", "dtick": 1, "automargin": True}
        layout = {
            "xaxis": {**axis, "title": "Predicted class", "tickangle": -90},
            "yaxis": {**axis, "title": "Right class", "autorange": "reversed"},
        }
        side = round(max(300, _LINE * len(names)) + _LETTER * max(map(len, names)))
        options = {
            "title": f"Confusion matrix: {confusion.title_of(matrix, drawn=len(names))}".replace(
                "\n", "<br>"
            ),
            "width": min(_WIDEST, side + 240),
            "height": side + 140,
            "traceopts": {"plotly": {"confusion": heat}},
            "layoutopts": {"plotly": layout},
        }
        # `heatmap` takes colour scales by name alone and writes no counts; `traceopts` make one of a point.
        self._client.scatter([[0, 0]], win="confusion", name="confusion", opts=options)


def augmented(gallery: Gallery) -> list[Panel]:
    """Show a few samples as they are and as the model gets them; nothing if none can be shown."""
    rows = [f"<tr>{_cell(before)}{_cell(after)}</tr>" for before, after in gallery.augmented(_SAMPLES)]
    header = "<tr><th>as it is</th><th>as the model gets it, in the first epoch</th></tr>"
    table = '<table style="width: 100%; table-layout: fixed; overflow-wrap: anywhere">{}</table>'
    return [Panel("samples", "Samples", table.format(header + "".join(rows)))] if rows else []


def learned(gallery: Gallery, epoch: int) -> list[Panel]:
    """Show what the model has learned so far; nothing if its task shows nothing."""
    content = "".join(
        (f"<p>{html.escape(visible(exhibit.explanation))}</p>" if exhibit.explanation else "")
        + _fitting(exhibit)
        for exhibit in gallery.model()
    )
    return [Panel("learned", f"What was learned, epoch {epoch}", content)] if content else []


def _cell(portrait: Portrait) -> str:
    said = html.escape(visible(", ".join(map(str, portrait.record.values()))))
    return f"<td><p>{said}</p>{''.join(map(_fitting, portrait.exhibits))}</td>"


def _fitting(exhibit: Exhibit) -> str:
    """An exhibit in its own size, or as wide as its place if that is less."""
    return element(exhibit).replace(" ", ' style="width: auto; max-width: 100%" ', 1)


def _summary(run: RunStart) -> str:
    rows = "".join(
        f"<tr><td><b>{html.escape(key)}</b></td><td>{html.escape(value)}</td></tr>"
        for key, value in run.facts.items()
    )
    protocol = html.escape(json.dumps(run.protocol, indent=2, ensure_ascii=False))
    return (
        f'<h4>{html.escape(run.name)}</h4><table style="overflow-wrap: anywhere">{rows}</table>'
        f"<details><summary>Protocol</summary><pre>{protocol}</pre></details>"
    )


def _curves(run: RunStart) -> Iterator[_Curve]:
    """List the lines of all charts: loss, rates and speed, the windows of `Metrics`, and the sweep's."""
    rules = [rule["match"] for rule in run.protocol.get("Parameters", []) if rule.get("train", True)]
    rates = {_RATE.format(number): name for number, name in enumerate(rules or ["group 1"])}
    training = {"Loss": {_LOSS: "Loss"}, "Learning rate": rates, "Samples/s": {_SPEED: "Samples/s"}}
    charts = {title: _by_iteration(title, labels) for title, labels in training.items()}
    charts |= {f"metrics: {window.name}": window for window in run.windows}
    for chart, window in charts.items():
        keys = list(dict.fromkeys(line.key for line in window.lines))
        has_held_out = any(line.split == "test" for line in window.lines)
        for line in window.lines:
            colour = COLOURS[keys.index(line.key) % len(COLOURS)]
            dash, symbol = ("solid", "circle")
            if has_held_out and line.split == "train":
                dash, symbol = ("dash", "circle-open")
            style = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol}}
            yield _Curve(run.name, chart, window, line, style)
            if run.sweep and line.split == "test" and not line.by_iteration:
                name = f"{line.key} by run"
                titled, named = replace(window, name=name), replace(line, label=run.folder.name)
                yield _Curve(run.sweep, name, titled, named, {})


def _by_iteration(title: str, labels: Mapping[str, str]) -> Window:
    """Describe a chart of training, given its lines' labels by key."""
    lines = [Line(key=key, label=label, split="train", by_iteration=True) for key, label in labels.items()]
    return Window(
        name=title, x_label="#Iterations", y_label=title, width=_WIDEST, height=416, lines=tuple(lines)
    )


def _values(event: Iteration | Evaluated) -> tuple[tuple[Split, bool], int, Mapping[str, float]]:
    """Return the split and whether the values go by iteration, where they go, and the values by key."""
    if isinstance(event, Evaluated):
        return (event.split, False), event.epoch, event.metrics
    rates = {_RATE.format(number): rate for number, rate in enumerate(event.learning_rates)}
    own = {_LOSS: event.loss, _SPEED: event.samples_per_second, **rates}
    return ("train", True), event.iteration, {**own, **event.metrics}


def _inert(text: str) -> str:
    """Text as plotly shows it: it knows links and bold type, and mathematics between two dollar signs."""
    text = html.escape(visible(text), quote=False)
    return text.replace("$", "&#36;") if text.count("$") > 1 else text
