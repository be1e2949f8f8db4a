"""The file of features that a run leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from toy_research.embedding import Points

from ignite_trainer.runs.experiment import RunResult
from ignite_trainer.support.errors import ProtocolError
from utils.evaluations.feature_files import FeatureTable

Measure = Callable[..., RunResult]


def test_a_run_writes_what_the_task_embeds_in_the_order_of_the_data_set(measure: Measure) -> None:
    result = measure("Features", data={"images": True})
    table = FeatureTable.read(result.folder / "features.safetensors")
    points = Points()
    for kind, vectors in (("audio", points.vectors), ("image", points.pictures)):
        expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.allclose(table.features[kind], expected, atol=1e-6)
    assert table.clips == tuple(f"point {index}" for index in range(30))
    assert table.folds is not None
    assert table.folds.tolist() == [points.fold_of(index) for index in range(30)]
    assert table.targets is not None
    assert table.targets.tolist() == [index % 3 for index in range(30)]
    assert (table.class_names, table.dataset) == (points.class_names, "Points")
    assert result.record.evaluations["measured"] == {
        "audio": {"items": 30.0, "dimensions": 8.0},
        "image": {"items": 30.0, "dimensions": 8.0},
    }


def test_of_one_fold_the_clips_held_out_are_written(measure: Measure) -> None:
    table = FeatureTable.read(measure("Features", data={"fold": 2}).folder / "features.safetensors")
    assert table.clips == tuple(f"point {index}" for index in range(30) if Points.fold_of(index) == 2)
    assert table.folds is not None
    assert set(table.folds.tolist()) == {2}


def test_several_labels_and_none_are_kept(measure: Measure) -> None:
    result = measure("Features", data={"several": True}, task={"several": True})
    table = FeatureTable.read(result.folder / "features.safetensors")
    assert table.labels[:4] == ((), ("rain",), ("siren",), ("dog", "siren"))
    assert table.targets is None


def test_a_task_without_features_is_an_error(measure: Measure) -> None:
    with pytest.raises(ProtocolError, match="Mute gives no features of its samples"):
        measure("Features", task_class="Mute")
