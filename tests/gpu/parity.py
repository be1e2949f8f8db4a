"""Compares this device's results with the published architecture's, and its faster modes with float32.

    python tests/gpu/parity.py --json parity.json --clips data/ESC-50

In float64, and in float32 without TF32, results are compared with the values recorded in
`tests/model/parity`; TF32 and bfloat16 are compared with float32. --rehearse does the same with a miniature
model and its own values.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from model.audio_input import read_audio  # noqa: E402
from model.audioclip import AudioCLIP  # noqa: E402
from tests.conftest import _fill as fill_with_recorded_weights  # noqa: E402
from tests.model import test_parity as recorded  # noqa: E402

MINIATURE: dict[str, Any] = {
    "embed_dim": 32,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 8,
    "transformer_width": 32,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "spec_height": 32,
    "spec_width": 32,
}
SAMPLES = 220500
CLIPS = 10
LABELS = [["dog"], ["rain"], ["door knock"], ["siren"]] * 2


class Check(TypedDict):
    """A value, its limit (None if there is no limit), and whether it is within the limit."""

    name: str
    value: float
    limit: float | None
    passed: bool


def check(name: str, value: float, *, most: float | None = None, least: float | None = None) -> Check:
    """Compare a value with its limit."""
    passed = (most is None or value <= most) and (least is None or value >= least)
    limit = most if most is not None else least
    return {"name": name, "value": value, "limit": limit, "passed": passed and bool(np.isfinite(value))}


@contextlib.contextmanager
def tf32(*, products: bool, convolutions: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions with torch's global flags, as a user does."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if products else "highest")
    torch.backends.cudnn.allow_tf32 = convolutions
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def build(dtype: torch.dtype, device: torch.device, *, miniature: bool) -> AudioCLIP:
    """Build a model with the weights of the recorded values."""
    torch.set_default_dtype(dtype)
    try:
        model = AudioCLIP(pretrained=False, **(MINIATURE if miniature else {}))
    finally:
        torch.set_default_dtype(torch.float32)
    fill_with_recorded_weights(model)
    return model.to(device)


def values_of(model: AudioCLIP, *, training: bool) -> recorded.Values:
    """Compute the recorded values: of the untrained model and, if `training`, of three training steps."""
    values = recorded.as_arrays(recorded.encoded(model))
    return {**values, **(recorded.as_arrays(recorded.trained(model)) if training else {})}


def worst(values: recorded.Values, reference: Mapping[str, Any]) -> float:
    """Print the relative error of each value; return the largest."""
    errors = {
        name: float(np.linalg.norm(value - reference[name]) / np.linalg.norm(reference[name]))
        for name, value in values.items()
    }
    for name, error in sorted(errors.items(), key=lambda item: -item[1]):
        print(f"{error:.3g}  {name}")
    return max(errors.values())


def against_recorded(device: torch.device, *, miniature: bool) -> list[Check]:
    """Compare float64, and float32 without TF32, with the recorded values."""
    reference: Mapping[str, Any] = recorded.GOLDEN
    if miniature:
        reference = values_of(build(torch.float64, torch.device("cpu"), miniature=True), training=True)
    values = values_of(build(torch.float64, device, miniature=miniature), training=True)
    untrained = {name: x for name, x in values.items() if name in recorded.UNTRAINED}
    trained = {name: x for name, x in values.items() if name in recorded.TRAINED}
    with tf32(products=False, convolutions=False):
        single = values_of(build(torch.float32, device, miniature=miniature), training=False)
    return [
        check("float64, outputs: largest relative error", worst(untrained, reference), most=1e-9),
        check("float64, three training steps: the same", worst(trained, reference), most=1e-7),
        check("float32, outputs: the same", worst(single, reference), most=1e-3),
    ]


@torch.no_grad()
def tf32_allowed(model: AudioCLIP, audio: Tensor) -> list[Check]:
    """Compare results with and without TF32."""
    model.eval()
    with tf32(products=False, convolutions=False):
        plain, plain_image = embed(model, audio), model.audio.decibels(audio)
    with tf32(products=True, convolutions=False):
        image = model.audio.decibels(audio)
    with tf32(products=True, convolutions=True):
        allowed = embed(model, audio)
    return [
        check("TF32 allowed, spectrogram: largest difference, dB", largest(image - plain_image), most=1e-5),
        check("TF32 allowed everywhere: largest difference of embeddings", largest(allowed - plain)),
    ]


def bfloat16(model: AudioCLIP, audio: Tensor) -> list[Check]:
    """Compare features and gradients in bfloat16 with those in float32."""
    model.eval()
    with torch.no_grad(), tf32(products=False, convolutions=False):
        plain = embed(model, audio)
        with torch.autocast(audio.device.type, torch.bfloat16):
            half = embed(model, audio)
    gradients = []
    model.train()
    for enabled in (False, True):
        model.zero_grad()
        with tf32(products=False, convolutions=False):
            with torch.autocast(audio.device.type, torch.bfloat16, enabled=enabled):
                _, loss = model(audio=audio[: len(LABELS)], text=LABELS)
            assert loss is not None
            loss.backward()
        grads = [parameter.grad for parameter in model.audio.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([grad.flatten() for grad in grads]))
    cosines = (plain * half).sum(dim=-1)
    gradient_cosine = float(F.cosine_similarity(gradients[0], gradients[1], dim=0))
    return [
        check("bf16, features: least cosine with float32", float(cosines.min()), least=0.99),
        check("bf16, gradients: cosine with float32", gradient_cosine),
    ]


def embed(model: AudioCLIP, audio: Tensor) -> Tensor:
    """Return normalised audio features in float32."""
    return F.normalize(model.encode_audio(audio).float(), dim=-1)


def largest(difference: Tensor) -> float:
    """Return the largest absolute value."""
    return float(difference.abs().max())


def read_clips(folder: Path, device: torch.device) -> Tensor:
    """Read the first clips of a folder, each cut or repeated to 5 s: `[CLIPS, 1, SAMPLES]`."""
    paths = sorted(path for path in (folder / "audio").iterdir())[:CLIPS]
    clips = [np.resize(read_audio(path, 44100, mono=True), (1, SAMPLES)) for path in paths]
    return torch.from_numpy(np.stack(clips)).float().to(device)


def main(argv: Sequence[str]) -> int:
    """Run and write all checks; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--clips", type=Path, required=True, help="folder with audio/")
    parser.add_argument("--rehearse", action="store_true", help="use a miniature model")
    flags = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checks = against_recorded(device, miniature=flags.rehearse)
    model = build(torch.float32, device, miniature=flags.rehearse)
    audio = read_clips(flags.clips, device)
    checks += tf32_allowed(model, audio) + bfloat16(model, audio)
    for each in checks:
        limit = f"  (limit {each['limit']:g})" if each["limit"] is not None else ""
        print(f"{'ok    ' if each['passed'] else 'FAILED'}  {each['name']}: {each['value']:.3g}{limit}")
    passed = all(each["passed"] for each in checks)
    content = {"device": str(device), "checks": cast(list[Any], checks), "passed": passed}
    flags.json.write_text(json.dumps(content, indent=2) + "\n")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
