"""Querying with several captions per clip equals brute force, in any order of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.utils.evaluations.captioned import Problem
from utils.evaluations import Features, Querying
from utils.evaluations.feature_files import FeatureTable

KS = (1, 5, 10)


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
