"""The package mteb evaluates a small AudioCLIP on tasks made here; scores equal those computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from torch import Tensor

from model.audioclip import AudioCLIP

mteb = pytest.importorskip("mteb", reason="needs mteb, on Python 3.11 or newer: make benchmarks")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import (  # noqa: E402
    AbsTaskClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
    AbsTaskZeroShotClassification,
)
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from utils.benchmarks.mteb import AudioCLIPEncoder  # noqa: E402

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore")]  # imports take ten seconds

LABELS = ["a dog", "rain", "a very old siren"]


@pytest.fixture(scope="module")
def model(saved_model: Path) -> AudioCLIP:
    return AudioCLIP.from_pretrained(saved_model)


@pytest.fixture(scope="module")
def encoder(saved_model: Path) -> AudioCLIPEncoder:
    return AudioCLIPEncoder(source=saved_model, device="cpu")


def describe(name: str, kind: str, score: str, modalities: list[str], **others: Any) -> Any:
    return TaskMetadata(
        name=name,
        type=kind,
        description=name,
        main_score=score,
        modalities=modalities,
        dataset={"path": "NA", "revision": "NA"},
        eval_langs=["eng-Latn"],
        **others,
    )


def score(task: Any, encoder: AudioCLIPEncoder, split: str = "test") -> dict[str, Any]:
    """Evaluate a task and return all its scores."""
    (result,) = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False).task_results
    (scores,) = result.scores[split]
    return dict(scores)


def clips(count: int) -> list[dict[str, Any]]:
    """Make clips of different lengths and rates in [-1, 1]; each second one is high."""
    generator = np.random.default_rng(1)
    made = []
    for number in range(count):
        rate = (44100, 22050)[number // 2 % 2]
        times = np.arange(int(rate * (0.2 + 0.05 * (number % 3)))) / rate
        tone = 0.3 * np.sin(2 * np.pi * (300, 4000)[number % 2] * times)
        made.append({"array": tone + 0.05 * generator.standard_normal(len(times)), "sampling_rate": rate})
    return made


def embed(model: AudioCLIP, items: list[dict[str, Any]]) -> Tensor:
    """Embed clips one by one, in 16-bit units."""
    return torch.cat(
        [
            model.embed_audio(
                32768 * np.asarray(item["array"], np.float32), sample_rate=item["sampling_rate"]
            )
            for item in items
        ]
    )


def images(count: int) -> list[PIL.Image.Image]:
    generator = np.random.default_rng(2)
    return [PIL.Image.fromarray(generator.integers(0, 256, (40, 50 + n, 3), np.uint8)) for n in range(count)]


class ZeroShot(AbsTaskZeroShotClassification):
    """Clips with labels, or images with labels."""

    label_column_name = "label"

    def __init__(self, modality: str, items: list[Any]) -> None:
        kind = "AudioZeroshotClassification" if modality == "audio" else "ZeroShotClassification"
        self.metadata = describe(f"{modality}ZeroShot", kind, "accuracy", [modality, "text"])
        self.input_column_name = modality
        super().__init__()
        labels = [number % 3 for number in range(len(items))]
        self.dataset = DatasetDict({"test": Dataset.from_dict({modality: items, "label": labels})})
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        return LABELS


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_zero_shot_accuracy(modality: str, encoder: AudioCLIPEncoder, model: AudioCLIP) -> None:
    items: list[Any] = clips(12) if modality == "audio" else images(12)
    embeddings = embed(model, items) if modality == "audio" else model.embed_image(items)
    predicted = (embeddings @ model.embed_text(LABELS).T).argmax(dim=1)
    expected = (predicted == torch.arange(12) % 3).float().mean().item()
    assert score(ZeroShot(modality, items), encoder)["accuracy"] == pytest.approx(expected)


class Tones(AbsTaskClassification):
    """Low and high tones, cross-validated as mteb's ESC50."""

    metadata = describe("Tones", "AudioClassification", "accuracy", ["audio"], eval_splits=["train"])
    input_column_name = "audio"
    is_cross_validation = True

    def load_data(self, **_: Any) -> None:
        labels = [number % 2 for number in range(30)]
        self.dataset = DatasetDict({"train": Dataset.from_dict({"audio": clips(30), "label": labels})})
        self.data_loaded = True


def test_cross_validation_shuffles_clips_and_takes_eight_of_each_label(
    encoder: AudioCLIPEncoder, model: AudioCLIP
) -> None:
    """This is why figures of mteb's ESC50 and UrbanSound8k do not stand beside those of official folds."""
    for task in mteb.get_tasks(tasks=["ESC50", "UrbanSound8k"]):
        assert task.is_cross_validation and task.samples_per_label == 8
        assert "fold" not in (task.label_column_name, task.input_column_name)
    embeddings, labels = embed(model, clips(30)).numpy(), np.arange(30) % 2
    order, accuracies = list(range(24)), []
    for training, held_out in KFold(n_splits=5, shuffle=True, random_state=42).split(labels):
        np.random.RandomState(42).shuffle(order)
        rows = [[row for row in training[order] if labels[row] == label][:8] for label in (0, 1)]
        chosen = np.concatenate(rows)
        classifier = LogisticRegression(max_iter=100, random_state=42).fit(embeddings[chosen], labels[chosen])
        accuracies.append(classifier.score(embeddings[held_out], labels[held_out]))
    scores = score(Tones(), encoder, "train")
    assert [each["accuracy"] for each in scores["scores_per_experiment"]] == pytest.approx(accuracies)


