"""Files and arrays to embeddings: windows, batches, units, and the mode put back."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.audioclip import AudioCLIP
from model.embedding import evaluating

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
RATE = 44100


@pytest.fixture
def noise() -> Callable[..., Array]:
    def make(samples: int, seed: int = 0, channels: int = 1) -> Array:
        rng = np.random.default_rng(seed)
        return (3000 * rng.standard_normal((channels, samples))).astype(np.float32)

    return make


def one(model: AudioCLIP, audio: Array) -> Tensor:
    with torch.no_grad():
        return F.normalize(model.encode_audio(torch.from_numpy(audio)[None]), dim=-1)[0]


def test_a_clip_has_one_embedding_whatever_the_batch(
    small_model: AudioCLIP, noise: Callable[..., Array]
) -> None:
    inputs = [noise(3000, 1), noise(5000, 2), noise(3000, 3), noise(3000, 1), noise(4000, 4, channels=2)]
    expected = torch.stack([one(small_model, clip) for clip in inputs])
    for batch_size in (1, 2, 16):
        embeddings = small_model.embed_audio(inputs, sample_rate=RATE, batch_size=batch_size)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(5))


def test_long_clips_are_covered_by_windows_and_averaged(
    small_model: AudioCLIP, noise: Callable[..., Array]
) -> None:
    clip = noise(10000, 5)
    window = 4410  # 0.1 s: three windows at 0, 2795, 5590
    windows = [clip[:, start : start + window] for start in (0, 2795, 5590)]
    expected = F.normalize(torch.stack([one(small_model, part) for part in windows]).mean(dim=0), dim=-1)
    embeddings = small_model.embed_audio([clip, noise(window)], sample_rate=RATE, window_seconds=0.1)
    torch.testing.assert_close(embeddings[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings[1], one(small_model, noise(window)), rtol=1e-4, atol=1e-5)


def test_files_arrays_and_tensors_give_the_same(
    small_model: AudioCLIP, noise: Callable[..., Array], tmp_path: Path
) -> None:
    int16 = noise(3000, 6).round().astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", int16[0], RATE, subtype="PCM_16")
    expected = one(small_model, int16.astype(np.float32))[None]

    def embed(*arguments: object, **options: object) -> Tensor:
        return small_model.embed_audio(*arguments, **options)  # type: ignore[arg-type]

    for embedding in (
        embed(tmp_path / "clip.wav"),
        embed(str(tmp_path / "clip.wav")),
        embed([tmp_path / "clip.wav"]),
        embed(int16, sample_rate=RATE),
        embed(int16[0], sample_rate=RATE),
        embed(int16.astype(np.float64), sample_rate=RATE),
        embed(torch.from_numpy(int16), sample_rate=RATE),
        embed(int16 / 32768, sample_rate=RATE, units="float"),
        embed((clip for clip in [int16]), sample_rate=RATE),
    ):
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)


def test_arrays_are_resampled(small_model: AudioCLIP) -> None:
    def tone(rate: int) -> Array:
        return (8000 * np.sin(2 * np.pi * 440 * np.arange(rate // 10) / rate)).astype(np.float32)

    slow = small_model.embed_audio(tone(22050), sample_rate=22050)
    assert (slow @ small_model.embed_audio(tone(RATE), sample_rate=RATE).T).item() > 0.99


def test_quiet_clips_of_known_units_are_taken(small_model: AudioCLIP, tmp_path: Path) -> None:
    quiet = np.random.default_rng(0).uniform(-0.9, 0.9, 3000) / 32768
    soundfile.write(tmp_path / "quiet.wav", quiet, RATE, subtype="FLOAT")
    assert small_model.embed_audio(tmp_path / "quiet.wav").isfinite().all()
    one_bit = np.random.default_rng(0).integers(-1, 2, 3000).astype(np.int16)
    assert small_model.embed_audio(one_bit, sample_rate=RATE).isfinite().all()
    assert small_model.embed_audio(np.zeros(3000), sample_rate=RATE).isfinite().all()


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (np.full(100, 0.5), {"sample_rate": RATE}, r'Audio input 0 has a peak of 0\.5.*units="float"'),
        (np.ones(100), {}, "sample_rate must say"),
        (np.ones((100, 2)), {"sample_rate": RATE}, r"shape \[100, 2\]; expected samples \[T\]"),
        (np.ones((1, 1, 100)), {"sample_rate": RATE}, r"shape \[1, 1, 100\]"),
        (np.ones(0), {"sample_rate": RATE}, r"shape \[0\]"),
        (np.ones(100, dtype=np.int32), {"sample_rate": RATE}, "has type int32"),
        (np.full(100, np.nan), {"sample_rate": RATE}, "not finite"),
        (np.full(100, 9.0), {"sample_rate": RATE, "units": "pcm"}, "units is 'pcm'"),
        (np.full(100, 9.0), {"sample_rate": RATE, "batch_size": 0}, "batch_size 0"),
        ([], {}, "list of inputs is empty"),
        ([1.0, 2.0], {"sample_rate": RATE}, "Audio input 0 is a float"),
    ],
)
def test_unusable_audio_is_named(
    audio: object, options: dict[str, object], message: str, small_model: AudioCLIP
) -> None:
    with pytest.raises(ValueError, match=message):
        small_model.embed_audio(audio, **options)  # type: ignore[arg-type]


def test_modes_are_put_back_even_after_an_error(small_model: AudioCLIP, noise: Callable[..., Array]) -> None:
    model = copy.deepcopy(small_model)
    before = one(model, noise(3000))
    statistics = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.visual.eval()
    modes = [module.training for module in model.modules()]
    torch.testing.assert_close(
        model.embed_audio(noise(3000), sample_rate=RATE)[0], before, rtol=1e-4, atol=1e-5
    )
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match="sample_rate"):
        model.embed_audio(noise(3000))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, statistics[name]) for name, value in model.state_dict().items())


def test_evaluating_puts_children_in_eval_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_images_are_embedded(small_model: AudioCLIP, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    pixels = [rng.integers(0, 256, (80, 100, 3), dtype=np.uint8) for _ in range(3)]
    Image.fromarray(pixels[0]).save(tmp_path / "image.png")
    embeddings = small_model.embed_image(pixels, batch_size=2)
    assert embeddings.shape == (3, 16)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    for source in (tmp_path / "image.png", Image.fromarray(pixels[0]), pixels[0]):
        single = small_model.embed_image(source)
        torch.testing.assert_close(single, embeddings[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="batch_size is 0"):
        small_model.embed_image(pixels, batch_size=0)


def test_texts_are_embedded(small_model: AudioCLIP) -> None:
    embeddings = small_model.embed_text(["dog", ["car", "horn"]], "the sound of {}", batch_size=1)
    with torch.no_grad():
        expected = small_model.encode_text([["the sound of dog"], ["the sound of car, horn"]])
    torch.testing.assert_close(embeddings, F.normalize(expected, dim=-1))
    torch.testing.assert_close(small_model.embed_text("the sound of dog"), embeddings[:1])
