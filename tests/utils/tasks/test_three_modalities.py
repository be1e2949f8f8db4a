"""The task of three modalities equals a formula, with complete and partial batches, and in parts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data._utils.pin_memory import pin_memory

from ignite_trainer.api.batch import Alternatives, PartialBatch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP
from tests.utils.tasks.test_tasks import loss_of, tiny_audioclip
from tests.utils.tasks.test_training_towers import check_parts
from utils.datasets import MadeScenes, Sample
from utils.datasets.sample import DescribedSample
from utils.tasks import Contrastive

CPU = torch.device("cpu")
LABELS = [["dog"], ["rain", "wind"], ["dog"], ["siren"], ["wind", "rain"], []]
PAIRS = (("audio", "image"), ("audio", "text"), ("image", "text"))


@pytest.fixture(scope="module")
def audioclip() -> AudioCLIP:
    model = tiny_audioclip(multilabel=True).double()
    apply_rules(model, [ParameterRule(match=".*", mode="eval")])
    assert model.audio.fbsp is not None
    with torch.no_grad():
        model.audio.fbsp.m.add_(0.1)
        for scale in (model.logit_scale, model.logit_scale_ai, model.logit_scale_at):
            scale.fill_(float(torch.rand(()) + 1))
    return model.eval()


def sounds() -> Tensor:
    return 3000.0 * torch.randn(6, 1, 3000, generator=torch.Generator().manual_seed(0)).double()


def pictures() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def partial(values: Tensor, *rows: int) -> PartialBatch:
    return PartialBatch(torch.tensor(rows), values[list(rows)])


def contrastive(logits: Tensor, targets: Tensor | None = None) -> float:
    """Compute the loss of a pair in numpy: cross-entropies along rows and columns."""
    matrix = logits.detach().numpy()
    wanted = np.eye(len(matrix)) if targets is None else targets.numpy()
    total = 0.0
    for axis in (0, 1):
        logs = matrix - np.log(np.exp(matrix).sum(axis=axis, keepdims=True))
        total -= float((wanted * logs).sum() / len(matrix))
    return total


@torch.no_grad()
def embedded(model: AudioCLIP, texts: list[Any]) -> dict[str, Tensor]:
    """Compute all features with the model's methods."""
    found = {
        "audio": model.encode_audio(sounds()),
        "image": model.encode_image(pictures()),
        "text": model.encode_text(texts),
    }
    return {name: nn.functional.normalize(values, dim=-1) for name, values in found.items()}


def pair_logits(
    model: AudioCLIP, features: dict[str, Tensor], pair: tuple[str, str], rows: list[int]
) -> Tensor:
    scales = dict(zip(PAIRS, (model.logit_scale_ai, model.logit_scale_at, model.logit_scale), strict=True))
    return scales[pair].exp() * features[pair[0]][rows] @ features[pair[1]][rows].T


def pair_loss(model: AudioCLIP, task: Contrastive, batch: Any) -> float:
    """Compute the loss without the penalty."""
    return float((loss_of(task.training_step(model, batch)) - model.audio.wavelet_penalty()).detach())


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 3), ("factorial", 6)])
def test_the_loss_of_a_complete_batch_has_three_pairs(
    audioclip: AudioCLIP, reduction: Any, divisor: int
) -> None:
    words = [names or ["thunder"] for names in LABELS]
    features = embedded(audioclip, words)
    total = sum(contrastive(pair_logits(audioclip, features, pair, list(range(6)))) for pair in PAIRS)
    found = pair_loss(audioclip, Contrastive(reduction=reduction), Sample(sounds(), pictures(), words))
    assert found == pytest.approx(total / divisor, abs=1e-12)
    if reduction == "factorial":  # as published
        _, published = audioclip(audio=sounds(), image=pictures(), text=words)
        assert found == pytest.approx(
            float((published - audioclip.audio.wavelet_penalty()).detach()), abs=1e-12
        )


def test_each_pair_uses_the_samples_that_have_both_modalities(audioclip: AudioCLIP) -> None:
    batch = DescribedSample(
        partial(sounds(), 0, 1, 3, 5),
        partial(pictures(), 1, 2, 3, 4, 5),
        LABELS,
        PartialBatch(torch.tensor([3]), ["a siren of the police"]),
    )
    features = embedded(audioclip, ["dog", "rain, wind", "dog", "a siren of the police", "wind, rain", "x"])
    rows = {PAIRS[0]: [1, 3, 5], PAIRS[1]: [0, 1, 3], PAIRS[2]: [1, 2, 3, 4]}  # sample 5 has no text
    losses = [contrastive(pair_logits(audioclip, features, pair, chosen)) for pair, chosen in rows.items()]
    assert pair_loss(audioclip, Contrastive(), batch) == pytest.approx(np.mean(losses), abs=1e-12)
    two = Contrastive(modalities=["audio", "text"])
    assert pair_loss(audioclip, two, batch) == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize("lacking", ["audio", "image", "labels"])
