"""Downloads weights and data sets: `python -m utils.fetch AudioCLIP-Full-Training ESC-50`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ignite_trainer.support.errors import suggest
from ignite_trainer.support.terminal import replace_unknown_letters
from model.weights.fetch import MIRROR_VARIABLE, FetchError, fetch
from model.weights.releases import DEFAULT_ASSETS, RELEASES
from utils.fetching.published import DATA_SETS, fetch_data_set
from utils.fetching.unpack import ArchiveError

DEFAULT_DATA = Path("data")
"""Folder where the shipped protocols expect the data sets, relative to the repository."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 if all requested files are in place, and 1 otherwise."""
    replace_unknown_letters()
    names = [*RELEASES, *DATA_SETS]
    parser = argparse.ArgumentParser(
        prog="python -m utils.fetch",
        description="Download weights and data sets by name. Existing files are kept, interrupted downloads "
        "resume, and a file gets its final name only once it has been verified.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="one or more of the names below")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder to put everything into")
    parser.add_argument(
        "--mirror", metavar="URL", help=f"address to download from (default: ${MIRROR_VARIABLE}, if set)"
    )
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in names:
            parser.error(f'"{name}" is not the name of weights or a data set; {suggest(name, names)}')

    failed = False
    for name in dict.fromkeys(given.names):
        try:
            print(f"{name}: {_fetch(name, given.to, given.mirror)}")
        except (FetchError, ArchiveError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted; run the same command to resume.", file=sys.stderr)
            return 130
    return int(failed)


def _fetch(name: str, to: Path | None, mirror: str | None) -> Path:
    if name in RELEASES:
        release = RELEASES[name]
        return fetch(release.remote, (to or DEFAULT_ASSETS) / release.file, mirror=mirror)
    return fetch_data_set(DATA_SETS[name], (to or DEFAULT_DATA) / name, mirror=mirror)


def _listing() -> str:
    """List names, sizes and folders, one per line."""
    lines = ["names, sizes and default locations:"]
    for name, release in RELEASES.items():
        lines.append(f"  {name:26}{release.size_bytes / 1e6:7.0f} MB  assets/{release.file}")
    for name, data_set in DATA_SETS.items():
        place = f"{DEFAULT_DATA / name}/ (unpacked {data_set.unpacked_bytes / 1e6:.0f} MB or more)"
        lines.append(f"  {name:26}{data_set.archive_bytes / 1e6:7.0f} MB  {place}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
