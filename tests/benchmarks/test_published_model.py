"""The published model computes the same results as ours; otherwise, it would not be a fair baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from tests.benchmarks.published_code import ContrastiveEveryBatch
from tests.benchmarks.published_model import PublishedAudioCLIP, PublishedTower, complex_wavelets
from tests.small_backbone import SMALL_AUDIOCLIP
from utils.datasets.sample import Sample
from utils.tasks import AudioTextContrastive

SMALL = {**SMALL_AUDIOCLIP, "multilabel": False, "pretrained": False}


class Clips(list[Sample]):
    """Both splits."""

    class_names = ("dog", "rain", "sea waves")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(batch: int, *, channels: int = 1, samples: int = 3000) -> Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(3000.0 * generator.standard_normal((batch, channels, samples)))


def pair(**arguments: Any) -> tuple[AudioCLIP, PublishedAudioCLIP]:
    """Make a model whose wavelets differ from their initial values, and its published counterpart."""
    torch.manual_seed(0)
    product = AudioCLIP(**{**SMALL, **arguments})
    fbsp = product.audio.fbsp
    assert fbsp is not None
    with torch.no_grad():
        fbsp.m.add_(0.1 * torch.rand_like(fbsp.m))
        fbsp.fb.add_(0.1 * torch.rand_like(fbsp.fb))
        fbsp.fc.add_(0.1 * torch.randn_like(fbsp.fc))
    published = PublishedAudioCLIP(**{**SMALL, **arguments})
    published.load_state_dict(product.state_dict())
    return product, published


def test_the_state_dict_equals_that_of_the_product() -> None:
    product, published = pair()
    assert list(product.state_dict()) == list(published.state_dict())
    trained = [name for name, _ in product.named_parameters()]
    assert trained == [name for name, _ in published.named_parameters()]


@pytest.mark.parametrize(
    ("arguments", "channels"),
    [({}, 2), ({"spec_height": 48, "spec_width": 40}, 1), ({"onesided": False, "normalized": False}, 1)],
)
def test_features_and_penalty_equal_those_of_the_product_in_float32(
    arguments: dict[str, Any], channels: int
) -> None:
    product, published = pair(**arguments)
    audio = noise(3, channels=channels).float()
    product.eval()
    published.eval()
    with torch.inference_mode():
        ours = product.encode_audio_with_penalty(audio)
        theirs = published.encode_audio_with_penalty(audio)
    torch.testing.assert_close(theirs.features, ours.features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.penalty, ours.penalty, rtol=1e-4, atol=1e-4)


def test_losses_and_gradients_of_training_steps_equal_those_of_the_product_in_float64() -> None:
    product, published = (model.double().train() for model in pair())
    batch = Sample(noise(4), None, [["dog"], ["rain"], ["sea waves"], ["dog"]])
    gradients = []
    losses = []
    for model, task in ((product, AudioTextContrastive()), (published, ContrastiveEveryBatch())):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("audio."))
        loss = task.training_step(model, batch).loss
        assert loss is not None
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: parameter.grad for name, parameter in model.audio.named_parameters()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-10)
    for name in ("fbsp.m", "fbsp.fb", "fbsp.fc", "conv1.weight", "att2.conv_depth.weight", "fc.weight"):
        ours, theirs = gradients[0][name], gradients[1][name]
        assert ours is not None
        assert theirs is not None
        difference = torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(ours)
        assert difference < 1e-9, name


def test_scores_of_an_evaluation_equal_those_of_the_product_and_every_step_encodes_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    product, published = (model.eval().requires_grad_(False) for model in pair())
    encoded = []
    encode_text = AudioCLIP.encode_text

    def count(self: AudioCLIP, text: Any, *arguments: Any, **options: Any) -> Tensor:
        encoded.append(len(text))
        return encode_text(self, text, *arguments, **options)

    monkeypatch.setattr(AudioCLIP, "encode_text", count)
    clips = Clips([Sample(clip, None, ["rain"]) for clip in noise(2).float()])
    batch = Sample(torch.stack([clip.audio for clip in clips]), None, [["rain"], ["dog"]])
    scores, texts = [], []
    for model, task in ((product, AudioTextContrastive()), (published, ContrastiveEveryBatch())):
        encoded.clear()
        with torch.inference_mode():
            task.prepare(model, train=clips, test=clips)
            task.start_evaluation(model)
            output = [task.evaluation_step(model, batch) for _ in range(2)][-1]
            task.training_step(model, batch)
        assert output.y.tolist() == [1, 0]
        scores.append(output.y_pred)
        texts.append(list(encoded))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-4)
    assert texts == [[3], [3, 3, 3, 2]]


def test_every_forward_pass_computes_the_bank_from_the_current_parameters() -> None:
    _, published = pair()
    fbsp = published.get_submodule("audio.fbsp")
    first = complex_wavelets(fbsp)  # type: ignore[arg-type]
    assert complex_wavelets(fbsp) is not first  # type: ignore[arg-type]
    product_bank: Tensor = fbsp.bank()  # type: ignore[operator]
    torch.testing.assert_close(torch.stack((first.real, first.imag)), product_bank, rtol=1e-4, atol=1e-5)


def test_quiet_audio_is_refused_as_the_product_does() -> None:
    _, published = pair()
    with pytest.raises(ValueError, match=r"16-bit units are expected"):
        published.eval().encode_audio(noise(1).float() / 32768)


def test_a_tower_without_wavelets_or_gates_is_refused() -> None:
    for arguments in ({"spectrum": "stft"}, {"apply_attention": False}):
        with pytest.raises(ValueError, match=r"needs spectrum fbsp and apply_attention true"):
            PublishedTower(ESResNeXt(n_fft=256, hop_length=100, win_length=200, **arguments))
