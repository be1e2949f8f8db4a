"""The model reproduces values of the published architecture, recorded in float64 from deterministic weights.

`parity/golden.npz` and `parity/state_dict.json` hold the values; the rule for the weights is in
`conftest.py`. Together they show, without the 537 MB, whether an implementation can load the released
checkpoints and computes the same results from them.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.audioclip import AudioCLIP

pytestmark = pytest.mark.usefixtures("published_audio_towers")

GOLDEN = dict(np.load(Path(__file__).parent / "parity" / "golden.npz"))
CLIPS = {"mono5": (2, 1, 220500, 11), "stereo4": (1, 2, 176400, 12), "short": (1, 1, 44100, 13)}
LABELS = [["dog"], ["rain"], ["door knock"], ["siren"]]
TEXTS = [["dog"], ["car", "horn"], ["a photo of a thunderstorm"], ["Crying baby!"], [""]]

TRAINED = [key for key in GOLDEN if key.startswith(("grad/", "train/", "trimodal/"))]
UNTRAINED = [key for key in GOLDEN if key not in TRAINED]
# Values after three training steps have the same tolerance.
TOLERANCE = {**dict.fromkeys(UNTRAINED, 1e-9), **dict.fromkeys(TRAINED, 1e-7)}

Values = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]


def waveform(batch: int, channels: int, samples: int, seed: int) -> Tensor:
    """Chirps in noise `[batch, channels, samples]`, 16-bit units."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(samples) / 44100
    start = rng.uniform(100, 2000, (batch, channels, 1))
    stop = rng.uniform(500, 15000, (batch, channels, 1))
    phase = 2 * np.pi * (start * seconds + (stop - start) * seconds**2 / (2 * seconds[-1]))
    return torch.from_numpy(8000.0 * np.sin(phase) + 800.0 * rng.standard_normal((batch, channels, samples)))


def images(count: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, 224, 224)))


@pytest.fixture(scope="module")
def model(deterministic_weights: Callable[[nn.Module], None]) -> AudioCLIP:
    torch.set_default_dtype(torch.float64)
    try:
        model = AudioCLIP(pretrained=False)
    finally:
        torch.set_default_dtype(torch.float32)
    deterministic_weights(model)
    return model


@torch.no_grad()
def encoded(model: AudioCLIP) -> dict[str, Tensor]:
    """Compute the values that need no training."""
    model.eval()
    values: dict[str, Tensor] = {}
    for name, arguments in CLIPS.items():
        audio = waveform(*arguments).to(model.device)
        image = model.audio.decibels(audio)
        values[f"audio/{name}"] = model.encode_audio(audio)
        values[f"logpower/{name}/shape"] = torch.tensor(image.shape)
        values[f"logpower/{name}/sample"] = image[..., ::37, ::41]
        values[f"logpower/{name}/mean"] = image.mean(dim=(-2, -1))
    values["image"] = model.encode_image(images(2, 21).to(model.device))
    values["tokens"] = model.tokenize(TEXTS)
    values["text"] = model.encode_text(TEXTS)
    wavelets = model.audio.fbsp
    assert wavelets is not None
    bank = wavelets.bank()  # [2, K, taps], recorded as [K, taps, 2]
    values["fbsp/weights"] = bank.permute(1, 2, 0)[::64, ::16]
    values["fbsp/norm"] = bank.square().sum(dim=(0, 2)).sqrt()
    values["ttf_loss"] = wavelets.norm_penalty(bank)
    return values


def as_arrays(values: dict[str, Tensor]) -> Values:
    return {key: value.detach().double().cpu().numpy() for key, value in values.items()}


@pytest.fixture(scope="module")
def untrained_values(model: AudioCLIP) -> Values:
    return as_arrays(encoded(model))


@pytest.fixture(scope="module")
def float32_values(model: AudioCLIP, untrained_values: Values) -> Iterator[Values]:
    assert untrained_values
    single = AudioCLIP(pretrained=False)
    single.load_state_dict(model.state_dict())
    yield as_arrays(encoded(single))


def three_steps(model: AudioCLIP) -> dict[str, Tensor]:
    """Train as the published protocol does: wavelets and scales have a group without weight decay."""
    model.train()
    groups: dict[str, list[nn.Parameter]] = {"tower": [], "no decay": [], "frozen": []}
    for name, parameter in model.named_parameters():
        no_decay = name.startswith("audio.fbsp.") or name in ("logit_scale_ai", "logit_scale_at")
        key = "no decay" if no_decay else "tower" if name.startswith("audio.") else "frozen"
        parameter.requires_grad_(key != "frozen")
        groups[key].append(parameter)
    optimizer_groups: list[dict[str, Any]] = [
        {"params": groups["tower"]},
        {"params": groups["no decay"], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(optimizer_groups, lr=5e-4, momentum=0.9, nesterov=True, weight_decay=5e-4)
    values, losses = {}, []
    for step in range(3):
        optimizer.zero_grad()
        audio = waveform(4, 1, 220500, 31 + step).to(model.device)
        (_, logits), loss = model(audio=audio, text=LABELS)
        loss.backward()
        assert model.audio.fbsp is not None
        model.audio.fbsp.before_optimizer_step()
        if step == 0:
            values["train/logits_audio_text"] = logits.audio_text
            for name, parameter in model.named_parameters():
                gradient = parameter.grad
                if f"grad/{name}" in GOLDEN and gradient is not None:
                    three = gradient.norm(), gradient.flatten()[0], gradient.abs().max()
                    values[f"grad/{name}"] = torch.stack(three)
        optimizer.step()
        losses.append(loss.detach())
    return {**values, "train/losses": torch.stack(losses)}


def trained(model: AudioCLIP) -> dict[str, Tensor]:
    """Compute the values of training and of the trained model."""
    values = three_steps(model)
    device = model.device
    model.eval()
    with torch.no_grad():
        values["train/after/audio"] = model.encode_audio(waveform(2, 1, 220500, 81).to(device))
        (_, logits), loss = model(waveform(4, 1, 220500, 91).to(device), images(4, 22).to(device), LABELS)
    values["trimodal/loss"] = loss
    values.update({f"trimodal/logits_{pair}": x for pair, x in zip(("ai", "at", "it"), logits, strict=True)})
    return values


@pytest.fixture(scope="module")
def trained_values(model: AudioCLIP, untrained_values: Values, float32_values: Values) -> Values:
    assert untrained_values and float32_values  # before training changes the weights
    return as_arrays(trained(model))


def relative_error(key: str, values: Values) -> float:
    assert values[key].shape == GOLDEN[key].shape
    return float(np.linalg.norm(values[key] - GOLDEN[key]) / np.linalg.norm(GOLDEN[key]))


def test_state_dict_has_the_released_names_and_shapes(model: AudioCLIP) -> None:
    released = json.loads((Path(__file__).parent / "parity" / "state_dict.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == released
    assert len(released) == 861


@pytest.mark.parametrize("key", UNTRAINED)
def test_a_value_without_training_is_reproduced(key: str, untrained_values: Values) -> None:
    assert relative_error(key, untrained_values) < TOLERANCE[key]


@pytest.mark.parametrize("key", UNTRAINED)
def test_a_value_without_training_is_reproduced_in_float32(key: str, float32_values: Values) -> None:
    assert relative_error(key, float32_values) < 1e-3


@pytest.mark.parametrize("key", TRAINED)
def test_a_value_of_training_is_reproduced(key: str, trained_values: Values) -> None:
    assert relative_error(key, trained_values) < TOLERANCE[key]
