"""Computes the storage, cores and network that feed many GPUs, and the limits of scaling.

Run by hand; takes no time:

    python tests/benchmarks/reading.py --to reading.json
    python tests/benchmarks/feeding.py --reading reading.json [--gpus 8 64] [--clips-per-second-per-gpu 500]

Nothing is measured here. Decoding speed and file sizes come from `reading.py` or from arguments; all other
values are assumptions, each of which is an argument.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

SOUND = "ogg of 10 s, 44.1 kHz"
FRAME = "frame of 640 x 360, jpg, to 224 x 224"
_FLOAT_BYTES = 4
_TAR_BYTES = 512 + 256  # per file: a header, and on average half of the last block
_JSON_BYTES = 2 * 512  # a header and a block


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Assumed values, named like the arguments."""

    clips_per_second_per_gpu: float = 500.0
    batch_per_gpu: int = 256
    gpus_per_node: int = 8
    cores_per_node: int = 96
    frames_per_clip: int = 10
    network_gbit_per_node: float = 100.0
    teraflops_per_gpu: float = 100.0
    parameters: int = 134_000_000
    embedding: int = 1024
    pairs: int = 3
    matrices_per_pair: int = 2
    clips: int = 2_000_000
    megabytes_per_shard: float = 100.0
    lanes: int = 8


HELP = {
    "clips_per_second_per_gpu": "clips per second that one GPU trains on if it never waits",
    "frames_per_clip": "images stored per clip; one of them is decoded",
    "network_gbit_per_node": "network bandwidth of a node",
    "teraflops_per_gpu": "speed of a GPU in matrix products",
    "pairs": "pairs of modalities in the loss",
    "matrices_per_pair": "float32 [N, N] matrices that the loss keeps for its backward pass",
    "clips": "clips in the data set",
    "megabytes_per_shard": "as in `python -m utils.shards make`",
    "lanes": "shards that a process reads in parallel",
}


class Decoded(NamedTuple):
    """Items that a core decodes per second, and their size in bytes."""

    per_second: float
    size_bytes: float


class Needs(NamedTuple):
    """Requirements of a number of GPUs.

    Attributes:
        clips_per_second: clips per second on all GPUs.
        cores_per_node: cores that only decode.
        workers: minimum number of workers per process; lanes must be a multiple of it.
        read_gbit_per_node: traffic from the storage of the shards.
        gradients_gbit_per_node: traffic for summing gradients; 0 with one node.
        epoch_hours: duration of an epoch.
        epoch_core_hours: decoding time of an epoch, on all nodes.
        shards_at_least: minimum number of shards, so that no two processes share one.
        batch: size of the global batch.
        matrices_gb: memory of the loss on each GPU.
        matrices_share: fraction of a step spent on the products of these matrices, 0..1.
    """

    clips_per_second: float
    cores_per_node: float
    workers: int
    read_gbit_per_node: float
    gradients_gbit_per_node: float
    epoch_hours: float
    epoch_core_hours: float
    shards_at_least: int
    batch: int
    matrices_gb: float
    matrices_share: float


def clip_bytes(assumed: Assumptions, sound: Decoded, frame: Decoded) -> float:
    """Return the size of a clip in a shard."""
    frames = assumed.frames_per_clip * (frame.size_bytes + _TAR_BYTES)
    return sound.size_bytes + _TAR_BYTES + frames + _JSON_BYTES


def needs(gpus: int, assumed: Assumptions, sound: Decoded, frame: Decoded) -> Needs:
    """Compute the requirements of `gpus` GPUs, given the decoding of a core."""
    on_node = min(gpus, assumed.gpus_per_node)
    rate = on_node * assumed.clips_per_second_per_gpu
    core_seconds = 1 / sound.per_second + (1 / frame.per_second if assumed.frames_per_clip else 0)
    step_seconds = assumed.batch_per_gpu / assumed.clips_per_second_per_gpu
    # Each node sends and receives all gradients about twice: once for summing, and once as sums.
    gradient_bytes = 2 * _FLOAT_BYTES * assumed.parameters if gpus > assumed.gpus_per_node else 0
    batch = gpus * assumed.batch_per_gpu
    return Needs(
        clips_per_second=gpus * assumed.clips_per_second_per_gpu,
        cores_per_node=rate * core_seconds,
        workers=math.ceil(assumed.clips_per_second_per_gpu * core_seconds),
        read_gbit_per_node=rate * clip_bytes(assumed, sound, frame) * 8 / 1e9,
        gradients_gbit_per_node=gradient_bytes * 8 / 1e9 / step_seconds,
        epoch_hours=assumed.clips / (gpus * assumed.clips_per_second_per_gpu) / 3600,
        epoch_core_hours=assumed.clips * core_seconds / 3600,
        shards_at_least=gpus * assumed.lanes,
        batch=batch,
        matrices_gb=assumed.pairs * assumed.matrices_per_pair * _FLOAT_BYTES * batch**2 / 1e9,
        matrices_share=_product_flops(batch, assumed) / (assumed.teraflops_per_gpu * 1e12) / step_seconds,
    )


def shards(assumed: Assumptions, clip_bytes: float) -> int:
    """Return the number of shards of the data set."""
    return math.ceil(assumed.clips * clip_bytes / (1e6 * assumed.megabytes_per_shard))


