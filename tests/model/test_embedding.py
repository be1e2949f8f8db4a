"""Files, arrays and texts are embedded: windows, batches, units and modes."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model.audioclip import AudioCLIP
from model.embedding import WindowedEmbedding, evaluating, window_starts

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
RATE = 44100


def noise(samples: int, seed: int = 0, channels: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    return (3000 * rng.standard_normal((channels, samples))).astype(np.float32)


def one(model: AudioCLIP, audio: Array) -> Tensor:
    with torch.no_grad():
        return F.normalize(model.encode_audio(torch.from_numpy(audio)[None]), dim=-1)[0]


def test_a_clips_embedding_does_not_depend_on_its_batch(small_model: AudioCLIP) -> None:
    inputs = [noise(3000, 1), noise(5000, 2), noise(3000, 3), noise(3000, 1), noise(4000, 4, channels=2)]
    expected = torch.stack([one(small_model, clip) for clip in inputs])
    for batch_size in (1, 2, 16):
        embeddings = small_model.embed_audio(inputs, sample_rate=RATE, batch_size=batch_size)
        assert embeddings.dtype == torch.float32
        assert not embeddings.requires_grad
        torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(5))


def test_long_clips_are_covered_by_windows_and_averaged(small_model: AudioCLIP) -> None:
    clip = noise(10000, 5)
    window = 4410  # 0.1 s: three windows at 0, 2795, 5590
    windows = [clip[:, start : start + window] for start in (0, 2795, 5590)]
    expected = F.normalize(torch.stack([one(small_model, part) for part in windows]).mean(dim=0), dim=-1)
    embeddings = small_model.embed_audio([clip, noise(window)], sample_rate=RATE, window_seconds=0.1)
    torch.testing.assert_close(embeddings[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embeddings[1], one(small_model, noise(window)), rtol=1e-4, atol=1e-5)


def test_files_arrays_and_tensors_have_the_same_embedding(small_model: AudioCLIP, tmp_path: Path) -> None:
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


def test_a_batch_equals_a_list_of_its_clips(small_model: AudioCLIP) -> None:
    clips = [noise(3000, seed, channels=2) for seed in range(10)]
    expected = small_model.embed_audio(clips, sample_rate=RATE)
    for batch in (np.stack(clips), torch.from_numpy(np.stack(clips))):
        assert torch.equal(small_model.embed_audio(batch, sample_rate=RATE, batched=True), expected)
    mono = np.stack(clips)[:, 0]
    assert torch.equal(
        small_model.embed_audio(mono, sample_rate=RATE, batched=True),
        small_model.embed_audio(list(mono), sample_rate=RATE),
    )


def test_narrow_floating_point_is_widened_before_scaling(small_model: AudioCLIP) -> None:
    """float16 values would overflow if they were multiplied by 32768 in float16."""
    clip = noise(3000, 3)
    for loudest in (0.9, 7.5):
        half = (clip / np.abs(clip).max() * loudest).astype(np.float16)
        expected = small_model.embed_audio(half.astype(np.float32), sample_rate=RATE, units="float")
        assert torch.equal(small_model.embed_audio(half, sample_rate=RATE, units="float"), expected)
        tensor = torch.from_numpy(half)
        assert torch.equal(small_model.embed_audio(tensor, sample_rate=RATE, units="float"), expected)
    bfloat16 = torch.from_numpy(clip).bfloat16().requires_grad_()
    assert torch.equal(
        small_model.embed_audio(bfloat16, sample_rate=RATE),
        small_model.embed_audio(bfloat16.detach().float(), sample_rate=RATE),
    )


def test_content_in_memory_has_the_same_embedding_as_the_file(small_model: AudioCLIP, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.flac", noise(3000, 6)[0] / 32768, RATE)
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(tmp_path / "image.png")
    for name, embed in (("clip.flac", small_model.embed_audio), ("image.png", small_model.embed_image)):
        expected = embed(tmp_path / name)
        content = io.BytesIO((tmp_path / name).read_bytes())
        content.seek(0, io.SEEK_END)  # the position after writing
        assert torch.equal(embed(content), expected)
        with (tmp_path / name).open("rb") as file:
            torch.testing.assert_close(embed([content, file])[1:], expected)


def test_arrays_are_resampled(small_model: AudioCLIP) -> None:
    def tone(rate: int) -> Array:
        return (8000 * np.sin(2 * np.pi * 440 * np.arange(rate // 10) / rate)).astype(np.float32)

    slow = small_model.embed_audio(tone(22050), sample_rate=22050)
    assert (slow @ small_model.embed_audio(tone(RATE), sample_rate=RATE).T).item() > 0.99


def test_quiet_clips_in_known_units_are_accepted(small_model: AudioCLIP, tmp_path: Path) -> None:
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
        (np.ones(100), {}, "pass its sample rate as sample_rate"),
        (np.ones((100, 2)), {"sample_rate": RATE}, r"shape \[100, 2\]; expected samples \[T\]"),
        (np.ones((1, 1, 100)), {"sample_rate": RATE}, r"shape \[1, 1, 100\]"),
        (np.ones(0), {"sample_rate": RATE}, r"shape \[0\]"),
        (np.ones(100, dtype=np.int32), {"sample_rate": RATE}, "has dtype int32"),
        (np.full(100, np.nan), {"sample_rate": RATE}, "non-finite"),
        (np.full(100, 9.0), {"sample_rate": RATE, "units": "pcm"}, "units is 'pcm'"),
        (np.ones((16, 100)), {"sample_rate": RATE}, r"at most 8 channels\. Several .*batched=True or as"),
        (np.full(100, 9.0), {"sample_rate": RATE, "units": "float"}, r'peak of 9 .*pass units="int16"'),
        (np.full(100, 3e5), {"sample_rate": RATE}, r"peak of 3e\+05 where full scale is 32768"),
        (np.ones(100), {"sample_rate": 44.1}, r"is 44\.1; expected 1000 to 1000000 Hz .*44100 for"),
        ({"array": np.ones(100), "sampling_rate": RATE}, {}, "inputs is a dict; expected a path"),
        (np.ones(100), {"sample_rate": float("nan")}, "sample_rate is nan"),
        (np.ones(100), {"sample_rate": RATE, "window_seconds": float("nan")}, "window_seconds is nan"),
        (None, {}, "inputs is None; expected a path, a binary file, an array or a tensor, or several"),
        (b"RIFF", {}, "inputs is a bytes object"),
        (5, {}, "inputs is an int"),
        ([np.full(100, 9, np.int16), None], {"sample_rate": RATE}, "Audio input 1 is None"),
        ([io.StringIO("a")], {}, 'Audio input 0 is a file that was opened as text; open it with "rb"'),
        (io.BytesIO(b"word"), {}, "Audio input 0: not decodable as audio"),
        ([np.ones(100)], {"sample_rate": RATE, "batched": True}, "batched is True, but inputs is a list"),
        (np.ones(100), {"sample_rate": RATE, "batched": True}, r"batched is True, but inputs is \[100\]"),
        (np.full(100, 9.0), {"sample_rate": RATE, "batch_size": 0}, "batch_size is 0"),
        ([], {}, "list of inputs is empty"),
        ([1.0, 2.0], {"sample_rate": RATE}, "Audio input 0 is a float"),
    ],
)
def test_errors_name_the_unusable_audio_or_option(
    audio: object, options: dict[str, object], message: str, small_model: AudioCLIP
) -> None:
    with pytest.raises(ValueError, match=message):
        small_model.embed_audio(audio, **options)  # type: ignore[arg-type]


def test_modes_are_restored_even_after_an_error(small_model: AudioCLIP) -> None:
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


def test_tensors_and_batches_of_images_are_embedded(small_model: AudioCLIP) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (2, 80, 100, 3), dtype=np.uint8)
    expected = small_model.embed_image(list(pixels))
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    several: list[Any] = [pixels, tensors, tensors / 255, list(tensors)]
    for batch in several:
        assert torch.equal(small_model.embed_image(batch), expected)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "inputs is None; expected a path"),
        ([np.zeros((4, 4), np.uint8), None], "Image input 1 is None"),
        ([np.zeros((4, 4))], r"Image input 0: the array is float64 \[4, 4\]; expected uint8"),
        (io.BytesIO(b"word"), "Image input 0: not decodable as an image"),
    ],
)
def test_errors_name_the_unusable_image(images: Any, message: str, small_model: AudioCLIP) -> None:
    with pytest.raises(ValueError, match=message):
        small_model.embed_image(images)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "texts is None; expected a string, or a list"),
        (b"dog", "texts is a bytes object"),
        (["dog", None], "Text 1 is None; expected a string or a list of labels"),
        (["dog"] * 300 + [float("nan")], "Text 300 is nan"),
        (["dog", ["a", float("nan")]], r"Text 1 is \['a', nan\]"),
        (["dog", 3], "Text 1 is 3"),
    ],
)
def test_errors_name_entries_that_are_not_texts(texts: Any, message: str, small_model: AudioCLIP) -> None:
    with pytest.raises(ValueError, match=message):
        small_model.embed_text(texts)
    if isinstance(texts, list):
        with pytest.raises(ValueError, match=message):
            small_model.encode_text(texts)


def test_texts_are_embedded(small_model: AudioCLIP) -> None:
    embeddings = small_model.embed_text(["dog", ["car", "horn"]], "the sound of {}", batch_size=1)
    with torch.no_grad():
        expected = small_model.encode_text([["the sound of dog"], ["the sound of car, horn"]])
    torch.testing.assert_close(embeddings, F.normalize(expected, dim=-1))
    torch.testing.assert_close(small_model.embed_text("the sound of dog"), embeddings[:1])


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (50, [0]),
        (1000, [0]),
        (1009, [4]),  # 1 % is cut off, half of it at the start
        (1010, [5]),
        (1011, [0, 11]),
        (2000, [0, 1000]),
        (2010, [5, 1005]),
        (2500, [0, 750, 1500]),
        (3000, [0, 1000, 2000]),
    ],
)
def test_windows_cover_a_clip_except_for_at_most_one_percent_of_a_window(
    samples: int, starts: list[int]
) -> None:
    assert window_starts(samples, 1000) == starts


def test_the_embedding_of_a_clip_is_the_average_over_its_windows_for_any_batch_size() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(1, length, generator=generator) for length in (7, 20, 30, 10, 35, 7, 20)]
    projection = torch.randn(3, 10, generator=generator)
    sizes: list[int] = []

    def encode(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows[:, 0] @ projection[:, : windows.shape[-1]].T

    expected = []
    for clip in clips:
        windows = [clip[:, start : start + 10] for start in window_starts(clip.shape[-1], 10)]
        each = [(window @ projection[:, : window.shape[-1]].T)[0] for window in windows]
        total = sum((one / one.norm() for one in each), torch.zeros(3))
        expected.append(total / total.norm())
    for batch_size in (1, 2, 5, 100):
        embedding = WindowedEmbedding(encode, window=10, batch_size=batch_size)
        for clip in clips:
            embedding.add(clip)
        assert torch.allclose(embedding.embeddings(), torch.stack(expected), atol=1e-6)
        assert max(sizes) <= batch_size
        sizes.clear()


def test_an_empty_list_of_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="the list of inputs is empty"):
        WindowedEmbedding(lambda windows: windows, window=1, batch_size=1).embeddings()
