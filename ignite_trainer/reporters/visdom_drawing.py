"""Windows of the Visdom dashboard (charts, tables, images and sounds), as messages to its server."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Evaluated, Event, Iteration, Line, RunStart, Window
from ignite_trainer.reporters.drawing import COLOURS
from ignite_trainer.reporters.page import plots, statistics
from ignite_trainer.reporters.page.render import element
from ignite_trainer.support.formatting import visible

Message = Mapping[str, Any]
Post = Callable[[str, Message], str]
"""Sends a message to one of the server's endpoints, and returns the answer."""

_MAX_WIDTH = 1230  # pixels; fits a browser window 1280 pixels wide
_LINE, _LETTER = 24, 7.5  # pixels: height of a line of text, width of a letter
_SAMPLES = 3
_MARGIN = {"l": 60, "r": 60, "t": 60, "b": 60}


class _Curve(NamedTuple):
    """A line of a chart: the window that contains it, and its style."""

    line: Line
    window: Message
    trace: Message


class Drawing:
    """Draws a run, and adds its held-out metrics to the environment that the runs of its sweep share."""

    def __init__(self, run: RunStart, post: Post) -> None:
        self._run = run
        self._post = post
        self._curves = list(_curves(run))
        self._begun: set[int] = set()
        self._draw(_summary(run))

    def draw(self, events: Sequence[Event | Message | None]) -> None:
        """Draw events, with one update per line with new points; save after evaluations and at the end.

        A window replaces an earlier window with the same name. None marks the end of the run.
        """
        for number, curve in enumerate(self._curves):
            points = [point for event in events for point in _points(curve.line, event)]
            if points:
                self._extend(curve, points, is_begun=number in self._begun)
                self._begun.add(number)
        for window in {event["win"]: event for event in events if isinstance(event, Mapping)}.values():
            self._draw(window)
        evaluated = [event for event in events if isinstance(event, Evaluated)]
        if scored := [event.predictions for event in evaluated if event.predictions is not None]:
            kept = statistics.finite(scored[-1])
            if len(kept) and not kept.multilabel:
                self._draw(_confusion(kept))
        if evaluated or None in events:
            self._post("save", {"data": [self._run.name, *filter(None, [self._run.sweep])]})

    def _draw(self, window: Message) -> None:
        self._post("events", {"eid": self._run.name, **window})

    def _extend(self, curve: _Curve, points: Sequence[tuple[int, float]], *, is_begun: bool) -> None:
        """Append points to a line. A resumed run redraws its lines, including those in its sweep's charts."""
        place = {key: curve.window[key] for key in ("win", "eid")}
        x, y = zip(*points, strict=True)
        trace = {**curve.trace, "x": x, "y": [value if math.isfinite(value) else None for value in y]}
        exists = is_begun or self._post("win_exists", place) == "true"
        how = {"name": trace["name"], "append": is_begun} if exists else {}
        self._post("update" if exists else "events", {**curve.window, "data": [trace], **how})


def augmented(gallery: Gallery) -> list[Message]:
    """Show a few original samples next to the model's inputs; return [] if no sample can be shown."""
    rows = [f"<tr>{_cell(before)}{_cell(after)}</tr>" for before, after in gallery.augmented(_SAMPLES)]
    header = "<tr><th>original</th><th>as the model receives it in the first epoch</th></tr>"
    table = '<table style="width: 100%; table-layout: fixed; overflow-wrap: anywhere">{}</table>'
    return [_text("samples", "Samples", table.format(header + "".join(rows)))] if rows else []


def learned(gallery: Gallery, epoch: int) -> list[Message]:
    """Show what the model has learned so far; return [] if its task has nothing to show."""
    content = "".join(
        (f"<p>{_escaped(exhibit.explanation)}</p>" if exhibit.explanation else "") + _fitting(exhibit)
        for exhibit in gallery.model()
    )
    return [_text("learned", f"What was learned, epoch {epoch}", content)] if content else []


def _text(name: str, title: str, content: str, *, width: int = 1100, height: int = 720) -> Message:
    """Describe a window with HTML content."""
    opts = {"title": _inert(title), "width": width, "height": height}
    return {"win": name, "data": [{"type": "text", "content": content}], "layout": None, "opts": opts}


def _cell(portrait: Portrait) -> str:
    names = _escaped(", ".join(map(str, portrait.record.values())))
    return f"<td><p>{names}</p>{''.join(map(_fitting, portrait.exhibits))}</td>"


def _fitting(exhibit: Exhibit) -> str:
    """Format an exhibit at its natural size, but no wider than its container."""
    return element(exhibit).replace(" ", ' style="width: auto; max-width: 100%" ', 1)


