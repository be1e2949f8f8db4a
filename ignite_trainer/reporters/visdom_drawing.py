"""What the dashboard shows, drawn through visdom's client: charts, tables, pictures, sounds."""

from __future__ import annotations

import html
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ignite_trainer.exhibit import Exhibit, Gallery, Portrait
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import statistics
from ignite_trainer.report.page import element
from ignite_trainer.reporters.reporter import Evaluated, Iteration, RunStart, Window
from ignite_trainer.visible import visible

if TYPE_CHECKING:
    import visdom

_LOSS, _RATE, _SPEED = "Loss", "Learning rate", "Samples/s"
_MOST_CLASSES = 200  # of a confusion matrix: of more, no cell could be seen
_SAMPLES = 3
_TABLE = '<table style="width: 100%; table-layout: fixed">{}</table>'


class Pictures(NamedTuple):
    """A window of HTML."""

    window: str
    title: str
    content: str


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
        client.text(_summary(run), win="summary", opts={"title": run.name})
        self._chart(_by_iteration(run, _LOSS), _LOSS.lower(), {_LOSS: "solid"})
        for window in run.windows:
            if window.lines:
                dashes = {line.label: "dash" if line.split == "train" else "solid" for line in window.lines}
                self._chart(window, _id(window), dashes)
        if run.epochs:
            self._chart(_by_iteration(run, _RATE), _RATE.lower(), {_group(run, 0): "solid"})
            self._chart(_by_iteration(run, _SPEED), "throughput", {_SPEED: "solid"})
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
        kept = statistics.finite(predictions)
        if kept.multilabel or not len(kept) or len(kept.class_names) > _MOST_CLASSES:
            return
        names = [_inert(name) for name in kept.class_names]
        side = min(900, 260 + 24 * len(names))
        options: dict[str, Any] = {
            "title": "Confusion matrix",
            "xlabel": "Predicted class",
            "ylabel": "Right class",
        }
        options |= {"columnnames": names, "rownames": names, "colormap": "YlGnBu"}
        options |= {"width": side + 80, "height": side}
        self._client.heatmap(statistics.confusion_matrix(kept), win="confusion", opts=options)

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
                    self._chart(titled, chart, {name: "solid"}, environment=environment)

    def _chart(
        self, window: Window, win: str, dashes: Mapping[str, str], *, environment: str | None = None
    ) -> None:
        """Make a chart of lines without points; `dashes` has plotly's `dash` by the line's name."""
        traces = {
            _inert(label): {"x": [], "y": [], "mode": "lines+markers", "marker": {}, "line": {"dash": dash}}
            for label, dash in dashes.items()
        }
        options = {"title": _inert(window.name), "width": window.width, "height": window.height}
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
    content = "".join(map(_fitting, gallery.model()))
    return Pictures("learned", f"What was learned, epoch {epoch}", content) if content else None


def _cell(portrait: Portrait) -> str:
    said = html.escape(visible(", ".join(map(str, portrait.record.values()))))
    return f'<td style="width: 50%"><p>{said}</p>{"".join(map(_fitting, portrait.exhibits))}</td>'


def _fitting(exhibit: Exhibit) -> str:
    """An exhibit as wide as its place at most."""
    return element(exhibit).replace(" ", ' style="max-width: 100%" ', 1)


def _summary(run: RunStart) -> str:
    cells = "".join(
        f"<tr><td><b>{html.escape(key)}</b></td><td>{html.escape(value)}</td></tr>"
        for key, value in run.facts.items()
    )
    protocol = html.escape(json.dumps(run.protocol, indent=2, ensure_ascii=False))
    return f"<h4>{html.escape(run.name)}</h4><table>{cells}</table><pre>{protocol}</pre>"


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
    rules = [rule["match"] for rule in run.protocol.get("Parameters", []) if rule.get("train", True)]
    return rules[number] if number < len(rules) else f"group {number + 1}"


def _id(window: Window) -> str:
    return f"metrics: {window.name}"
