"""Exhibits of clips and wavelets."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from model.esresnet import ESResNeXt
from utils.shards.writing import encode_sound
from utils.tasks.clip_media import LONGEST_SECONDS, Portraits

RATE = 44100


@pytest.fixture(scope="module")
def tower() -> ESResNeXt:
    return ESResNeXt(n_fft=256, hop_length=128, win_length=256, num_classes=3)


def tone(seconds: float, *, hertz: float = 1000.0, channels: int = 1) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return (16384 * torch.sin(2 * torch.pi * hertz * time)).expand(channels, -1)


@pytest.mark.parametrize("channels", [1, 2])
def test_an_encoded_clip_sounds_like_the_clip(channels: int) -> None:
    clip = tone(1.0, channels=channels)
    samples, rate = soundfile.read(io.BytesIO(encode_sound(clip, RATE, "ogg")), always_2d=True)
    assert (samples.shape, rate) == ((RATE, channels), RATE)
    assert np.abs(samples.T - clip.numpy() / 32768).max() < 0.05
    assert soundfile.info(io.BytesIO(encode_sound(clip, RATE, "ogg"))).subtype == "VORBIS"


def test_samples_beyond_the_range_are_clipped() -> None:
    samples, _ = soundfile.read(io.BytesIO(encode_sound(4 * tone(0.5), RATE, "ogg")))
    assert 0.95 < np.abs(samples).max() < 1.2


def test_the_beginning_of_a_long_clip_is_shown(tower: ESResNeXt) -> None:
    sound, picture = Portraits(tower).sample(tone(LONGEST_SECONDS + 5)[None])
    assert soundfile.info(io.BytesIO(sound.content)).duration == pytest.approx(LONGEST_SECONDS)
    assert len(sound.content) < 200_000
    assert (sound.media_type, picture.media_type) == ("audio/ogg", "image/png")


def test_the_spectrogram_is_the_input_image_of_the_backbone(tower: ESResNeXt) -> None:
    clip = tone(0.5)
    with torch.inference_mode():
        shown = Portraits(tower).decibels(clip)
        image = tower.decibels(clip[None])[0, 0]
    assert np.array_equal(shown, torch.cat(list(image)).numpy())
    assert shown.mean(axis=1).argmax() == pytest.approx(1000 / (RATE / 2) * len(shown), abs=1)


def test_without_a_tower_the_spectrogram_is_a_fourier_transform() -> None:
    shown = Portraits().decibels(tone(0.5, hertz=5000))
    assert shown.mean(axis=1).argmax() == pytest.approx(5000 / (RATE / 2) * (len(shown) - 1), abs=1)


def test_a_sample_without_a_sound_shows_nothing() -> None:
    assert Portraits().sample(None) == ()


def test_wavelets_are_shown_next_to_the_initial_ones(tower: ESResNeXt) -> None:
    assert tower.fbsp is not None
    portraits = Portraits(tower)
    initial = tower.fbsp.fc.detach().clone()
    with torch.no_grad():
        tower.fbsp.fc.add_(0.25)
        figure = portraits._wavelet_figure()
    responses, shifts, *_ = figure.axes
    before, after = (line.get_ydata() for line in shifts.lines)
    assert np.allclose(before, 0)
    assert np.allclose(after, 0.25 * RATE / 256)
    assert torch.allclose(portraits._initial["fc"], initial)
    curves = (np.asarray(line.get_data()) for line in responses.lines)
    peaks = [frequencies[levels.argmax()] for frequencies, levels in curves]
    moved = np.array(peaks[0::2]) - np.array(peaks[1::2])
    assert moved == pytest.approx(0.25 * RATE / 256, abs=RATE / 256 / 8 + 1)  # the frequencies have this step
    with torch.no_grad():
        (picture,) = portraits.wavelets()
    assert Image.open(io.BytesIO(picture.content)).width >= 800
    assert "a bank of 129 filters" in picture.explanation
    assert "moved by 43.1 Hz on average and 43.1 Hz at most" in picture.explanation


def test_a_response_equals_the_networks_output_for_a_tone() -> None:
    tower = ESResNeXt(n_fft=512, hop_length=128, win_length=256, num_classes=3).double()
    assert tower.fbsp is not None
    with torch.no_grad():
        tower.fbsp.m.add_(0.3)
        tower.fbsp.fb.add_(0.2)
        portraits, bank = Portraits(tower), tower.fbsp.bank()
        rows = np.array([5, 40])
        frequencies, responses = portraits.responses(bank, rows)
        chosen = np.array([20, 300, 320, 900])
        time = torch.arange(4096, dtype=torch.float64) / RATE
        for place, hertz in zip(chosen, frequencies[chosen], strict=True):
            tone = torch.exp(2j * torch.pi * hertz * time)
            parts = (tone.real.contiguous(), tone.imag.contiguous())
            padded = torch.stack(parts)[:, :256] * tower.window  # one frame
            wavelets = torch.complex(bank[0], bank[1])[rows, 128:384]
            response = (torch.complex(*padded) * wavelets).sum(dim=1).abs()
            level = tower.window.sum() * bank.square().sum(dim=0).mean().sqrt()
            expected = 20 * np.log10((response / level).numpy() + 1e-9)
            assert responses[:, place] == pytest.approx(expected, abs=1e-6)


def test_no_wavelets_are_shown_for_a_tower_without_learned_ones() -> None:
    assert Portraits().wavelets() == ()