def test_a_modality_may_be_missing_from_all_samples(audioclip: AudioCLIP, lacking: str) -> None:
    words = [*LABELS[:5], ["thunder"]]
    batch = Sample(sounds(), pictures(), words)._replace(**{lacking: None})
    names = {"audio", "image", "text"} - {"text" if lacking == "labels" else lacking}
    (pair,) = (pair for pair in PAIRS if set(pair) == names)
    expected = contrastive(pair_logits(audioclip, embedded(audioclip, words), pair, list(range(6))))
    loss = loss_of(Contrastive().training_step(audioclip, batch))
    penalty = 0.0 if lacking == "audio" else float(audioclip.audio.wavelet_penalty().detach())
    assert float(loss.detach()) == pytest.approx(expected + penalty, abs=1e-12)


def test_equal_label_sets_are_positives(audioclip: AudioCLIP) -> None:
    batch = Sample(sounds(), pictures(), LABELS)
    groups = [0, 1, 0, 2, 1, 3]
    same = torch.tensor([[a == b for b in groups] for a in groups]).double()
    features = embedded(audioclip, [", ".join(names) for names in LABELS])
    losses = []
    for pair in PAIRS:
        rows = list(range(6 if "text" not in pair else 5))
        wanted = same[rows][:, rows]
        losses.append(
            contrastive(
                pair_logits(audioclip, features, pair, rows), wanted / wanted.sum(dim=1, keepdim=True)
            )
        )
    found = pair_loss(audioclip, Contrastive(positives="same_label"), batch)
    assert found == pytest.approx(np.mean(losses), abs=1e-12)


def test_a_batch_without_pairs_has_only_the_penalty(audioclip: AudioCLIP) -> None:
    loss = loss_of(Contrastive().training_step(audioclip, Sample(sounds(), None, [[]] * 6)))
    assert float(loss.detach()) == pytest.approx(float(audioclip.audio.wavelet_penalty().detach()))
    loss = loss_of(Contrastive().training_step(audioclip, Sample(None, pictures(), [[]] * 6)))
    loss.backward()
    audioclip.zero_grad()
    assert float(loss.detach()) == 0.0


@pytest.mark.parametrize("positives", ["diagonal", "same_label"])
def test_gradients_of_a_partial_batch_in_parts_equal_those_of_the_whole(
    audioclip: AudioCLIP, positives: Any
) -> None:
    task = Contrastive(positives=positives)
    batch = DescribedSample(
        partial(sounds(), 0, 1, 4, 5), partial(pictures(), 2, 3, 4, 5), LABELS,
        PartialBatch(torch.tensor([5]), ["thunder"]),
    )  # fmt: skip
    reached = {"audio.conv1.weight", "visual.conv1.weight", "text_projection", "logit_scale"}
    check_parts(task, audioclip, batch, reached=reached)


class Scenes:
    class_names = ("dog", "rain", "wind", "siren")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(None, pictures()[0], ["dog"])


def prepared(model: AudioCLIP, **options: Any) -> Contrastive:
    task = Contrastive(**options)
    task.prepare(model, train=Scenes(), test=Scenes())
    with torch.inference_mode():
        task.start_evaluation(model)
    return task


def test_a_sample_is_scored_by_its_first_modality(audioclip: AudioCLIP) -> None:
    task = prepared(audioclip)
    batch = Sample(partial(sounds(), 0, 2), partial(pictures(), 0, 3), LABELS)
    with torch.inference_mode():
        output = task.evaluation_step(audioclip, batch)
    texts = [", ".join(names) or "x" for names in LABELS]
    features = embedded(audioclip, texts)
    assert output.features is not None
    there = {"audio": [0, 2], "image": [0, 3], "text": [0, 1, 2, 3, 4]}
    for name, rows in there.items():
        found = output.features[name]
        torch.testing.assert_close(found[rows], features[name][rows], rtol=0, atol=1e-12)
        assert found[[row for row in range(6) if row not in rows]].isnan().all()
    classes = nn.functional.normalize(audioclip.encode_text([[name] for name in Scenes.class_names]), dim=-1)
    for row, name in enumerate(("audio", "text", "audio", "image", "text")):
        expected = torch.sigmoid(features[name][row] @ classes.T - 0.5)
        torch.testing.assert_close(output.y_pred[row], expected, rtol=0, atol=1e-12)
    assert output.y.tolist()[1] == [0, 1, 1, 0]


