"""The command trains named towers in parts, with averaged weights, a warm-up and a cosine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_research.records import events

from model.audioclip import AudioCLIP
from tests.system.conftest import QUIET, Command
from utils.datasets import MadeSounds

TINY = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SHORT = """
    --Model.args.spec_height 32 --Model.args.spec_width 32 --Dataset.args.progress false
    --Transforms.3.args.out_len 8820 --Transforms.4.args.out_len 8820
    --Transforms.6.args.out_len 8820 --Transforms[-1].args.out_len 8820
    -b 8 -B 8 -w 0 -W 0 --Setup.seed 5 --Setup.skip_train_evaluation true
""".split()  # noqa: SIM905
WARM_UP = {"class": "torch.optim.lr_scheduler.LinearLR", "interval": "step", "lasts": 2}
COSINE = {"class": "torch.optim.lr_scheduler.CosineAnnealingLR", "interval": "step", "lasts": "rest"}
# All towers learn, each at its own rate.
RULES = [
    {"match": "audio.*|logit_scale.*", "args": {"lr": 1e-3}},
    {"match": "visual.*", "train": False},
    {"match": ".*", "args": {"lr": 1e-4}},
]


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [("Tiny-ViT", 24), pytest.param("ViT-B-32-quickgelu", 512, marks=pytest.mark.slow)],
)
def test_named_towers_train_in_parts_and_the_saved_model_embeds_in_their_space(
    tmp_path: Path,
    command: Command,
    named_towers: Callable[[dict[str, Any]], None],
    name: str,
    dimensions: int,
) -> None:
    named_towers({"Tiny-ViT": TINY})
    sounds = MadeSounds(tmp_path / "ESC-50", seconds=0.2, clips_per_class_and_fold=1, cache=tmp_path).root
    words = ["--Dataset.args.root", str(sounds), "--Model.args.clip", name, "-e", "1", *QUIET]
    words += ["--Model.args.pretrained", "false", "--Setup.chunk", "4", "--Setup.ema", "0.9"]
    words += ["--Scheduler", json.dumps([WARM_UP, COSINE]), "--Parameters", json.dumps(RULES)]
    assert command("audioclip-esc50", *SHORT, *words).status == 0

    (folder,) = (tmp_path / "results").glob("*/*")
    state = torch.load(folder / "checkpoints" / "last_epoch-1.pt", weights_only=True)
    assert state["scheduler"]["last_epoch"] == state["average"]["steps"] == 3
    assert [group["lr"] for group in state["optimizer"]["param_groups"]] == pytest.approx([0, 0], abs=1e-12)
    assert events(folder)[-1]["event"] == "end"
    (best,) = (folder / "checkpoints").glob("best_*_epoch-1_*.pt")
    model = AudioCLIP.from_pretrained(best, clip=name, spec_height=32, spec_width=32)
    sound = model.embed_audio(np.full(9000, 500, np.int16), sample_rate=44100)
    picture = model.embed_image(np.zeros((40, 50, 3), np.uint8))
    assert sound.shape == picture.shape == model.embed_text("dog").shape == (1, dimensions)


def test_the_command_refuses_published_arguments_together_with_a_name(
    command: Command, tmp_path: Path
) -> None:
    sounds = MadeSounds(tmp_path / "ESC-50", seconds=0.2, clips_per_class_and_fold=1, cache=tmp_path).root
    words = ["--Dataset.args.root", sounds, "--Model.args.pretrained", "false"]
    words += ["--Model.args.clip", "ViT-B-32", "--Model.args.embed_dim", "32"]
    refused = command("audioclip-esc50", *SHORT, *words)
    assert refused.status == 2
    assert 'Model.args.embed_dim is 32, but clip is "ViT-B-32", whose towers are fixed.' in refused.err