def limits(
    assumed: Assumptions, clip_bytes: float, *, matrices_gb: float = 10.0, share: float = 0.1
) -> dict[str, int]:
    """Return the maximum number of GPUs for each quantity that grows with their number.

    Args:
        assumed: all assumptions.
        clip_bytes: size of a clip in a shard.
        matrices_gb: memory limit of the loss on a GPU.
        share: limit for the products of the loss, as a fraction of a step, 0..1.
    """
    rows = math.sqrt(matrices_gb * 1e9 / (assumed.pairs * assumed.matrices_per_pair * _FLOAT_BYTES))
    step_seconds = assumed.batch_per_gpu / assumed.clips_per_second_per_gpu
    in_time = share * step_seconds * assumed.teraflops_per_gpu * 1e12 / _product_flops(1, assumed)
    return {
        f"similarity matrices of {matrices_gb:g} GB": int(rows / assumed.batch_per_gpu),
        f"their products {share:.0%} of a step": int(math.sqrt(in_time) / assumed.batch_per_gpu),
        "a shard for each lane of each process": shards(assumed, clip_bytes) // assumed.lanes,
    }


def main(argv: Sequence[str]) -> None:
    """Print the table."""
    flags = _parser().parse_args(argv)
    assumed = Assumptions(**{one.name: getattr(flags, one.name) for one in fields(Assumptions)})
    sound, frame = _decoded(flags, "sound", SOUND), _decoded(flags, "frame", FRAME)
    size = clip_bytes(assumed, sound, frame)
    print(f"a core decodes {sound.per_second:.1f} sounds or {frame.per_second:.1f} frames per second")
    print(
        f"a clip: {size / 1e3:,.0f} kB; all {assumed.clips:,}: {assumed.clips * size / 1e12:.2f} TB, ", end=""
    )
    print(f"{shards(assumed, size):,} shards")
    print("assumed: " + ", ".join(f"{one.name} {getattr(assumed, one.name):,}" for one in fields(assumed)))
    columns = {gpus: needs(gpus, assumed, sound, frame) for gpus in flags.gpus}
    found = columns.values()
    rows = {
        "GPUs": [f"{gpus}" for gpus in flags.gpus],
        "clips per second": [f"{one.clips_per_second:,.0f}" for one in found],
        "read, GB per second": [f"{one.clips_per_second * size / 1e9:,.2f}" for one in found],
        "read per node, Gbit/s": [f"{one.read_gbit_per_node:,.1f}" for one in found],
        "gradients per node, Gbit/s": [f"{one.gradients_gbit_per_node:,.1f}" for one in found],
        "fraction of the network": [
            f"{(one.read_gbit_per_node + one.gradients_gbit_per_node) / assumed.network_gbit_per_node:.0%}"
            for one in found
        ],
        "decoding cores per node": [f"{one.cores_per_node:,.1f}" for one in found],
        "fraction of the cores": [f"{one.cores_per_node / assumed.cores_per_node:.0%}" for one in found],
        "workers per process": [f"{one.workers}" for one in found],
        "duration of an epoch": [f"{60 * one.epoch_hours:,.0f} min" for one in found],
        "GPU hours per epoch": [f"{gpus * one.epoch_hours:,.1f}" for gpus, one in columns.items()],
        "core hours per epoch": [f"{one.epoch_core_hours:,.1f}" for one in found],
        "minimum number of shards": [f"{one.shards_at_least:,}" for one in found],
        "global batch size": [f"{one.batch:,}" for one in found],
        "similarity matrices per GPU": [f"{one.matrices_gb:,.2f} GB" for one in found],
        "their products, of a step": [f"{one.matrices_share:.2%}" for one in found],
    }  # fmt: skip
    for name, cells in rows.items():
        print(f"{name:28}" + "".join(f"{cell:>14}" for cell in cells))
    print(
        "maximum number of GPUs: "
        + "; ".join(f"{name}: {most:,}" for name, most in limits(assumed, size).items())
    )


def _product_flops(batch: int, assumed: Assumptions) -> float:
    """Return the operations of the products of all embeddings: once forward, twice backward."""
    return 3 * assumed.pairs * 2.0 * batch**2 * assumed.embedding


def _decoded(flags: argparse.Namespace, kind: str, row: str) -> Decoded:
    """Return the decoding of sounds or frames, from arguments or else from measurements."""
    speed, size = getattr(flags, f"{kind}s_per_second_per_core"), getattr(flags, f"{kind}_kilobytes")
    if speed is None or size is None:
        if flags.reading is None:
            sys.exit(f"--reading, or --{kind}s-per-second-per-core and --{kind}-kilobytes, is needed.")
        measured = json.loads(flags.reading.read_text())["figures"][row]
        speed = speed or measured["clips_per_second"]
        size = size or measured["bytes_per_clip"] / 1e3
    return Decoded(speed, 1e3 * size)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--reading", type=Path, help="file written by reading.py --to")
    for kind, row in (("sound", SOUND), ("frame", FRAME)):
        parser.add_argument(f"--{kind}s-per-second-per-core", type=float, help=f"(--reading: {row})")
        parser.add_argument(f"--{kind}-kilobytes", type=float, help="size of one (likewise)")
    for one in fields(Assumptions):
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=type(one.default),
            default=one.default,
            help=f"{HELP.get(one.name, 'assumed')} ({one.default:,})",
        )
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
