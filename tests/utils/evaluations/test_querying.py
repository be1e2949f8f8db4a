"""Querying in a run equals rankings computed one by one with numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy_research.embedding import DIMENSIONS, Embedding, Points

from ignite_trainer.api.batch import PartialBatch
from ignite_trainer.api.task import StepOutput
from ignite_trainer.runs.experiment import RunResult
from ignite_trainer.support.errors import ProtocolError, RunFailed
from utils.evaluations import Querying

Measure = Callable[..., RunResult]
Vectors = NDArray[np.float32]


def figures(
    queries: Vectors, items: Vectors, is_positive: Callable[[int, int], bool], ks: Sequence[int]
) -> dict[str, float]:
    """Apply the definitions query by query; no two scores are equal here."""
    rows: list[dict[str, float]] = []
    firsts, several = list[float](), False
    for q, query in enumerate(queries.astype(np.float64)):
        cosines = items @ query / np.linalg.norm(items, axis=1)
        ranking = np.argsort(-cosines)
        hits = np.array([is_positive(q, int(item)) for item in ranking])
        if not hits.any():
            continue
        ranks = np.flatnonzero(hits) + 1
        precisions = (np.arange(len(ranks)) + 1) / ranks
        row = {"P@1": float(hits[0])}
        row |= {f"R@{k}": hits[:k].sum() / hits.sum() for k in ks}
        row["mAP"] = precisions.mean()
        row[f"mAP@{max(ks)}"] = precisions[ranks <= max(ks)].sum() / min(max(ks), hits.sum())
        row |= {f"hit@{k}": float(ranks[0] <= k) for k in ks if k > 1}
        firsts.append(float(ranks[0]))
        several |= len(ranks) > 1
        rows.append(row)
    means = {
        name: float(np.mean([row[name] for row in rows]))
        for name in rows[0]
        if several or not name.startswith("hit@")
    }
    means["medR"] = float(np.median(firsts))
    return {**means, **by_chance(len(queries), len(items), is_positive, min(ks)), "queries": len(rows)}


def by_chance(queries: int, items: int, is_positive: Callable[[int, int], bool], k: int) -> dict[str, float]:
    """Compute the expected figures of a uniformly random ranking."""
    counts = [sum(is_positive(q, i) for i in range(items)) for q in range(queries)]
    share = np.mean([count / items for count in counts if count])
    return {"P@1 by chance": float(share), f"R@{k} by chance": k / items}


def share_a_label(first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]) -> Callable[..., bool]:
    return lambda q, i: bool(set(first[q]) & set(second[i]))


@pytest.mark.parametrize("several", [False, True])
def test_all_six_directions_equal_rankings_computed_one_by_one(measure: Measure, several: bool) -> None:
    data = {"images": True, "several": several}
    result = measure("Querying", {"k": [1, 5, 10]}, data=data, task={"several": several})
    points = Points(images=True, several=several)
    labels = [points.labels_of(index) for index in range(len(points))]
    classes = [[name] for name in points.class_names]
    sides = {
        "audio": (points.vectors, labels),
        "image": (points.pictures, labels),
        "text": (points.centres, classes),
    }
    table = result.record.evaluations["measured"]
    assert list(table) == [
        *("audio -> image", "image -> audio", "audio -> text"),
        *("text -> audio", "image -> text", "text -> image"),
    ]
    for direction, row in table.items():
        (queries, q_labels), (items, i_labels) = (sides[name] for name in direction.split(" -> "))
        expected = figures(queries, items, share_a_label(q_labels, i_labels), (1, 5, 10))
        assert list(row)[:6] == ["P@1", "R@1", "R@5", "R@10", "mAP", "mAP@10"]
        assert row == pytest.approx(expected, abs=1e-12), direction


def test_queries_without_a_positive_are_not_counted(measure: Measure) -> None:
    data = {"several": True}
    table = measure("Querying", data=data, task={"several": True}).record.evaluations["measured"]
    assert table["audio -> text"]["queries"] == 25  # of 30 points, 0, 7, 14, 21 and 28 have no label
    assert table["text -> audio"]["queries"] == 3  # one class has no sounds


def test_with_pairs_only_the_image_of_the_same_sample_is_a_positive(measure: Measure) -> None:
    args = {"pairs": "pair", "k": [1, 3], "directions": ["image -> audio", "audio -> text"]}
    table = measure("Querying", args, data={"images": True}).record.evaluations["measured"]
    points = Points()
    same = figures(points.pictures, points.vectors, lambda q, i: q == i, (1, 3))
    labels = [points.labels_of(index) for index in range(30)]
    texts = figures(
        points.vectors, points.centres, share_a_label(labels, [[name] for name in points.class_names]), (1, 3)
    )
    assert list(table) == args["directions"]
    assert table["image -> audio"] == pytest.approx(same, abs=1e-12)
    assert table["audio -> text"] == pytest.approx(texts, abs=1e-12)


def test_a_sample_without_a_modality_is_neither_query_nor_item_in_it(tmp_path: Path) -> None:
    points = Points(images=True)
    querying = started(Embedding(), points, pairs="pair", k=[1])
    vectors, pictures = (
        torch.nn.functional.normalize(torch.from_numpy(values), dim=1)
        for values in (points.vectors, points.pictures)
    )
    vectors[[2, 5]], pictures[[5, 7, 8]] = torch.nan, torch.nan
    heard, seen = [set(range(30)) - lacking for lacking in ({2, 5}, {5, 7, 8})]
    labels = PartialBatch(torch.tensor([0, 9]), [points.labels_of(0), points.labels_of(9)])
    output = StepOutput(vectors, vectors, features={"audio": vectors, "image": pictures})
    querying.step(torch.nn.Identity(), torch.arange(30), points[0]._replace(labels=labels), output)
    table = querying.finish(tmp_path)
    places, items = sorted(heard), sorted(seen)
    expected = figures(
        vectors[places].numpy(), pictures[items].numpy(), lambda q, i: places[q] == items[i], [1]
    )
    assert expected["queries"] == 26
    assert table["audio -> image"] == pytest.approx(expected, abs=1e-12)


def test_without_texts_audio_and_images_are_compared(measure: Measure) -> None:
    table = measure("Querying", data={"images": True}, task={"texts": False}).record.evaluations["measured"]
    assert list(table) == ["audio -> image", "image -> audio"]


def test_a_single_modality_cannot_be_queried(measure: Measure) -> None:
    with pytest.raises(
        RunFailed, match="querying needs two modalities, but the task embeds only audio, no images"
    ):
        measure("Querying", task={"texts": False})


def test_a_task_without_features_cannot_be_queried(measure: Measure) -> None:
    with pytest.raises(
        ProtocolError, match=r"Evaluations\.\w+: Mute gives no features of its samples; choose"
    ):
        measure("Querying", task_class="Mute")


def test_an_impossible_direction_is_named(measure: Measure) -> None:
    with pytest.raises(RunFailed) as caught:
        measure("Querying", {"directions": ["audio -> image"]})
    message = 'directions has "audio -> image", but there are only audio -> text, text -> audio; remove it.'
    assert message in str(caught.value)


def test_an_unknown_label_is_named(tmp_path: Path) -> None:
    points = Points()
    task = Embedding()
    task.prepare(torch.nn.Identity(), train=points, test=points)
    task.class_names = ("Dog", "Rain", "Siren", "Never heard")
    task.start_evaluation(torch.nn.Identity())
    querying = started(task, points)
    vectors = torch.nn.functional.normalize(torch.from_numpy(points.vectors), dim=1)
    output = StepOutput(vectors, vectors, features={"audio": vectors})
    batch = points[0]._replace(labels=[points.labels_of(index) for index in range(30)])
    querying.step(torch.nn.Identity(), torch.arange(30), batch, output)
    with pytest.raises(ValueError, match=r'^the label "dog" is not one of the task.s 4 classes'):
        querying.finish(tmp_path)


def test_features_must_have_the_same_kinds_in_every_batch() -> None:
    points = Points(images=True)
    task = Embedding()
    task.prepare(torch.nn.Identity(), train=points, test=points)
    task.start_evaluation(torch.nn.Identity())
    querying = started(task, points)
    one = torch.eye(DIMENSIONS)[:1]
    batch = points[0]._replace(labels=[["dog"]])
    both = StepOutput(one, one, features={"audio": one, "image": one})
    querying.step(torch.nn.Identity(), torch.tensor([0]), batch, both)
    with pytest.raises(ValueError) as caught:
        querying.step(torch.nn.Identity(), torch.tensor([1]), batch, both._replace(features={"audio": one}))
    assert str(caught.value) == (
        "the samples before 1 have features of audio and image, the following of audio; all samples need the "
        "same."
    )


def started(task: Embedding, points: Points, **options: Any) -> Querying:
    querying = Querying(**options)
    querying.prepare(torch.nn.Identity(), task, test=points)
    querying.start(torch.nn.Identity())
    return querying
