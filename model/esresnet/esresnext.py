"""ESResNeXt: AudioCLIP's audio tower, or on its own an audio classifier."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torchvision.models import resnext50_32x4d

from ..inputs import refuse_other_shapes, refuse_unit_range
from ..recompute import CachedValue, Recomputed, recompute
from ..weights.initial import find_initial_weights, load_initial_weights
from ..weights.releases import released_hashes
from . import spectrogram
from .attention import Gate
from .fbsp import SplineWavelets
from .inference import inference_copy
from .masks import SpectrogramMasks, masked, refuse_other_masks
from .spectrogram import Window

ARCHITECTURE = (
    *("n_fft", "hop_length", "win_length", "window", "normalized", "onesided"),
    *("spec_height", "spec_width", "apply_attention", "spectrum"),
)
"""Arguments of `ESResNeXt` that determine what its weights compute, apart from the number of outputs."""


class AudioFeatures(NamedTuple):
    """Output of the audio tower in training."""

    features: Tensor
    """Features `[B, D]`, not normalised."""
    penalty: Tensor
    """Wavelet-norm penalty to add to the loss, scalar; 0 without learned wavelets."""


class ESResNeXt(nn.Module):
    """A (learned) spectrogram in three bands, followed by a ResNeXt-50 with gated stages.

        audio [B, C, T]  -> power spectrum of wavelets or Fourier transform, dB
                         -> three frequency bands as "colours", [B, C, 3, H, N]
                         -> conv1, layer1 * att1, ..., layer4 * att4, average pool * att5, [B, C, 2048]
                         -> sum over channels, fc, [B, D]

    Guzhov et al., ESResNet (arXiv 2004.07301) and ESResNe(X)t-fbsp (arXiv 2104.11587). State-dict names are
    the same as in the released checkpoints. The window is exact in float64 if the tower is built with float64
    as the default dtype; after `.double()` it is still rounded to float32, an error of 2e-7.

    Args:
        n_fft: length of the transform, samples.
        hop_length: distance between frames, samples; None for a quarter of `win_length`.
        win_length: length of a frame, samples; None for `n_fft`.
        window: name of the (periodic) window; None for a rectangular window.
        normalized: whether to divide the spectrum by sqrt(n_fft).
        onesided: False to prepend the flipped spectrum; a learned bank then has n_fft wavelets.
        spec_height: height to which each band is resized; -1 keeps the height.
        spec_width: number of frames to which the spectrogram is resized; -1 keeps the number.
        num_classes: dimension D of the output.
        apply_attention: whether to gate the stages.
        pretrained: initial weights. False: random weights. True: the released ESRNXFBSP.pt, without its head
            for 527 AudioSet classes if D differs. A path or the name of released weights: weights from
            that file.
            "imagenet": torchvision's weights in the backbone, with the rest random.
        spectrum: "fbsp" for learned wavelets (ESResNeXt-fbsp), "stft" for the Fourier transform (ESResNeXt).
        assets: folder of the released weights; None for `assets/` in a clone of the repository,
            and a folder in the cache of an installed package.

    Attributes:
        arguments: values of the arguments in `ARCHITECTURE`, as given.
        weights_files: files that contained the initial weights; empty if the weights are random.
        weights_sha256: expected SHA-256 of each weights file whose name and size match a released file.

    Raises:
        ValueError: The arguments contradict each other.
        WeightsError: The weights are missing or do not fit.
    """

    window: Tensor
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    relu: nn.ReLU
    maxpool: nn.MaxPool2d
    avgpool: nn.AdaptiveAvgPool2d
    fc: nn.Linear

    affects: ClassVar[dict[str, str]] = {"pretrained": "run", "assets": "run"}
    """Arguments that only state where weights come from; runs that differ only in these may be averaged."""

    def __init__(
        self,
        n_fft: int = 2048,
        hop_length: int | None = 561,
        win_length: int | None = 1654,
        window: Window | None = "blackmanharris",
        normalized: bool = True,
        onesided: bool = True,
        spec_height: int = -1,
        spec_width: int = -1,
        num_classes: int = 527,
        apply_attention: bool = True,
        pretrained: bool | str | Path = False,
        *,
        spectrum: Literal["fbsp", "stft"] = "fbsp",
        assets: str | Path | None = None,
    ) -> None:
        given: dict[str, Any] = dict(locals())
        super().__init__()
        self.arguments = {name: given[name] for name in ARCHITECTURE}
        file = find_initial_weights(pretrained, assets=assets)
        self.weights_files = () if file is None else (file,)
        self.weights_sha256 = released_hashes(self.weights_files)
        win_length = n_fft if win_length is None else win_length
        hop_length = win_length // 4 if hop_length is None else hop_length
        if not (0 < win_length <= n_fft and hop_length > 0 and n_fft % 2 == 0):
            raise ValueError(
                f"n_fft {n_fft}, win_length {win_length}, hop_length {hop_length}: expected an even n_fft, "
                "0 < win_length <= n_fft and hop_length > 0."
            )
        if spectrum not in ("fbsp", "stft"):
            raise ValueError(f'spectrum is {spectrum!r}; "fbsp" and "stft" are allowed.')
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.normalized = normalized
        self.onesided = onesided
        self.spec_height = spec_height
        self.spec_width = spec_width
        self.apply_attention = apply_attention
        self.compiled = False
        self._inference_tower: CachedValue[ESResNeXt] = CachedValue()

        self.register_buffer("window", spectrogram.periodic_window(window, win_length))
        self.fbsp: SplineWavelets | None = None
        if spectrum == "fbsp":
            self.fbsp = SplineWavelets(n_fft // 2 + 1 if onesided else n_fft, n_fft, normalized=normalized)
        backbone = resnext50_32x4d(weights=None, num_classes=num_classes)
        for name, child in backbone.named_children():  # conv1 ... layer4, avgpool, fc
            self.add_module(name, child)
        # On "meta" the layer draws no random numbers, so a seed yields the same weights as in torchvision.
        self.fc = spectrogram.ExactLinear(backbone.fc.in_features, num_classes, device="meta")
        self.fc.weight, self.fc.bias = backbone.fc.weight, backbone.fc.bias
        if apply_attention:
            stages = (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
            widths = [backbone.conv1.out_channels, *(stage[-1].conv3.out_channels for stage in stages)]
            self.att1 = Gate(widths[0], widths[1], kernel_size=(3, 1))
            self.att2 = Gate(widths[1], widths[2], kernel_size=(1, 5))
            self.att3 = Gate(widths[2], widths[3], kernel_size=(3, 1))
            self.att4 = Gate(widths[3], widths[4], kernel_size=(1, 5))
            self.att5 = Gate(widths[4], widths[4], kernel_size=(3, 5))
        if file is not None:
            released = pretrained in (True, "ESRNXFBSP")
            load_initial_weights(self, file, arguments=self.arguments, allow_other_head=released)

    def forward(self, audio: Tensor, *, check_units: bool = True) -> Tensor:
        """Embed (or classify) audio clips.

        Args:
            audio: `[B, C, T]`, integer or floating point, 16-bit units (-32768..32767), 44.1 kHz.
            check_units: whether to refuse, in eval mode, audio with a peak of at most 1, which is probably in
                [-1, 1].

        Returns:
            `[B, D]` features, not normalised (or class logits).

        Raises:
            ValueError: `audio` is not `[B, C, T]`, has no samples or, in eval mode, looks like audio in
                [-1, 1].
        """
        return self._embed(audio, self._bank(), check_units=check_units)

    def forward_with_penalty(
        self, audio: Tensor, *, check_units: bool = True, masks: SpectrogramMasks | None = None
    ) -> AudioFeatures:
        """Embed audio clips as `forward` does, and compute the penalty from the same wavelet bank.

        Args:
            audio: audio as for `forward`.
            check_units: units are checked as in `forward`.
            masks: masked parts of the image that enters the backbone; None for no masks.
        """
        bank = self._bank()
        features = self._embed(audio, bank, check_units=check_units, masks=masks)
        return AudioFeatures(features, self._penalty(bank))

    def wavelet_penalty(self) -> Tensor:
        """Compute the differentiable wavelet-norm penalty, scalar; 0 without learned wavelets."""
        return self._penalty(self._bank())

    def power(self, audio: Tensor) -> Tensor:
        """Compute the power spectrogram of audio `[B, C, T]` in three bands, `[B, C, 3, H, W]`."""
        return self._power(audio, self._bank())

    def decibels(self, audio: Tensor, *, masks: SpectrogramMasks | None = None) -> Tensor:
        """Compute the image that enters the backbone.

        Args:
            audio: audio as for `forward`.
            masks: masked parts of the image; None for no masks.

        Returns:
            `[B, C, 3, H, W]`, dB: three bands from low to high frequency, with H bins each (341 by default)
            and W = N frames, unless resized. float64 for a float64 model, otherwise float32, even under
            autocast.
        """
        return self._masked(spectrogram.decibels(self.power(audio)), masks)

    def compile_towers(self) -> None:
        """Compile the tower as a single function from samples to features, once per input shape.

        A tower that recomputes activations is compiled block by block instead.
        """
        recomputed = [stage for stage, _ in self._stages() if isinstance(stage, Recomputed)]
        self.compiled = not recomputed
        for block in (block for stage in recomputed for block in stage):
            block.compile(dynamic=False)

    def recompute_activations(self) -> None:
        """Recompute activations in the backward pass from block inputs; parameter names do not change."""
        recompute(self)

    def layer_order(self) -> list[list[list[str]]]:
        """Return the layers from the wavelets to the head as a single tower, for layer-wise learning rates.

        Each stage and its gate are one layer, a list of the names of modules.
        """
        stages = [[f"layer{number}", f"att{number}"] for number in range(1, 5)]
        layers = [["fbsp"], ["conv1", "bn1"], *stages, ["att5", "fc"]]
        present = {name for name, _ in self.named_children()}
        named = [[name for name in layer if name in present] for layer in layers]
        return [[layer for layer in named if layer]]

    def train(self, mode: bool = True) -> "ESResNeXt":
        """Set the mode; a change drops the inference copy."""
        if mode != self.training:
            self._inference_tower.drop()
        return super().train(mode)

    def _embed(
        self,
        audio: Tensor,
        bank: Tensor | None,
        *,
        check_units: bool,
        masks: SpectrogramMasks | None = None,
    ) -> Tensor:
        if check_units and not self.training:  # in training, reading the peak would make the host wait
            refuse_unit_range(audio)
        if self.compiled:
            with record_function("step/audio tower"):
                return _compiled_features()(self, audio, bank, masks)
        with record_function("step/wavelets"):
            image = spectrogram.decibels(self._power(audio, bank))
        with record_function("step/augmentation"):
            image = self._masked(image, masks)
        with record_function("step/audio tower"):
            return self._classify(image)

    def _features(self, audio: Tensor, bank: Tensor | None, masks: SpectrogramMasks | None) -> Tensor:
        """Embed `[B, C, T]`; `_compiled_features` compiles this function."""
        return self._classify(self._masked(spectrogram.decibels(self._power(audio, bank)), masks))

    def _masked(self, image: Tensor, masks: SpectrogramMasks | None) -> Tensor:
        if masks is None:
            return image
        refuse_other_masks(masks, clips=len(image))
        return masked(image, masks, two_sided=not self.onesided)

    def _bank(self) -> Tensor | None:
        if self.fbsp is None:
            return None
        with record_function("step/wavelets"), torch.autocast(self.window.device.type, enabled=False):
            return self.fbsp.bank()

    def _penalty(self, bank: Tensor | None) -> Tensor:
        if self.fbsp is None or bank is None:
            return self.window.new_zeros(())
        return self.fbsp.norm_penalty(bank)

    def _power(self, audio: Tensor, bank: Tensor | None) -> Tensor:
        refuse_other_shapes(audio)
        window = self.window.to(torch.float64 if self.window.dtype == torch.float64 else torch.float32)
        # -32768..32767 to [-1, 1] as published, (x + 32768) * 2 / 65535 - 1, without loss of digits
        audio = (2.0 * audio.detach().to(window.dtype) + 1.0) / 65535.0
        # Autocast has already rounded gradients to 8 bits, so TensorFloat-32 with its 10 bits loses no more.
        gradient_precision = "tf32" if torch.is_autocast_enabled(window.device.type) else "ieee"
        with torch.autocast(window.device.type, enabled=False):
            if bank is not None:
                if self.onesided:  # drop bins above the bands, except to align the matrix
                    used = 3 * (bank.shape[1] // 3)
                    bank = bank[:, : used + -used % 8]
                power = spectrogram.wavelet_power(
                    audio,
                    bank=bank,
                    window=window,
                    hop_length=self.hop_length,
                    gradient_precision=gradient_precision,
                )
            else:
                power = spectrogram.stft_power(
                    audio,
                    window=window,
                    n_fft=self.n_fft,
                    hop_length=self.hop_length,
                    normalized=self.normalized,
                )
            if not self.onesided:
                power = spectrogram.two_sided(power)
            bands = spectrogram.split_bands(power)
            return spectrogram.resize(bands, height=self.spec_height, width=self.spec_width)

    def _classify(self, image: Tensor) -> Tensor:
        """Map decibels `[B, C, 3, H, W]` to features `[B, D]`."""
        image = image.to(self.conv1.weight.dtype)
        if any(module.training for module in self.modules()):
            # In training, batch norm must see the B samples of one channel at a time.
            pooled = torch.stack([self._backbone(channel) for channel in image.unbind(dim=1)], dim=1)
        else:
            pooled = self._inference_backbone()(image.flatten(0, 1)).unflatten(0, image.shape[:2])
        features: Tensor = self.fc(pooled.sum(dim=1))  # [B, C, 2048] -> [B, D]
        return features

    def _inference_backbone(self) -> Callable[[Tensor], Tensor]:
        """Return the backbone, or a faster copy's backbone in eval mode without gradients.

        The copy is cached until a weight or the mode changes. If a module has hooks, no copy is used; torch
        has no public way to find hooks.
        """
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()  # the compiler does its own fusing
            or self.conv1.weight.dtype not in (torch.float32, torch.float64)  # folding would round twice
            or any(module._forward_hooks or module._forward_pre_hooks for module in self.modules())
        ):
            return self._backbone
        sources = (*self.parameters(), *self.buffers())
        dtype = compute_dtype(self.conv1.weight)
        tower = self._inference_tower.get(lambda: inference_copy(self, dtype), sources, setting=dtype)
        return tower._backbone

    def _backbone(self, image: Tensor) -> Tensor:
        """Run the gated stages on `[B, 3, H, W]` and pool to `[B, 2048]`."""
        image = image.contiguous(memory_format=torch.channels_last)
        x = self.bn1(self._first_convolution(image))
        x = self.relu(self.maxpool(x))  # published in the other order; same result, less work
        x = x.to(compute_dtype(x))  # once for both the stage and its gate
        for stage, gate in self._stages():
            output = stage(x)
            x = output if gate is None else gate(x, output)
        pooled: Tensor = self.avgpool(x)
        if self.apply_attention:
            pooled = self.att5(x, pooled)
        return pooled.flatten(1)

    def _first_convolution(self, image: Tensor) -> Tensor:
        """Apply `conv1` in full precision; bfloat16 would round the decibels in steps of 0.5 dB."""
        dtype = compute_dtype(image)
        with torch.autocast(image.device.type, enabled=False):
            if image.dtype == torch.float32 and dtype.itemsize == 2 and image.is_cuda:
                return spectrogram.convolve_in_parts(image, self.conv1, dtype)
            convolved: Tensor = self.conv1(image)
            return convolved

    def _stages(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        for number in range(1, 5):
            gate = getattr(self, f"att{number}") if self.apply_attention else None
            yield getattr(self, f"layer{number}"), gate


@functools.cache
def _compiled_features() -> Callable[..., Tensor]:
    """Compile `ESResNeXt._features` for all towers and their copies."""
    compiled: Callable[..., Tensor] = torch.compile(ESResNeXt._features, dynamic=False)
    return compiled


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which convolutions of `tensor` run: autocast's if enabled, otherwise its own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
