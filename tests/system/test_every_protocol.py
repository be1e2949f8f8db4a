"""Every shipped protocol on a miniature of its data: it is explained, and trains two steps or evaluates.

Only places and sizes differ from the shipped text: data, weights, networks, clips, images, batches, epochs,
workers, and reporters. A protocol with a new data set needs an entry in `WRITERS`.
"""

from __future__ import annotations

import csv
import gc
import inspect
import json
import math
import pydoc
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn
from toy_research.records import events

from ignite_trainer.commands import estimates
from ignite_trainer.commands.named_data import data_from_protocol
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.reading import read_protocol
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.reporters.ignite_loggers import require_loggers
from ignite_trainer.support.errors import ProtocolError
from model.clap import Clap
from model.weights.loading import read_state_dict
from tests.miniatures import (
    write_audiocaps,
    write_audioset,
    write_clotho,
    write_esc50,
    write_fsd50k,
    write_us8k,
    write_vggsound,
)
from tests.small_backbone import SMALL_AUDIOCLIP
from tests.small_clap import save_clap, small_clap
from tests.system.conftest import DEFAULTS, QUIET, SHIPPED, Command

TRAINING = [path for path in SHIPPED if read_protocol(path)["Setup"]["epochs"]]
EVALUATING = [path for path in SHIPPED if path not in TRAINING]
LOGGING = [path for path in SHIPPED if "ignite.handlers" in path.read_text()]
STEPS = 2

SECONDS = 0.15  # of a clip or a window; the sounds of most miniatures are longer
PIXELS = 32
NETWORK = {
    **SMALL_AUDIOCLIP,
    **{"image_resolution": PIXELS, "context_length": 24, "transformer_width": 16},
    **{"spec_height": PIXELS, "spec_width": PIXELS},
}


def write_pairs(folder: Path) -> Path:
    """Write ten clips of two classes, each with an image, and a table of them without folds."""
    folder.mkdir()
    for number in range(10):
        random = np.random.default_rng(number)
        soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1, 8820), 44100)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number}.png")
    with (folder / "own.csv").open("w", newline="") as file:
        rows = [(f"{number}.wav", f"{number}.png", "ab"[number % 2]) for number in range(10)]
        csv.writer(file).writerows([("audio", "image", "label"), *rows])
    return folder / "own.csv"


WRITERS: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
    "AudioCaps": lambda folder: {"root": str(write_audiocaps(folder))},
    "AudioSet": lambda folder: {"root": str(write_audioset(folder, segments=8))},
    "Clotho": lambda folder: {"root": str(write_clotho(folder))},
    "ESC50": lambda folder: {"root": str(write_esc50(folder))},
    "FSD50K": lambda folder: {"root": str(write_fsd50k(folder, train=10, val=5, eval_=10))},
    "MadeScenes": lambda _: {"seconds": SECONDS, "scenes": 12, "held_out_scenes": 12},
    "MadeSounds": lambda folder: {**{"root": str(folder), "seconds": SECONDS, "clips_per_class_and_fold": 1}},
    "Table": lambda folder: {"table": str(write_pairs(folder))},
    "UrbanSound8K": lambda folder: {"root": str(write_us8k(folder))},
    "VGGSound": lambda folder: {"root": str(write_vggsound(folder, train=25, test=10))},
}
"""For each class of `utils.datasets`, a function that writes a miniature and returns the arguments for it."""


