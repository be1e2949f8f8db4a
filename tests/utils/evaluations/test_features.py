"""Features are collected, and written to a file by a run."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_research.embedding import Embedding, Points

from ignite_trainer.api.task import StepOutput
from ignite_trainer.runs.experiment import RunResult
from ignite_trainer.support.errors import ProtocolError
from utils.evaluations import Features, Querying
from utils.evaluations.feature_files import FeatureTable

ROOT = Path(__file__).parents[3]
MODEL = nn.Identity()
STATEMENTS = (ast.Import, ast.ImportFrom)

Measure = Callable[..., RunResult]


def test_a_run_writes_features_in_the_order_of_the_data_set(measure: Measure) -> None:
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


def test_only_held_out_clips_are_written(measure: Measure) -> None:
    table = FeatureTable.read(measure("Features", data={"fold": 2}).folder / "features.safetensors")
    assert table.clips == tuple(f"point {index}" for index in range(30) if Points.fold_of(index) == 2)
    assert table.folds is not None
    assert set(table.folds.tolist()) == {2}


def test_samples_with_several_labels_or_none_are_kept(measure: Measure) -> None:
    result = measure("Features", data={"several": True}, task={"several": True})
    table = FeatureTable.read(result.folder / "features.safetensors")
    assert table.labels[:4] == ((), ("rain",), ("siren",), ("dog", "siren"))
    assert table.targets is None


def test_a_task_without_features_is_an_error(measure: Measure) -> None:
    with pytest.raises(ProtocolError, match="Mute gives no features of its samples"):
        measure("Features", task_class="Mute")


class Bare:
    class_names = ("dog", "rain")


def started(dataset: Any) -> Features:
    evaluation = Features()
    evaluation.prepare(MODEL, Embedding(), test=dataset)
    evaluation.start(MODEL)
    return evaluation


def add(evaluation: Features, indices: list[int], labels: Any, **features: Tensor) -> None:
    nothing = torch.empty(0)
    output = StepOutput(nothing, nothing, features=features)
    evaluation.step(MODEL, torch.tensor(indices), SimpleNamespace(labels=labels), output)


def test_clips_without_names_are_named_by_position() -> None:
    evaluation = started(Bare())
    add(evaluation, [0, 1], [["rain"], []], audio=torch.ones(2, 3, dtype=torch.bfloat16))
    add(evaluation, [2], [["dog"]], audio=torch.zeros(1, 3))
    table = evaluation.table()
    assert table.features["audio"].dtype == np.float32
    assert table.features["audio"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert table.clips == ("0", "1", "2")
    assert table.labels == (("rain",), (), ("dog",))
    assert (table.folds, table.dataset) == (None, "Bare")


class OfOwnSplits(Bare):
    def record(self, index: int) -> dict[str, str | int]:
        return {"clip": f"clip {index}", "split": "dev"}


def test_splits_of_other_names_are_not_official_splits() -> None:
    evaluation = started(OfOwnSplits())
    add(evaluation, [0], [["rain"]], audio=torch.ones(1, 3))
    table = evaluation.table()
    assert (table.clips, table.splits) == (("clip 0",), None)


def test_a_new_pass_discards_the_previous_one() -> None:
    evaluation = started(Bare())
    add(evaluation, [0], [["rain"]], audio=torch.ones(1, 3), image=torch.ones(1, 3))
    evaluation.start(MODEL)
    add(evaluation, [0], [["dog"]], audio=torch.ones(1, 3))
    table = evaluation.table()
    assert (list(table.features), table.labels) == (["audio"], (("dog",),))


def test_samples_may_have_no_labels(tmp_path: Path) -> None:
    evaluation = started([1, 2])
    add(evaluation, [0, 1], None, audio=torch.ones(2, 3))
    table = evaluation.table()
    assert (table.class_names, table.labels) == ((), ((), ()))
    table.write(tmp_path / "features.safetensors")
    assert FeatureTable.read(tmp_path / "features.safetensors").labels == ((), ())


def test_querying_by_label_needs_labels() -> None:
    task = Embedding()
    with pytest.raises(ValueError, match=r'pairs is "label", but list has no class_names\. Set it to "pair"'):
        Querying().prepare(MODEL, task, test=[1, 2])
    Querying(pairs="pair").prepare(MODEL, task, test=[1, 2])


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("Querying", {"k": [0]}, "k is [0]; a list of ranks, counted from 1, is expected."),
        ("Querying", {"k": 5}, "k is 5; a list of ranks, counted from 1, is expected."),
        ("Querying", {"k": [True]}, "k is [True]; a list of ranks, counted from 1, is expected."),
        ("Querying", {"pairs": "both"}, 'pairs is "both"; allowed: label, pair.'),
        (
            "Querying",
            {"directions": "all"},
            'directions is all; a list such as ["audio -> text"] is expected.',
        ),
        (
            "Querying",
            {"directions": ["audio"]},
            "directions is ['audio']; a list such as [\"audio -> text\"]",
        ),
        ("LinearProbe", {"C": 0}, "C is 0; a positive number is expected."),
        ("LinearProbe", {"C": "1"}, "C is 1; a positive number is expected."),
        ("LinearProbe", {"baseline": "mfcc"}, 'baseline is "mfcc"; allowed: log-mel, null.'),
    ],
)
def test_arguments_out_of_range_are_refused_before_the_run(
    measure: Measure, kind: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        measure(kind, args)
    assert str(caught.value).startswith(f"Evaluations.measured.args.{message}")


def test_naming_an_evaluation_or_a_metric_imports_nothing_slow() -> None:
    for path in [*(ROOT / "utils/evaluations").glob("*.py"), ROOT / "utils/metrics.py"]:
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, STATEMENTS)]
        names = {word for node in imports for word in re.split(r"\W+", ast.unparse(node))}
        assert not names & {"sklearn", "librosa", "threadpoolctl", "rich", "matplotlib"}, path
