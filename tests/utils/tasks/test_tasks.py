"""Tasks equal formulas that use the model's public encoders."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_trainer.api.batch import Mixed, PaddedBatch, PartialBatch
from ignite_trainer.api.task import StepOutput
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from tests.small_backbone import SMALL_AUDIOCLIP
from utils.datasets import Sample
from utils.tasks import AudioTextContrastive, Classification, Contrastive
from utils.tasks.prompts import Prompts

LABELS = ["dog", "rain", "door knock", "siren"]


class Clips:
    """A data set of noise in 16-bit units, one clip per class."""

    class_names = LABELS
    sample_rate = 44100

    def __init__(self, scale: float = 3000.0, channels: int = 1) -> None:
        self.audio = np.random.default_rng(0).normal(0, scale, (4, channels, 8000)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.audio[index], None, [LABELS[index]])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def batch_of(clips: Clips) -> Sample:
    return Sample(torch.from_numpy(clips.audio), None, [sample.labels for sample in clips])


TINY = {**SMALL_AUDIOCLIP, "image_resolution": 32, "context_length": 12, "spec_height": 32, "spec_width": 32}


def tiny_audioclip(*, multilabel: bool = False) -> AudioCLIP:
    torch.manual_seed(0)
    return AudioCLIP(**TINY, multilabel=multilabel, pretrained=False)


def loss_of(output: StepOutput) -> Tensor:
    assert output.loss is not None
    return output.loss


@pytest.fixture(scope="module")
def model() -> AudioCLIP:
    return tiny_audioclip().eval()


def prepared(model: nn.Module, task: AudioTextContrastive, clips: Clips) -> AudioTextContrastive:
    task.prepare(model, train=clips, test=clips)
    return task


def normalised(features: Tensor) -> Tensor:
    result: Tensor = features / features.norm(dim=-1, keepdim=True)
    return result


def test_class_scores_are_the_softmax_of_scaled_cosines(model: AudioCLIP) -> None:
    clips = Clips()
    task = prepared(model, AudioTextContrastive("the sound of {}"), clips)
    with torch.inference_mode():
        task.start_evaluation(model)
        scores, targets, loss, *_ = task.evaluation_step(model, batch_of(clips))
        audio = normalised(model.encode_audio(torch.from_numpy(clips.audio)))
        text = normalised(model.encode_text([f"the sound of {label}" for label in LABELS]))
    expected = torch.softmax(100.0 * audio @ text.T, dim=-1)
    assert torch.allclose(scores, expected, atol=1e-5)
    assert targets.tolist() == [0, 1, 2, 3]
    assert loss is None


def test_multilabel_scores_are_the_sigmoid_of_the_cosine_minus_a_half() -> None:
    model, clips = tiny_audioclip(multilabel=True).eval(), Clips()
    task = prepared(model, AudioTextContrastive(), clips)
    batch = batch_of(clips)._replace(labels=[["dog", "rain"], ["rain"], ["siren"], ["door knock"]])
    with torch.inference_mode():
        task.start_evaluation(model)
        scores, targets, *_ = task.evaluation_step(model, batch)
        audio = normalised(model.encode_audio(torch.from_numpy(clips.audio)))
        text = normalised(model.encode_text(LABELS))
    assert torch.allclose(scores, torch.sigmoid(audio @ text.T - 0.5), atol=1e-5)
    assert targets.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_training_loss_equals_that_of_the_models_forward(frozen: bool) -> None:
    model, clips = tiny_audioclip().eval(), Clips()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("audio.", "logit_scale_a")) or not frozen)
    task = prepared(model, AudioTextContrastive(), clips)
    loss = loss_of(task.training_step(model, batch_of(clips)))
    _, expected = model(audio=torch.from_numpy(clips.audio), text=[[label] for label in LABELS])
    assert torch.allclose(loss, expected, rtol=1e-5)
    loss.backward()
    assert (model.text_projection.grad is None) == frozen
    assert model.audio.fc.weight.grad is not None


def test_a_step_equals_the_comparison_of_embeddings_of_its_parts() -> None:
    model, clips = tiny_audioclip().eval(), Clips()
    task = prepared(model, AudioTextContrastive(positives="same_label"), clips)
    whole = batch_of(clips)._replace(labels=[["dog"], ["dog"], ["rain"], ["siren"]])
    slices = (slice(0, 1), slice(1, 3), slice(3, 4))
    embedded = [task.embed(model, Sample(whole.audio[part], None, whole.labels[part])) for part in slices]
    joined = {name: torch.cat([part[name] for part in embedded]) for name in ("audio", "text")}
    output, expected = task.compare(model, joined, whole), task.training_step(model, whole)
    losses = loss_of(output), loss_of(expected)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.y_pred, expected.y_pred, rtol=1e-5, atol=1e-4)
    names = ("audio.fbsp.m", "audio.fc.weight", "text_projection", "logit_scale_at")
    weights = [model.get_parameter(name) for name in names]
    gradients = (torch.autograd.grad(loss, weights) for loss in losses)
    for name, one, other in zip(names, *gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm(), name


def test_texts_of_a_frozen_tower_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = tiny_audioclip().eval().requires_grad_(False)
    encoded: list[str] = []
    encode_text = AudioCLIP.encode_text

    def counting(self: AudioCLIP, text: list[str], *args: object) -> Tensor:
        encoded.extend(", ".join(labels) for labels in text)
        return encode_text(self, text, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(AudioCLIP, "encode_text", counting)
    clips = Clips()
    task = prepared(frozen, AudioTextContrastive(), clips)
    with torch.inference_mode():
        task.start_evaluation(frozen)
        task.evaluation_step(frozen, batch_of(clips))
    for _ in range(3):
        task.training_step(frozen, batch_of(clips))
    assert sorted(encoded) == sorted(LABELS)


def test_cached_features_of_a_frozen_tower_are_renewed_if_its_weights_change() -> None:
    frozen, prompts = tiny_audioclip().eval().requires_grad_(False), Prompts("{}")
    prompts.encode(frozen, [["dog"], ["rain"]])
    other = {name: 1.5 * weight for name, weight in frozen.state_dict().items()}
    frozen.load_state_dict(other)
    expected = normalised(frozen.encode_text(["rain", "dog", "rain"]))
    torch.testing.assert_close(prompts.encode(frozen, [["rain"], ["dog"], ["rain"]]), expected)


def test_features_of_the_classes_do_not_depend_on_which_are_needed_first() -> None:
    """A resumed run needs them in another order than an uninterrupted one."""
    frozen, names = tiny_audioclip().eval().requires_grad_(False), [f"class {n}" for n in range(13)]
    features = []
    for count in (1, 5, 13):
        prompts = Prompts("{}")
        prompts.check(frozen, names)
        with patch.object(frozen, "encode_text", wraps=frozen.encode_text) as encode:
            prompts.encode(frozen, [[name] for name in names[-count:]])
            features.append(prompts.encode(frozen, [[name] for name in names]))
        assert len(encode.mock_calls) == 1
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


def test_cached_features_belong_to_their_texts() -> None:
    frozen, prompts = tiny_audioclip().eval().requires_grad_(False), Prompts("{}")
    texts = [f"text {number}" for number in range(50)]
    expected = normalised(frozen.encode_text(texts))
    for first in (0, 3, 40, 10, 0):
        with torch.inference_mode(first == 3):
            found = prompts.encode(frozen, [[text] for text in texts[first : first + 10]])
        torch.testing.assert_close(found, expected[first : first + 10])
        assert not found.is_inference()  # a training step may need the cached features


def test_texts_of_a_trained_tower_are_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    encode, seen = SimpleTokenizer.encode, Counter[str]()

    def counting(self: SimpleTokenizer, text: str) -> Any:
        seen[text] += 1
        return encode(self, text)

    monkeypatch.setattr(SimpleTokenizer, "encode", counting)
    model, task = tiny_audioclip(), Contrastive("heard once: {}")
    # One text is too long.
    batch = batch_of(Clips())._replace(labels=[["dog"], ["rain"] * 20, ["dog"], ["siren"]])
    for _ in range(3):
        task.training_step(model, batch)
    assert {"heard once: dog", "heard once: siren"} <= seen.keys()
    assert set(seen.values()) == {1}


def test_equal_labels_can_be_positives_of_each_other() -> None:
    model, clips = tiny_audioclip().eval(), Clips()
    batch = batch_of(clips)._replace(labels=[["dog"], ["dog"], ["rain"], ["siren"]])
    task = prepared(model, AudioTextContrastive(positives="same_label"), clips)
    loss = loss_of(task.training_step(model, batch))
    (_, logits), _ = model(audio=batch.audio, text=batch.labels)
    positive = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    rows = -(positive * logits.audio_text.log_softmax(1)).sum(1).mean()
    columns = -(positive * logits.audio_text.log_softmax(0)).sum(0).mean()
    penalty = model.audio.forward_with_penalty(batch.audio).penalty
    assert torch.allclose(loss, rows + columns + penalty, rtol=1e-5)


def test_classification_adds_the_penalty_to_the_cross_entropy() -> None:
    torch.manual_seed(0)
    model, clips = ESResNeXt(num_classes=4, spec_height=32, spec_width=32, pretrained=False).eval(), Clips()
    task = Classification()
    task.prepare(model, train=clips, test=clips)
    output = task.training_step(model, batch_of(clips))
    logits, penalty = model.forward_with_penalty(torch.from_numpy(clips.audio))
    expected = F.cross_entropy(logits, torch.arange(4)) + penalty
    assert torch.allclose(loss_of(output), expected, rtol=1e-5)
    assert torch.allclose(output.y_pred, logits.softmax(-1), atol=1e-6)


def test_multilabel_classification_scores_classes_independently() -> None:
    task, clips = Classification(multilabel=True), Clips()
    task.prepare(Constant(), train=clips, test=clips)
    batch = batch_of(clips)._replace(labels=[["dog", "siren"]] * 4)
    output = task.training_step(Constant(), batch)
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.0, 0.5])))
    assert loss_of(output).item() == pytest.approx(
        -np.mean(np.log([p[0], 1 - p[1], 1 - p[2], p[3]])), rel=1e-5
    )
    assert output.y[0].tolist() == [1, 0, 0, 1]


class Constant(nn.Module):
    """Returns the same logits for every clip."""

    logits = (2.0, -1.0, 0.0, 0.5)

    def forward(self, audio: Tensor) -> Tensor:
        return torch.tensor(self.logits).expand(len(audio), 4)


MIXED = [
    Mixed((["dog"], ["siren"]), (0.7, 0.3), (0, 1)),
    Mixed((["siren"], ["dog"]), (0.6, 0.4), (1, 0)),
    Mixed((["rain"],), (1.0,), (2,)),
    Mixed((["dog"], ["dog"]), (0.9, 0.1), (3, 0)),
]
MIXED_TARGETS = np.array([[0.7, 0, 0, 0.3], [0.4, 0, 0, 0.6], [0, 1, 0, 0], [1, 0, 0, 0]])


def constant_step(task: Classification, labels: list[Any]) -> StepOutput:
    clips = Clips()
    task.prepare(Constant(), train=clips, test=clips)
    return task.training_step(Constant(), batch_of(clips)._replace(labels=labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_target_of_a_mixture_is_the_weighted_mean_of_its_samples(smoothing: float) -> None:
    output = constant_step(Classification(label_smoothing=smoothing), MIXED)
    logits = np.array(Constant.logits)
    target = (1 - smoothing) * MIXED_TARGETS + smoothing / 4
    np.testing.assert_allclose(target.sum(axis=1), 1)
    log_p = logits - np.log(np.exp(logits).sum())
    assert loss_of(output).item() == pytest.approx(-(target * log_p).sum(axis=1).mean(), rel=1e-6)
    assert output.y.tolist() == [0, 3, 1, 0], "the class of the dominant sample"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_targets_of_several_labels_are_mixed_and_smoothed_class_by_class(smoothing: float) -> None:
    several = [Mixed((["dog", "rain"], ["siren", "rain"]), (0.7, 0.3), (0, 1)), *MIXED[1:]]
    several[2] = Mixed(([],), (1.0,), (2,))
    output = constant_step(Classification(multilabel=True, label_smoothing=smoothing), several)
    p = 1 / (1 + np.exp(-np.array(Constant.logits)))
    y = np.array([[0.7, 1, 0, 0.3], [0.4, 0, 0, 0.6], [0, 0, 0, 0], [1, 0, 0, 0]])
    yes, no = (1 - smoothing) * y + smoothing / 2, (1 - smoothing) * (1 - y) + smoothing / 2
    np.testing.assert_allclose(yes + no, 1)
    assert loss_of(output).item() == pytest.approx(-(yes * np.log(p) + no * np.log(1 - p)).mean(), rel=1e-6)
    assert output.y.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("multilabel", [False, True])
def test_unmixed_samples_have_the_loss_that_they_have_without_mixing(multilabel: bool) -> None:
    task = Classification(multilabel=multilabel, label_smoothing=0.1)
    alone = [Mixed(([label],), (1.0,), (row,)) for row, label in enumerate(LABELS)]
    mixed, plain = (constant_step(task, labels) for labels in (alone, [[label] for label in LABELS]))
    torch.testing.assert_close(mixed.loss, plain.loss)
    assert torch.equal(mixed.y, plain.y)


def test_mixtures_without_sound_have_no_loss() -> None:
    task, clips = Classification(), Clips()
    task.prepare(Constant(), train=clips, test=clips)
    rows = torch.tensor([0, 2])
    batch = Sample(PartialBatch(rows, torch.from_numpy(clips.audio)[rows]), None, MIXED)
    logits = np.array(Constant.logits)
    log_p = logits - np.log(np.exp(logits).sum())
    expected = -(MIXED_TARGETS[[0, 2]] * log_p).sum(axis=1).mean()
    assert loss_of(task.training_step(Constant(), batch)).item() == pytest.approx(expected, rel=1e-6)


class Nameless(NamedTuple):
    audio: Tensor


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (
            Clips(scale=0.2),
            r"Sample 0 has a peak of 0\.\d+, and no other sample is louder than 1: the audio looks like \[-1",
        ),
        ([Nameless(torch.zeros(1, 10))], r"list has no class_names; .* its labels\.$"),
    ],
)
def test_implausible_data_are_refused_before_training(model: AudioCLIP, clips: Clips, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioTextContrastive().prepare(model, train=clips, test=clips)


def test_an_unreadable_first_sample_is_not_an_error_of_the_task(model: AudioCLIP) -> None:
    class Gone(Clips):
        def __getitem__(self, index: int) -> Sample:
            if index == 0:
                raise OSError("0.wav is gone")
            return super().__getitem__(index)

    AudioTextContrastive().prepare(model, train=Gone(), test=Gone())
    with pytest.raises(ValueError, match=r"Sample 1 has a peak of 0\."):
        AudioTextContrastive().prepare(model, train=Gone(scale=0.2), test=Gone())


def test_tasks_refuse_models_and_options_that_do_not_fit(model: AudioCLIP) -> None:
    with pytest.raises(ValueError, match=r"needs an AudioCLIP model; Model\.class is Linear"):
        AudioTextContrastive().prepare(nn.Linear(1, 1), train=Clips(), test=Clips())
    with pytest.raises(ValueError, match="num_classes is 7, but the data set has 4 classes"):
        classifier = ESResNeXt(num_classes=7, pretrained=False)
        Classification().prepare(classifier, train=Clips(), test=Clips())
    with pytest.raises(ValueError, match=r"^template is \"a sound\"; it needs a \{\}"):
        AudioTextContrastive("a sound")
    with pytest.raises(ValueError, match=r"A text has 13 tokens .* takes at most 12: "):
        AudioTextContrastive("one two three four five six seven eight nine ten {}").prepare(
            model, train=Clips(), test=Clips()
        )
    with pytest.raises(ValueError, match=r'The label "cow" is not among the 4 class_names'):
        task = prepared(model, AudioTextContrastive(), Clips())
        task.start_evaluation(model)
        task.evaluation_step(model, batch_of(Clips())._replace(labels=[["cow"]] * 4))


def test_the_sigmoid_loss_needs_a_model_with_biases_that_learn(model: AudioCLIP) -> None:
    task = AudioTextContrastive(loss="sigmoid")
    with pytest.raises(ValueError, match=r'loss is "sigmoid", which needs .*set Model\.args\.logit_bias'):
        task.prepare(model, train=Clips(), test=Clips())
    biased = AudioCLIP(**TINY, multilabel=False, pretrained=False, logit_bias=-10)
    task.prepare(biased, train=Clips(), test=Clips())
    assert list(task.check(biased, train=Clips(), test=Clips())) == []
    rule = ParameterRule(match=r"audio\..*|logit_scale_a[it]")
    apply_rules(biased, [rule, ParameterRule(match=".*", train=False)])
    for checked in (task, Contrastive(loss="sigmoid")):
        found = list(checked.check(biased, train=Clips(), test=Clips()))
        assert [finding.where for finding in found] == ["logit_bias_ai", "logit_bias_at"]
        assert found[0].severity == "warning"
    assert list(AudioTextContrastive().check(biased, train=Clips(), test=Clips())) == []
    with pytest.raises(ValueError, match=r'loss is "hinge"; allowed: softmax, sigmoid'):
        AudioTextContrastive(loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="block is 0; it must be positive, or null"):
        AudioTextContrastive(block=0)


# Zero-shot


def test_the_embeddings_of_several_templates_are_averaged_and_normalised(model: AudioCLIP) -> None:
    templates = ["the sound of {}", "{} heard", "{}"]
    task = prepared(model, AudioTextContrastive(templates), Clips())
    with torch.inference_mode():
        task.start_evaluation(model)
        each = [normalised(model.encode_text(LABELS, template)) for template in templates]
    assert torch.allclose(task.class_features, normalised(sum(each, torch.zeros(()))), atol=1e-6)
    assert task.class_names == tuple(LABELS)


def test_the_text_of_a_class_can_be_replaced(model: AudioCLIP) -> None:
    task = prepared(model, AudioTextContrastive("a {}", class_texts={"dog": "barking dog"}), Clips())
    with torch.inference_mode():
        task.start_evaluation(model)
        texts = ["a barking dog", "a rain", "a door knock", "a siren"]
        expected = normalised(model.encode_text(texts))
        targets = task.evaluation_step(model, batch_of(Clips())).y
    assert torch.allclose(task.class_features, expected, atol=1e-6)
    assert targets.tolist() == [0, 1, 2, 3]


def test_wrong_texts_are_refused(model: AudioCLIP) -> None:
    with pytest.raises(
        ValueError, match='text for "cat", which is not a class of the data set; the classes are dog'
    ):
        prepared(model, AudioTextContrastive(class_texts={"cat": "kitten"}), Clips())
    for wrong in ({"template": [1]}, {"class_texts": {"dog": 5}}):
        with pytest.raises(ValueError, match=r"template or class_texts contains [15], which is not a text"):
            AudioTextContrastive(**wrong)
    with pytest.raises(ValueError, match="template is an empty list"):
        AudioTextContrastive([])
    with pytest.raises(ValueError, match="window_samples is 0; it must be positive"):
        AudioTextContrastive(window_samples=0)


def test_long_clips_are_scored_by_the_average_over_windows(model: AudioCLIP) -> None:
    clips = Clips()  # of 8,000 samples: windows of 3,500 begin at 0, 2,250 and 4,500
    task = prepared(model, AudioTextContrastive(window_samples=3500), clips)
    audio = torch.from_numpy(clips.audio)
    with torch.inference_mode():
        task.start_evaluation(model)
        features = task.evaluation_step(model, batch_of(clips)).features
        windows = [normalised(model.encode_audio(audio[..., at : at + 3500])) for at in (0, 2250, 4500)]
    assert features is not None
    assert torch.allclose(features["audio"], normalised(sum(windows, torch.zeros(()))), atol=1e-5)


def test_clips_of_unequal_length_are_embedded_without_padding(model: AudioCLIP) -> None:
    clips = Clips()
    task = prepared(model, AudioTextContrastive(window_samples=6000), clips)
    assert task.takes_unequal_lengths
    assert not AudioTextContrastive().takes_unequal_lengths
    audio = torch.from_numpy(clips.audio)
    lengths = torch.tensor([8000, 5000, 6000, 5000])
    batch = batch_of(clips)._replace(audio=PaddedBatch(audio, lengths))
    with torch.inference_mode():
        task.start_evaluation(model)
        features = task.evaluation_step(model, batch).features
        alone = [normalised(model.encode_audio(audio[i : i + 1, :, : lengths[i]])) for i in (1, 2, 3)]
    assert features is not None
    assert torch.allclose(features["audio"][1:], torch.cat(alone), atol=1e-5)


def test_images_of_a_batch_are_embedded_in_evaluation(model: AudioCLIP) -> None:
    task, clips = prepared(model, AudioTextContrastive(), Clips()), Clips()
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        task.start_evaluation(model)
        features = task.evaluation_step(model, batch_of(clips)._replace(image=images)).features
        expected = normalised(model.encode_image(images))
    assert features is not None
    assert torch.allclose(features["image"], expected, atol=1e-6)
    assert set(features) == {"audio", "image"}
