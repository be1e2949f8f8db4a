"""AudioCLIP for HEAR and X-ARES: embeddings of clips are those of `embed_audio`; frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.audioclip import AudioCLIP
from utils.benchmarks import hear, shared, xares


@pytest.fixture(scope="module")
def model(saved_model: Path) -> AudioCLIP:
    return AudioCLIP.from_pretrained(saved_model)


@pytest.fixture
def encoder(saved_model: Path, monkeypatch: pytest.MonkeyPatch) -> xares.AudioCLIPEncoder:
    monkeypatch.setenv("AUDIOCLIP_MODEL", str(saved_model))
    return xares.AudioCLIPEncoder()


def noise(batch: int, seconds: float) -> Tensor:
    """Make clips `[B, T]` in [-1, 1]."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(0.1 * generator.standard_normal((batch, round(44100 * seconds)))).float()


def embeddings_of_16_bit_files(model: AudioCLIP, audio: Tensor) -> Tensor:
    """Embed clips as files of the data sets are embedded: in 16-bit units, at 44.1 kHz."""
    return model.embed_audio(32768 * audio, sample_rate=44100, batched=True)


@pytest.mark.parametrize("seconds", [0.3, 6.0])
def test_embeddings_of_clips_are_those_of_embed_audio(
    saved_model: Path, model: AudioCLIP, encoder: xares.AudioCLIPEncoder, seconds: float
) -> None:
    audio = noise(2, seconds)
    expected = embeddings_of_16_bit_files(model, audio)
    loaded = hear.load_model(str(saved_model))
    assert loaded.sample_rate == encoder.sampling_rate == 44100
    assert loaded.scene_embedding_size == encoder.output_dim == expected.shape[1] == 16
    torch.testing.assert_close(hear.get_scene_embeddings(audio, loaded), expected, rtol=0, atol=0)
    torch.testing.assert_close(encoder(audio), expected[:, None], rtol=0, atol=0)


def test_a_timestamp_has_the_embedding_of_the_second_around_it(saved_model: Path, model: AudioCLIP) -> None:
    audio = noise(2, 1.22)  # 24.4 frames of 50 ms, the last of which has its centre beyond the end
    loaded = hear.load_model(saved_model)
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, loaded)
    assert loaded.timestamp_embedding_size == 16 and embeddings.shape == (2, 24, 16)
    assert timestamps.tolist() == [[25.0 + 50.0 * frame for frame in range(24)]] * 2
    silence = torch.zeros(2, 44100)
    surrounded = torch.cat([silence, audio, silence], dim=1)
    for frame in (0, 1, 12, 23):
        centre = 44100 + round(44.1 * (25 + 50 * frame))
        window = surrounded[:, centre - 22050 : centre + 22050]
        expected = embeddings_of_16_bit_files(model, window)
        torch.testing.assert_close(embeddings[:, frame], expected, rtol=0, atol=1e-6)


def test_frames_do_not_depend_on_what_pads_a_batch(model: AudioCLIP) -> None:
    audio = noise(2, 0.5)
    audio[1, 13230:] = 0.0  # a clip of 0.3 s in a batch with one of 0.5 s
    (alone, _), (together, _) = (
        shared.embed_frames(model, clips, hop_ms=100) for clips in (audio[1:, :13230], audio)
    )
    torch.testing.assert_close(together[1, :3], alone[0], rtol=0, atol=1e-6)


def test_frames_of_x_ares_have_the_length_that_is_set(
    encoder: xares.AudioCLIPEncoder, model: AudioCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOCLIP_HOP_MS", "100")
    frames = xares.AudioCLIPEncoder()
    audio = noise(2, 1.0)
    assert frames.hop_size_in_ms == 100 and encoder.hop_size_in_ms == 0
    assert torch.equal(frames(audio), shared.embed_frames(model, audio, hop_ms=100)[0])
    assert frames(audio).shape == (2, 10, 16)


@pytest.mark.parametrize("hop", ["0", "-50", "50 ms", "12.5"])
def test_a_length_of_frames_must_be_positive(
    encoder: xares.AudioCLIPEncoder, hop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOCLIP_HOP_MS", hop)
    with pytest.raises(
        ValueError, match=f"AUDIOCLIP_HOP_MS is '{hop}'; it must be a positive whole number of ms"
    ):
        type(encoder)()


def test_results_of_different_weights_have_different_names(
    encoder: xares.AudioCLIPEncoder, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = xares.AudioCLIPEncoder()
    changed = AudioCLIP.from_pretrained(saved_model)
    with torch.no_grad():
        changed.audio.fc.bias[0] += 1e-3
    changed.save_pretrained(tmp_path / "changed")
    monkeypatch.setenv("AUDIOCLIP_MODEL", str(tmp_path / "changed"))
    other = xares.AudioCLIPEncoder()
    names = [type(each).__name__ for each in (encoder, same, other)]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("AudioCLIP_") and name.endswith("_0ms_Encoder") for name in names)
