"""Runs a protocol: starts a run or finds the run to resume, and builds its parts."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from ignite.utils import manual_seed

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.reporters import Together
from ignite_trainer.reporters.ignite_loggers import build_reporter, require_loggers
from ignite_trainer.reporters.page import render
from ignite_trainer.results import results_table, run_folder
from ignite_trainer.runs import resuming
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.faults import explain_errors
from ignite_trainer.runs.run_loop import Run, RunResult
from ignite_trainer.support.distributed import is_main, run_on_main
from ignite_trainer.support.errors import RunStopped
from ignite_trainer.support.files import alone_in
from ignite_trainer.support.memory import freed_memory
from ignite_trainer.support.signals import stop_on_signals
from ignite_trainer.support.terminal import show
from ignite_trainer.training.forward import tf32_setting

__all__ = ["RunResult", "run"]


def run(blueprint: Blueprint, *, folder: Path | None = None, resume: bool = False) -> RunResult:
    """Run a protocol, or resume one of its runs.

    With `Setup.resume` "auto" and no folder, resume the protocol's newest unfinished run. If all its runs are
    finished, return the newest run's result; if there are no runs, start a run.

    Args:
        blueprint: validated protocol with its classes.
        folder: run folder, which must not exist unless the run is resumed; None creates a new folder.
        resume: True to resume the run in `folder`; if it is finished, its result is returned unchanged.

    Raises:
        ProtocolError: The run cannot start or resume; raised before training.
        RunFailed: The run cannot continue: the loss is not finite, the disk is full, memory runs out...
        RunStopped: A signal stopped the run, and its state is saved.
    """
    found = run_on_main(lambda: _find(blueprint, folder, resume=resume))
    if isinstance(found, RunResult):
        return found
    seed, folder, resume = found
    blueprint = blueprint.with_setup(seed=seed)
    protocol = blueprint.protocol
    manual_seed(seed)
    parts = assemble(blueprint, seed=seed)
    made = [
        build_reporter(kind, args, where=f"Reporters[{index}]")
        for index, (kind, args) in enumerate(blueprint.reporters)
        if is_main()
    ]
    if not resume:
        given = folder
        folder = run_on_main(lambda: run_folder.make_run_folder(protocol, seed=seed, folder=given))
    assert folder is not None, "a resumed run has a folder"
    with (
        contextlib.ExitStack() as lock,
        stop_on_signals() as request,
        contextlib.closing(parts),
        contextlib.closing(Together(made)) as reporters,
        tf32_setting(protocol.setup.precision),
        freed_memory(kept=protocol.setup.keep_memory),
        explain_errors(folder, request),
    ):
        run_on_main(lambda: lock.enter_context(alone_in(folder, name="run")))
        result = Run(blueprint, parts, folder, reporters, request).execute(seed, resume=resume)
        if is_main():
            results_table.update(run_folder.root_of(protocol.setup))
            _show_report(folder)
        if request.signal:  # too late to stop this run, but not the next ones
            raise RunStopped(request.signal, folder)
    return result


def _find(
    blueprint: Blueprint, folder: Path | None, *, resume: bool
) -> RunResult | tuple[int, Path | None, bool]:
    """Return the seed, folder and `resume` of the run to start or resume, or the result of a finished run."""
    protocol = blueprint.protocol
    seed = protocol.setup.seed
    if folder is None and protocol.setup.resume == "auto":
        folder = resuming.newest_run(blueprint)
        resume = folder is not None
        if folder is None:
            if other := resuming.describe_skipped_run(blueprint):
                show(other)
            show(f"There is no run of {protocol.setup.name} to resume; starting a new run.")
    if resume:
        assert folder is not None, "a resumed run has a folder"
        resuming.require_same(blueprint, folder)
        if resuming.is_finished(protocol, folder):
            show(f"The run is finished; its results are in {folder}")
            _show_report(folder)
            record, end = resuming.read_finished_run(folder)
            return RunResult(folder=folder, end=end, record=record)
        seed = resuming.seed_of(folder)
    require_loggers(blueprint.reporters)
    run_folder.check_writable(protocol.setup)
    return torch.seed() % 2**32 if seed is None else seed, folder, resume


def _show_report(folder: Path) -> None:
    """Show the path of the report, as a run's last line."""
    if line := render.report_line(folder):
        show(line)
