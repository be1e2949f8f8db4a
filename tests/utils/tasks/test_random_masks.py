"""Random masks of spectrograms: their distribution, and their use by the tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ignite_trainer.api.batch import PartialBatch
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.task import EmbeddingTask
from ignite_trainer.data.loader import Batch
from ignite_trainer.training.forward import GradientCache, training_step
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt, SpectrogramMasks
from tests.ignite_trainer.training.stepping import CPU, setup
from tests.small_backbone import SMALL_AUDIOCLIP, small_backbone
from tests.small_clap import small_clap
from tests.utils.tasks.test_tasks import LABELS, Clips, batch_of, loss_of, tiny_audioclip
from utils.datasets import Sample
from utils.tasks import AudioTextContrastive, Classification, Contrastive
from utils.tasks.clip_media import Portraits
from utils.tasks.random_masks import RandomMasks

MASKS = {"time": 2, "max_time": 0.3, "frequency": 1, "max_frequency": 0.4}


def streams(count: int, *, seed: int = 1, epoch: int = 1) -> SampleRandom:
    return SampleRandom.of(seed=seed, epoch=epoch, indices=range(count))


# Drawing


def test_widths_and_starts_are_uniform() -> None:
    recipe = RandomMasks(time=2, max_time=0.3, frequency=3, max_frequency=0.8)
    drawn = recipe.draw(streams(20_000), device=CPU)
    assert drawn.time.shape == (20_000, 2, 2)
    assert drawn.frequency.shape == (20_000, 3, 2)
    for ranges, widest in ((drawn.time, 0.3), (drawn.frequency, 0.8)):
        assert ranges.dtype == torch.float32
        start, end = ranges.double().numpy().T
        widths = end - start
        assert start.min() >= 0
        assert end.max() <= 1
        # Both shares are uniform in [0, 1): compare their distributions with it (Kolmogorov-Smirnov).
        for shares in (widths / widest, start / (1 - widths)):
            for of_one in shares:
                gaps = np.sort(of_one) - np.linspace(0, 1, len(of_one))
                assert np.abs(gaps).max() < 1.95 / np.sqrt(len(of_one))  # p < 0.001
        assert abs(np.corrcoef(widths[0], start[0] / (1 - widths[0]))[0, 1]) < 0.03
        assert abs(np.corrcoef(widths[0], widths[1])[0, 1]) < 0.03


def test_masks_are_a_function_of_the_streams() -> None:
    recipe = RandomMasks(time=1, max_time=0.3, frequency=1, max_frequency=0.4)
    drawn = recipe.draw(streams(5), device=CPU)
    for number, (ranges, widest) in enumerate(zip(drawn, (0.3, 0.4), strict=True)):
        random = streams(5).stream(number)
        widths, starts = widest * random.uniform(), random.uniform()
        values = torch.stack((starts * (1 - widths), starts * (1 - widths) + widths), dim=1)
        torch.testing.assert_close(ranges[:, 0], values.float(), rtol=0, atol=1e-7)


def test_the_masks_of_a_sample_do_not_depend_on_the_others_nor_on_other_masks() -> None:
    drawn = RandomMasks.of(MASKS).draw(streams(6), device=CPU)  # type: ignore[union-attr]
    rows = torch.tensor([1, 4])
    some = RandomMasks.of(MASKS).draw(streams(6).select(rows), device=CPU)  # type: ignore[union-attr]
    assert all(torch.equal(ranges[rows], chosen) for ranges, chosen in zip(drawn, some, strict=True))
    fewer = RandomMasks(time=1, max_time=0.3, frequency=1, max_frequency=0.4).draw(streams(6), device=CPU)
    assert torch.equal(fewer.frequency, drawn.frequency)
    assert torch.equal(fewer.time, drawn.time[:, :1])
    for other in (streams(6, seed=2), streams(6, epoch=2)):
        assert not torch.equal(RandomMasks(frequency=1).draw(other, device=CPU).frequency, drawn.frequency)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (2, "spectrogram_masks is 2; allowed are the keys time, max_time, frequency, max_frequency."),
        (
            {"tim": 1},
            "spectrogram_masks is {'tim': 1}; allowed are the keys time, max_time, frequency, max_f",
        ),
        ({"time": 1.5}, "spectrogram_masks.time is 1.5; it must be a whole number, 0 or more."),
        ({"time": -1}, "spectrogram_masks.time is -1; it must be a whole number, 0 or more."),
        ({"frequency": True}, "spectrogram_masks.frequency is True; it must be a whole number, 0 or more."),
        ({"time": 1, "max_time": 0}, "spectrogram_masks.max_time is 0; it must be above 0 and at most 1."),
        ({"time": 1, "max_time": 1.1}, "spectrogram_masks.max_time is 1.1; it must be above 0 and at most"),
        ({"time": 1, "max_time": "a"}, "spectrogram_masks.max_time is 'a'; it must be above 0 and at most 1"),
        ({}, 'spectrogram_masks contains no mask; set "time" or "frequency" to the number of masks, or spe'),
    ],
)
@pytest.mark.parametrize("task", [AudioTextContrastive, Contrastive, Classification])
def test_wrong_masks_are_refused(task: Any, given: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        task(spectrogram_masks=given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("task", [AudioTextContrastive, Contrastive, Classification])
def test_a_model_without_a_spectrogram_to_mask_is_refused(task: Any) -> None:
    model: nn.Module = nn.Linear(1, 4) if task is Classification else small_clap().requires_grad_(False)
    with pytest.raises(ValueError) as caught:
        task(spectrogram_masks={"time": 1}).prepare(model, train=Clips(), test=Clips())
    assert str(caught.value) == (
        "Task.args.spectrogram_masks needs an AudioCLIP or ESResNeXt model; Model.class is "
        f"{type(model).__name__}. Set spectrogram_masks to null."
    )


# Training


def small_audioclip() -> AudioCLIP:
    torch.manual_seed(0)
    arguments = {**SMALL_AUDIOCLIP, "image_resolution": 32, "context_length": 12, "pretrained": False}
    with small_backbone():
        return AudioCLIP(**arguments).eval()


def classifier() -> ESResNeXt:
    torch.manual_seed(0)
    with small_backbone():
        return ESResNeXt(256, 100, 200, num_classes=4).eval()


CASES: list[tuple[Any, Any]] = [
    (AudioTextContrastive, small_audioclip),
    (Contrastive, small_audioclip),
    (Classification, classifier),
]


def masks_seen(monkeypatch: pytest.MonkeyPatch) -> list[SpectrogramMasks | None]:
    """Record the masks that an audio tower gets."""
    seen: list[SpectrogramMasks | None] = []
    forward = ESResNeXt.forward_with_penalty

    def note(self: ESResNeXt, audio: Tensor, **options: Any) -> Any:
        seen.append(options["masks"])
        return forward(self, audio, **options)

    monkeypatch.setattr(ESResNeXt, "forward_with_penalty", note)
    return seen


@pytest.mark.parametrize(("kind", "build"), CASES)
def test_only_training_steps_of_the_trainer_are_masked(kind: Any, build: Any) -> None:
    model, clips = build(), Clips()
    batch = Batch(torch.arange(4), batch_of(clips), streams(4))
    plain, task = kind(), kind(spectrogram_masks=MASKS)
    for one in (plain, task):
        one.prepare(model, train=clips, test=clips)
    without = loss_of(plain.training_step(model, batch.sample))
    assert torch.equal(loss_of(task.training_step(model, batch.sample)), without)  # no streams, no masks
    output = training_step(task, model, batch).output
    assert output is not None
    assert not torch.equal(loss_of(output), without)
    again = training_step(task, model, batch).output
    assert again is not None
    assert torch.equal(loss_of(again), loss_of(output))
    assert task.random is None
    unmasked = training_step(plain, model, batch).output
    assert unmasked is not None
    assert torch.equal(loss_of(unmasked), without)
    with torch.no_grad():
        scores = []
        for one in (plain, task):
            one.start_evaluation(model)
            scores.append(one.evaluation_step(model, batch.sample).y_pred)
    assert torch.equal(*scores)


def test_the_loss_of_a_step_is_that_of_the_masked_clips() -> None:
    model, clips = small_audioclip(), Clips()
    task = AudioTextContrastive(spectrogram_masks=MASKS)
    task.prepare(model, train=clips, test=clips)
    batch = Batch(torch.arange(4), batch_of(clips), streams(4))
    masks = RandomMasks(**MASKS).draw(streams(4), device=CPU)  # type: ignore[arg-type]
    audio, penalty = model.encode_audio_with_penalty(batch.sample.audio, masks=masks)
    features = [found / found.norm(dim=1, keepdim=True) for found in (audio, model.encode_text(LABELS))]
    logits = 100.0 * features[0] @ features[1].T
    both = [-found.log_softmax(dim=1).diagonal().mean() for found in (logits, logits.T)]
    output = training_step(task, model, batch).output
    assert output is not None
    torch.testing.assert_close(loss_of(output), sum(both, penalty), rtol=1e-5, atol=0)


def test_samples_without_audio_leave_the_masks_of_the_others_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = masks_seen(monkeypatch)
    clips = Clips()
    whole, rows = batch_of(clips), torch.tensor([1, 3])
    partial = whole._replace(audio=PartialBatch(rows, whole.audio[rows]))
    drawn = RandomMasks(**MASKS).draw(streams(4), device=CPU)  # type: ignore[arg-type]
    for kind, build in CASES[1:]:
        model, task = build(), kind(spectrogram_masks=MASKS)
        task.prepare(model, train=clips, test=clips)
        training_step(task, model, Batch(torch.arange(4), partial, streams(4)))
        masks = seen.pop()
        assert masks is not None
        assert all(torch.equal(ranges[rows], own) for ranges, own in zip(drawn, masks, strict=True))
        training_step(task, model, Batch(torch.arange(4), whole._replace(audio=None), streams(4)))
        assert not seen


def test_gradients_in_parts_equal_those_of_the_whole_batch() -> None:
    model = tiny_audioclip().double().eval()
    clips = Clips()
    task: EmbeddingTask = AudioTextContrastive(spectrogram_masks=MASKS)
    task.prepare(model, train=clips, test=clips)
    sample = Sample(torch.from_numpy(clips.audio).double(), None, [[label] for label in LABELS])
    batch = Batch(torch.arange(4), sample, streams(4))
    whole = training_step(task, model, batch).output
    assert whole is not None
    loss_of(whole).backward()
    weights = [model.get_parameter(f"audio.{name}") for name in ("conv1.weight", "layer4.0.conv1.weight")]
    expected = [weight.grad for weight in weights]
    model.zero_grad()
    cache = GradientCache(task, model, setup(batch_train=4, chunk=2), device=CPU)
    output, _ = cache.forward(batch)
    assert output is not None
    torch.testing.assert_close(output.loss, whole.loss, rtol=0, atol=1e-10)
    loss_of(output).backward()
    cache.backward()
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-9, atol=1e-10)


# Reports


def test_a_portrait_shows_the_masks_of_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clips = small_audioclip(), Clips()
    task = AudioTextContrastive(spectrogram_masks=MASKS)
    task.prepare(model, train=clips, test=clips)
    shown: list[Any] = []
    show = Portraits.decibels

    def note(self: Portraits, clip: Tensor, **options: Any) -> Any:
        shown.append(show(self, clip, **options))
        return shown[-1]

    monkeypatch.setattr(Portraits, "decibels", note)
    one = Sample(torch.from_numpy(clips.audio[:1]), None, [LABELS[:1]])
    with torch.inference_mode():
        task.portray_sample(model, one)
        task.random = streams(1)
        task.portray_sample(model, one)
        masks = RandomMasks(**MASKS).draw(streams(1), device=CPU)  # type: ignore[arg-type]
        image = model.audio.decibels(one.audio, masks=masks)
    plain, with_masks = shown
    assert np.array_equal(with_masks, image[0, 0].flatten(0, 1).numpy())
    assert np.array_equal(plain, model.audio.decibels(one.audio)[0, 0].flatten(0, 1).detach().numpy())
    assert 0.05 < (plain != with_masks).mean() < 0.8


def test_masks_keep_their_place_in_the_shown_beginning_of_a_long_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[Tensor, SpectrogramMasks]] = []

    def note(_: Portraits, clip: Tensor, masks: SpectrogramMasks) -> bytes:
        given.append((clip, masks))
        return b""

    monkeypatch.setattr(Portraits, "_picture", note)
    clip = torch.zeros(1, 1, 15 * 44100)
    masks = SpectrogramMasks(torch.tensor([[[0.2, 0.4]]]), torch.empty(1, 0, 2))
    Portraits().sample(clip, masks=masks)
    ((shown, moved),) = given
    assert shown.shape[-1] == 10 * 44100
    torch.testing.assert_close(moved.time, torch.tensor([[[0.3, 0.6]]]))
