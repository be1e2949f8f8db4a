"""The command's own flags and its `--help`. Overrides of a protocol's keys are parsed elsewhere."""

from __future__ import annotations

import argparse

AUTO = "auto"
"""Value of --resume without a folder."""

# Flags of the published command: short, long, the protocol's key, help.
_SETUP: tuple[tuple[str, str, str, str], ...] = (
    ("-b", "--batch-train", "Setup.batch_train", "training batch size"),
    ("-B", "--batch-test", "Setup.batch_test", "evaluation batch size (default: the training batch size)"),
    ("-w", "--workers-train", "Setup.workers_train", "number of data-loading workers for training"),
    ("-W", "--workers-test", "Setup.workers_test", "number of data-loading workers for evaluation"),
    ("-e", "--epochs", "Setup.epochs", "number of training epochs; 0 only evaluates"),
    ("-L", "--log-interval", "Setup.log_interval", "number of training steps between log entries"),
    ("-M", "--saved-models-path", "Setup.saved_models_path", "folder for all results"),
    ("-R", "--random-seed", "Setup.seed", "random seed"),
    ("-s", "--suffix", "Setup.suffix", "suffix for the run's name"),
)
_DASHBOARD: tuple[tuple[str, str, str, str], ...] = (
    ("-H", "--visdom-host", "Visdom.host", "host of the dashboard's server"),
    ("-P", "--visdom-port", "Visdom.port", "port of the dashboard's server"),
    ("-E", "--visdom-env-path", "Visdom.env_path", "folder where the server saves dashboards"),
)
SHORTHANDS = (*_SETUP, *_DASHBOARD)

_EPILOG = """\
any key of the protocol:
  --Section.key.key VALUE...
      Set a key; --Section.key.key=VALUE also works. A number in place of a key
      selects a list item. A value must have the same type as the value that it
      replaces; true, false and null are written as in JSON.
  --Sweep.Section.key.key VALUE...
      Run once for each value, or for each combination if several keys are
      given, and end with a table of means and standard deviations. To continue
      a stopped sweep, repeat the command.

examples:
  python main.py -c protocols/quickstart.json
  python main.py -c protocols/quickstart.json --explain
  python main.py -c protocols/quickstart.json --Optimizer.args.lr 1e-4
  python main.py -c protocols/quickstart.json --Sweep.Dataset.args.fold 1 2 3
  python main.py -c 'protocols/*-esc50.json' -e 0 --Dataset.args.root ESC-50

exit status:
  0    success
  1    a run failed, also within a sweep, or --check found an error
  2    the command line or a protocol is invalid
  75   stopped by SIGTERM, SIGINT or SIGUSR1 after the current step; prints
       the command that continues the run
  130  interrupted immediately

protocols/README.md describes every key. Colours and progress bars appear only
on a terminal; NO_COLOR turns colours off. Without a terminal, long work prints
a line every 30 seconds.
"""


def make_parser() -> argparse.ArgumentParser:
    """Create the parser of the command's own flags."""
    parser = argparse.ArgumentParser(
        prog="main.py",
        usage="main.py -c FILE... [flags] [--Section.key VALUE...]",
        description="Train and evaluate models as described by protocol files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "-c",
        "--config",
        action="extend",
        nargs="+",
        metavar="FILE",
        help="protocol file, or quoted pattern that matches several files",
    )
    runs.add_argument(
        "--resume",
        nargs="?",
        const=AUTO,
        metavar="FOLDER",
        help="continue the run in FOLDER; without FOLDER, continue the protocol's newest unfinished run",
    )
    runs.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="allow protocols to name classes from this package; can be repeated",
    )
    modes = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    modes.add_argument(
        "--check",
        action="store_true",
        help="look for problems with the protocol, data, weights, disk space and memory, without training",
    )
    modes.add_argument(
        "--explain",
        action="store_true",
        help="show every value and where it comes from, which parameters are trained, tensor shapes, and "
        "estimates of time, memory and disk space",
    )
    modes.add_argument(
        "--benchmark",
        nargs="?",
        type=_positive,
        const=7,
        metavar="ROUNDS",
        help="measure speed and memory, and compare with the protocol's baselines (default: 7 rounds)",
    )
    setup = parser.add_argument_group("settings", "Override the protocol's Setup.")
    _add_shorthands(setup, _SETUP)
    setup.add_argument(
        "-S", "--skip-train-val", action="store_true", help="do not evaluate on the training split"
    )
    _add_shorthands(parser.add_argument_group("dashboard"), _DASHBOARD)
    return parser


def long_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return all flags of the parser that begin with two hyphens."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def _add_shorthands(group: argparse._ArgumentGroup, flags: tuple[tuple[str, str, str, str], ...]) -> None:
    for short, long, _, text in flags:
        group.add_argument(short, long, metavar="VALUE", help=text)


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) == 0:
        raise argparse.ArgumentTypeError(f'"{word}" is not a positive number')
    return int(word)
