"""What the dashboard shows, drawn through visdom's client: charts, tables, pictures, sounds."""

from __future__ import annotations

import html
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, starmap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ignite_trainer.drawing import COLOURS, GREY
from ignite_trainer.exhibit import Exhibit, Gallery, Portrait
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import confusion, statistics
from ignite_trainer.report.page import element
from ignite_trainer.reporters.reporter import Evaluated, Iteration, RunStart, Window
from ignite_trainer.visible import visible

if TYPE_CHECKING:
    import visdom

_LOSS, _RATE, _SPEED = "Loss", "Learning rate", "Samples/s"
_WIDEST = 1230  # pixels of a window, for which a browser of 1280 has room
_LINE, _LETTER = 24, 7.5  # pixels: height of a line of text, width of a letter
_LETTERS_OF_NAMES, _LETTERS = 22, 110  # that a line of the summary's columns holds at least
_SAMPLES = 3
_BLUES = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")
# As in the report, where colours go with the power 0.6 of the share.
_SHARE_COLOURS = [[(place / 8) ** (1 / 0.6), colour] for place, colour in enumerate(_BLUES)]
_TABLE = '<table style="width: 100%; table-layout: fixed">{}</table>'


class Pictures(NamedTuple):
    """A window of HTML."""

    window: str
    title: str
    content: str


class _Style(NamedTuple):
    """Style of a chart's line, as in the report: solid for the held-out split, dashed for training."""

    colour: str
    dashed: bool = False


class _Point(NamedTuple):
    window: str
    line: str
    x: float
    y: float
    environment: str | None = None


