"""A teacher's embeddings: the losses, where gradients go, missing modalities, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor, nn
from torchaudio.functional import resample

from ignite_trainer.api.batch import Mixed, PartialBatch
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.forward import GradientCache
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP
from model.clap import Clap
from tests.ignite_trainer.training.stepping import CPU, setup
from tests.small_clap import small_clap
from tests.utils.tasks.test_tasks import LABELS, TINY, Clips, batch_of, loss_of, tiny_audioclip
from tests.utils.tasks.test_training_towers import audioclip, check_parts
from utils.datasets import Sample
from utils.datasets.sample import DescribedSample
from utils.tasks import AudioTextContrastive, Contrastive
from utils.tasks.distillation import Distillation, Form, embedding_loss, similarity_loss


def another_audioclip(**changes: Any) -> AudioCLIP:
    torch.manual_seed(5)
    return AudioCLIP(**{**TINY, **changes}, pretrained=False)


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Compute KL(teacher || student), along rows plus along columns, each a mean, with SciPy."""
    found = 0.0
    for axis in (0, 1):
        wanted, given = (softmax(each.detach().double().numpy(), axis=axis) for each in (teacher, student))
        found += float(np.mean(entropy(wanted, given, axis=axis)))
    return found


def similarities(model: AudioCLIP | Clap, batch: Any, audio: Tensor) -> Tensor:
    features = [nn.functional.normalize(model.encode_audio(audio, check_units=False), dim=1)]
    features.append(nn.functional.normalize(model.encode_text(batch.labels), dim=1))
    found = model.logits(audio_features=features[0], text_features=features[1]).audio_text
    assert found is not None
    return found


def compared(student: Tensor, teacher: Tensor, own: slice) -> Tensor:
    return similarity_loss(lambda *at: student[at], lambda *at: teacher[at], len(student), own)


def test_similarities_are_compared_by_their_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 5, generator=generator).double() for _ in range(2))
    student.requires_grad_()
    loss = compared(student, teacher, slice(0, 5))
    assert float(loss.detach()) == pytest.approx(divergence(teacher, student), rel=1e-12)
    assert float(compared(teacher, teacher, slice(0, 5))) == 0.0
    parts = [compared(student, teacher, own) for own in (slice(0, 2), slice(2, 5), slice(5, 5))]
    torch.testing.assert_close(torch.stack(parts).sum(), loss)
    (gradient,) = torch.autograd.grad(loss, student)
    # As for any cross-entropy: softmax less target, over the number of rows or columns.
    expected = (student.softmax(1) - teacher.softmax(1) + student.softmax(0) - teacher.softmax(0)) / 5
    torch.testing.assert_close(gradient, expected.detach(), rtol=0, atol=1e-12)


