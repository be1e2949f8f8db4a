"""Command line: runs, sweeps, checks, explains or benchmarks every matching protocol."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

from ignite_trainer.api import file_names
from ignite_trainer.commands.flags import AUTO, SHORTHANDS, long_flags, make_parser
from ignite_trainer.protocol.loading import load, supply_defaults
from ignite_trainer.protocol.overrides import Override, explain_words, split_overrides
from ignite_trainer.protocol.reading import read_json, read_protocol
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped, suggest
from ignite_trainer.support.signals import stopped_by_signals
from ignite_trainer.support.terminal import replace_unknown_letters
from ignite_trainer.support.user_home import ensure_home

EXIT_STOPPED = 75


def main(argv: Sequence[str], *, defaults: Path) -> int:
    """Run the command; return the exit status.

    Args:
        argv: words after the program's name.
        defaults: file with `Task` and `Parameters`, by `Model.class`, for protocols that lack them.

    Returns:
        0 on success; 1 if a run failed, also within a sweep, or if a check found an error; 2 if the command
        or a protocol is invalid; 75 (EX_TEMPFAIL of sysexits.h) if a signal stopped the run, which the
        printed command continues; 130 if the run was interrupted immediately.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # ignite logs exceptions twice before raising them; they are reported below.
    logging.getLogger("ignite.engine.engine.Engine").setLevel(logging.CRITICAL)
    replace_unknown_letters()
    ensure_home()
    own, overrides = split_overrides(argv)
    flags = _parse(own, defaults=defaults)
    if _is_distributed() and (flags.check or flags.explain or flags.benchmark):
        make_parser().error("--check, --explain and --benchmark use one process; run them without torchrun.")
    if flags.resume is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        flags.resume = AUTO  # torchrun restarts all processes after one has failed
    overrides = [*_shorthand_overrides(flags), *overrides]
    resumed = None if flags.resume in (None, AUTO) else Path(flags.resume)
    if not flags.config:
        if not resumed:
            make_parser().error("name a protocol, such as -c protocols/quickstart.json")
        flags.config = [str(resumed / file_names.PROTOCOL)]
    try:
        status = _command(argv, flags, overrides, defaults=defaults, resumed=resumed)
    except Exception:
        if not _is_distributed():
            raise
        traceback.print_exc()
        status = 1
    if status and _is_distributed():
        _leave(status)
    return status


def _parse(words: Sequence[str], *, defaults: Path) -> argparse.Namespace:
    """Parse the command's own flags; exit with a suggestion if a word is unknown."""
    parser = make_parser()
    known = long_flags(parser)
    for word in words:
        if f"-{word.partition('=')[0]}" in known:  # argparse reads "-epochs" as "-e pochs"
            parser.error(f"{word} has two hyphens: -{word}")
    flags, unknown = parser.parse_known_args(words)
    if unknown:
        path = next((word for word in (*(flags.config or ()), *unknown) if os.path.isfile(word)), None)  # noqa: PTH113 - Path raises for long words
        content: Mapping[str, Any] = {}
        with contextlib.suppress(ProtocolError):
            content = supply_defaults(read_protocol(Path(path)), read_json(defaults)) if path else {}
        parser.error(explain_words(unknown, flags=known, content=content))
    return flags