class Drawing:
    """Draws one run.

    Attributes:
        environments: names of the run's own, and of its sweep's, where held-out metrics of all runs are.
    """

    def __init__(self, run: RunStart, client: visdom.Visdom) -> None:
        self._run, self._client = run, client
        self.environments = [run.name, *([run.sweep] if run.sweep else [])]
        size = {"width": _WIDEST, "height": _LINE * (4 + sum(starmap(_lines, run.facts.items())))}
        client.text(_summary(run), win="summary", opts={"title": run.name, **size})
        self._chart(_by_iteration(run, _LOSS), _LOSS.lower(), {_LOSS: _Style(GREY)})
        for window in run.windows:
            if window.lines:
                self._chart(window, _id(window), _styles(window))
        if run.epochs:
            groups = [_group(run, number) for number in range(max(1, len(_trained(run))))]
            styles = {group: _Style(colour) for group, colour in zip(groups, cycle(COLOURS), strict=False)}
            self._chart(_by_iteration(run, _RATE), _RATE.lower(), styles)
            self._chart(_by_iteration(run, _SPEED), "throughput", {_SPEED: _Style(GREY)})
        if run.sweep:
            self._charts_of_sweep(run.sweep)

    def draw(self, events: Sequence[Iteration | Evaluated | Pictures]) -> None:
        """Draw what happened: one update for each line that grew; of other windows the last state."""
        points = defaultdict(list)
        latest: dict[str, Pictures | Predictions] = {}
        for event in events:
            if isinstance(event, Pictures):
                latest[event.window] = event
                continue
            if isinstance(event, Evaluated) and event.predictions is not None:
                latest["confusion"] = event.predictions
            for point in _points(self._run, event):
                points[point.environment, point.window, point.line].append(point)
        for (environment, window, line), values in points.items():
            self._client.line(
                [point.y if math.isfinite(point.y) else math.nan for point in values],
                [point.x for point in values],
                win=window,
                env=environment,
                name=_inert(line),
                update="append",
            )
        for shown in latest.values():
            if isinstance(shown, Pictures):
                size = {"width": 1100, "height": 720}
                self._client.text(
                    shown.content, win=shown.window, opts={"title": _inert(shown.title), **size}
                )
            else:
                self._confusion(shown)

    def _confusion(self, predictions: Predictions) -> None:
        """Draw the matrix of the report: shares of the rows, over which the counts are written."""
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
            "hovertemplate": "%{y}, taken for %{x}: %{text}<extra></extra>",
            "colorscale": _SHARE_COLOURS,
            "zmin": 0,
            "zmax": 1,
            "colorbar": {"title": "share of the row", "tickformat": ".0%"},
        }
        axis = {"type": "category", "dtick": 1, "automargin": True, "tickfont": {"size": 11}}
        title = "Confusion matrix: " + confusion.title_of(matrix, drawn=len(chosen)).replace("\n", "<br>")
        layout = {
            "title": title,
            "xaxis": {**axis, "title": "Predicted class", "tickangle": -90},
            "yaxis": {**axis, "title": "Right class", "autorange": "reversed"},
            "margin": {"l": 60, "r": 60, "t": 60, "b": 60},
        }
        side = max(300, _LINE * len(names)) + _LETTER * max(map(len, names))
        options = {"title": title, "width": min(_WIDEST, round(side) + 240), "height": round(side) + 140}
        message = {"data": [heat], "win": "confusion", "layout": layout, "opts": options}
        # visdom's `heatmap` takes colour scales by name alone, and of plotly's "Blues" the low end is dark.
        self._client._send(message, endpoint="events")

    def _charts_of_sweep(self, environment: str) -> None:
        """A chart of every held-out metric with a line for each run, of which this run's is made anew."""
        name = self._run.folder.name
        for window, keys in _of_sweep(self._run):
            for key in keys:
                chart = f"{key} by run"
                if self._client.win_exists(chart, env=environment):
                    self._client.line(None, win=chart, env=environment, name=_inert(name), update="remove")
                else:
                    titled = Window(**{**vars(window), "name": chart})
                    self._chart(titled, chart, {name: _Style(COLOURS[0])}, environment=environment)

    def _chart(
        self, window: Window, win: str, styles: Mapping[str, _Style], *, environment: str | None = None
    ) -> None:
        """Make a chart of lines without points, whose styles are given by their names."""
        traces = {
            _inert(label): {
                "x": [],
                "y": [],
                "mode": "lines+markers",
                "marker": {"color": style.colour, "symbol": "circle-open" if style.dashed else "circle"},
                "line": {"color": style.colour, "dash": "dash" if style.dashed else "solid"},
            }
            for label, style in styles.items()
        }
        width = min(window.width, _WIDEST)
        options = {"title": _inert(window.name), "width": width, "height": window.height}
        options |= {"xlabel": _inert(window.x_label), "ylabel": _inert(window.y_label)}
        options |= {"legend": list(traces), "traceopts": {"plotly": traces}}
        # `line` asks for a point of each line, which `traceopts` take out again.
        self._client.line([[math.nan] * len(traces)], win=win, env=environment, opts=options)


def augmentation(gallery: Gallery) -> Pictures | None:
    """Show a few samples as they are, and as the model is fed with them; None if none can be shown."""
    cells = [f"<tr>{_cell(before)}{_cell(after)}</tr>" for before, after in gallery.augmented(_SAMPLES)]
    if not cells:
        return None
    header = "<tr><th>as it is</th><th>as the model is fed with it, in the first epoch</th></tr>"
    return Pictures("samples", "Samples", _TABLE.format(header + "".join(cells)))


def learned(gallery: Gallery, epoch: int) -> Pictures | None:
    """Show what the model has learned so far; None if its task shows nothing."""
    content = "".join(
        (f"<p>{html.escape(visible(exhibit.explanation))}</p>" if exhibit.explanation else "")
        + _fitting(exhibit)
        for exhibit in gallery.model()
    )
    return Pictures("learned", f"What was learned, epoch {epoch}", content) if content else None


def _cell(portrait: Portrait) -> str:
    said = html.escape(visible(", ".join(map(str, portrait.record.values()))))
    return f'<td style="width: 50%"><p>{said}</p>{"".join(map(_fitting, portrait.exhibits))}</td>'


