"""Plots and audio of clips, and plots of an audio tower's learned wavelets, for reports."""

# ruff: noqa: PLC0415 (matplotlib takes a second to import, and a run without reports does not need it)

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ignite_trainer.api.batch import PaddedBatch, PartialBatch, field_values, rows_with_field
from ignite_trainer.api.media import Exhibit
from ignite_trainer.api.task import Task
from model.esresnet import ESResNeXt, SpectrogramMasks
from utils.shards.writing import encode_sound
from utils.tasks.labels import SAMPLE_RATE
from utils.tasks.random_masks import RandomMasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST_SECONDS = 10.0
"""Length of the part of a clip that is shown, from its beginning."""
_BLUE, _GREY = "#0072B2", "#999999"
_COLOURS = (_BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DYNAMICS_DB = 80.0  # dynamic range below the loudest value; anything quieter is black


class Portraits:
    """Plots of clips and wavelets; stores the tower's wavelets at construction as the initial wavelets.

    Args:
        tower: audio tower; None for spectrograms from a Fourier transform.
        sample_rate: sample rate of the clips, in Hz.
    """

    def __init__(self, tower: ESResNeXt | None = None, *, sample_rate: int = SAMPLE_RATE) -> None:
        self._tower, self._rate = tower, sample_rate
        self._initial: dict[str, Tensor] = {}
        if tower is not None and tower.fbsp is not None:
            self._initial = {name: _value(tower, name) for name in ("m", "fb", "fc")}
            with torch.no_grad():
                self._initial_bank = tower.fbsp.bank().detach().cpu().clone()

    @classmethod
    def of(cls, tower: nn.Module | None, dataset: Any) -> Portraits:
        """Use the tower if it is an `ESResNeXt`, and the data set's sample rate."""
        rate = int(getattr(dataset, "sample_rate", SAMPLE_RATE))
        return cls(tower if isinstance(tower, ESResNeXt) else None, sample_rate=rate)

    def sample(self, audio: Any, *, masks: SpectrogramMasks | None = None) -> Sequence[Exhibit]:
        """Show the only clip in a batch `[1, C, T]`, in 16-bit units; show nothing if it has no sound.

        The spectrogram has the clip's `masks`, which need an audio tower.
        """
        while isinstance(audio, PartialBatch | PaddedBatch):
            audio = audio.values
        if audio is None:
            return ()
        clip = audio[0, :, : round(LONGEST_SECONDS * self._rate)].float()
        if masks is not None:
            masks = masks._replace(time=masks.time * audio.shape[-1] / clip.shape[-1])
        sound = encode_sound(clip.cpu(), self._rate, "ogg")
        picture = self._picture(clip, masks)
        return (
            Exhibit(what="The clip", media_type="audio/ogg", content=sound),
            Exhibit(what="Waveform and spectrogram", media_type="image/png", content=picture),
        )

    def wavelets(self) -> Sequence[Exhibit]:
        """Show the current filters alongside the initial filters; show nothing without learned filters."""
        if self._tower is None or self._tower.fbsp is None:
            return ()
        what = "Frequency responses of some filters; frequency, bandwidth and order of all; now and initially"
        content, explanation = _png(self._wavelet_figure()), self._explanation()
        return (Exhibit(what=what, media_type="image/png", content=content, explanation=explanation),)

    def decibels(self, clip: Tensor, *, masks: SpectrogramMasks | None = None) -> NDArray[np.float32]:
        """Return a clip's spectrogram `[K, N]`, in dB, as the backbone sees it, low frequencies first.

        Args:
            clip: audio `[C, T]`, 16-bit units.
            masks: masks of one clip; None for no masks.
        """
        if self._tower is None:
            window = torch.hann_window(1024, device=clip.device)
            spectrum = torch.stft(clip[0] / 32768, 1024, 512, window=window, return_complex=True)
            image = 10 * torch.log10(spectrum.abs().square() + 1e-12)
        else:
            image = self._tower.decibels(clip[None], masks=masks)[0, 0].flatten(0, 1)  # [3, H, W] -> [3H, W]
        shown: NDArray[np.float32] = image.detach().float().cpu().numpy()
        return shown

    def _picture(self, clip: Tensor, masks: SpectrogramMasks | None) -> bytes:
        image, seconds = self.decibels(clip, masks=masks), clip.shape[-1] / self._rate
        figure = _figure(7.2, 3.4)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.6))
        mono = clip[0].cpu().numpy() / 32768
        # Draw each pixel's minimum and maximum sample: half a million points would take seconds.
        columns = np.array_split(mono, min(1200, len(mono)))
        times = np.linspace(0, seconds, len(columns))
        upper.fill_between(times, [c.min() for c in columns], [c.max() for c in columns], color=_BLUE, lw=0.4)
        upper.set_ylim(-1, 1)
        upper.set_yticks([-1, 0, 1])
        top = float(image.max())
        shown = lower.imshow(
            image,
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, seconds, 0, self._rate / 2000),
            vmin=top - _DYNAMICS_DB,
            vmax=top,
        )
        lower.set_xlabel("Time (s)", fontsize=9)
        lower.set_ylabel("Frequency (kHz)", fontsize=9)
        for axes in (upper, lower):
            axes.tick_params(labelsize=8)
        bar = figure.colorbar(shown, ax=lower, pad=0.01, fraction=0.04)
        bar.set_label("dB", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        return _png(figure)

    def responses(self, bank: Tensor, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Compute the frequency responses of filters, including the window of the frames.

        Args:
            bank: filter bank `[2, K, taps]`, real and imaginary parts.
            rows: indices of R filters.

        Returns:
            Frequencies in Hz, `[F]`, and responses in dB, `[R, F]`; 0 is the peak of an untrained filter.
        """
        assert self._tower is not None
        window = self._tower.window.detach().double().cpu()
        left = (bank.shape[2] - len(window)) // 2
        real, imaginary = bank[:, rows, left : left + len(window)].double() * window
        points = 8 * bank.shape[2]
        # A filter is the conjugate of the tone it responds to.
        amplitudes = torch.fft.fft(torch.complex(real, -imaginary), n=points).abs()[:, : points // 2 + 1]
        amplitudes /= window.sum() * self._initial_bank.double().square().sum(dim=0).mean().sqrt()
        frequencies = np.arange(points // 2 + 1) * self._rate / points
        return frequencies, 20 * np.log10(amplitudes.numpy() + 1e-9)

    def _shifts_hz(self) -> Tensor:
        """Return the shift of each filter's centre frequency during training."""
        assert self._tower is not None
        moved: Tensor = (
            (_value(self._tower, "fc") - self._initial["fc"]) * self._rate / self._initial_bank.shape[2]
        )
        return moved

    def _explanation(self) -> str:
        assert self._tower is not None
        moved = self._shifts_hz().abs()
        bandwidth = (_value(self._tower, "fb") / self._initial["fb"] - 1).abs()
        return (
            f"The audio tower hears through a bank of {len(moved)} filters, each tuned to a frequency, and "
            "training adjusts them. Above: how strongly some of the filters respond to a tone of each "
            "frequency, now (coloured) and before training (grey, dashed). A shifted peak means that the "
            "filter responds to another frequency; a wider peak means that it responds to more of the "
            "frequencies around it. Below: the parameters of every filter, by frequency. The centre "
            "frequencies have moved by "
            f"{moved.mean():.3g} Hz on average and {moved.max():.3g} Hz at most; the bandwidths have changed "
            f"by {100 * bandwidth.max():.2g} % at most. Where the curves coincide, training has not changed "
            "the filters."
        )

    def _wavelet_figure(self) -> Figure:
        assert self._tower is not None
        assert self._tower.fbsp is not None
        figure = _figure(9.0, 5.8)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))[:, 0]
        self._draw_responses(upper.subplots(), self._tower.fbsp.bank().detach().float().cpu())
        kilohertz = (self._initial["fc"] * self._rate / self._initial_bank.shape[2] / 1000).numpy()
        panels = {
            "Shift of the centre frequency (Hz)": (self._shifts_hz(), torch.zeros_like(self._initial["fc"])),
            "Bandwidth fb": (_value(self._tower, "fb"), self._initial["fb"]),
            "Order m": (_value(self._tower, "m"), self._initial["m"]),
        }
        for axes, (title, (learned, initial)) in zip(lower.subplots(1, 3), panels.items(), strict=True):
            axes.plot(kilohertz, initial.numpy(), color=_GREY, lw=1.2, ls="--", label="initial")
            axes.plot(kilohertz, learned.numpy(), color=_BLUE, lw=1.0, label="learned")
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("Initial centre frequency (kHz)", fontsize=8)
            axes.tick_params(labelsize=8)
            axes.ticklabel_format(axis="y", useOffset=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        return figure

    def _draw_responses(self, axes: Axes, bank: Tensor) -> None:
        rows = np.geomspace(2, 0.8 * bank.shape[1], len(_COLOURS)).round().astype(np.int64)
        frequencies, before = self.responses(self._initial_bank.float(), rows)
        _, now = self.responses(bank, rows)
        for number, (row, initial, learned) in enumerate(zip(rows, before, now, strict=True)):
            axes.plot(frequencies[1:], learned[1:], color=_COLOURS[number], lw=1.4, label=f"filter {row}")
            axes.plot(frequencies[1:], initial[1:], color=_GREY, lw=1.2, ls="--")
        axes.set_xscale("log")
        axes.set_xlim(frequencies[rows[0] * 4], self._rate / 2)
        axes.set_ylim(-60, 5)
        axes.set_xlabel("Frequency of a tone (Hz)", fontsize=8)
        axes.set_ylabel("Response (dB)", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(rows), frameon=False)


class ShowsAudio(Task):
    """A task that shows clips and wavelets; `prepare` sets its `portraits`.

    Attributes:
        portraits: plots of clips and of the tower's wavelets.
        random_masks: masks of spectrograms in training; None for no masks.
    """

    portraits = Portraits()
    random_masks: RandomMasks | None = None

    def draw_masks(self, audio: Any) -> SpectrogramMasks | None:
        """Draw masks for the clips in a batch's field `audio`; None outside training and without clips."""
        if self.random_masks is None or self.random is None or audio is None:
            return None
        random = self.random.select(rows_with_field(audio, len(self.random)))
        return self.random_masks.draw(random, device=field_values(audio).device)

    def portray_sample(self, model: nn.Module, batch: Any) -> Sequence[Exhibit]:  # noqa: ARG002
        """Show a clip's sound, its waveform, and the spectrogram that the backbone sees, with any masks."""
        return self.portraits.sample(batch.audio, masks=self.draw_masks(batch.audio))

    def portray_model(self, model: nn.Module) -> Sequence[Exhibit]:  # noqa: ARG002
        """Show the current wavelets alongside the initial wavelets."""
        return self.portraits.wavelets()


def _value(tower: ESResNeXt, name: str) -> Tensor:
    value: Tensor = getattr(tower.fbsp, name)
    return value.detach().float().cpu().clone()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