def _leave(status: int) -> NoReturn:
    """Exit one of several processes without waiting for the other processes, which may never end.

    Skips exit handlers: NCCL's handler would wait for other processes, which may be waiting for this process.
    """
    if status == EXIT_STOPPED:  # the others are stopping, too; the main process may still be writing
        from ignite_trainer.support.distributed import wait_before_exit  # noqa: PLC0415

        wait_before_exit()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _command(  # noqa: PLR0911 - an exit status each
    argv: Sequence[str],
    flags: argparse.Namespace,
    overrides: Sequence[Override],
    *,
    defaults: Path,
    resumed: Path | None,
) -> int:
    """Run the command; return the exit status. torch is imported only here, because it takes seconds."""
    is_single_run = False
    try:
        with contextlib.ExitStack() as stack:
            if _is_distributed():
                from ignite_trainer.support.distributed import process_group  # noqa: PLC0415

                stack.enter_context(process_group())
            paths = _matching(flags.config, excluded=(defaults, defaults.with_name("schema.json")))
            loaders = {path: functools.partial(load, path, overrides, defaults=defaults) for path in paths}
            if flags.check:
                from ignite_trainer.commands import check  # noqa: PLC0415

                stack.enter_context(stopped_by_signals())
                return check.check_all(loaders, trusted=flags.trust)
            if flags.explain:
                from ignite_trainer.commands import explain  # noqa: PLC0415

                stack.enter_context(stopped_by_signals())
                return explain.explain_all(loaders, overrides, defaults=defaults, trusted=flags.trust)
            # All protocols are checked before the first one runs.
            protocols = {path: load_one() for path, load_one in loaders.items()}
            sweeps = any(protocol.sweep for protocol in protocols.values())
            is_single_run = len(protocols) == 1 and not sweeps
            if resumed and not is_single_run:
                raise ProtocolError(
                    "FOLDER is the folder of a single run; use --resume without FOLDER here.",
                    source="--resume",
                )
            from ignite_trainer.commands import jobs  # noqa: PLC0415

            planned = jobs.plan(protocols, trusted=flags.trust, rounds=flags.benchmark, resumed=resumed)
            if not flags.benchmark:
                stack.enter_context(stopped_by_signals())
            return jobs.run_all(planned)
    except (ProtocolError, RunFailed) as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, ProtocolError) else 1
    except RunStopped as stopped:
        if isinstance(stopped.__context__, RunFailed):  # the run failed before the signal came
            _say(f"error: {stopped.__context__}")
            return 1
        message = f"stopped by {stopped.signal}"
        if not (flags.check or flags.explain):
            kept = f"progress is saved in {stopped.folder}" if stopped.folder else "no run was in progress"
            folder = stopped.folder if is_single_run else None
            message += f"; {kept}\ncontinue with: {_command_to_continue(argv, folder)}"
        _say(message)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        _say("interrupted; --resume continues from the last saved state")
        return 130


def _is_distributed() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _say(text: str) -> None:
    """Print an error; if several processes have errors, only the first process prints."""
    if _is_distributed():
        from ignite_trainer.support.distributed import is_first_to_report, rank  # noqa: PLC0415

        text = f"{text}\n(process {rank()} of {os.environ['WORLD_SIZE']}, counted from 0)"
        if not is_first_to_report():
            return
    print(text, file=sys.stderr, flush=True)


def _command_to_continue(argv: Sequence[str], folder: Path | None) -> str:
    """Return the command with --resume, followed by the folder if there is one."""
    words, skipping = [], False
    for word in argv:
        if skipping and not word.startswith("-"):
            skipping = False
            continue
        skipping = word == "--resume"
        if not skipping and not word.startswith("--resume="):
            words.append(word)
    resume = ["--resume", str(folder)] if folder else ["--resume"]
    return shlex.join([sys.executable, sys.argv[0], *words, *resume])


def _shorthand_overrides(flags: argparse.Namespace) -> list[Override]:
    found = [
        Override(tuple(key.split(".")), (value,))
        for _, long, key, _ in SHORTHANDS
        if (value := getattr(flags, long[2:].replace("-", "_"))) is not None
    ]
    if flags.batch_train is not None and flags.batch_test is None:
        found.append(Override(("Setup", "batch_test"), (flags.batch_train,)))
    if flags.resume == AUTO:
        found.append(Override(("Setup", "resume"), ("auto",)))
    if flags.skip_train_val:
        found.append(Override(("Setup", "skip_train_evaluation"), ("true",)))
    return found


def _matching(patterns: Sequence[str], *, excluded: Sequence[Path]) -> list[Path]:
    """Return the files that match the patterns, in order and without duplicates, except `excluded`."""
    paths: dict[Path, None] = {}
    others = {path.resolve() for path in excluded}
    for pattern in patterns:
        # A file's name may contain pattern characters. pathlib accepts neither absolute nor long patterns.
        is_file = os.path.isfile(pattern)  # noqa: PTH113
        found = [pattern] if is_file else sorted(glob(pattern, recursive=True))  # noqa: PTH207
        matches = [match for match in found if Path(match).resolve() not in others]
        if not matches:
            # Suggest a file in the pattern's folder, or else a shipped protocol.
            folders = [Path(pattern).parent, *(path.parent for path in excluded)]
            listed = (
                [path for path in folder.glob("*.json") if path.resolve() not in others] for folder in folders
            )
            near = {path.stem: str(path) for path in next(filter(None, listed), [])}
            name = Path(pattern).stem
            hint = f'did you mean "{near[name]}"?' if name in near else suggest(pattern, near.values())
            raise ProtocolError(f'no file matches "{pattern}"; {hint}', source="--config")
        paths.update(dict.fromkeys(Path(match) for match in matches))
    return list(paths)
