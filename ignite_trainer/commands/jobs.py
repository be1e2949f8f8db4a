"""Runs, sweeps or benchmarks each protocol of a command; a failure does not stop the others."""

from __future__ import annotations

import functools
import gc
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ignite_trainer.commands import benchmark
from ignite_trainer.commands.benchmark_table import show_benchmark
from ignite_trainer.commands.sweeps import sweep
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.results import run_folder
from ignite_trainer.runs import experiment
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed

Job = Callable[[], int]
"""Carries out one protocol, and gives an exit status."""


def plan(
    protocols: Mapping[Path, Protocol],
    *,
    trusted: Sequence[str],
    rounds: int | None,
    resumed: Path | None = None,
) -> dict[Path, Job]:
    """Check the protocols whole; return what carries out each of them.

    Args:
        protocols: by the file they were read from.
        trusted: packages whose classes they may name besides the usual ones.
        rounds: those of a benchmark; None: there is none.
        resumed: folder of a run to go on with.

    Raises:
        ProtocolError: with every problem of the first protocol that has some.
    """
    jobs: dict[Path, Job] = {}
    for path, protocol in protocols.items():
        if rounds is not None:
            contenders = benchmark.contenders(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_measure, contenders, rounds)
        elif protocol.sweep:
            runs = sweep.make_plan(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_run_all, runs)
        else:
            blueprint = draw(protocol, trusted=trusted, source=str(path))
            jobs[path] = functools.partial(_run, blueprint, resumed)
    return jobs


def carry_out(jobs: Mapping[Path, Job]) -> int:
    """Carry out all jobs, also after one that fails.

    Returns:
        The largest of their exit statuses; 2 is that of a protocol that cannot work, 1 that of a run that
        failed.
    """
    statuses: dict[Path, int] = {}
    for path, job in jobs.items():
        try:
            statuses[path] = job()
        except (ProtocolError, RunFailed) as error:
            if world_size() > 1:  # the others may be in the middle of a step, and cannot follow
                raise
            print(f"error: {error}", file=sys.stderr)
            statuses[path] = 2 if isinstance(error, ProtocolError) else 1
        except Exception:  # of a layer, say: the others may still succeed
            if len(jobs) == 1 or world_size() > 1:
                raise
            traceback.print_exc()
            statuses[path] = 1
        finally:
            gc.collect()  # engines and handlers refer to each other, and to the model
    failed = [str(path) for path, status in statuses.items() if status]
    if failed and len(jobs) > 1:
        print(f"{len(failed)} of {len(jobs)} protocols failed: {', '.join(failed)}", file=sys.stderr)
    return max(statuses.values())


def _run(blueprint: Blueprint, resumed: Path | None) -> int:
    experiment.run(blueprint, folder=resumed, resume=resumed is not None)
    return 0


def _run_all(runs: sweep.Plan) -> int:
    return 1 if sweep.carry_out(runs).missing else 0


def _measure(contenders: Mapping[str, Blueprint], rounds: int) -> int:
    protocol = contenders[benchmark.OURS].protocol
    run_folder.check_writable(protocol)
    found = benchmark.measure(contenders, rounds=rounds)
    path = found.write(run_folder.make_run_folder(protocol, seed=found.environment["seed"]))
    show_benchmark(found)
    print(path)
    return 0
