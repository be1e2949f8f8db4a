"""The notebook runs from top to bottom with a small model."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from demo.made import made_collection
from model.audioclip import AudioCLIP

NOTEBOOK = Path(__file__).parents[2] / "demo/AudioCLIP.ipynb"


def test_the_notebook_is_stored_with_the_outputs_of_one_run() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 3
    assert sum("text/markdown" in data for data in shown) == 6
    said = "".join(output.get("text", "") for output in outputs)
    assert "made-collection" in said  # the project's own sounds and drawings
    assert {output.get("name", "") for output in outputs} <= {"", "stdout"}
    assert "/" not in said  # no path of the machine on which it ran
    assert NOTEBOOK.stat().st_size < 600_000


def test_every_step_is_explained() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sections = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert all(len(source.split()) > 20 for source in sections)
    titles = [source.splitlines()[0] for source in sections if source.startswith("## ")]
    steps = ["Weights", "Items", "Embeddings", "Similarities", "Rankings"]
    assert titles == [f"## {step}" for step in steps]


@pytest.mark.processes
@pytest.mark.usefixtures("published_audio_towers")
def test_the_notebook_runs_and_shows_three_matrices_and_rankings_in_every_direction(
    small_arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AudioCLIP(**small_arguments, pretrained=False).save_pretrained(tmp_path / "small")
    monkeypatch.setenv("AUDIOCLIP_WEIGHTS", str(tmp_path / "small"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = made_collection(tmp_path / "made")
    for path in folder.glob("*_2.wav"):
        path.unlink()
    monkeypatch.setenv("AUDIOCLIP_FOLDER", str(folder))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    figures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(figures) == 3
    for figure in figures:
        pixels = np.asarray(Image.open(io.BytesIO(figure)).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500  # colours of the map and of the drawings
    tables = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert [table.splitlines()[0] for table in tables] == [
        "### sounds find images",
        "### images find sounds",
        "### sounds find texts",
        "### texts find sounds",
        "### images find texts",
        "### texts find images",
    ]
    assert [len(table.splitlines()) - 4 for table in tables] == [6] * 6  # one row per query
    said = "".join(output.get("text", "") for output in outputs)
    assert "6 sounds, 6 images, 6 texts" in said
