"""Exports the audio tower and zero-shot classification with `torch.export` and ONNX.

The modules here return the same results as the model in eval mode, but only use operations that runtimes
support. The windowed wavelet bank is a constant, reduced to the taps and bins that are used; batch norms are
folded; and the gates' pooling is written out because ONNX lacks adaptive pooling. Batch size, number of
channels and length stay dynamic.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .audioclip import AudioCLIP
from .embedding import evaluating
from .esresnet import spectrogram
from .esresnet.attention import Gate
from .esresnet.esresnext import ESResNeXt
from .esresnet.inference import folded
from .losses import clamped_scale
from .own_name import require
from .storage.atomic import whole_file
from .zero_shot import embed_labels

ONNX_OPSET = 18


class ExportableAudioTower(nn.Module):
    """The audio tower for inference, reduced to arithmetic.

    Args:
        tower: float32 tower; it is copied.
        normalize: whether to return embeddings of norm 1 instead of the tower's features.

    Attributes:
        shortest_clip: minimum length of a clip, samples; 0.43 s for the published arguments.

    Raises:
        ValueError: The tower is not float32.
    """

    kernels: Tensor

    def __init__(self, tower: ESResNeXt, *, normalize: bool = False) -> None:
        super().__init__()
        if tower.conv1.weight.dtype != torch.float32:
            raise ValueError(f"The tower is {tower.conv1.weight.dtype}; only float32 is exported.")
        self.win_length = tower.window.shape[0]
        self.hop_length = tower.hop_length
        self.size = (tower.spec_height, tower.spec_width)
        self.onesided = tower.onesided
        self.normalize = normalize
        # Makes the last stage's output 2 pixels wide; torch.export would treat a size of 1 as fixed.
        self.shortest_clip = self.win_length + 31 * self.hop_length + 1
        with evaluating(tower), torch.no_grad():
            self.register_buffer("kernels", _kernels(tower))
            backbone = folded(tower)
        self.conv1 = backbone.conv1
        self.stages = nn.ModuleList(backbone.get_submodule(f"layer{number}") for number in range(1, 5))
        gates = range(1, 6) if tower.apply_attention else ()
        self.gates = nn.ModuleList(
            _ExportableGate(getattr(backbone, f"att{number}"), to_one=number == 5) for number in gates
        )
        self.fc = backbone.fc
        self.eval().requires_grad_(False)

    def forward(self, audio: Tensor) -> Tensor:
        """Embed clips.

        Args:
            audio: float32 `[B, C, T]`, 16-bit units, 44.1 kHz, T >= `shortest_clip`.

        Returns:
            float32 `[B, D]`.
        """
        image = self._decibels(audio)  # [B, C, 3, H, N]
        pooled = self._backbone(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        features: Tensor = self.fc(pooled.sum(dim=1))
        return F.normalize(features, dim=-1) if self.normalize else features

    def _decibels(self, audio: Tensor) -> Tensor:
        batch, channels, samples = audio.shape
        padded_to = _ceil_div(samples - self.win_length, self.hop_length) * self.hop_length + self.win_length
        missing = padded_to - samples
        scaled = F.pad((2.0 * audio + 1.0) / 65535.0, (missing // 2, missing - missing // 2))
        spectrum = F.conv1d(scaled.flatten(0, 1).unsqueeze(1), self.kernels, stride=self.hop_length)
        real, imaginary = spectrum.unflatten(1, (2, -1)).unbind(1)  # [B*C, K, N]
        power = real * real + imaginary * imaginary
        if not self.onesided:
            power = spectrogram.two_sided(power)
        bands = spectrogram.split_bands(power.unflatten(0, (batch, channels)))
        bands = spectrogram.resize(bands, height=self.size[0], width=self.size[1])
        return 10.0 * torch.log10(torch.where(bands == 0, spectrogram.POWER_FLOOR, bands))

    def _backbone(self, image: Tensor) -> Tensor:
        x = _pool_by_two(_pool_by_two(torch.relu(self.conv1(image)), dim=2), dim=3)
        for number, stage in enumerate(self.stages):
            output = stage(x)
            x = self.gates[number](x, output) if self.gates else output
        pooled = x.mean(dim=(2, 3), keepdim=True)
        if self.gates:
            pooled = self.gates[4](x, pooled)
        return pooled.flatten(1)


class ExportableZeroShot(nn.Module):
    """Zero-shot classification of audio with fixed classes.

    Args:
        model: model whose audio tower is copied and whose text tower embeds the class names once.
        class_names: one or more different names.
        template: prompt template, in which each name replaces `{}`.

    Raises:
        ValueError: A name is empty, repeated or too long, or the template lacks `{}`.
    """

    class_features: Tensor
    scale: Tensor

    def __init__(self, model: AudioCLIP, class_names: Sequence[str], *, template: str = "{}") -> None:
        super().__init__()
        self.tower = ExportableAudioTower(model.audio, normalize=True)
        self.register_buffer("class_features", embed_labels(model, class_names, template))
        self.register_buffer("scale", clamped_scale(model.logit_scale_at.detach().float()))
        self.eval()

    def forward(self, audio: Tensor) -> Tensor:
        """Compute class probabilities, float32 `[B, K]`, from audio as for `ExportableAudioTower`."""
        return torch.softmax(self.scale * self.tower(audio) @ self.class_features.T, dim=-1)


Exportable: TypeAlias = ExportableAudioTower | ExportableZeroShot


def export_program(module: Exportable) -> ExportedProgram:
    """Export a module for any batch size and number of channels, and `shortest_clip` to 2**29 samples."""
    tower = module.tower if isinstance(module, ExportableZeroShot) else module
    shortest = tower.shortest_clip
    example = torch.linspace(-1000.0, 1000.0, 6 * (shortest + 7)).reshape(2, 3, -1)
    # Without a maximum, torch.export fails before torch 2.11.
    free = {0: Dim("batch"), 1: Dim("channels"), 2: Dim("samples", min=shortest, max=2**29)}
    return torch.export.export(module, (example,), dynamic_shapes=(free,))


def save_onnx(module: Exportable, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Export a module to an ONNX file with the input "audio" and the output "embeddings" or "probabilities".

    The file, which also stores the `metadata`, is replaced atomically.

    Raises:
        ImportError: The package onnxscript is missing.
    """
    require("onnxscript", extra="export")
    import onnxscript  # noqa: F401, PLC0415 - torch.onnx needs it; importing it takes a while

    output = "probabilities" if isinstance(module, ExportableZeroShot) else "embeddings"
    program = torch.onnx.export(
        export_program(module),
        input_names=["audio"],
        output_names=[output],
        opset_version=ONNX_OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None, "export with dynamo=True returns a program"
    program.model.metadata_props.update(metadata)
    with whole_file(path) as file:
        file.write(program.model_proto.SerializeToString())


class _ExportableGate(nn.Module):
    """A folded `Gate` for inputs of any width; `to_one` pools to a single element."""

    def __init__(self, gate: Gate, *, to_one: bool) -> None:
        super().__init__()
        self.conv_depth = gate.conv_depth
        self.conv_point = gate.conv_point
        self.to_one = to_one

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        if self.to_one:
            pooled = x.amax(dim=(2, 3), keepdim=True)
        else:
            height, width = output.shape[-2:]
            pooled = _pool(_pool(x, height, dim=2), width, dim=3)
        return output * torch.sigmoid(self.conv_point(self.conv_depth(pooled)))


def _pool(x: Tensor, size: int, *, dim: int) -> Tensor:
    """Apply adaptive max pooling along one dimension, from length L to a `size` of at least L / 2.

    Window i contains the one to three elements from floor(i L / size) to ceil((i + 1) L / size) - 1.
    """
    length = x.shape[dim]
    places = torch.arange(size, device=x.device)
    first = places * length // size
    last = ((places + 1) * length + size - 1) // size - 1
    middle = torch.minimum(first + 1, last)
    return _largest(x, (first, middle, last), dim=dim)


def _pool_by_two(x: Tensor, *, dim: int) -> Tensor:
    """Apply max pooling along one dimension with windows of 3, stride 2, the first centred on element 0."""
    length = x.shape[dim]
    centre = 2 * torch.arange((length + 1) // 2, device=x.device)
    return _largest(x, ((centre - 1).clamp(min=0), centre, (centre + 1).clamp(max=length - 1)), dim=dim)


def _largest(x: Tensor, indices: Sequence[Tensor], *, dim: int) -> Tensor:
    """Return the elementwise maximum of several selections along a dimension."""
    return functools.reduce(torch.maximum, [x.index_select(dim, index) for index in indices])


def _kernels(tower: ESResNeXt) -> Tensor:
    """Return windowed wavelets or complex exponentials, `[2K, 1, win]`: real parts, then imaginary parts."""
    window = tower.window
    left = (tower.n_fft - len(window)) // 2
    if tower.fbsp is not None:
        bank = tower.fbsp.bank()
    else:
        turns = torch.arange(tower.n_fft // 2 + 1)[:, None] * torch.arange(tower.n_fft) % tower.n_fft
        phase = -2.0 * math.pi * turns.double() / tower.n_fft
        bank = torch.stack([torch.cos(phase), torch.sin(phase)])
        if tower.normalized:
            bank = bank / math.sqrt(tower.n_fft)
    kernels = bank[:, :, left : left + len(window)] * window
    if tower.onesided:  # drop the bins above the three bands
        kernels = kernels[:, : 3 * (kernels.shape[1] // 3)]
    return kernels.flatten(0, 1).unsqueeze(1).float().clone()


def _ceil_div(number: int, by: int) -> int:
    return (number + by - 1) // by  # positive, because ONNX rounds quotients towards 0
