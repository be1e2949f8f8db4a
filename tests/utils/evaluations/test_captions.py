"""Querying with several captions per clip equals brute force, in any order of batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ignite_trainer.api.task import StepOutput
from utils.evaluations import Features, Querying
from utils.evaluations.feature_files import FeatureTable

MODEL = nn.Identity()
KS = (1, 5, 10)
Vectors = NDArray[np.float32]


class Problem:
    """Clips with random unit embeddings of their sound and of each caption."""

    def __init__(self, seed: int, counts: Sequence[int]) -> None:
        random = np.random.default_rng(seed)
        self.owners = np.repeat(np.arange(len(counts)), counts)
        centres = random.normal(size=(len(counts), 6))
        self.audio = unit(centres + 0.7 * random.normal(size=centres.shape))
        self.captions = unit(centres[self.owners] + random.normal(size=(len(self.owners), 6)))
        self.order = random.permutation(len(counts))

    def collect(self, evaluation: Any, batch_size: int) -> Any:
        """Give an evaluation the clips in random order, in batches."""
        data = SimpleNamespace(class_names=(), record=lambda index: {"clip": f"clip {index}"})
        evaluation.prepare(MODEL, SimpleNamespace(gives_features=True), test=data)
        evaluation.start(MODEL)
        for start in range(0, len(self.order), batch_size):
            indices = self.order[start : start + batch_size]
            rows = [np.flatnonzero(self.owners == index) for index in indices]
            audio = torch.from_numpy(self.audio[indices])
            text = torch.from_numpy(self.captions[np.concatenate(rows)])
            output = StepOutput(
                torch.zeros(len(indices)),
                torch.zeros(len(indices)),
                features={"audio": audio, "text": text},
                counts={"text": torch.tensor([len(of_clip) for of_clip in rows])},
            )
            batch = SimpleNamespace(labels=None)
            evaluation.step(MODEL, torch.from_numpy(indices), batch, output)
        return evaluation


def unit(vectors: NDArray[np.float64]) -> Vectors:
    result: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result


def sounds_for_captions(problem: Problem) -> dict[str, float]:
    """Rank all sounds for each caption, as DCASE does: one of them is relevant."""
    ranks = []
    for caption, owner in zip(problem.captions, problem.owners, strict=True):
        scores = [float(np.dot(caption.astype(float), sound.astype(float))) for sound in problem.audio]
        ranks.append(1 + sum(score > scores[owner] for score in scores))
    found = {f"R@{k}": float(np.mean([rank <= k for rank in ranks])) for k in KS}
    found["mAP@10"] = float(np.mean([1 / rank if rank <= 10 else 0.0 for rank in ranks]))
    return {**found, "P@1": found["R@1"], "medR": float(np.median(ranks)), "queries": len(ranks)}


def captions_for_sounds(problem: Problem) -> dict[str, float]:
    """Rank all captions for each sound; those of its clip are relevant."""
    rows = []
    for clip, sound in enumerate(problem.audio):
        if clip not in problem.owners:
            continue
        scores = [float(np.dot(sound.astype(float), caption.astype(float))) for caption in problem.captions]
        ranking = sorted(range(len(scores)), key=lambda caption: -scores[caption])
        hits = [int(problem.owners[caption] == clip) for caption in ranking]
        total, found, precisions = sum(hits), 0, 0.0
        row = {f"R@{k}": sum(hits[:k]) / total for k in KS}
        row |= {f"hit@{k}": float(any(hits[:k])) for k in KS}
        for rank, hit in enumerate(hits[:10], start=1):
            found += hit
            precisions += hit * found / rank
        row["mAP@10"] = precisions / min(10, total)
        row["medR"] = hits.index(1) + 1
        rows.append(row)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "medR"}
    means["P@1"] = means.pop("hit@1")
    return {**means, "medR": float(np.median([row["medR"] for row in rows])), "queries": len(rows)}


@pytest.mark.parametrize("unequal", [False, True], ids=["five captions", "1 to 6 captions or none"])
def test_both_directions_equal_brute_force_on_100_random_problems(tmp_path: Path, unequal: bool) -> None:
    for seed in range(100):
        random = np.random.default_rng([seed, 1])
        clips = int(random.integers(12, 40))
        counts = [int(count) for count in random.integers(0, 7, clips)] if unequal else [5] * clips
        counts[0] = 6 if unequal else 5
        problem = Problem(seed, counts)
        querying = problem.collect(Querying(k=KS, pairs="pair"), int(random.integers(1, 20)))
        table = querying.finish(tmp_path)
        assert list(table) == ["audio -> text", "text -> audio"]
        expected = {
            "audio -> text": captions_for_sounds(problem),
            "text -> audio": sounds_for_captions(problem),
        }
        for direction, values in expected.items():
            found = {name: table[direction][name] for name in values}
            assert found == pytest.approx(values, abs=1e-12), (seed, direction)
        assert ("hit@5" in table["audio -> text"], "hit@5" in table["text -> audio"]) == (True, False)


def test_a_file_of_features_names_the_clip_of_each_caption(tmp_path: Path) -> None:
    problem = Problem(3, [2, 0, 1, 4])
    problem.collect(Features(), 3).finish(tmp_path)
    table = FeatureTable.read(tmp_path / "features.safetensors")
    assert table.clips == ("clip 0", "clip 1", "clip 2", "clip 3")
    assert table.clips_of["text"].tolist() == [0, 0, 2, 3, 3, 3, 3]
    assert np.array_equal(table.features["text"], problem.captions)
    assert np.array_equal(table.features["audio"], problem.audio)


def test_at_most_one_caption_a_clip_is_written_as_one_row_a_clip(tmp_path: Path) -> None:
    problem = Problem(3, [1, 0, 1])
    problem.collect(Features(), 2).finish(tmp_path)
    table = FeatureTable.read(tmp_path / "features.safetensors")
    assert table.clips_of == {}
    assert np.array_equal(table.features["text"][[0, 2]], problem.captions)
    assert np.isnan(table.features["text"][1]).all()
