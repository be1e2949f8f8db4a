"""The dashboard in a real browser: it grows while a run trains, and shows samples and learned filters.

visdom's server fetches its scripts from the internet; here they come from the npm registry, once.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from PIL import Image

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.reporter import RunStart
from ignite_trainer.reporters import Visdom, visdom
from tests.ignite_trainer.reporters.events import evaluated, trained

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.processes

# Downloads of visdom's `download_scripts`: package, file in it, file in the server's static folder.
SCRIPTS = (
    ("jquery@3.1.1", "dist/jquery.min.js", "js/jquery.min.js"),
    ("bootstrap@3.3.7", "dist/js/bootstrap.min.js", "js/bootstrap.min.js"),
    ("bootstrap@3.3.7", "dist/css/bootstrap.min.css", "css/bootstrap.min.css"),
    ("bootstrap@3.3.7", "dist/fonts/glyphicons-halflings-regular.woff2", "fonts/"),
    ("react@16.2.0", "umd/react.production.min.js", "js/react-react.min.js"),
    ("react-dom@16.2.0", "umd/react-dom.production.min.js", "js/react-dom.min.js"),
    ("react-modal@3.1.10", "dist/react-modal.min.js", "js/react-modal.min.js"),
    ("plotly.js-dist-min@2.11.1", "plotly.min.js", "js/plotly-plotly.min.js"),
    ("sjcl@1.0.7", "sjcl.js", "js/sjcl.js"),
    ("layout-bin-packer@1.4.0", "dist/layout-bin-packer.js", "js/layout_bin_packer.js"),
    ("d3@3.5.17", "d3.min.js", "js/d3.v3.min.js"),
    ("d3-selection-multi@1.0.1", "build/d3-selection-multi.js", "js/d3-selection-multi.v1.js"),
    ("save-svg-as-png@1.4.17", "lib/saveSvgAsPng.js", "js/saveSvgAsPng.js"),
    ("react-resizable@1.4.6", "css/styles.css", "css/react-resizable-styles.css"),
    ("react-grid-layout@0.16.3", "css/styles.css", "css/react-grid-layout-styles.css"),
    ("classnames@2.2.5", "index.js", "fonts/classnames"),
    ("mathjax@2.7.5", "MathJax.js", "js/mathjax/2.7.5/"),
    ("mathjax@2.7.5", "config", "js/mathjax/2.7.5/config"),
    ("mathjax@2.7.5", "extensions", "js/mathjax/2.7.5/extensions"),
    ("mathjax@2.7.5", "jax", "js/mathjax/2.7.5/jax"),
)
POINTS = """title => {
    const charts = [...document.querySelectorAll('.js-plotly-plot')];
    const named = one => one.layout.title && [one.layout.title, one.layout.title.text].includes(title);
    const chart = charts.find(named);
    return chart ? chart.data.map(line => line.y.length).reduce((a, b) => a + b, 0) : 0;
}"""


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return code that starts visdom from a copy of its package with the scripts."""
    import visdom as installed

    packages = npm_packages(sorted({package for package, _, _ in SCRIPTS}))
    copy = tmp_path_factory.mktemp("server") / "visdom"
    shutil.copytree(Path(installed.__file__).parent, copy)
    for package, source, target in SCRIPTS:
        path = packages / package.rpartition("@")[0] / source
        place = copy / "static" / target
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            place = place / path.name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return visdom.BOOTSTRAP.replace(
        "runpy.run_module",
        f"sys.path.insert(0, {str(copy.parent)!r})\n"
        "import visdom.server.run_server as run_server\n"
        "run_server.download_scripts = lambda: None\n"
        "runpy.run_module",
    )


