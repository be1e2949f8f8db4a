"""Prints a benchmark as tables: facts, speeds and phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ignite_trainer.commands.benchmark import OURS, Activity, Benchmark, Quartiles
from ignite_trainer.support.formatting import duration, percent
from ignite_trainer.support.terminal import add_row, make_table, show, show_rows

if TYPE_CHECKING:
    from rich.table import Table


def show_benchmark(found: Benchmark) -> None:
    """Print the tables."""
    setup = found.protocols[OURS]["Setup"]
    show_rows(f"{setup['name']}: benchmark", _facts(found, setup).items())
    for name, activity in found.activities.items():
        show(_speeds(name, activity))
    show(_shares(found.activities))


def _facts(found: Benchmark, setup: Mapping[str, Any]) -> dict[str, str]:
    environment, packages = found.environment, found.environment["packages"]
    batch_test = setup["batch_test"] or setup["batch_train"]
    versions = {name: packages[name] for name in ("torch", "torchvision")} | (environment["cuda"] or {})
    facts = {
        "Device": environment["accelerator"] or f"{environment['device']}, threads: {environment['threads']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Precision": setup["precision"],
        "Channels last": str(setup["channels_last"]).lower(),
        "Compiled": str(setup["compile"]).lower(),
        "Batches": f"training {setup['batch_train']}, evaluation {batch_test}",
        "Loader processes": f"training {setup['workers_train']}, evaluation {setup['workers_test']}",
    }
    for name, size in found.peak_memory_bytes.items():
        facts[f"Peak memory, {name}"] = f"{size / 2**30:.2f} GiB"
    for name, activity in found.activities.items():
        if activity.utilisation is not None:
            facts[f"Device at work, {name}"] = f"{percent(activity.utilisation)}%"
    time = found.projection
    whole = f"{time.epochs} epochs with their evaluations take {duration(time.seconds_per_run)}"
    whole += f", {time.runs} runs {duration(time.seconds)}" if time.runs > 1 else ""
    return {**facts, "At this speed": whole}


def _speeds(title: str, activity: Activity) -> Table:
    table = make_table(f"{title.capitalize()}: median (middle half of the rounds)")
    table.add_column("", overflow="fold")
    for column in ("ms a step", "samples/s", "our time by its", "inverse"):
        table.add_column(column, justify="right")
    for name, speed in activity.speeds.items():
        add_row(
            table,
            name,
            _readable(speed.seconds_per_step, unit=1e-3),
            _number(speed.samples_per_second),
            _readable(speed.cost) if speed.cost else "",
            _number(speed.gain.median) if speed.gain else "",
        )
    return table


def _readable(quartiles: Quartiles, *, unit: float = 1.0) -> str:
    values = (quartiles.median, quartiles.first_quartile, quartiles.third_quartile)
    median, first, third = (_number(value / unit) for value in values)
    return f"{median} ({first}-{third})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _shares(activities: Mapping[str, Activity]) -> Table:
    table = make_table("Where our time goes")
    table.add_column("")
    for name in activities:
        table.add_column(name, justify="right")
    for phase in dict.fromkeys(phase for activity in activities.values() for phase in activity.shares):
        shares = (activity.shares.get(phase) for activity in activities.values())
        add_row(table, phase, *("" if share is None else f"{percent(share)}%" for share in shares))
    return table
