"""Feature files can be written and read; invalid ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from utils.evaluations.feature_files import FeatureTable


def make_table(**changes: Any) -> FeatureTable:
    random = np.random.default_rng(0)
    table = FeatureTable(
        features={
            "audio": random.normal(size=(3, 4)).astype(np.float32),
            "image": random.normal(size=(3, 2)).astype(np.float32),
        },
        clips=("audio/1-a.ogg", "audio/2-ü.ogg", 'audio/3 "c".ogg'),
        labels=(("dog",), ("rain",), ("dog",)),
        class_names=("rain", "dog"),
        dataset="ESC-10",
        folds=np.array([1, 2, 2]),
    )
    return replace(table, **changes)


def written(folder: Path, table: FeatureTable) -> Path:
    path = folder / "features.safetensors"
    table.write(path)
    return path


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    table = make_table()
    again = FeatureTable.read(written(tmp_path, table))
    assert list(again.features) == ["audio", "image"]
    for kind, features in table.features.items():
        assert again.features[kind].dtype == np.float32
        assert np.array_equal(again.features[kind], features)
    assert again.folds is not None
    assert again.folds.tolist() == [1, 2, 2]
    assert (again.clips, again.labels, again.class_names) == (table.clips, table.labels, table.class_names)
    assert again.dataset == "ESC-10"
    assert [path.name for path in tmp_path.iterdir()] == ["features.safetensors"]


def test_the_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert written(tmp_path, make_table()).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_any_reader_of_safetensors_finds_folds_and_targets(tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path, make_table()))
    assert tensors.keys() == {"audio", "image", "fold", "target"}
    assert tensors["fold"].dtype == tensors["target"].dtype == np.int64
    assert tensors["target"].tolist() == [1, 0, 1]


def test_targets_need_exactly_one_label_per_clip(tmp_path: Path) -> None:
    for labels in ((("dog",), (), ("rain",)), (("dog",), ("rain", "dog"), ("rain",))):
        path = written(tmp_path, make_table(labels=labels, folds=None))
        assert load_file(path).keys() == {"audio", "image"}
        again = FeatureTable.read(path)
        assert again.labels == labels
        assert again.targets is None
        assert again.folds is None


def test_noncontiguous_features_are_written_correctly(tmp_path: Path) -> None:
    columns = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    again = FeatureTable.read(written(tmp_path, make_table(features={"audio": columns[:, ::2]})))
    assert again.features["audio"].tolist() == [[0, 2], [4, 6], [8, 10]]


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, make_table())
    whole = path.read_bytes()
    for size in (0, 4, 20, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError) as caught:
            FeatureTable.read(path)
        assert str(caught.value).startswith(f"{path} is not a table of features, or is incomplete: ")


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"audio": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(ValueError, match="its format is None; expected 'features of a data set, 1'"):
        FeatureTable.read(path)
    path.write_text("clip,fold\n")
    with pytest.raises(ValueError, match="is not a table of features, or is incomplete"):
        FeatureTable.read(path)
    with pytest.raises(ValueError, match="is not a table of features, or is incomplete"):
        FeatureTable.read(tmp_path)
    about = {"format": "features of a data set, 1", "kinds": '["audio"]', "dataset": "ESC-10"}
    save_file({"audio": np.zeros((2, 2), np.float32)}, path, about)
    with pytest.raises(ValueError, match=r"is not a table of features: 'clips' is missing\.$"):
        FeatureTable.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors does not exist; the Features evaluation"):
        FeatureTable.read(tmp_path / "none.safetensors")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"clips": ("a", "b")}, "the lengths differ: audio has 3, image has 3, clips has 2, labels has 3"),
    ({"folds": np.array([1])}, "labels has 3, fold has 1"),
    ({"labels": (("dog",), ("cat",), ())}, 'the label "cat" is not one of the 2 classes'),
    ({"features": {}}, "there are no features"),
    ({"features": {"fold": np.zeros((3, 1), np.float32)}}, 'features cannot be called "fold"'),
    ({"features": {"audio": np.zeros((3, 1))}}, r'"audio" is float64 of shape \[3, 1\]; expected float32'),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message[:30] for _, message in MISTAKES])
def test_an_inconsistent_table_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_table(**changes)
