"""The package xares evaluates a small AudioCLIP on tasks made here."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from model.audioclip import AudioCLIP
from tests.utils.benchmarks.conftest import run
from tests.utils.benchmarks.tones import FOLDS, tones

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not importlib.util.find_spec("xares"), reason="needs xares: make benchmarks"),
]


def make_xares_tar(path: Path, fold: int) -> None:
    """Write clips in the layout of xares's data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for clip, (label, samples) in enumerate(tones(fold)):
            sound = io.BytesIO()
            soundfile.write(sound, samples, 44100, subtype="FLOAT", format="WAV")
            for name, data in (("wav", sound.getvalue()), ("json", json.dumps({"label": label}).encode())):
                entry = tarfile.TarInfo(f"{clip}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


COMMAND = ("xares.run", "utils/benchmarks/xares.py", "local_task.py", "--max-jobs", "0")
XARES_TASK = """
import torch
from xares.task import TaskConfig

def frame_labels(sample):
    labels = torch.zeros(2, 2)
    labels[sample["label"]] = 1.0
    return labels

def local_config(encoder):
    return TaskConfig(encoder=encoder, private=True, output_dim=2, eval_weight=6, num_encoder_workers=0, {})
"""


def test_x_ares_evaluates_clips_over_folds(saved_model: Path, tmp_path: Path) -> None:
    settings = 'name="tones", k_fold_splits=[0, 1, 2], label_processor=lambda sample: sample["label"]'
    (tmp_path / "local_task.py").write_text(
        XARES_TASK.replace("{}", f"{settings}, epochs=30, learning_rate=0.1")
    )
    for fold in range(FOLDS):
        make_xares_tar(tmp_path / f"env/tones/wds-audio-fold-{fold}-0.tar", fold)
    (tmp_path / "env/tones/.audio_tar_ready").touch()
    output = run(tmp_path, COMMAND, AUDIOCLIP_MODEL=saved_model)
    (row,) = re.findall(r"tones +([\d.]+) +([\d.]+) +True", output)
    assert float(row[0]) > 0.75 and float(row[1]) > 0.75

    # The embeddings that X-ARES evaluates are those of the clips.
    (encoded,) = tmp_path.glob("env/tones/embeddings/AudioCLIP_*_0ms_Encoder/wds-encoded-fold-1-*.tar")
    with tarfile.open(encoded) as tar:
        contents = [tar.extractfile(entry) for entry in tar if entry.name.endswith("npy")]
        found = [np.load(io.BytesIO(content.read())) for content in contents if content]
    expected = AudioCLIP.from_pretrained(saved_model).embed_audio(
        [samples for _, samples in tones(1)], sample_rate=44100, units="float"
    )
    np.testing.assert_allclose(np.stack(found), expected.numpy()[:, None], rtol=0, atol=1e-6)


def test_x_ares_evaluates_frames(saved_model: Path, tmp_path: Path) -> None:
    settings = """
        name="frames", task_type="frame", label_processor=frame_labels, do_knn=False, epochs=5,
        criterion="BCEWithLogitsLoss", metric="segmentf1_macro",
        metric_args={"hop_size_in_ms": encoder.hop_size_in_ms if encoder else 0, "segment_length_in_s": 0.25},
    """
    (tmp_path / "local_task.py").write_text(XARES_TASK.replace("{}", settings))
    for fold, split in enumerate(("train", "valid", "test")):
        make_xares_tar(tmp_path / f"env/frames/{split}0.tar", fold)
    (tmp_path / "env/frames/.audio_tar_ready").touch()
    output = run(tmp_path, COMMAND, AUDIOCLIP_MODEL=saved_model, AUDIOCLIP_HOP_MS="250")
    assert re.search(r"frames +[\d.]+ +0 +True", output), output[-3000:]
