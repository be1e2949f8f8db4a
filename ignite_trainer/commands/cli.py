"""The command: flags, file patterns, overrides; one run, or one sweep, for every protocol that matches."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import NoReturn

from ignite_trainer.api import file_names
from ignite_trainer.commands.flags import AUTO, SHORTHANDS, long_flags, make_parser
from ignite_trainer.protocol.loading import load, supply_defaults, trace
from ignite_trainer.protocol.overrides import Override, explain_words, split_overrides
from ignite_trainer.protocol.reading import read_json, read_protocol
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped, suggest
from ignite_trainer.support.signals import stopped_by_signals
from ignite_trainer.support.terminal import replace_unknown_letters
from ignite_trainer.support.user_home import ensure_home

EXIT_STOPPED = 75


def main(argv: Sequence[str], *, defaults: Path) -> int:
    """Run the command; return the exit status.

    Args:
        argv: the words after the program's name.
        defaults: file that supplies `Task` and `Parameters` by `Model.class` where a protocol has none.

    Returns:
        0, or 2 if a protocol or what it names cannot work, 1 if a run failed, also one of a sweep, or if a
        check found an error, 75 (EX_TEMPFAIL of sysexits.h) if a signal stopped it and the command printed
        goes on with it, 130 if it was interrupted at once.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # What ends a run is raised, and said below; ignite would log it twice more.
    logging.getLogger("ignite.engine.engine.Engine").setLevel(logging.CRITICAL)
    replace_unknown_letters()
    ensure_home()
    own, overrides = split_overrides(argv)
    flags = _parse(own, defaults=defaults)
    if _started_with_others() and (flags.check or flags.explain or flags.benchmark):
        make_parser().error("--check, --explain and --benchmark are for one process; leave torchrun out.")
    if flags.resume is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        flags.resume = AUTO  # torchrun starts all processes anew after one has failed
    overrides = [*_shorthand_overrides(flags), *overrides]
    resumed = None if flags.resume in (None, AUTO) else Path(flags.resume)
    if not flags.config:
        flags.config = (
            [str(resumed / file_names.PROTOCOL)]
            if resumed
            else make_parser().error("name a protocol, such as -c protocols/quickstart.json")
        )
    try:
        status = _command(argv, flags, overrides, defaults=defaults, resumed=resumed)
    except Exception:
        if not _started_with_others():
            raise
        traceback.print_exc()
        status = 1
    if status and _started_with_others():
        _leave(status)
    return status


def _parse(words: Sequence[str], *, defaults: Path) -> argparse.Namespace:
    """Read the program's own flags; exit with a suggestion where nothing takes a word."""
    parser = make_parser()
    known = long_flags(parser)
    for word in words:
        if f"-{word.partition('=')[0]}" in known:  # argparse takes "-epochs" for "-e pochs"
            parser.error(f"{word} has two hyphens: -{word}")
    flags, unknown = parser.parse_known_args(words)
    if unknown:
        path = next((word for word in (*(flags.config or ()), *unknown) if os.path.isfile(word)), None)  # noqa: PTH113 - Path raises for long words
        try:
            content = supply_defaults(read_protocol(Path(path)), read_json(defaults)) if path else {}
        except ProtocolError:
            content = {}
        parser.error(explain_words(unknown, flags=known, content=content))
    return flags


def _leave(status: int) -> NoReturn:
    """Exit one of several processes without waiting for the others, which may never end.

    Exit handlers are skipped: NCCL's would wait for the other processes, which may be waiting for this one.
    """
    if status == EXIT_STOPPED:  # they are stopping, too; the main process may still be writing
        from ignite_trainer.support.distributed import wait_to_part  # noqa: PLC0415

        wait_to_part()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _command(
    argv: Sequence[str],
    flags: argparse.Namespace,
    overrides: Sequence[Override],
    *,
    defaults: Path,
    resumed: Path | None,
) -> int:
    """Carry out what the words say; return the exit status."""
    try:
        with _several_processes():
            # Every protocol is checked before the first one runs.
            paths = _matching(flags.config, leave_out=(defaults, defaults.with_name("schema.json")))
            loads = {path: functools.partial(load, path, overrides, defaults=defaults) for path in paths}
            if flags.check or flags.explain:
                look = _check if flags.check else functools.partial(_explain, overrides, defaults)
                return _look(look, loads, trusted=flags.trust)
            protocols = {path: load_one() for path, load_one in loads.items()}
            if resumed and (len(protocols) > 1 or any(protocol.sweep for protocol in protocols.values())):
                raise ProtocolError(
                    "A folder is that of one run; leave --resume without one here.", source="--resume"
                )
            from ignite_trainer.commands import jobs  # noqa: PLC0415 - importing torch takes seconds

            planned = jobs.plan(protocols, trusted=flags.trust, rounds=flags.benchmark, resumed=resumed)
            with contextlib.nullcontext() if flags.benchmark else stopped_by_signals():
                return jobs.carry_out(planned)
    except (ProtocolError, RunFailed) as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, ProtocolError) else 1
    except RunStopped as stopped:
        if isinstance(stopped.__context__, RunFailed):  # it had failed before the signal came
            _say(f"error: {stopped.__context__}")
            return 1
        kept = f"what is done is kept in {stopped.folder}" if stopped.folder else "no run was under way"
        only = next(iter(protocols.values())) if len(protocols) == 1 else None
        folder = stopped.folder if only and not only.sweep else None
        _say(f"stopped by {stopped.signal}; {kept}\ngo on with: {_command_that_goes_on(argv, folder)}")
        return EXIT_STOPPED
    except KeyboardInterrupt:
        _say("interrupted; what is saved is kept, and --resume goes on with it")
        return 130