@pytest.mark.parametrize("several", [Alternatives, list], ids=["as they are", "from pinned memory"])
def test_every_caption_is_embedded_in_evaluation(audioclip: AudioCLIP, several: type[Any]) -> None:
    # For a GPU, some releases of torch turn tuples in a batch into lists; training has drawn before.
    captions = pin_memory([several(["dog", "a dog"]), "rain", several(["wind", "a wind", "siren"])])
    batch = DescribedSample(
        sounds(), None, [["siren"], *[[]] * 5], PartialBatch(torch.tensor([1, 2, 4]), captions)
    )
    with torch.inference_mode():
        output = Contrastive(modalities=["audio", "text"]).evaluation_step(audioclip, batch)
    texts = ["siren", "dog", "a dog", "rain", "wind", "a wind", "siren"]  # the label of the first sample
    expected = nn.functional.normalize(audioclip.encode_text(texts), dim=-1)
    assert output.features is not None
    assert output.counts is not None
    assert output.counts["text"].tolist() == [1, 2, 1, 0, 3, 0]
    torch.testing.assert_close(output.features["text"], expected, rtol=0, atol=1e-12)
    cosines = embedded(audioclip, ["x"] * 6)["audio"] @ expected.T
    means = [
        cosines[0, 0],
        cosines[1, 1:3].mean(),
        cosines[2, 3],
        torch.nan,
        cosines[4, 4:].mean(),
        torch.nan,
    ]
    assert output.y_pred.tolist() == pytest.approx(
        [float(torch.as_tensor(mean).detach()) for mean in means], abs=1e-12, nan_ok=True
    )


def test_training_refuses_several_captions_that_are_not_drawn_from(audioclip: AudioCLIP) -> None:
    batch = DescribedSample(sounds(), None, [[]] * 6, [["rain", "a rain"], *["dog"] * 5])
    with pytest.raises(
        ValueError, match=r"^A sample has 2 captions, but training takes one\. Return them as"
    ):
        Contrastive().training_step(audioclip, batch)


def test_without_classes_the_score_is_the_mean_cosine_of_modalities(audioclip: AudioCLIP) -> None:
    batch = DescribedSample(
        sounds(), partial(pictures(), 0, 1), None, PartialBatch(torch.tensor([0]), ["rain"])
    )
    with torch.inference_mode():
        output = Contrastive().evaluation_step(audioclip, batch)
    features = embedded(audioclip, ["rain"] * 6)
    first = [float(features[a][0] @ features[b][0]) for a, b in PAIRS]
    second = float(features["audio"][1] @ features["image"][1])
    assert output.y_pred[:2].tolist() == pytest.approx([np.mean(first), second], abs=1e-6)
    assert output.y_pred[2:].isnan().all()


def test_targets_are_on_the_device_of_the_model(audioclip: AudioCLIP) -> None:
    """Several processes gather them, and NCCL refuses CPU tensors."""
    model = copy.deepcopy(audioclip).to("meta")
    batch = DescribedSample(None, pictures().to("meta"), [["rain"]] * 6, None)
    output = Contrastive().evaluation_step(model, batch)
    assert output.y.device == output.y_pred.device == torch.device("meta")


def test_a_text_too_long_for_the_tower_is_cut(audioclip: AudioCLIP) -> None:
    long = Sample(sounds()[:2], None, [["rain"] * 40, ["dog"]])
    short = Sample(sounds()[:2], None, [["rain"] * 5, ["dog"]])
    found, expected = (Contrastive().embed(audioclip, batch)["text"] for batch in (long, short))
    assert torch.equal(found, expected)  # 5 words, 4 commas, start and end: 11 of 12 tokens
    described = DescribedSample(sounds()[:1], None, [[]], ["dog " * 30])
    as_is = DescribedSample(sounds()[:1], None, [[]], ["dog " * 10])
    found, expected = (Contrastive().embed(audioclip, batch)["text"] for batch in (described, as_is))
    assert torch.equal(found, expected)


def test_scenes_are_embedded_in_one_space(audioclip: AudioCLIP) -> None:
    task = Contrastive()
    scenes: Any = MadeScenes(train=False, image_size=32, seconds=0.2)
    task.prepare(audioclip, train=scenes, test=scenes)
    assert task.class_names == ("siren", "rain", "clock tick", "chirping birds", "engine", "church bells")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modalities": ["audio"]}, r"modalities is \['audio'\]; it must contain two or three of"),
        ({"modalities": ["audio", "video"]}, "it must contain two or three of audio, image, text."),
        ({"positives": "all"}, 'positives is "all"; allowed: diagonal, same_label.'),
        ({"reduction": "sum"}, 'reduction is "sum"; allowed: factorial, mean.'),
        ({"window_samples": 0}, "window_samples is 0; it must be positive, or null."),
        ({"template": "sound"}, 'template is "sound"; it needs a {}'),
    ],
)
def test_mistakes_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrastive(**args)


def test_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Contrastive needs an AudioCLIP model; Model\.class is Linear"):
        Contrastive().embed(nn.Linear(1, 1), None)
