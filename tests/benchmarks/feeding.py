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
    modalities: int = 3
    matrices_per_pair: int = 2
    matrices_per_block: int = 4
    clips: int = 2_000_000
    megabytes_per_shard: float = 100.0
    lanes: int = 8


HELP = {
    "clips_per_second_per_gpu": "clips per second that one GPU trains on if it never waits",
    "frames_per_clip": "images stored per clip; one of them is decoded",
    "network_gbit_per_node": "network bandwidth of a node",
    "teraflops_per_gpu": "speed of a GPU in matrix products",
    "modalities": "modalities in the loss; each pair of them is compared",
    "matrices_per_pair": "float32 matrices, own samples x all, that the softmax loss keeps",
    "matrices_per_block": "float32 matrices, own samples x own samples, in a block of the sigmoid loss",
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
        embeddings_gbit_per_node: traffic for gathering embeddings and for summing their gradients; 0 with one
            node.
        embeddings_gb: memory of all gathered embeddings and their gradients on each GPU.
        matrices_gb: memory of the similarities of a GPU's own samples with all, for the softmax loss.
        matrices_share: fraction of a step spent on the products of these matrices, 0..1.
        sigmoid_gb, sigmoid_share: the same for the sigmoid loss.
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
    embeddings_gbit_per_node: float
    embeddings_gb: float
    matrices_gb: float
    matrices_share: float
    sigmoid_gb: float
    sigmoid_share: float


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
    pairs = math.comb(assumed.modalities, 2)
    embedded = _FLOAT_BYTES * assumed.modalities * batch * assumed.embedding
    step_flops = assumed.teraflops_per_gpu * 1e12 * step_seconds
    # One product of a GPU's own embeddings with all others.
    product = 2.0 * assumed.batch_per_gpu * batch * assumed.embedding
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
        embeddings_gbit_per_node=2 * embedded * 8 / 1e9 / step_seconds if gpus > assumed.gpus_per_node else 0,
        embeddings_gb=2 * embedded / 1e9,
        matrices_gb=pairs * assumed.matrices_per_pair * _FLOAT_BYTES * assumed.batch_per_gpu * batch / 1e9,
        # As rows and as columns, once forward and twice backward.
        matrices_share=pairs * 2 * 3 * product / step_flops,
        # One pair at a time; forward, again forward, and twice backward.
        sigmoid_gb=assumed.matrices_per_block * _FLOAT_BYTES * assumed.batch_per_gpu**2 / 1e9,
        sigmoid_share=pairs * 4 * product / step_flops,
    )


def shards(assumed: Assumptions, clip_bytes: float) -> int:
    """Return the number of shards of the data set."""
    return math.ceil(assumed.clips * clip_bytes / (1e6 * assumed.megabytes_per_shard))


def limits(
    assumed: Assumptions, sound: Decoded, frame: Decoded, *, gigabytes: float = 10.0, share: float = 0.1
) -> dict[str, int]:
    """Return the maximum number of GPUs for each quantity that grows with their number.

    Args:
        assumed: all assumptions.
        sound, frame: decoding of a core.
        gigabytes: memory limit of the loss on a GPU, embeddings included.
        share: limit for the products of the loss, as a fraction of a step, 0..1.
    """
    many = 1000 * assumed.gpus_per_node
    at = needs(many, assumed, sound, frame)  # all but the traffic of data and gradients grow in proportion
    free = assumed.network_gbit_per_node - at.read_gbit_per_node - at.gradients_gbit_per_node
    grown = {
        f"matrices and embeddings of {gigabytes:g} GB, softmax": gigabytes
        / (at.matrices_gb + at.embeddings_gb),
        f"embeddings of {gigabytes:g} GB, sigmoid": (gigabytes - at.sigmoid_gb) / at.embeddings_gb,
        f"products {share:.0%} of a step, softmax": share / at.matrices_share,
        f"products {share:.0%} of a step, sigmoid": share / at.sigmoid_share,
        "the network of a node": max(free, 0.0) / at.embeddings_gbit_per_node,
    }
    by_shards = shards(assumed, clip_bytes(assumed, sound, frame)) // assumed.lanes
    return {
        **{name: int(many * part) for name, part in grown.items()},
        "a shard for each lane of each process": by_shards,
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
        "embeddings per node, Gbit/s": [f"{one.embeddings_gbit_per_node:,.1f}" for one in found],
        "fraction of the network": [
            f"{_traffic(one) / assumed.network_gbit_per_node:.0%}" for one in found
        ],
        "decoding cores per node": [f"{one.cores_per_node:,.1f}" for one in found],
        "fraction of the cores": [f"{one.cores_per_node / assumed.cores_per_node:.0%}" for one in found],
        "workers per process": [f"{one.workers}" for one in found],
        "duration of an epoch": [f"{60 * one.epoch_hours:,.0f} min" for one in found],
        "GPU hours per epoch": [f"{gpus * one.epoch_hours:,.1f}" for gpus, one in columns.items()],
        "core hours per epoch": [f"{one.epoch_core_hours:,.1f}" for one in found],
        "minimum number of shards": [f"{one.shards_at_least:,}" for one in found],
        "global batch size": [f"{one.batch:,}" for one in found],
        "embeddings per GPU": [f"{one.embeddings_gb:,.2f} GB" for one in found],
        "softmax: similarities": [f"{one.matrices_gb:,.3f} GB" for one in found],
        "softmax: products, of a step": [f"{one.matrices_share:.2%}" for one in found],
        "sigmoid: similarities": [f"{one.sigmoid_gb:,.3f} GB" for one in found],
        "sigmoid: products, of a step": [f"{one.sigmoid_share:.2%}" for one in found],
    }  # fmt: skip
    for name, cells in rows.items():
        print(f"{name:30}" + "".join(f"{cell:>14}" for cell in cells))
    print(
        "maximum number of GPUs: "
        + "; ".join(f"{name}: {most:,}" for name, most in limits(assumed, sound, frame).items())
    )


def _traffic(of: Needs) -> float:
    """Return the traffic of a node, Gbit/s."""
    return of.read_gbit_per_node + of.gradients_gbit_per_node + of.embeddings_gbit_per_node


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
