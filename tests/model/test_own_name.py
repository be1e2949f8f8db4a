"""The package is `audioclip` if installed: messages say so, and checkpoints of a clone count as its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ignite_trainer.checkpoints import checkpoint_files
from model import own_name
from model.esresnet import ESResNeXt
from model.weights.built_from import arguments_for
from model.weights.releases import WeightsError
from tests.small_backbone import SMALL_AUDIOCLIP

ROOT = Path(__file__).parents[2]


def as_installed(code: str, folder: Path) -> str:
    """Run code that imports the folder as `audioclip`; return what it printed."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/audioclip").symlink_to(ROOT / "model")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def save(path: Path, model_class: str, **args: object) -> None:
    described = {"class": model_class, "args": args}
    checkpoint_files.save_weights(path, OrderedDict(weight=torch.zeros(1)), built_from=described)


def test_messages_of_the_installed_package_name_it(tmp_path: Path) -> None:
    save(tmp_path / "whole.pt", "model.audioclip.AudioCLIP", embed_dim=16)
    save(tmp_path / "tower.pt", "model.esresnet.esresnext.ESResNeXt", num_classes=7)
    code = """
import sys
from pathlib import Path

from audioclip import AudioCLIP, own_name
from audioclip.commands.cli import main
from audioclip.weights.built_from import arguments_for

print(own_name.COMMAND)
print(arguments_for(AudioCLIP, Path("whole.pt")))
try:
    arguments_for(AudioCLIP, Path("tower.pt"))
except ValueError as error:
    print(error)
sys.modules["transformers"] = sys.modules["pyarrow.parquet"] = sys.modules["onnxscript"] = None
sys.stderr = sys.stdout
for words in (["embed", ".", "--out", "x.parquet"], ["export", "any", "x.onnx"]):
    assert main(words) == 1
try:
    from audioclip import Clap
    Clap(False)
except ValueError as error:
    print(error)
"""
    command, arguments, tower, parquet, export, peers = as_installed(code, tmp_path).splitlines()
    assert command == "audioclip"
    assert arguments == "{'embed_dim': 16}"
    assert tower == (
        "tower.pt holds weights of model.esresnet.esresnext.ESResNeXt, not of AudioCLIP. Build ESResNeXt "
        "instead: from audioclip.esresnet.esresnext import ESResNeXt; "
        "model = ESResNeXt(num_classes=7, pretrained='tower.pt').eval()"
    )
    assert 'pip install "audioclip[parquet]"' in parquet and ".safetensors file needs nothing more" in parquet
    assert export == 'The package onnxscript is missing: pip install "audioclip[export]"'
    assert peers.endswith('pip install "audioclip[peers]"')


def test_a_clone_takes_checkpoints_of_the_installed_package_as_its_own(tmp_path: Path) -> None:
    save(tmp_path / "whole.pt", "audioclip.audioclip.AudioCLIP", embed_dim=16)
    with pytest.raises(WeightsError, match=r"instead: from model\.audioclip import AudioCLIP; model = "):
        arguments_for(ESResNeXt, tmp_path / "whole.pt")
    assert own_name.COMMAND == "python -m model"


def test_the_installed_command_embeds(tmp_path: Path) -> None:
    arguments = {**SMALL_AUDIOCLIP, "vision_layers": [1, 1, 1, 1]}
    code = f"""
import sys
import numpy, soundfile
from audioclip import AudioCLIP
from audioclip.__main__ import main

AudioCLIP(**{arguments}, pretrained=False).save_pretrained("weights")
soundfile.write("noise.wav", numpy.random.default_rng(1).normal(0, 0.1, 44100), 44100)
sys.argv = ["audioclip", "embed", "noise.wav", "--out", "x.safetensors", "--weights", "weights"]
print(main())
"""
    assert as_installed(code, tmp_path) == "0\n"
    assert (tmp_path / "x.safetensors").stat().st_size > 64