def _summary(run: RunStart) -> Message:
    rows = "".join(
        f"<tr><td><b>{html.escape(key)}</b></td><td>{html.escape(value)}</td></tr>"
        for key, value in run.facts.items()
    )
    protocol = html.escape(json.dumps(run.protocol, indent=2, ensure_ascii=False))
    content = (
        f'<h4>{html.escape(run.name)}</h4><table style="overflow-wrap: anywhere">{rows}</table>'
        f"<details><summary>Protocol</summary><pre>{protocol}</pre></details>"
    )
    lines = 5 + sum(1 + len(value) // 110 for value in run.facts.values())
    return _text("summary", run.name, content, width=_MAX_WIDTH, height=_LINE * lines)


def _confusion(predictions: Predictions) -> Message:
    """Describe the report's confusion matrix: colours show shares of the rows, and text shows counts."""
    matrix = statistics.confusion_matrix(predictions)
    chosen = plots.chosen_classes(matrix)
    cells = np.ix_(chosen, chosen)
    names = [_inert(" ".join(predictions.class_names[number].split())) for number in chosen]
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": plots.row_shares(matrix)[cells].tolist(),
        "text": [[str(count or "") for count in row] for row in matrix[cells].tolist()],
        "texttemplate": "%{text}",
        "colorscale": "Blues",
        "reversescale": True,
        "zmin": 0,
        "zmax": 1,
        "colorbar": {"title": "share of the row", "tickformat": ".0%"},
    }
    axis = {"type": "category", "dtick": 1, "automargin": True}
    title = f"Confusion matrix: {plots.title_of(matrix, drawn=len(names))}".replace("\n", "<br>")
    layout = {
        "title": title,
        "margin": _MARGIN,
        "xaxis": {**axis, "title": "Predicted class", "tickangle": -90},
        "yaxis": {**axis, "title": "True class", "autorange": "reversed"},
    }
    side = round(max(300, _LINE * len(names)) + _LETTER * max(map(len, names)))
    opts = {"title": title, "width": min(_MAX_WIDTH, side + 240), "height": side + 140}
    return {"win": "confusion", "data": [heat], "layout": layout, "opts": opts}


def _curves(run: RunStart) -> Iterator[_Curve]:
    """List the lines of all charts: loss, learning rates, speed, the windows of `Metrics`, and the sweep."""
    rules = [rule["match"] for rule in run.protocol.get("Parameters", []) if rule.get("train", True)]
    rates = {f"rate {number}": name for number, name in enumerate(rules or ["group 1"])}
    training = {"Loss": {"loss": "Loss"}, "Learning rate": rates, "Samples/s": {"speed": "Samples/s"}}
    size = {"width": _MAX_WIDTH, "height": 416}
    charts = {
        title: Window(
            name=title,
            x_label="#Iterations",
            y_label=title,
            lines=tuple(
                Line(key=f"iteration.{key}", label=label, split="train", by_iteration=True)
                for key, label in labels.items()
            ),
            **size,
        )
        for title, labels in training.items()
    }
    charts |= {f"metrics: {window.name}": window for window in run.windows}
    for chart, window in charts.items():
        keys = list(dict.fromkeys(line.key for line in window.lines))
        has_held_out = any(line.split == "test" for line in window.lines)
        for line in window.lines:
            colour = COLOURS[keys.index(line.key) % len(COLOURS)]
            dash, symbol = ("solid", "circle")
            if has_held_out and line.split != "test":
                dash, symbol = ("dash" if line.split == "train" else "dot", "circle-open")
            style = {"line": {"color": colour, "dash": dash}, "marker": {"symbol": symbol}}
            yield _curve(line, window, {"eid": run.name, "win": chart}, style)
            if run.sweep and line.split == "test" and not line.by_iteration:
                shared = replace(window, name=f"{line.key} by run")
                place = {"eid": run.sweep, "win": shared.name}
                yield _curve(replace(line, label=run.folder.name), shared, place)


def _curve(line: Line, window: Window, place: Message, style: Message | None = None) -> _Curve:
    title = _inert(window.name)
    layout = {
        "title": title,
        "showlegend": True,
        "margin": _MARGIN,
        "xaxis": {"title": _inert(window.x_label)},
        "yaxis": {"title": _inert(window.y_label)},
    }
    opts = {"title": title, "width": min(window.width, _MAX_WIDTH), "height": window.height}
    trace = {"type": "scatter", "mode": "lines+markers", "name": _inert(line.label), **(style or {})}
    return _Curve(line, {**place, "layout": layout, "opts": opts}, trace)


def _points(line: Line, event: Event | Message | None) -> Iterator[tuple[int, float]]:
    """Yield the point that an event adds to a line, if any."""
    if isinstance(event, Iteration) and line.by_iteration:
        rates = {f"iteration.rate {number}": rate for number, rate in enumerate(event.learning_rates)}
        own = {"iteration.loss": event.loss, "iteration.speed": event.samples_per_second, **rates}
        values, x = {**own, **event.metrics}, event.iteration
    elif isinstance(event, Evaluated) and not line.by_iteration and line.split == event.split:
        values, x = dict(event.metrics), event.epoch
    else:
        return
    if line.key in values:
        yield x, values[line.key]


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _inert(text: str) -> str:
    """Escape text for plotly, which would render links, bold type, and math between two dollar signs."""
    text = html.escape(visible(text), quote=False)
    return text.replace("$", "&#36;") if text.count("$") > 1 else text