def _fitting(exhibit: Exhibit) -> str:
    """An exhibit in its own size, or as wide as its place if that is less."""
    return element(exhibit).replace(" ", ' style="width: auto; max-width: 100%" ', 1)


def _summary(run: RunStart) -> str:
    cells = "".join(
        f"<tr><td><b>{html.escape(key)}</b></td><td>{html.escape(value)}</td></tr>"
        for key, value in run.facts.items()
    )
    protocol = html.escape(json.dumps(run.protocol, indent=2, ensure_ascii=False))
    return (
        f"<h4>{html.escape(run.name)}</h4>"
        f'<table style="overflow-wrap: anywhere; line-height: {_LINE - 4}px">{cells}</table>'
        f"<details><summary>Protocol</summary><pre>{protocol}</pre></details>"
    )


def _lines(name: str, value: str) -> int:
    """Lines that a row of the summary takes."""
    return max(1, math.ceil(len(name) / _LETTERS_OF_NAMES), math.ceil(len(value) / _LETTERS))


def _styles(window: Window) -> dict[str, _Style]:
    """Style the lines of a window as the report's learning curve does: a colour for each metric."""
    keys = list(dict.fromkeys(line.key for line in window.lines))
    return {
        line.label: _Style(COLOURS[keys.index(line.key) % len(COLOURS)], dashed=line.split == "train")
        for line in window.lines
    }


def _inert(text: str) -> str:
    """Text as plotly shows it: it knows links and bold type, and mathematics between two dollar signs."""
    text = html.escape(visible(text), quote=False)
    return text.replace("$", "&#36;") if text.count("$") > 1 else text


def _points(run: RunStart, event: Iteration | Evaluated) -> Iterator[_Point]:
    if isinstance(event, Iteration):
        yield _Point(_LOSS.lower(), _LOSS, event.iteration, event.loss)
        yield _Point("throughput", _SPEED, event.iteration, event.samples_per_second)
        for number, rate in enumerate(event.learning_rates):
            yield _Point(_RATE.lower(), _group(run, number), event.iteration, rate)
    for window in run.windows:
        for line in window.lines:
            if line.key not in event.metrics:
                continue
            if isinstance(event, Iteration) and line.by_iteration:
                yield _Point(_id(window), line.label, event.iteration, event.metrics[line.key])
            elif isinstance(event, Evaluated) and line.split == event.split and not line.by_iteration:
                yield _Point(_id(window), line.label, event.epoch, event.metrics[line.key])
    if run.sweep and isinstance(event, Evaluated) and event.split == "test":
        for _, keys in _of_sweep(run):
            for key in keys & event.metrics.keys():
                value = event.metrics[key]
                yield _Point(f"{key} by run", run.folder.name, event.epoch, value, run.sweep)


def _of_sweep(run: RunStart) -> Iterator[tuple[Window, set[str]]]:
    """Windows, and the names of their held-out metrics that go by epoch."""
    for window in run.windows:
        yield window, {line.key for line in window.lines if line.split == "test" and not line.by_iteration}


def _by_iteration(run: RunStart, name: str) -> Window:
    width, height = (run.windows[0].width, run.windows[0].height) if run.windows else (1890, 416)
    return Window(name=name, x_label="#Iterations", y_label=name, width=width, height=height, lines=())


def _group(run: RunStart, number: int) -> str:
    """Name an optimizer group: there is one for each rule of what is trained."""
    rules = _trained(run)
    return rules[number] if number < len(rules) else f"group {number + 1}"


def _trained(run: RunStart) -> list[str]:
    """Patterns of the rules that train."""
    return [rule["match"] for rule in run.protocol.get("Parameters", []) if rule.get("train", True)]


def _id(window: Window) -> str:
    return f"metrics: {window.name}"