class Captions(AbsTaskRetrieval):
    """Texts for clips, or clips for texts."""

    def __init__(self, queries: str, documents: str) -> None:
        category = f"{queries[0]}2{documents[0]}"
        self.metadata = describe(
            f"Captions{category}", "Any2AnyRetrieval", "ndcg_at_10", [queries, documents], category=category
        )
        super().__init__()
        columns: dict[str, list[Any]] = {"audio": clips(6), "text": [f"sound number {n}" for n in range(6)]}
        ids = [str(number) for number in range(6)]
        self.queries = {"test": Dataset.from_dict({"id": ids, queries: columns[queries]})}
        self.corpus = {"test": Dataset.from_dict({"id": ids, documents: columns[documents]})}
        self.relevant_docs = {"test": {number: {number: 1} for number in ids}}
        self.data_loaded = True


@pytest.mark.parametrize(("queries", "documents"), [("audio", "text"), ("text", "audio")])
def test_retrieval_ranks_by_cosine(
    queries: str, documents: str, encoder: AudioCLIPEncoder, model: AudioCLIP
) -> None:
    embeddings = {
        "audio": embed(model, clips(6)),
        "text": model.embed_text([f"sound number {number}" for number in range(6)]),
    }
    similarities = embeddings[queries] @ embeddings[documents].T
    ranks = (similarities > similarities.diagonal()[:, None]).sum(dim=1)
    scores = score(Captions(queries, documents), encoder)
    for k in (1, 3, 5):
        assert scores[f"recall_at_{k}"] == pytest.approx((ranks < k).float().mean().item(), abs=1e-5)


class Sentences(AbsTaskSTS):
    """Pairs of texts with scores of their similarity."""

    metadata = describe("Sentences", "STS", "cosine_spearman", ["text"])
    min_score, max_score = 0, 5
    pairs = (("a dog", "a cat"), ("rain", "water"), ("siren", "rain " * 200), ("wind", "a storm"))

    def load_data(self, **_: Any) -> None:
        first, second = zip(*self.pairs, strict=True)
        columns = {"sentence1": list(first), "sentence2": list(second), "score": [1.0, 3.0, 0.0, 4.0]}
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


def test_similarities_of_texts_of_any_length(encoder: AudioCLIPEncoder, model: AudioCLIP) -> None:
    first, second = zip(*Sentences.pairs, strict=True)
    second = (*second[:2], "rain " * 75, second[3])  # 77 tokens with start and end
    cosines = (model.embed_text(list(first)) * model.embed_text(list(second))).sum(dim=1)
    expected = spearmanr([1.0, 3.0, 0.0, 4.0], cosines).statistic
    assert score(Sentences(), encoder)["cosine_spearman"] == pytest.approx(expected)


@pytest.mark.filterwarnings("default")
def test_texts_are_cut_off_with_a_warning(encoder: AudioCLIPEncoder, model: AudioCLIP) -> None:
    with pytest.warns(UserWarning, match="1 of 2 texts have over 77 tokens and are cut off at the end"):
        found = run(encoder, {"text": ["rain " * 200, "wind"]})
    assert torch.equal(found, model.embed_text(["rain " * 75, "wind"]))


def run(encoder: AudioCLIPEncoder, *batches: dict[str, Any]) -> Tensor:
    task = describe("Task", "AudioClassification", "accuracy", ["audio"])
    kwargs = {"task_metadata": task, "hf_split": "test", "hf_subset": "default"}
    return torch.from_numpy(encoder.encode(batches, **kwargs, show_progress_bar=False))


def test_embeddings_are_those_of_embed_audio(encoder: AudioCLIPEncoder, model: AudioCLIP) -> None:
    items = clips(7)
    items.append({"array": np.stack([items[0]["array"], items[0]["array"] / 2]), "sampling_rate": 44100})
    found = run(encoder, {"audio": items[:5]}, {"audio": items[5:]})
    torch.testing.assert_close(found, embed(model, items), rtol=0, atol=1e-6)


def test_several_modalities_are_added(encoder: AudioCLIPEncoder, model: AudioCLIP) -> None:
    items, pictures = clips(2), images(2)
    found = run(encoder, {"audio": items, "image": pictures, "text": LABELS[:2]})
    expected = embed(model, items) + model.embed_image(pictures) + model.embed_text(LABELS[:2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"Task has the columns \['video'\]; AudioCLIP embeds \['audio'"):
        run(encoder, {"video": []})


def test_the_description_loads_the_same_weights(encoder: AudioCLIPEncoder, saved_model: Path) -> None:
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens) == ("audioclip/model", 16, 77)
    assert meta.n_parameters == sum(weight.numel() for weight in encoder.model.parameters())
    again = meta.load_model(device="cpu")
    assert again.mteb_model_meta.revision == meta.revision
    other = AudioCLIPEncoder("me/other", source=saved_model, template="a sound of {}", device="cpu")
    assert other.mteb_model_meta.name == "me/other"
    assert other.mteb_model_meta.experiment_name != meta.experiment_name
    reloaded = other.mteb_model_meta.load_model(device="cpu")
    assert torch.equal(run(reloaded, {"text": ["rain"]}), other.model.embed_text("rain", "a sound of {}"))
    with pytest.raises(ValueError, match=f"has revision {meta.revision}, but 0123 is expected"):
        AudioCLIPEncoder(revision="0123", source=saved_model, device="cpu")
