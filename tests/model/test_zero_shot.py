"""Zero-shot probabilities of sounds and images, given in any form."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from model.audioclip import AudioCLIP
from tests.small_backbone import SMALL_AUDIOCLIP

LABELS = ["dog", "rain", "sea waves"]
NOISE = np.random.default_rng(0).integers(-8000, 8000, (3, 9000), dtype=np.int16)
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> AudioCLIP:
    """Build a model in train mode, with different scales."""
    torch.manual_seed(3)
    built = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False)
    with torch.no_grad():
        built.logit_scale_at.fill_(math.log(7.0))
        built.logit_scale.fill_(math.log(40.0))
    return built


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "dog.wav", NOISE[0], 44100)
    return tmp_path / "dog.wav"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "dog.PNG")
    return tmp_path / "dog.PNG"


def by_hand(features: torch.Tensor, texts: torch.Tensor, scale: float) -> Any:
    powers = np.exp(scale * features.double().numpy() @ texts.double().numpy().T)
    return powers / powers.sum(axis=1, keepdims=True)


def test_probabilities_are_the_softmax_of_cosines_times_the_learned_scale(
    model: AudioCLIP, sound: Path, picture: Path
) -> None:
    texts = model.embed_text(LABELS, "a sound of {}")
    for path, embed, scale in ((sound, model.embed_audio, 7.0), (picture, model.embed_image, 40.0)):
        found = model.classify(path, LABELS, template="a sound of {}")
        assert found.shape == (1, 3) and found.dtype == torch.float32 and not found.requires_grad
        np.testing.assert_allclose(found.numpy(), by_hand(embed(path), texts, scale), rtol=1e-4)
        assert float(found.sum()) == pytest.approx(1.0)
    assert model.training and all(module.training for module in model.modules())


def test_sounds_and_images_may_be_mixed_and_keep_their_order(
    model: AudioCLIP, sound: Path, picture: Path
) -> None:
    of_picture = model.classify(Image.fromarray(PIXELS), LABELS)[0]
    of_sounds = model.classify([NOISE[0], torch.from_numpy(NOISE[1])], LABELS, sample_rate=44100)
    mixed = [picture, str(sound), PIXELS, NOISE[0]]
    found = model.classify(mixed, iter(LABELS), sample_rate=44100)
    assert found.shape == (4, 3) and of_sounds.shape == (2, 3)
    for row in (0, 2):
        torch.testing.assert_close(found[row], of_picture)
    for row in (1, 3):
        torch.testing.assert_close(found[row], of_sounds[0])


def test_the_content_of_files_and_batches_of_clips_are_classified(
    model: AudioCLIP, sound: Path, picture: Path
) -> None:
    contents = [io.BytesIO(path.read_bytes()) for path in (sound, picture)]
    torch.testing.assert_close(model.classify(contents, LABELS), model.classify([sound, picture], LABELS))
    of_batch = model.classify(NOISE, LABELS, sample_rate=44100, batched=True)
    torch.testing.assert_close(of_batch, model.classify(list(NOISE), LABELS, sample_rate=44100))


@pytest.mark.parametrize(
    "pictures",
    [
        np.stack([PIXELS, PIXELS[::-1]]),
        torch.from_numpy(np.stack([PIXELS, PIXELS[::-1]])).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([PIXELS, PIXELS[::-1]])).permute(0, 3, 1, 2) / 255,
    ],
    ids=["array", "tensor", "floating point"],
)
def test_four_dimensional_arrays_are_several_images(model: AudioCLIP, pictures: Any) -> None:
    expected = model.classify([PIXELS, PIXELS[::-1].copy()], LABELS)
    torch.testing.assert_close(model.classify(pictures, LABELS), expected)
    torch.testing.assert_close(model.classify(list(pictures), LABELS), expected)
    torch.testing.assert_close(model.embed_image(pictures), model.embed_image([PIXELS, PIXELS[::-1].copy()]))


def test_the_kind_can_be_given_for_unknown_suffixes(model: AudioCLIP, sound: Path) -> None:
    unnamed = sound.rename(sound.with_suffix(".data"))
    with pytest.raises(ValueError, match=r"dog\.data: neither a sound nor an image by its suffix"):
        model.classify(unnamed, LABELS)
    expected = model.classify(NOISE[0], LABELS, sample_rate=44100)
    torch.testing.assert_close(model.classify(unnamed, LABELS, kind="audio"), expected)
    with pytest.raises(ValueError, match=r"is a folder; pass the paths of its files\."):
        model.classify(sound.parent, LABELS)
    with pytest.raises(ValueError, match="neither a sound nor an image by its suffix"):
        model.classify("a dog that barks " * 20, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"labels is \[\]; expected a list of one or more texts"),
        ("dog", "labels is 'dog'; expected a list of one or more texts"),
        (None, "labels is None; expected a list of one or more texts"),
        (["dog", ""], r"labels\[1\] is ''; expected a text that is not empty"),
        (["dog", " \t"], r"labels\[1\] is ' \\t'; expected a text"),
        (["dog", math.nan], r"labels\[1\] is nan; expected a text"),
        ([["dog", "rain"]], r"labels\[0\] is \['dog', 'rain'\]; expected a text"),
        (["dog", "rain", "dog"], r"labels\[0\] 'dog' and labels\[2\] 'dog' are the same text; remove one"),
        (["sea waves", "Sea  waves "], r"labels\[0\] 'sea waves' and labels\[1\] 'Sea  waves ' are the same"),
        (["word " * 200, "dog"], "A text has 202 tokens .* takes at most 77: .* Shorten it"),
    ],
)
def test_unusable_labels_are_refused(model: AudioCLIP, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.classify("never-read.wav", labels)


@pytest.mark.parametrize(
    ("inputs", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "Nothing to classify: the list of inputs is empty"),
        (None, {}, ValueError, "inputs is None; expected a path"),
        ([None], {}, ValueError, 'Input 0 is a NoneType; pass kind="audio" or kind="image"'),
        (io.BytesIO(b"neither"), {}, ValueError, "not decodable as audio"),
        (
            NOISE.repeat(6, axis=0),
            {"sample_rate": 44100},
            ValueError,
            "passed with batched=True or as a list",
        ),
        (
            torch.zeros(1, 1, 44100),
            {"sample_rate": 44100},
            ValueError,
            "passed with batched=True or as a list",
        ),
        (
            np.ones((1, 40, 50, 3), np.float32),
            {},
            ValueError,
            r"the array is float32 \[40, 50, 3\]; expected",
        ),
        ("absent.wav", {}, FileNotFoundError, r"absent\.wav"),
        ("absent.png", {}, FileNotFoundError, r"absent\.png"),
        (NOISE[0], {}, ValueError, "pass its sample rate as sample_rate"),
        ("dog.wav", {"kind": "sound"}, ValueError, 'kind is \'sound\'; "audio" and "image" are allowed'),
        ("dog.wav", {"template": "a dog"}, ValueError, "The template 'a dog' lacks a {}"),
    ],
)
def test_inputs_that_cannot_be_classified_are_named(
    model: AudioCLIP, inputs: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.classify(inputs, LABELS, **arguments)
