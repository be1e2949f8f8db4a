"""Fixtures for all tests: real clips, deterministic weights, a web server that misbehaves on request."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_backbone import published_backbone, small_backbone

pytest_plugins = ["tests.browser"]

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs except from `-m gpu`, so that tests compute the same numbers on every machine."""
    if not asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # torch reads the variable when CUDA is first used


def asks_for_gpu(markers: str) -> bool:
    return bool(re.search(r"(?<!not )\bgpu\b", markers))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and `-m gpu`"))


def pytest_collection_finish() -> None:
    """Exclude libraries and tests from garbage collections, each of which would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _small_audio_towers() -> Iterator[None]:
    """Give every audio tower a small backbone: building, training and saving ResNeXt-50s takes minutes."""
    with small_backbone():
        yield


@pytest.fixture(scope="module")
def published_audio_towers(_small_audio_towers: None) -> Iterator[None]:
    """Give the audio towers of a module's tests the published ResNeXt-50."""
    with published_backbone():
        yield


@pytest.fixture(autouse=True)
def nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - see below
    """Let every download end at a port of this machine where nothing listens.

    `tmp_path` comes before `monkeypatch` in every test, so that the folder is deleted after patches of `os`
    are undone.
    """
    monkeypatch.setenv("AUDIOCLIP_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("model.weights.fetch.PAUSE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the decoded audio of a test out of the user's cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUDIOCLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return a function that finds a folder of `../shared/data`, beside the repository, or skips the test."""

    def find(name: str) -> Path:
        folder = REAL_DATA / name
        if not folder.is_dir():
            pytest.skip(f"real clips are not there: {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def deterministic_weights() -> Callable[[nn.Module], None]:
    """Return a function that gives a model the recorded values' weights, which depend on names and shapes."""
    return _fill


@pytest.fixture(scope="module")
def named_towers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Return a function that adds models to open_clip during the tests of a module, given their configs."""
    from open_clip import add_model_config, factory

    known, paths = dict(factory._MODEL_CONFIGS), list(factory._MODEL_CONFIG_PATHS)

    def add(configs: dict[str, Any]) -> None:
        folder = tmp_path_factory.mktemp("configs")
        for name, config in configs.items():
            (folder / f"{name}.json").write_text(json.dumps(config))
        add_model_config(folder)

    yield add
    factory._MODEL_CONFIGS, factory._MODEL_CONFIG_PATHS = known, paths


@dataclass
class Web:
    """A server on this machine. The first requests get the answers in `script`, later ones the file.

    | word         | answer                                                            |
    |--------------|-------------------------------------------------------------------|
    | `"503"`      | that status                                                       |
    | `"drop"`     | none                                                              |
    | `"cut 1000"` | only the first 1,000 bytes of the announced file                  |
    | `"open"`     | the file, without announcing its length                           |
    | `"strange"`  | 206 with a range that was not requested                           |
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: list[str] = field(default_factory=list)
    etag: str = '"first"'
    ranges: bool = True
    delay_seconds: float = 0.0
    asked: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """For every path, the range header of each request, "" where there was none."""


@pytest.fixture
def web() -> Iterator[Web]:
    """Serve `web.files` under `web.url`."""
    web = Web()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(web))
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            asked = self.headers.get("Range", "")
            web.asked[self.path].append(asked)
            time.sleep(web.delay_seconds)
            word = web.script.pop(0) if web.script else ""
            content = web.files.get(self.path.removeprefix("/"))
            if word == "drop":
                return
            if word.isdigit() or content is None:
                self.send_error(int(word or 404))
                return
            start = self._start(asked)
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start or word == "strange" else 200)
            if web.etag:
                self.send_header("ETag", web.etag)
            if start or word == "strange":
                first = 7 if word == "strange" else start
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            if word != "open":
                self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Connection", "close")
            self.end_headers()
            end = start + int(word.split()[1]) if word.startswith("cut") else len(content)
            try:
                self.wfile.write(content[start:end])
            except OSError:  # the client closed the connection
                return

        def _start(self, asked: str) -> int:
            part = re.fullmatch(r"bytes=(\d+)-", asked)
            same = self.headers.get("If-Range", web.etag) == web.etag
            return int(part[1]) if part and web.ranges and same else 0

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


def _weight(name: str, shape: torch.Size) -> Tensor | None:
    """The float64 values of one state-dict entry, or None where it keeps what it was built with."""
    if name.endswith(("num_batches_tracked", "window", "fbsp.bias")):
        return None
    leaf = name.rsplit(".", maxsplit=1)[-1]
    if leaf in ("logit_scale", "logit_scale_ai", "logit_scale_at"):
        return torch.tensor(math.log(20.0), dtype=torch.float64)
    noise = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape)))
    if name.startswith("audio.fbsp."):
        bins = torch.arange(len(noise), dtype=torch.float64)
        return {"m": 0.5 + 0.1 * noise.abs(), "fb": 1.0 + 0.05 * noise, "fc": bins + 0.1 * noise}[leaf]
    if leaf in ("running_mean", "bias", "in_proj_bias", "positional_embedding") or "token_embedding" in name:
        return 0.05 * noise
    if noise.ndim == 1:  # variances, and scales of normalisation layers
        return 1.0 + 0.2 * noise.abs() if leaf == "running_var" else 1.0 + 0.1 * noise
    fan_in = shape[0] if leaf == "text_projection" else math.prod(shape[1:])
    return noise * math.sqrt(1.0 / fan_in)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        values = _weight(name, tensor.shape)
        if values is not None:
            tensor.copy_(values)