def npm_packages(packages: Sequence[str]) -> Path:
    """Install npm packages, once for all later tests; none of their code is run."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which fetches the dashboard's scripts, is not installed: apt-get install npm")
    folder = Path.home() / ".cache" / "audioclip-tests" / "visdom-scripts"
    if not all((folder / "node_modules" / package.rpartition("@")[0]).is_dir() for package in packages):
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps", "--no-save")
        done = subprocess.run(
            [npm, "install", *options, *packages], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"the dashboard's scripts cannot be fetched: {done.stderr.strip()[-300:]}")
    return folder / "node_modules"


def address(port: int, environment: str) -> str:
    return f"http://127.0.0.1:{port}/env/{quote(environment)}"


def open_page(page: Page, url: str) -> None:
    """Open a page of a server that is starting."""
    from playwright.sync_api import Error

    for _ in range(60):
        try:
            answer = page.goto(url)
        except Error:
            page.wait_for_timeout(500)
        else:
            assert answer is not None
            assert answer.ok
            return
    raise AssertionError(f"{url} does not open")


def show(page: Page, url: str, selector: str) -> None:
    """Open an environment, again and again, until an element is on the page."""
    from playwright.sync_api import TimeoutError as TooLate

    for _ in range(6):
        page.goto(url)
        try:
            page.wait_for_selector(selector, state="attached", timeout=5000)
        except TooLate:
            continue
        return
    raise AssertionError(f"{url} does not show {selector}")


def test_the_dashboard_grows_while_a_run_trains(
    page: Page, bootstrap: str, free_port: int, tmp_path: Path
) -> None:
    script = f"""
        from pathlib import Path
        from toy_research.protocols import run_toy
        from ignite_trainer.reporters import visdom
        visdom.BOOTSTRAP = {bootstrap!r}
        visdom = {{"class": "ignite_trainer.reporters.Visdom"}}
        run_toy(Path({str(tmp_path)!r}), Setup__epochs=100000, Reporters=[visdom],
                Visdom={{"port": {free_port}, "env_path": {str(tmp_path)!r}}})
    """
    environment = {"PYTHONPATH": ".:tests", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        open_page(page, f"http://127.0.0.1:{free_port}")
        while not (folders := list((tmp_path / "Toy").glob("2*"))):
            page.wait_for_timeout(100)
        page.goto(address(free_port, f"Toy {folders[0].name}"))
        for title in ("Loss", "Performance", "Learning rate", "Samples/s"):
            page.wait_for_function(f"({POINTS})('{title}') > 2")
            seen = page.evaluate(POINTS, title)
            page.wait_for_function(f"({POINTS})('{title}') > {seen}")
        page.wait_for_function("document.body.innerText.includes('Confusion matrix')")
        assert process.poll() is None  # it is still training
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Shown(Gallery):
    """Shows a picture and a sound for each sample, and a picture for the model."""

    def __init__(self) -> None:
        picture, sound = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (60, 40)).save(picture, format="png")
        soundfile.write(sound, np.zeros(4410), 44100, format="ogg")
        self._picture = Exhibit(what="Picture", media_type="image/png", content=picture.getvalue())
        self._sound = Exhibit(what="Sound", media_type="audio/ogg", content=sound.getvalue())

    def augmented(self, count: int) -> list[tuple[Portrait, Portrait]]:
        exhibits = (self._picture, self._sound)
        samples = [
            Portrait(record={"clip": f"<b>{number}</b>.wav"}, exhibits=exhibits) for number in range(count)
        ]
        return [*zip(samples, samples, strict=True)]

    def model(self) -> Sequence[Exhibit]:
        return [self._picture]


def test_the_dashboard_shows_the_inputs_of_the_network_and_its_learned_filters(
    page: Page,
    bootstrap: str,
    run: RunStart,
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    guesses: Any,
) -> None:
    monkeypatch.setattr(visdom, "BOOTSTRAP", bootstrap)
    protocol = {"Parameters": [{"match": "audio.*"}, {"match": ".*"}]}
    sweep = dataclasses.replace(run, name="A run", protocol=protocol, gallery=Shown(), sweep="A sweep")
    pairs, names = [(0, 0), (1, 1), (2, 1), (2, 2)], ["<b>dog</b>", "cat", "cow"]
    predictions = guesses(pairs, classes=3, names=names)
    reporter = Visdom(port=free_port, env_path=str(tmp_path / "environments"))
    reporter.on_start(sweep)
    reporter.on_iteration(dataclasses.replace(trained(1), learning_rates=(0.1, 0.2)))
    reporter.on_evaluation(evaluated(2, metrics={"Val. Acc.": 0.75}, predictions=predictions))
    try:
        open_page(page, f"http://127.0.0.1:{free_port}")
        show(page, address(free_port, sweep.name), ".content-text audio >> nth=5")
        page.wait_for_selector("text=What was learned, epoch 2")
        sizes = page.eval_on_selector_all(
            ".content-text img", "all => all.map(one => one.complete && one.naturalWidth)"
        )
        assert len(sizes) == 7
        assert all(sizes)
        assert page.inner_text(".content-text td p >> nth=0") == "<b>0</b>.wav"
        assert page.evaluate(POINTS, "Learning rate") == 2
        heat = page.evaluate(
            "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data[0])"
            ".find(one => one.type == 'heatmap').text"
        )
        assert heat == [["1", "", ""], ["", "1", ""], ["", "1", "1"]]
        page.screenshot(path=tmp_path / "dashboard.png", full_page=True)
        page.goto(address(free_port, "A sweep"))
        page.wait_for_function(f"({POINTS})('Val. Acc. by run') == 1")
    finally:
        reporter.close()
