"""Carry out a protocol: check it, build what it names, begin or find its run, and let that run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import torch
from ignite.utils import manual_seed

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.reporters import Together
from ignite_trainer.reporters.ignite_loggers import build_reporter, require_loggers
from ignite_trainer.reporters.page import render
from ignite_trainer.results import results_table, run_folder
from ignite_trainer.runs import resuming
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.faults import explained
from ignite_trainer.runs.run_loop import Run, RunResult
from ignite_trainer.support.distributed import is_main, main_says
from ignite_trainer.support.errors import RunStopped
from ignite_trainer.support.folder_lock import alone_in
from ignite_trainer.support.memory import freed_memory
from ignite_trainer.support.signals import stop_on_signals
from ignite_trainer.support.terminal import show
from ignite_trainer.training.forward import float32_products

__all__ = ["RunResult", "run"]


def run(blueprint: Blueprint, *, folder: Path | None = None, resume: bool = False) -> RunResult:
    """Carry out one protocol, or go on with a run of it where it stopped.

    With `Setup.resume` "auto" and no folder, that is the newest unfinished run of the protocol; a new one if
    there is none. A finished run is left alone, and what it reached is returned.

    Args:
        blueprint: a checked protocol with its classes.
        folder: the run's own, which must not be there yet; None: a new one under the root of results.
        resume: go on with the run in `folder`, which is there.

    Raises:
        ProtocolError: before any training, for all that can be known then.
        RunFailed: it cannot go on: the loss is no longer finite, the disk is full, memory runs out ...
        RunStopped: a signal asked it to stop, and its state is saved.
    """
    begun = main_says(lambda: _begin_or_find(blueprint, folder, resume=resume))
    if isinstance(begun, RunResult):
        return begun
    return _carry_out(blueprint.with_setup(seed=begun.seed), begun.folder, resume=begun.resume)


class _Begun(NamedTuple):
    seed: int
    folder: Path | None
    resume: bool


def _begin_or_find(blueprint: Blueprint, folder: Path | None, *, resume: bool) -> RunResult | _Begun:
    """Find the run to go on with, or see that one can begin; a finished one is all there is to do."""
    protocol = blueprint.protocol
    seed = protocol.setup.seed
    if folder is None and protocol.setup.resume == "auto":
        folder = resuming.newest_run(blueprint)
        resume = folder is not None
        if folder is None:
            if other := resuming.passed_over(blueprint):
                show(other)
            show(f"There is no run of {protocol.setup.name} to go on with; a new one begins.")
    if resume:
        assert folder is not None, "a run that goes on has a folder"
        resuming.require_same(blueprint, folder)
        if resuming.is_finished(protocol, folder):
            show(f"The run is finished; its results are in {folder}")
            _say_where(folder)
            record, end = resuming.finished(folder)
            return RunResult(folder=folder, end=end, record=record)
        seed = resuming.seed_of(folder)
    require_loggers(blueprint.reporters)
    run_folder.check_writable(protocol)
    return _Begun(torch.seed() % 2**32 if seed is None else seed, folder, resume)


def _carry_out(blueprint: Blueprint, folder: Path | None, *, resume: bool) -> RunResult:
    """Build what a checked protocol needs, and let it run."""
    protocol = blueprint.protocol
    seed = protocol.setup.seed
    assert seed is not None, "a run has a seed"
    manual_seed(seed)
    parts = assemble(blueprint, seed=seed)
    made = [
        build_reporter(kind, args, where=f"Reporters[{index}]")
        for index, (kind, args) in enumerate(blueprint.reporters)
        if is_main()
    ]
    folder = main_says(lambda: _made_folder(protocol, folder, seed=seed, resume=resume))
    with (
        contextlib.ExitStack() as lock,
        stop_on_signals() as request,
        contextlib.closing(parts),
        contextlib.closing(Together(made)) as reporters,
        float32_products(protocol.setup.precision),
        freed_memory(kept=protocol.setup.keep_memory),
        explained(folder, request),
    ):
        main_says(lambda: lock.enter_context(alone_in(folder, name="run")))
        result = Run(blueprint, parts, folder, reporters, request).carry_out(seed, resume=resume)
        if is_main():
            results_table.update(run_folder.root_of(protocol))
            _say_where(folder)
        if request.signal:  # it came too late to stop the run, and stops what would follow
            raise RunStopped(request.signal, folder)
    return result


def _say_where(folder: Path) -> None:
    """The last line of a run leads to its report."""
    if line := render.report_line(folder):
        show(line)


def _made_folder(protocol: Protocol, folder: Path | None, *, seed: int, resume: bool) -> Path:
    if folder is None:
        return run_folder.make_run_folder(protocol, seed=seed)
    if not resume:
        folder.mkdir(parents=True)
    return folder
