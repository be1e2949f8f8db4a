"""What all evaluations of features ask of a data set, and what naming them costs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_research.embedding import Embedding

from utils.evaluations import Querying
from utils.evaluations.feature_files import FeatureTable
from utils.evaluations.features import FeatureCollector

ROOT = Path(__file__).parents[3]
STATEMENTS = (ast.Import, ast.ImportFrom)


class Bare:
    class_names = ("dog", "rain")


def test_of_a_data_set_that_says_little_clips_go_by_their_positions() -> None:
    collector = FeatureCollector(Bare(), Embedding())
    collector.add(torch.tensor([0, 1]), [["rain"], []], {"audio": torch.ones(2, 3, dtype=torch.bfloat16)})
    collector.add(torch.tensor([2]), [["dog"]], {"audio": torch.zeros(1, 3)})
    table = collector.table()
    assert table.features["audio"].dtype == np.float32
    assert table.features["audio"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert table.clips == ("0", "1", "2")
    assert table.labels == (("rain",), (), ("dog",))
    assert (table.folds, table.dataset) == (None, "Bare")


def test_a_pass_leaves_nothing_for_the_next() -> None:
    collector = FeatureCollector(Bare(), Embedding())
    collector.add(torch.tensor([0]), [["rain"]], {"audio": torch.ones(1, 3), "image": torch.ones(1, 3)})
    collector.reset()
    collector.add(torch.tensor([0]), [["dog"]], {"audio": torch.ones(1, 3)})
    table = collector.table()
    assert (list(table.features), table.labels) == (["audio"], (("dog",),))


def test_of_a_data_set_without_labels_samples_have_none(tmp_path: Path) -> None:
    collector = FeatureCollector([1, 2], Embedding())
    collector.add(torch.tensor([0, 1]), None, {"audio": torch.ones(2, 3)})
    table = collector.table()
    assert (table.class_names, table.labels) == ((), ((), ()))
    table.write(tmp_path / "features.safetensors")
    assert FeatureTable.read(tmp_path / "features.safetensors").labels == ((), ())


def test_what_needs_labels_says_so() -> None:
    model, task = torch.nn.Identity(), Embedding()
    with pytest.raises(ValueError, match=r'pairs is "label", but list has no class_names\. Set it to "pair"'):
        Querying().prepare(model, task, test=[1, 2])
    Querying(pairs="pair").prepare(model, task, test=[1, 2])


def test_naming_an_evaluation_or_a_metric_imports_nothing_slow() -> None:
    for path in [*(ROOT / "utils/evaluations").glob("*.py"), ROOT / "utils/metrics.py"]:
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, STATEMENTS)]
        names = {word for node in imports for word in re.split(r"\W+", ast.unparse(node))}
        assert not names & {"sklearn", "librosa", "threadpoolctl", "rich", "matplotlib"}, path
