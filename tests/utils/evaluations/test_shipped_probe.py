"""The shipped protocol of the linear probe, with a small AudioCLIP and synthetic sounds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ignite_trainer.commands import cli
from utils.datasets import MadeSounds
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.probe import main

ROOT = Path(__file__).parents[3]

SMALL = """
    --Model.args.pretrained false --Model.args.embed_dim 32 --Model.args.image_resolution 32
    --Model.args.vision_layers 1 1 1 1 --Model.args.vision_width 8 --Model.args.context_length 12
    --Model.args.transformer_width 32 --Model.args.transformer_heads 2 --Model.args.transformer_layers 1
    --Model.args.spec_height 32 --Model.args.spec_width 32
    --Transforms.1.args.out_len 13230 --Transforms.2.args.out_len 13230
    -b 8 -w 0 -W 0 --Setup.seed 1 --Reporters []
""".split()  # noqa: SIM905


@pytest.fixture
def protocol(tmp_path: Path) -> list[str]:
    """Return the command of a small run on 6 classes with 2 clips in each of 5 folds."""
    made = MadeSounds(
        tmp_path / "ESC-50", seconds=0.3, clips_per_class_and_fold=2, cache=tmp_path / "cache", progress=False
    )
    command = ["-c", str(ROOT / "protocols/audioclip-esc50-probe.json"), "-M", str(tmp_path / "results")]
    return [*command, "--Dataset.args.root", str(made.root), *SMALL]


def test_the_shipped_protocol_probes_and_stores_features(
    protocol: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(protocol, defaults=ROOT / "protocols/defaults.json") == 0
    (folder,) = (tmp_path / "results").glob("*/*_probe_seed-1")
    result = json.loads((folder / "result.json").read_text())["evaluations"]
    assert result["features"] == {"audio": {"items": 60, "dimensions": 32}}
    assert list(result["probe"]) == ["audio", "log-mel statistics", "chance"]
    assert list(result["probe"]["chance"]) == [*(f"fold {fold}" for fold in range(1, 6)), "mean", "sd"]
    assert result["probe"]["chance"]["mean"] == pytest.approx(1 / 6)
    assert result["probe"]["log-mel statistics"]["mean"] > 0.5

    stored = FeatureTable.read(folder / "features.safetensors")
    with (folder / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert [row["clip"] for row in predictions] == list(stored.clips)
    assert [row["target"] for row in predictions] == [label for (label,) in stored.labels]
    assert np.allclose(np.linalg.norm(stored.features["audio"], axis=1), 1.0, atol=1e-5)

    capsys.readouterr()
    assert main([str(folder / "features.safetensors"), "--json"]) == 0
    stored_table = json.loads(capsys.readouterr().out)
    assert stored_table["audio"] == pytest.approx(result["probe"]["audio"])
