"""A folder of runs stands for the best weights of its newest finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.weights.releases import WeightsError, find_weights


def run(folder: Path, *, finished: str, best: list[str], last: str | None = None, there: bool = True) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    record: dict[str, Any] = {
        "finished": finished,
        "best": [{"label": name, "value": 0.5, "epoch": 1, "checkpoint": name} for name in best],
        "checkpoint": {"name": last, "sha256": "00"} if last else None,
    }
    (folder / "result.json").write_text(json.dumps(record))
    for name in [*best, *([last] if last else [])] if there else []:
        (folder / "checkpoints" / name).touch()
    return folder


def test_the_newest_finished_run_is_used(tmp_path: Path) -> None:
    run(tmp_path / "c", finished="2026-01-01T00:00:00+00:00", best=["old.pt"])
    newest = run(
        tmp_path / "a", finished="2026-03-01T00:00:00+00:00", best=["mAP.pt", "other.pt"], last="l.pt"
    )
    run(tmp_path / "b", finished="2026-02-01T00:00:00+00:00", best=["between.pt"])
    run(tmp_path / "e", finished="2026-04-01T00:00:00+00:00", best=[])  # only evaluated
    (tmp_path / "z/checkpoints").mkdir(parents=True)  # still running
    assert find_weights(tmp_path) == newest / "checkpoints/mAP.pt"
    assert find_weights(tmp_path / "b") == tmp_path / "b/checkpoints/between.pt"


def test_without_best_checkpoints_the_last_one_is_used(tmp_path: Path) -> None:
    run(tmp_path / "a", finished="2026-01-01T00:00:00+00:00", best=[], last="last_epoch-3.pt")
    assert find_weights(str(tmp_path)) == tmp_path / "a/checkpoints/last_epoch-3.pt"


def test_without_a_finished_run_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no run in this folder has finished.*or name a file"):
        find_weights(tmp_path)
    (tmp_path / "stopped/checkpoints").mkdir(parents=True)
    (tmp_path / "stopped/checkpoints/best_acc_epoch-1_0.5000.pt").touch()
    with pytest.raises(WeightsError, match=r"or name a file, such as .*stopped/checkpoints/best_acc_epoch-1"):
        find_weights(tmp_path)
    run(tmp_path / "a", finished="2026-01-01T00:00:00+00:00", best=["gone.pt"], there=False)
    with pytest.raises(WeightsError, match=r"a/checkpoints: .* none of the checkpoints .*or name a file"):
        find_weights(tmp_path)


def test_runs_that_only_evaluated_have_no_weights(tmp_path: Path) -> None:
    run(tmp_path / "e", finished="2026-04-01T00:00:00+00:00", best=[])
    with pytest.raises(WeightsError, match=r"only evaluated, and kept no weights\. Run"):
        find_weights(tmp_path)


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"best": 3}', '{"finished": 3}'])
def test_an_invalid_result_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/result.json").write_text(text)
    with pytest.raises(WeightsError, match=r"a/result\.json is not the result of a run"):
        find_weights(tmp_path)


def test_a_result_cannot_lead_to_another_folder(tmp_path: Path) -> None:
    run(tmp_path / "a", finished="2026-01-01T00:00:00+00:00", best=[])
    (tmp_path / "else.pt").touch()
    record = {"finished": "", "best": [{"checkpoint": "../../else.pt"}], "checkpoint": None}
    (tmp_path / "a/result.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match="none of the checkpoints"):
        find_weights(tmp_path)
