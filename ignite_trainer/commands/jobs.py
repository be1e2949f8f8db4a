"""Runs, sweeps or benchmarks each protocol of a command; a failure does not stop the others."""

from __future__ import annotations

import functools
import gc
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ignite_trainer.commands import benchmark
from ignite_trainer.commands.sweeps import sweep
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.results import run_folder
from ignite_trainer.runs import experiment
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed

Job = Callable[[], int]
"""Runs one protocol and returns an exit status."""


def plan(
    protocols: Mapping[Path, Protocol],
    *,
    trusted: Sequence[str],
    rounds: int | None,
    resumed: Path | None = None,
) -> dict[Path, Job]:
    """Check every protocol completely; return a job for each.

    Args:
        protocols: validated protocols, by the file from which they were read.
        trusted: additional packages whose classes they may name.
        rounds: number of rounds of a benchmark; None for runs and sweeps.
        resumed: folder of the run to continue, if the command names one.

    Raises:
        ProtocolError: A protocol has problems; lists all problems of the first such protocol.
    """
    jobs: dict[Path, Job] = {}
    for path, protocol in protocols.items():
        if rounds is not None:
            contenders = benchmark.contenders(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_measure, contenders, rounds)
        elif protocol.sweep:
            runs = sweep.make_plan(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_run_sweep, runs)
        else:
            blueprint = draw(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_run, blueprint, resumed)
    return jobs


def run_all(jobs: Mapping[Path, Job]) -> int:
    """Run all jobs, even after one fails; return the largest exit status.

    The status is 2 for an invalid protocol and 1 for a failed run.
    """
    statuses: dict[Path, int] = {}
    for path, job in jobs.items():
        try:
            statuses[path] = job()
        except Exception as error:
            expected = isinstance(error, ProtocolError | RunFailed)
            # Other processes may be in the middle of a step and cannot move on to the next job.
            if world_size() > 1 or (len(jobs) == 1 and not expected):
                raise
            if expected:
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exc()
            statuses[path] = 2 if isinstance(error, ProtocolError) else 1
        finally:
            gc.collect()  # engines, handlers and the model refer to each other
    failed = [str(path) for path, status in statuses.items() if status]
    if failed and len(jobs) > 1:
        print(f"{len(failed)} of {len(jobs)} protocols failed: {', '.join(failed)}", file=sys.stderr)
    return max(statuses.values())


def _run(blueprint: Blueprint, resumed: Path | None) -> int:
    experiment.run(blueprint, folder=resumed, resume=resumed is not None)
    return 0


def _run_sweep(runs: sweep.Plan) -> int:
    return 1 if sweep.run_sweep(runs).missing else 0


def _measure(contenders: Mapping[str, Blueprint], rounds: int) -> int:
    protocol = contenders[benchmark.OURS].protocol
    run_folder.check_writable(protocol.setup)
    found = benchmark.measure(contenders, rounds=rounds)
    path = found.write(run_folder.make_run_folder(protocol, seed=found.environment["seed"]))
    benchmark.show_benchmark(found)
    print(path)
    return 0
