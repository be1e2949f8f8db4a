"""AudioCLIP's features, logits, scales and loss."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ignite_trainer.checkpoints import checkpoint_files
from model.audioclip import AudioCLIP
from model.losses import clamped_scale, pairwise_contrastive_loss
from model.weights.loading import MisfitError
from tests.small_backbone import SMALL_AUDIOCLIP, clips

TEXT = [["dog"], ["rain"], ["car", "horn"]]


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_forward_compares_all_pairs_and_returns_the_published_nested_tuples(small_model: AudioCLIP) -> None:
    audio, image = clips(3), pictures(3)
    ((a, i, t), (ai, at, it)), loss = small_model(audio, image, TEXT)
    assert ai is not None and at is not None and it is not None
    torch.testing.assert_close(a, F.normalize(small_model.encode_audio(audio), dim=-1))
    torch.testing.assert_close(i, F.normalize(small_model.encode_image(image), dim=-1))
    torch.testing.assert_close(t, F.normalize(small_model.encode_text(TEXT), dim=-1))
    torch.testing.assert_close(ai, 100 * a @ i.T)
    torch.testing.assert_close(at, 100 * a @ t.T)
    torch.testing.assert_close(it, i @ t.T / 0.07)
    penalty = small_model.encode_audio_with_penalty(audio).penalty
    torch.testing.assert_close(loss, pairwise_contrastive_loss([ai, at, it]) + penalty)


@torch.no_grad()
def test_forward_returns_none_for_absent_modalities(small_model: AudioCLIP) -> None:
    (features, logits), loss = small_model(audio=clips(2))
    assert features.audio is not None
    assert features[1:] == (None, None)
    assert tuple(logits) == (None, None, None)
    assert loss is None
    (features, logits), loss = small_model(image=pictures(3), text=TEXT)
    assert features.audio is None
    assert tuple(logits)[:2] == (None, None)
    torch.testing.assert_close(loss, pairwise_contrastive_loss([logits.image_text]))
    (_, nothing), loss = small_model()
    assert tuple(nothing) == (None, None, None) and loss is None


@torch.no_grad()
def test_batch_indices_select_texts(small_model: AudioCLIP) -> None:
    everything = small_model.encode_text(TEXT)
    torch.testing.assert_close(small_model.encode_text(TEXT, "{}", [2, 0]), everything[[2, 0]])
    indices = torch.tensor([1, 2])
    (features, logits), loss = small_model(audio=clips(2), text=TEXT, batch_indices=indices)
    torch.testing.assert_close(features.text, F.normalize(everything[1:], dim=-1))
    assert logits.audio_text.shape == (2, 2)
    assert loss is not None


@torch.no_grad()
def test_sample_weights_affect_the_loss(small_model: AudioCLIP) -> None:
    weight = torch.tensor([1.0, 0.0, 3.0])
    (_, logits), loss = small_model(audio=clips(3), text=TEXT, sample_weight=weight)
    penalty = small_model.encode_audio_with_penalty(clips(3)).penalty
    contrastive = pairwise_contrastive_loss([logits.audio_text], sample_weight=weight)
    torch.testing.assert_close(loss, contrastive + penalty)
    ids = torch.tensor([0, 1, 0])
    options = {"positives": "same_label", "label_ids": ids, "reduction": "mean"}
    expected = pairwise_contrastive_loss([logits.audio_text], **options)  # type: ignore[arg-type]
    torch.testing.assert_close(small_model.loss(logits, **options), expected)  # type: ignore[arg-type]


@torch.no_grad()
def test_items_without_partners_are_an_error(small_model: AudioCLIP) -> None:
    with pytest.raises(ValueError, match=r"shapes \[\[2, 3\]\].*belongs to sample i"):
        small_model(audio=clips(2), text=TEXT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_are_clamped_but_have_a_gradient_at_their_initial_value(dtype: torch.dtype) -> None:
    def scale_and_gradient(value: float) -> list[float]:
        log_scale = torch.tensor(value, dtype=dtype, requires_grad=True)
        scale = clamped_scale(log_scale)
        scale.backward()
        assert log_scale.grad is not None
        return [scale.item(), log_scale.grad.item()]

    assert scale_and_gradient(-0.5) == pytest.approx([1.0, 0.0])
    assert scale_and_gradient(5.0) == pytest.approx([100.0, 0.0])
    assert scale_and_gradient(math.log(20.0)) == pytest.approx([20.0, 20.0])
    assert scale_and_gradient(math.log(100.0)) == pytest.approx([100.0, 100.0])


def test_scales_start_at_the_published_values(small_model: AudioCLIP) -> None:
    assert small_model.logit_scale_ai.item() == pytest.approx(math.log(100.0))
    assert small_model.logit_scale_at.item() == pytest.approx(math.log(100.0))
    assert small_model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_one_backward_pass_gives_every_tower_gradients() -> None:
    model = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False)
    assert model.training
    _, loss = model(clips(3), pictures(3), TEXT)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_audio_in_unit_range_or_of_wrong_rank_is_refused(small_model: AudioCLIP) -> None:
    with pytest.raises(ValueError, match="Multiply by 32768"):
        small_model(audio=clips(2) / 32768)
    with pytest.raises(ValueError, match=r"shape \[2, 4000\]; expected \[B, C, T\]"):
        small_model.encode_audio(clips(2)[:, 0])


def test_misspelt_arguments_are_an_error() -> None:
    with pytest.raises(TypeError, match="n_ftt"):
        AudioCLIP(n_ftt=256, pretrained=False)  # type: ignore[call-arg]


BIASES = ("logit_bias_ai", "logit_bias_at", "logit_bias")


def test_similarities_have_biases_on_request(tmp_path: Path, small_model: AudioCLIP) -> None:
    """Weights without biases keep the initial values; a checkpoint's arguments restore its biases."""
    assert not small_model.has_logit_biases
    assert not any("logit_bias" in name for name in small_model.state_dict())
    plain, learned = tmp_path / "plain.pt", tmp_path / "learned.pt"
    torch.save(small_model.state_dict(), plain)
    arguments = {**SMALL_AUDIOCLIP, "logit_bias": -10}
    model = AudioCLIP(**arguments, pretrained=plain).eval()
    assert model.state_dict().keys() - small_model.state_dict().keys() == set(BIASES)
    assert [model.get_parameter(name).item() for name in BIASES] == [-10.0] * 3
    with torch.no_grad():
        for value, name in enumerate(BIASES):
            model.get_parameter(name).fill_(value)
        features = torch.nn.functional.normalize(torch.randn(3, 2, 128), dim=-1)
        biased, unbiased = model.logits(*features), small_model.logits(*features)
    for value, pair in enumerate(zip(biased, unbiased, strict=True)):
        assert pair[0] is not None and pair[1] is not None
        torch.testing.assert_close(pair[0], pair[1] + value)
    checkpoint_files.save_weights(
        learned, model.state_dict(), built_from={"class": "model.audioclip.AudioCLIP", "args": arguments}
    )
    model.save_pretrained(tmp_path / "hub")
    for source in (learned, tmp_path / "hub"):
        again = AudioCLIP.from_pretrained(source)
        assert [again.get_parameter(name).item() for name in BIASES] == [0.0, 1.0, 2.0]
    with pytest.raises(MisfitError, match=r"(?s)3 unexpected: logit_bias.*set logit_bias"):
        AudioCLIP(**SMALL_AUDIOCLIP, pretrained=learned)
