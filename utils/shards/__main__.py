"""The command `python -m utils.shards`: make, index and verify shards."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.terminal import replace_unknown_letters
from utils.shards.manifest import FILE_NAME, Manifest

_DEFAULTS = Path(__file__).resolve().parents[2] / "protocols" / "defaults.json"
# Attributes of data sets with messages about skipped samples and files.
_NOTICES = ("skipped_notice", "ignored_notice")
_EPILOG = """\
make      writes shards and a manifest, from the data set of a protocol with both splits, or from one named by
          its class. If stopped, run the same command to resume.

  python -m utils.shards make --to shards -c protocols/audioclip-esc50.json --Dataset.args.root data/ESC-50
  python -m utils.shards make --to shards --dataset utils.datasets.ESC50 --args '{"root": "data/ESC-50"}'

index     makes a manifest for shards without one

  python -m utils.shards index 'shards/train-{000000..000127}.tar' --to shards/manifest.jsonl

verify    compares shards with their manifest, by sha256

  python -m utils.shards verify shards/manifest.jsonl
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 on success, 1 if the data has faults, and 2 on an error."""
    replace_unknown_letters()
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if rest and (given.command != "make" or not given.config):
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        return int({"make": _make, "index": _index, "verify": _verify}[given.command](given, rest))
    except (ProtocolError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes it.", file=sys.stderr)
        return 130


def _make(given: argparse.Namespace, overrides: Sequence[str]) -> int:
    from ignite_trainer.commands.named_data import data_from_class, data_from_protocol  # noqa: PLC0415
    from utils.shards.making import Options, make  # noqa: PLC0415

    if given.config:
        data = data_from_protocol(given.config, overrides, trusted=given.trust, defaults=_DEFAULTS)
    else:
        data = data_from_class(given.dataset, json.loads(given.args), trusted=given.trust)
    notices = [getattr(split, name, None) for split in data.splits.values() for name in _NOTICES]
    if given.dataset and (held_out := getattr(data.splits[None], "held_out_folders", ())):
        notices.append(
            f"held out, so not written: {', '.join(held_out)}. With a protocol (-c) both splits are written."
        )
    for notice in filter(None, notices):
        print(notice, file=sys.stderr)
    options = Options(
        samples=given.samples,
        size_bytes=round(given.megabytes * 1e6),
        audio=given.audio,
        seed=None if given.in_order else given.seed,
        skip=given.skip_unreadable,
        processes=given.processes,
    )
    manifest, left_out = make(data.splits, given.to, options, made_from=data.made_from)
    size = sum(shard.size_bytes for shard in manifest.shards)
    counted = f"{len(manifest):,} samples in {len(manifest.shards):,} shards, {size / 1e6:,.1f} MB"
    print(f"{given.to}: {counted}; {_media(manifest)}")
    for name, reason in left_out.items():
        print(f"skipped: {name}: {reason}", file=sys.stderr)
    return int(bool(left_out))


def _index(given: argparse.Namespace, _: Sequence[str]) -> int:
    from utils.shards.checking import index  # noqa: PLC0415

    if given.to.exists():
        raise ValueError(f"{given.to} already exists. Name another file, or remove it.")
    manifest, unread = index(
        given.urls,
        name=given.name or given.to.resolve().parent.name,
        class_names=json.loads(given.classes.read_text(encoding="utf-8-sig")) if given.classes else (),
        processes=given.processes,
    )
    manifest.write(given.to)
    print(f"{given.to}: {len(manifest):,} samples in {len(manifest.shards):,} shards; {_media(manifest)}")
    for suffix, count in unread.items():
        print(f"not read: {count:,} {suffix}{_advice(suffix)}", file=sys.stderr)
    return 0


def _verify(given: argparse.Namespace, _: Sequence[str]) -> int:
    from utils.shards.checking import verify  # noqa: PLC0415

    found = verify(given.urls, manifest=given.manifest, decode=given.decode, processes=given.processes)
    print("\n".join(found.wrong) or "all shards match their manifest")
    print(f"{found.samples:,} samples, {found.sounds:,} sounds, {found.pictures:,} images")
    return int(bool(found.wrong))


def _media(manifest: Manifest) -> str:
    sounds = sum(shard.sounds or 0 for shard in manifest.shards)
    pictures = sum(shard.pictures or 0 for shard in manifest.shards)
    return f"{sounds:,} sounds, {pictures:,} images"


def _advice(suffix: str) -> str:
    from model.audio_input import CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES  # noqa: PLC0415 - takes seconds
    from model.clip.image_input import CONVERT_IMAGE, UNDECODED_IMAGE_SUFFIXES  # noqa: PLC0415

    kind = f".{suffix.rpartition('.')[2]}"
    if kind in UNDECODED_AUDIO_SUFFIXES:
        return f"; {CONVERT_AUDIO}"
    return f"; {CONVERT_IMAGE}" if kind in UNDECODED_IMAGE_SUFFIXES else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utils.shards",
        description="Make, index and verify data sets in tar files, for utils.datasets.Shards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", allow_abbrev=False, help="write a data set as shards")
    source = make.add_mutually_exclusive_group(required=True)
    source.add_argument("-c", "--config", type=Path, metavar="PROTOCOL", help="protocol with the data set")
    source.add_argument("--dataset", metavar="CLASS", help="dotted path of the data set's class")
    add = make.add_argument
    add("--args", default="{}", metavar="JSON", help="arguments of the class, as a JSON object")
    add("--to", type=Path, required=True, metavar="FOLDER", help="folder for the shards")
    add("--samples", type=_positive, default=1000, help="maximum samples per shard (default: 1000)")
    add("--megabytes", type=float, default=100, help="approximate maximum size of a shard (default: 100)")
    add(
        "--audio",
        choices=("keep", "flac", "ogg", "wav"),
        default="keep",
        help="keep: copy files, and encode sounds without a file as flac; others: encode all (flac: 16 bit)",
    )
    add("--seed", type=int, default=0, help="seed of the random sample order (default: 0)")
    add("--in-order", action="store_true", help="keep the data set's order")
    add("--skip-unreadable", action="store_true", help="skip and list unreadable samples")
    add("--trust", action="append", default=[], metavar="PACKAGE", help="package with your own classes")
    index = commands.add_parser("index", allow_abbrev=False, help="make a manifest for shards")
    add = index.add_argument
    add("urls", nargs="+", metavar="URL", help="address of a shard, or a pattern")
    add("--to", type=Path, default=Path(FILE_NAME), help=f"manifest to write (default: {FILE_NAME})")
    add("--name", help="name of the set in results (default: the manifest's folder)")
    add("--classes", type=Path, metavar="JSON", help="file with a list of all labels, in order")
    verify = commands.add_parser("verify", allow_abbrev=False, help="compare shards with their manifest")
    add = verify.add_argument
    add("urls", nargs="+", metavar="URL", help="address of a shard or of the manifest")
    add("--manifest", metavar="URL", help="address of the manifest, unless it is in the shards' folder")
    add("--decode", action="store_true", help="also decode every sample")
    for command in (make, index, verify):
        said = "processes (default: one per CPU)"
        command.add_argument("-j", "--processes", type=_positive, default=os.cpu_count() or 1, help=said)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