class Small:
    """Makes shipped protocols small, and writes miniatures of their data, each once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data: dict[str, Mapping[str, Any]] = {}
        self._protocols: dict[Path, dict[str, Any]] = {}

    def __call__(self, path: Path) -> dict[str, Any]:
        """Return a protocol with other places and sizes, wherever these are."""
        if path not in self._protocols:
            self._protocols[path] = self._made(read_protocol(path))
        return self._protocols[path]

    def _made(self, shipped: dict[str, Any]) -> dict[str, Any]:
        samples = round(SECONDS * shipped["Dataset"]["args"].get("sample_rate", 44100))
        scale = PIXELS / shipped["Model"]["args"].get("image_resolution", 224)

        def shrink(value: Any, key: str = "") -> Any:
            if key in ("out_len", "window_samples"):
                return value and samples
            if key in ("size", "image_size"):
                return np.rint(scale * np.array(value)).astype(int).tolist()
            if isinstance(value, list):
                return [shrink(item) for item in value]
            if not isinstance(value, dict):
                return value
            value = {key: shrink(item, key) for key, item in value.items()}
            kind = pydoc.locate(str(value.get("class")))
            if inspect.isclass(kind) and issubclass(kind, nn.Module):
                arguments = inspect.signature(kind).parameters
                value["args"] |= {name: size for name, size in NETWORK.items() if name in arguments}
                value["args"]["pretrained"] = self._weights(kind)
            return value

        protocol: dict[str, Any] = {section: shrink(content) for section, content in shipped.items()}
        del protocol["$schema"]  # a relative path
        setup, data, model = (protocol[section] for section in ("Setup", "Dataset", "Model"))
        setup |= {"batch_train": 8, "batch_test": 8, "workers_train": 0, "workers_test": 0, "seed": 1}
        setup |= {"compile": False}  # takes minutes
        data["args"] |= self._miniature(data["class"])
        if setup["epochs"]:
            path = self.folder / "protocol.json"
            path.write_text(json.dumps(protocol))
            train = data_from_protocol(path, defaults=DEFAULTS).splits["train"]
            setup |= {"epochs": 1, "batch_train": len(train) // (STEPS * setup.get("accumulate", 1))}
            if "num_classes" in model["args"]:
                model["args"]["num_classes"] = len(train.class_names)
        return protocol

    def _miniature(self, dataset: str) -> Mapping[str, Any]:
        name = dataset.removeprefix("utils.datasets.")
        if name not in WRITERS:
            pytest.fail(f"{dataset} has no miniature: add a function that writes one to WRITERS")
        if name not in self._data:
            self._data[name] = WRITERS[name](self.folder / name)
        return self._data[name]

    def _weights(self, model: type[nn.Module]) -> str | bool:
        if model is not Clap:
            return False
        folder = self.folder / "clap-htsat-unfused"
        return str(folder if folder.exists() else save_clap(small_clap(), folder))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(autouse=True)
def _nothing_is_done_twice(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded audio, and exclude what there is from the six garbage collections of an explanation."""
    monkeypatch.setenv("AUDIOCLIP_CACHE", str(small.folder / "cache"))
    gc.freeze()


def finished_run(folder: Path) -> tuple[Path, Protocol]:
    """Return the folder of the only run, and its protocol; check that its result is complete."""
    (path,) = folder.glob("results/*/*/result.json")
    protocol, result = load(folder / "protocol.json", defaults=DEFAULTS), json.loads(path.read_text())
    assert set(result["last"]) == {line.line_label for line in protocol.lines.values()}
    assert None not in result["last"].values()  # NaN
    assert set(result["evaluations"]) == set(protocol.evaluations)
    assert all(figures for table in result["evaluations"].values() for figures in table.values())
    return path.parent, protocol


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_protocol_is_explained(
    path: Path, small: Small, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "_QUICK", 0.0)  # steps are not repeated: nobody reads the times
    monkeypatch.setenv("COLUMNS", "500")
    done = command(small(path), "--explain")
    assert done.status == 0, done.err
    assert "cannot tell" not in done.out
    for table in ("what is trained", "a batch", "the model's modules", "estimates"):
        assert f"protocol.json: {table}" in done.out
    assert "Evaluation step" in done.out
    assert ("Training step" in done.out) == (path in TRAINING)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_every_shipped_protocol_with_epochs_trains_two_steps(
    path: Path, small: Small, command: Command, tmp_path: Path
) -> None:
    done = command(small(path), *QUIET)
    assert done.status == 0, done.err
    run, protocol = finished_run(tmp_path)
    steps = [event for event in events(run) if event["event"] == "iteration"]
    assert steps[-1]["iteration"] == STEPS * protocol.setup.accumulate
    assert all(math.isfinite(step["loss"]) for step in steps)

    assert protocol.setup.seed is not None
    torch.manual_seed(protocol.setup.seed)
    before = draw(protocol).model(**protocol.model.args)
    after = read_state_dict(run / "checkpoints/last_epoch-1.pt")
    moved = {
        next(rule.match for rule in protocol.parameters if re.fullmatch(rule.match, name))
        for name, weight in before.named_parameters()
        if not torch.equal(weight, after[name])
    }
    assert moved == {rule.match for rule in protocol.parameters if rule.train}


@pytest.mark.parametrize("path", EVALUATING, ids=lambda path: path.stem)
def test_every_shipped_protocol_without_epochs_evaluates(
    path: Path, small: Small, command: Command, tmp_path: Path
) -> None:
    done = command(small(path), *QUIET)
    assert done.status == 0, done.err
    finished_run(tmp_path)


@pytest.mark.parametrize("path", LOGGING, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # caused by the loggers' own imports
def test_every_shipped_protocol_with_a_logger_runs_with_its_reporters(
    path: Path, small: Small, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        require_loggers(draw(load(path, defaults=DEFAULTS)).reporters)
    except ProtocolError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = command(small(path))
    assert done.status == 0, done.err
    run, _ = finished_run(tmp_path)
    assert (run / "report.html").exists()
