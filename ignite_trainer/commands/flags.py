"""The command's own flags and its `--help`; overrides of the protocol's keys are `overrides`' part."""

from __future__ import annotations

import argparse
import textwrap

AUTO = "auto"
"""What --resume without a folder says."""

# Flags of the published command, and the keys of the protocol they stand for, by groups.
_SETUP: tuple[tuple[str, str, str, str], ...] = (
    ("-b", "--batch-train", "Setup.batch_train", "training batch size"),
    ("-B", "--batch-test", "Setup.batch_test", "evaluation batch size (default: that of training)"),
    ("-w", "--workers-train", "Setup.workers_train", "loader processes in training"),
    ("-W", "--workers-test", "Setup.workers_test", "loader processes in evaluation"),
    ("-e", "--epochs", "Setup.epochs", "passes over the training split; 0 evaluates and stops"),
    ("-L", "--log-interval", "Setup.log_interval", "steps between two entries of the log"),
    ("-M", "--saved-models-path", "Setup.saved_models_path", "root folder of all results"),
    ("-R", "--random-seed", "Setup.seed", "seed of everything random"),
    ("-s", "--suffix", "Setup.suffix", "added to the name of the run"),
)
_DASHBOARD: tuple[tuple[str, str, str, str], ...] = (
    ("-H", "--visdom-host", "Visdom.host", "host of the dashboard"),
    ("-P", "--visdom-port", "Visdom.port", "port of the dashboard"),
    ("-E", "--visdom-env-path", "Visdom.env_path", "folder of the dashboard's sessions"),
)
SHORTHANDS = (*_SETUP, *_DASHBOARD)

_EPILOG = """\
any key of a protocol:
  --Section.key.key VALUE...
      replaces it (or =VALUE); positions of a list are numbers. A value is read as the type of the one
      it replaces; true, false and null are JSON.
  --Sweep.Section.key.key VALUE...
      runs once for each value, several keys for each combination, and ends with a table of means and standard
      deviations. The same command goes on with a sweep that was stopped.

examples:
  python main.py -c protocols/quickstart.json
  python main.py -c protocols/quickstart.json --explain
  python main.py -c protocols/quickstart.json --Optimizer.args.lr 1e-4
  python main.py -c protocols/quickstart.json --Sweep.Dataset.args.fold 1 2 3 4 5
  python main.py -c 'protocols/*-esc50.json' -e 0 --Dataset.args.root data/ESC-50

exit status:
  0    all went well
  1    a run failed, also one of a sweep; a check found an error
  2    a protocol, or what it names, cannot work; or the command itself
  75   stopped by SIGTERM, SIGINT or SIGUSR1 after the step under way; the command to go on with is printed
  130  interrupted at once

Every key of a protocol is described in protocols/README.md. Colours and progress bars are for terminals
alone; elsewhere, long work prints a line every half minute. No colours where NO_COLOR is set.
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Folds the text below the flags to the terminal's width; examples are left whole, to be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002
        return "\n".join(folded for block in _blocks(text) for folded in _fold(block, max(width, 20)))


def make_parser() -> argparse.ArgumentParser:
    """Make what reads the flags."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        usage="main.py -c FILE... [flags] [--Section.key VALUE...]",
        description="Train and evaluate what a protocol describes.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    which = parser.add_argument_group("what is run")
    which.add_argument(
        "-c",
        "--config",
        action="extend",
        nargs="+",
        metavar="FILE",
        help="protocol, or a pattern: every match runs",
    )
    which.add_argument(
        "--resume",
        nargs="?",
        const=AUTO,
        metavar="FOLDER",
        help="go on with the run in this folder; without one, with the newest unfinished run of the protocol",
    )
    which.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="let protocols name classes of this package",
    )
    _add_modes(parser)
    setup = parser.add_argument_group("how it is run", "In place of what the protocol's Setup says.")
    _add_shorthands(setup, _SETUP)
    setup.add_argument(
        "-S", "--skip-train-val", action="store_true", help="leave out the evaluation of the training split"
    )
    _add_shorthands(parser.add_argument_group("dashboard"), _DASHBOARD)
    return parser


def long_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return all flags of the parser that begin with two hyphens."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def _add_modes(parser: argparse.ArgumentParser) -> None:
    modes = parser.add_argument_group("instead of a run").add_mutually_exclusive_group()
    modes.add_argument(
        "--check",
        action="store_true",
        help="look for faults of protocol, data, weights and disks; nothing is trained",
    )
    modes.add_argument(
        "--explain",
        action="store_true",
        help="say what a run would be: every value and who says so, what is trained, shapes, time, memory",
    )
    modes.add_argument(
        "--benchmark",
        nargs="?",
        type=_positive,
        const=7,
        metavar="ROUNDS",
        help="measure speed and memory; in each round protocol and yardsticks take turns",
    )


def _add_shorthands(group: argparse._ArgumentGroup, flags: tuple[tuple[str, str, str, str], ...]) -> None:
    for short, long, _, text in flags:
        group.add_argument(short, long, metavar="VALUE", help=text)


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f'"{word}" is no positive number')
    return int(word)


def _blocks(text: str) -> list[str]:
    """Lines, those of one indentation that stand for one paragraph together."""
    blocks: list[str] = []
    for line in text.splitlines():
        goes_on = line.startswith(" " * 6) and blocks and blocks[-1].startswith(" " * 6)
        plain = line and not line.startswith(" ") and blocks and blocks[-1] and not blocks[-1].startswith(" ")
        if goes_on or (plain and not blocks[-1].endswith(":")):
            blocks[-1] += " " + line.strip()
        else:
            blocks.append(line)
    return blocks


def _fold(block: str, width: int) -> list[str]:
    if not block.strip() or block.startswith("  python "):
        return [block]
    indent = " " * (len(block) - len(block.lstrip()))
    hanging = "       " if block[2:3].isdigit() else indent
    return textwrap.wrap(
        block.strip(), width, initial_indent=indent, subsequent_indent=hanging, break_long_words=False
    )