def test_embeddings_are_compared_by_their_cosine() -> None:
    student, teacher = torch.tensor([[0.6, 0.8], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(embedding_loss(student, teacher, slice(0, 2))) == pytest.approx(0.2)  # of 0.4 and 0
    assert float(embedding_loss(student, teacher, slice(0, 1))) == pytest.approx(0.2)
    assert float(embedding_loss(student, teacher, slice(1, 2))) == 0.0


def test_a_clap_of_another_rate_and_size_teaches_similarities() -> None:
    student, clap, clips = another_audioclip(embed_dim=24), small_clap(), Clips()
    student.eval()
    batch, task = (
        batch_of(clips),
        AudioTextContrastive(teacher=lambda: clap, distillation={"similarities": 3}),
    )
    task.prepare(student, train=clips, test=clips)
    plain = AudioTextContrastive()
    plain.prepare(student, train=clips, test=clips)
    found, alone = (float(loss_of(each.training_step(student, batch)).detach()) for each in (task, plain))
    teacher = similarities(clap, batch, resample(batch.audio, 44100, 48000))
    expected = 3 * divergence(teacher, similarities(student, batch, batch.audio))
    assert expected > 1.0
    assert found - alone == pytest.approx(expected, rel=1e-4)


def test_embeddings_and_similarities_of_three_modalities_are_added_by_their_weights() -> None:
    student, teacher = tiny_audioclip().eval(), another_audioclip().eval()
    clips = Clips()
    audio, image = torch.from_numpy(clips.audio), torch.randn(4, 3, 32, 32)
    batch = DescribedSample(audio, image, [[label] for label in LABELS], [["a dog"], *[None] * 3])
    batch = batch._replace(text=PartialBatch(torch.tensor([0]), ["a dog"]))
    weights: dict[Form, float] = {"embeddings": 8.0, "similarities": 0.5}
    task = Contrastive(teacher=lambda: teacher, distillation=weights)
    task.prepare(student, train=clips, test=clips)
    plain = Contrastive()
    plain.prepare(student, train=clips, test=clips)
    found, alone = (float(loss_of(each.training_step(student, batch)).detach()) for each in (task, plain))
    texts = ["a dog", *LABELS[1:]]
    features = [
        [
            nn.functional.normalize(each, dim=1)
            for each in (model.encode_audio(audio), model.encode_image(image), model.encode_text(texts))
        ]
        for model in (student, teacher)
    ]
    far = sum(float((1 - (a * b).sum(1)).mean().detach()) for a, b in zip(*features, strict=True))
    pairs = zip(student.logits(*features[0]), teacher.logits(*features[1]), strict=True)
    apart = np.mean(
        [divergence(wanted, given) for given, wanted in pairs if not (given is None or wanted is None)]
    )
    assert found - alone == pytest.approx(8.0 * far + 0.5 * float(apart), rel=1e-4)


def test_the_teacher_gets_no_gradient_and_is_no_part_of_the_model() -> None:
    student, teacher, clips = tiny_audioclip(), another_audioclip().train(), Clips()
    names = set(student.state_dict())
    task = AudioTextContrastive(teacher=lambda: teacher, distillation={"embeddings": 1.0})
    task.prepare(student, train=clips, test=clips)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss_of(task.training_step(student.train(), batch_of(clips))).backward()
    assert not any(module.training for module in teacher.modules())
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert set(student.state_dict()) == names
    assert list(task.other_models) == [teacher]


@pytest.mark.parametrize(("form", "rate"), [("embeddings", 1e-3), ("similarities", 3e-4)])
def test_training_brings_the_student_closer_to_the_teacher(form: Form, rate: float) -> None:
    student, teacher, clips = tiny_audioclip(), another_audioclip(), Clips()
    task = AudioTextContrastive(teacher=lambda: teacher, distillation={form: 10.0})
    task.prepare(student, train=clips, test=clips)
    plan = apply_rules(student, [ParameterRule(match=r"visual\..*", train=False), ParameterRule(match=".*")])
    optimizer = torch.optim.AdamW(plan.groups, lr=rate)
    batch, apart = batch_of(clips), []
    for _ in range(12):
        optimizer.zero_grad()
        plan.train_mode(student)
        embedded = {**task.embed(student, batch), **task.embed_targets(student, batch)}
        ours, theirs = (
            [embedded[f"{whose}{name}"] for name in ("audio", "text")] for whose in ("", "teacher ")
        )
        if form == "embeddings":
            apart.append(
                sum(float((1 - (a * b).sum(1)).mean().detach()) for a, b in zip(ours, theirs, strict=True))
            )
        else:
            logits = (
                student.logits(ours[0], None, ours[1]).audio_text,
                teacher.logits(theirs[0], None, theirs[1]).audio_text,
            )
            assert logits[0] is not None and logits[1] is not None
            apart.append(divergence(logits[1], logits[0]))
        loss_of(task.compare(student, embedded, batch)).backward()
        optimizer.step()
    assert max(apart[-3:]) < 0.5 * apart[0]


@pytest.mark.parametrize("weights", [{"similarities": 2.0}, {"embeddings": 2.0}])
def test_a_batch_in_parts_has_the_same_gradients_and_meets_the_teacher_once(
    weights: dict[Form, float],
) -> None:
    student, teacher = audioclip(), another_audioclip().double()
    task, met = AudioTextContrastive(teacher=lambda: teacher, distillation=weights), list[int]()
    task.prepare(student, train=Clips(), test=Clips())
    labels = [["dog"], ["rain"], ["dog"], ["siren"], ["door knock"], ["rain"]]
    generator = torch.Generator().manual_seed(0)
    batch = Sample(3000.0 * torch.randn(6, 1, 3000, generator=generator).double(), None, labels)
    check_parts(task, student, batch, reached={"audio.fbsp.m", "text_projection"})
    teacher.audio.register_forward_hook(lambda _, inputs, __: met.append(len(inputs[0])))
    cache = GradientCache(task, student, setup(batch_train=6, chunk=2), device=CPU)
    output, _ = cache.forward(Batch(torch.arange(6), batch))
    assert output is not None
    loss_of(output).backward()
    cache.backward()
    assert met == [2, 2, 2]


def test_samples_without_a_partner_still_learn_embeddings() -> None:
    student, teacher, clips = tiny_audioclip().eval(), another_audioclip(), Clips()
    lone = Sample(torch.from_numpy(clips.audio), None, [[] for _ in LABELS])  # sounds alone
    losses = {}
    for form in ("similarities", "embeddings"):
        task = Contrastive(teacher=lambda: teacher, distillation={form: 1.0})
        task.prepare(student, train=clips, test=clips)
        losses[form] = float(
            (loss_of(task.training_step(student, lone)) - student.audio.wavelet_penalty()).detach()
        )
    assert losses["similarities"] == 0.0
    assert losses["embeddings"] > 0.5


def test_a_teacher_without_the_models_images_teaches_audio_and_text_and_says_so() -> None:
    clips = Clips()
    batch = batch_of(clips)._replace(image=torch.randn(4, 3, 32, 32))
    for make in (small_clap, lambda: another_audioclip(image_resolution=64)):
        student, task = tiny_audioclip().eval(), Contrastive(teacher=make)
        task.prepare(student, train=clips, test=clips)
        assert set(task.embed_targets(student, batch)) == {"teacher audio", "teacher text"}
        assert torch.isfinite(loss_of(task.training_step(student, batch)))
        (finding,) = task.check(student, train=clips, test=clips)
        assert finding.severity == "warning" and "teaches only audio and text" in finding.what
    task = Contrastive(teacher=small_clap, modalities=["audio", "text"])
    task.prepare(student, train=clips, test=clips)
    assert list(task.check(student, train=clips, test=clips)) == []


def test_the_teacher_hears_mixed_audio_beside_the_samples_own_texts() -> None:
    student, teacher, clips = tiny_audioclip().eval(), another_audioclip().eval(), Clips()
    task = AudioTextContrastive(teacher=lambda: teacher)
    task.prepare(student, train=clips, test=clips)
    whole = batch_of(clips)
    mixed = [
        Mixed((whole.labels[row], whole.labels[row ^ 1]), (0.7, 0.3), (row, row ^ 1)) for row in range(4)
    ]
    wanted = task.embed_targets(student, whole)
    found = task.embed_targets(student, whole._replace(labels=mixed))
    assert found.keys() == wanted.keys() == {"teacher audio", "teacher text"}
    assert all(torch.equal(values, wanted[name]) for name, values in found.items())


def test_the_teacher_hears_clips_without_masks() -> None:
    student, teacher, clips = tiny_audioclip().eval(), another_audioclip().eval(), Clips()
    batch, embedded = batch_of(clips), {}
    for masks in (None, {"time": 2, "max_time": 0.5}):
        task = AudioTextContrastive(teacher=lambda: teacher, spectrogram_masks=masks)
        task.prepare(student, train=clips, test=clips)
        task.random = SampleRandom.of(seed=1, epoch=1, indices=range(4))
        embedded[bool(masks)] = task.embed(student, batch) | task.embed_targets(student, batch)
    assert torch.equal(embedded[True]["teacher audio"], embedded[False]["teacher audio"])
    assert not torch.equal(embedded[True]["audio"], embedded[False]["audio"])


def test_texts_are_embedded_by_the_teacher_once() -> None:
    student, teacher, clips = tiny_audioclip().requires_grad_(False), another_audioclip(), Clips()
    student.audio.requires_grad_()
    task, texts = AudioTextContrastive(teacher=lambda: teacher), list[int]()
    task.prepare(student, train=clips, test=clips)
    for model in (student, teacher):
        model.transformer.register_forward_hook(lambda *_: texts.append(1))
    for _ in range(3):
        task.training_step(student, batch_of(clips))
    assert len(texts) == 2  # both models, once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distillation": {"similarities": 1.0}}, r"distillation is .*give one, or remove distillation"),
        ({"teacher": {"clas": "model.clap.Clap"}}, r"teacher is \{'clas'.*\"class\": \"model\.clap\.Clap\""),
        ({"teacher": "x", "distillation": {}}, r'distillation is \{\}.*"similarities", "embeddings"'),
        ({"teacher": "x", "distillation": {"mse": 1.0}}, r"distillation is .*mse.*weights to one or both"),
        (
            {"teacher": "x", "distillation": {"embeddings": 0}},
            'gives "embeddings" the weight 0; it must be p',
        ),
        ({"teacher": "x", "distillation": {"embeddings": True}}, "the weight True; it must be positive"),
    ],
)
@pytest.mark.parametrize("task", [AudioTextContrastive, Contrastive])
def test_wrong_arguments_are_refused(
    task: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


def test_embeddings_of_different_sizes_are_refused() -> None:
    distillation = Distillation(lambda: another_audioclip(embed_dim=24), {"embeddings": 1.0})
    with pytest.raises(
        ValueError, match=r"the teacher's have 24 dimensions, and the model's 16\. Use {\"sim"
    ):
        distillation.prepare(tiny_audioclip())


def test_a_teacher_must_be_a_model_of_audio_and_text() -> None:
    with pytest.raises(ValueError, match=r"Task\.args\.teacher is a Linear; .*interfaces\.AudioTextModel"):
        Distillation(lambda: nn.Linear(1, 1)).prepare(tiny_audioclip())
    with pytest.raises(ValueError, match=r"Task\.args\.teacher: .*nowhere"):
        Distillation("nowhere/weights.pt").prepare(tiny_audioclip())


def test_a_data_set_must_state_its_rate_for_a_teacher_that_resamples() -> None:
    class Unrated(Clips):
        sample_rate = property()

    clips = Unrated()
    with pytest.raises(
        ValueError, match="Clap resamples audio to 48000 Hz, but Unrated does not state its rate"
    ):
        AudioTextContrastive(teacher=small_clap).prepare(tiny_audioclip(), train=clips, test=clips)
