"""The console shows the start table, a line for each evaluation, and last and best values."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from tqdm import tqdm

from ignite_trainer.api.reporter import Best, Measured, RunEnd, RunStart
from ignite_trainer.reporters import Console
from tests.ignite_trainer.reporters.events import evaluated

ACCURACY = evaluated(metrics={"Val. Acc.": 0.97125, "[b]Loss[/b]": 1e-7}, seconds=12.34)


def end_of(run: RunStart) -> RunEnd:
    return RunEnd(
        last_epoch=2,
        last={"Val. Acc.": 0.9625, "Loss": 0.5},
        best=(Best(label="Val. Acc.", value=0.97, epoch=1, checkpoint=run.folder / "best.pt"),),
        last_checkpoint=run.folder / "last.pt",
        seconds=3720.0,
    )


def test_the_start_table_has_every_fact_in_order(run: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    Console().on_start(run)
    output = capsys.readouterr().out
    assert output.splitlines()[0].strip() == run.name
    positions = [output.index(text) for text in ("device", "cpu", "rule [a-z]", "<b>12 & 3</b>", "output")]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("columns", "begins"), [("80", r"    audio\.fbsp\..*|l"), ("120", r"  Parameters audio\.fbsp\..*|l")]
)
def test_a_long_name_of_a_fact_does_not_look_like_two_rows(
    run: RunStart,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    begins: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    rule, trained = r"audio\.fbsp\..*|logit_scale_a[it]", "1,541 in 5 tensors, trained (weight_decay 0.0)"
    facts = {"Seed": "1", f"Parameters {rule}": trained, "Results": "/results" * 20}
    Console().on_start(dataclasses.replace(run, facts=facts))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(begins) and rule in line for line in lines)
    rows = [line for line in lines[1:] if line[2:3].strip()]
    assert [line.split()[0] for line in rows] == ["Seed", "Parameters", "Results"]


@pytest.fixture
def console(run: RunStart, capsys: pytest.CaptureFixture[str]) -> Console:
    """A console whose start table has been printed."""
    reporter = Console()
    reporter.on_start(run)
    capsys.readouterr()
    return reporter


def test_an_evaluation_is_one_line(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    console.on_evaluation(ACCURACY)
    line = capsys.readouterr().out
    assert line == "epoch 1/2  held-out set  Val. Acc. Eval. 0.9712  [b]Loss[/b] 1.000e-07  (12.3 s)\n"


def test_the_end_table_shows_last_and_best_values_and_the_folder_is_the_last_line(
    console: Console, run: RunStart, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")  # narrower than the paths
    console.on_end(end_of(run))
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["last", "(epoch", "2)", "chosen", "on", "held-out", "split", "(epoch)"] in rows
    assert ["Val.", "Acc.", "0.9625", "0.9700", "(1)"] in rows
    assert ["Loss", "0.5000"] in rows
    assert "1 h 2 min" in lines[0]
    assert f"Best checkpoint (Val. Acc.): {run.folder / 'best.pt'}" in lines
    assert f"Last checkpoint: {run.folder / 'last.pt'}" in lines
    assert lines[-1] == f"Results: {run.folder}"


def test_the_end_table_of_an_evaluation_has_no_best_epoch(
    console: Console, run: RunStart, capsys: pytest.CaptureFixture[str]
) -> None:
    only = {"Loss": 0.5}
    console.on_end(dataclasses.replace(end_of(run), last=only, best=(), last_epoch=0))
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert lines[0].strip() == "Results on the held-out set, after 1 h 2 min"  # not wrapped
    assert ["last", "(epoch", "0)"] in [line.split() for line in lines]
    assert "best" not in output and "chosen" not in output


def test_redirected_output_has_no_escape_codes(run: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.on_start(run)
    console.on_evaluation(ACCURACY)
    console.on_end(end_of(run))
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["20", "300"])
def test_tables_fit_the_terminal(
    run: RunStart, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    Console().on_start(run)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= int(columns)


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_numbers_are_not_cut_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    values = {f"R@{k} by chance": k / 7 for k in range(1, 7)}
    table = {f"{a} -> {b}": values for a, b in (("audio", "text"), ("text", "audio"))}
    Console().on_measurement(Measured(epoch=3, name="querying", table=table))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= int(columns)
    assert shown.count("querying, held-out") == 1
    assert "\u2026" not in shown
    for k, value in enumerate(values.values(), start=1):
        assert shown.count(f"R@{k} by chance") == 1
        assert shown.count(f"{value:.4f}") == 2


def test_columns_move_closer_together_if_that_makes_them_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    values = {**{f"fold {fold}": fold / 7 for fold in range(1, 6)}, "mean": 3 / 7, "sd": 0.2259}
    Console().on_measurement(
        Measured(epoch=0, name="probe", table={"audio": values, "log-mel statistics": values})
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if "0.1429" in line]
    figures = [f"{value:.4f}" for value in values.values()]
    assert rows == [["audio", *figures], ["log-mel", "statistics", *figures]]
    assert max(map(len, lines)) <= 80


def test_a_progress_bar_is_cleared_before_a_line_is_printed(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    with tqdm(total=3, file=sys.stdout, ncols=60) as bar:
        bar.refresh()
        capsys.readouterr()
        console.on_evaluation(ACCURACY)
        cleared, _, rest = capsys.readouterr().out.partition("epoch 1/2")
    assert cleared.startswith("\r")
    assert cleared.strip() == ""
    assert "0/3" in rest