def _started_with_others() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _several_processes() -> contextlib.AbstractContextManager[None]:
    """Meet the processes that this one was started with, if any."""
    if not _started_with_others():
        return contextlib.nullcontext()
    from ignite_trainer.support.distributed import several_processes  # noqa: PLC0415

    return several_processes()


def _say(text: str) -> None:
    """Tell an error; of several processes the first that has one to tell."""
    if _started_with_others():
        from ignite_trainer.support.distributed import first_to_speak, rank  # noqa: PLC0415

        text = f"{text}\n(process {rank()} of {os.environ['WORLD_SIZE']}, from 0)"
        if not first_to_speak():
            return
    print(text, file=sys.stderr, flush=True)


def _look(
    look: Callable[..., int], loads: Mapping[Path, Callable[[], Protocol]], *, trusted: Sequence[str]
) -> int:
    """Carry out what only looks at protocols; a signal leaves nothing of it behind."""
    try:
        with stopped_by_signals():
            return look(loads, trusted=trusted)
    except RunStopped as stopped:
        _say(f"stopped by {stopped.signal}")
        return EXIT_STOPPED


def _check(loads: Mapping[Path, Callable[[], Protocol]], *, trusted: Sequence[str]) -> int:
    from ignite_trainer.commands import check  # noqa: PLC0415 - importing torch takes seconds

    return check.carry_out(loads, trusted=trusted)


def _explain(
    overrides: Sequence[Override],
    defaults: Path,
    loads: Mapping[Path, Callable[[], Protocol]],
    *,
    trusted: Sequence[str],
) -> int:
    from ignite_trainer.commands import explain  # noqa: PLC0415 - importing torch takes seconds

    explained = {
        path: (protocol, trace(protocol, path, overrides, defaults=defaults))
        for path, protocol in ((path, load_one()) for path, load_one in loads.items())
    }
    return explain.carry_out(explained, trusted=trusted)


def _command_that_goes_on(argv: Sequence[str], folder: Path | None) -> str:
    """The command again, with a --resume that names the folder, or none where it finds what is unfinished."""
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


def _matching(patterns: Sequence[str], *, leave_out: Sequence[Path]) -> list[Path]:
    """The files that match, each once, in order; but for those that are no protocols: defaults, schema."""
    paths: dict[Path, None] = {}
    others = {path.resolve() for path in leave_out}
    for pattern in patterns:
        # A name may have what patterns are made of; pathlib takes no absolute pattern, and no long one.
        is_file = os.path.isfile(pattern)  # noqa: PTH113
        found = [pattern] if is_file else sorted(glob(pattern, recursive=True))  # noqa: PTH207
        matches = [match for match in found if Path(match).resolve() not in others]
        if not matches:
            # Of its own folder, or else of the shipped ones.
            folders = [Path(pattern).parent, *(path.parent for path in leave_out)]
            listed = (
                [path for path in folder.glob("*.json") if path.resolve() not in others] for folder in folders
            )
            near = {path.stem: str(path) for path in next(filter(None, listed), [])}
            name = Path(pattern).stem
            hint = f'did you mean "{near[name]}"?' if name in near else suggest(pattern, near.values())
            raise ProtocolError(f'no file matches "{pattern}"; {hint}', source="--config")
        paths.update(dict.fromkeys(Path(match) for match in matches))
    return list(paths)
