"""What many GPUs need to be fed: bytes, cores and network, and where it stops scaling.

By hand, at once:

    python tests/benchmarks/reading.py --to reading.json
    python tests/benchmarks/feeding.py --reading reading.json [--gpus 8 64] [--clips-per-second-per-gpu 500]

Nothing is measured here. How fast a core decodes and how large clips are is taken from what `reading.py`
measured, or said; all the rest is assumed, and an argument each.
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
_TAR_BYTES = 512 + 256  # of each file its header, and of its last block half, on average
_JSON_BYTES = 2 * 512  # a header and a block


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is not measured; names are those of the arguments."""

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
    "clips_per_second_per_gpu": "that one GPU trains on, where it never waits",
    "frames_per_clip": "images kept of each clip; one of them is decoded",
    "network_gbit_per_node": "what a node's network carries",
    "teraflops_per_gpu": "of a GPU in matrix products",
    "pairs": "of modalities in the loss",
    "matrices_per_pair": "[N, N], float32, that the loss keeps for its backward pass",
    "clips": "of the data set",
    "megabytes_per_shard": "as `python -m utils.shards make` has it",
    "lanes": "shards that a process reads side by side",
}


class Decoded(NamedTuple):
    """What a core decodes in a second, and the size of each, bytes."""

    per_second: float
    size_bytes: float


class Needs(NamedTuple):
    """What some GPUs need; of a node what its share is.

    Attributes:
        clips_per_second: of all.
        cores_per_node: that do nothing but decode.
        workers: of each process, at least; lanes have to be as many, or a multiple.
        read_gbit_per_node: from where the shards are.
        gradients_gbit_per_node: that the sum of all gradients takes, where there are several nodes.
        epoch_hours: once over the data set.
        epoch_core_hours: of decoding, on all nodes.
        shards_at_least: so that no two processes read one.
        batch: of all GPUs.
        matrices_gb: of the loss, on each GPU.
        matrices_share: of a step's time, that the products of these matrices take, 0..1.
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
    """What a clip takes of a shard."""
    frames = assumed.frames_per_clip * (frame.size_bytes + _TAR_BYTES)
    return sound.size_bytes + _TAR_BYTES + frames + _JSON_BYTES


def needs(gpus: int, assumed: Assumptions, sound: Decoded, frame: Decoded) -> Needs:
    """Compute what `gpus` need, where a core decodes `sound` and `frame` so fast."""
    on_node = min(gpus, assumed.gpus_per_node)
    rate = on_node * assumed.clips_per_second_per_gpu
    core_seconds = 1 / sound.per_second + (1 / frame.per_second if assumed.frames_per_clip else 0)
    step_seconds = assumed.batch_per_gpu / assumed.clips_per_second_per_gpu
    # Each node sends and is sent all gradients about twice: once to be summed, once as sums.
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
    """How many shards the data set makes."""
    return math.ceil(assumed.clips * clip_bytes / (1e6 * assumed.megabytes_per_shard))


def limits(
    assumed: Assumptions, clip_bytes: float, *, matrices_gb: float = 10.0, share: float = 0.1
) -> dict[str, int]:
    """The most GPUs for which each of what grows with their number stays within bounds.

    Args:
        assumed: all that is.
        clip_bytes: of a clip in a shard.
        matrices_gb: that the loss may take of a GPU.
        share: of a step that the products of the loss may take, 0..1.
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
    print(f"a core decodes: {sound.per_second:.1f} sounds, or {frame.per_second:.1f} frames a second")
    print(
        f"a clip: {size / 1e3:,.0f} kB; all {assumed.clips:,}: {assumed.clips * size / 1e12:.2f} TB, ", end=""
    )
    print(f"{shards(assumed, size):,} shards")
    print("assumed: " + ", ".join(f"{one.name} {getattr(assumed, one.name):,}" for one in fields(assumed)))
    columns = {gpus: needs(gpus, assumed, sound, frame) for gpus in flags.gpus}
    found = columns.values()
    rows = {
        "GPUs": [f"{gpus}" for gpus in flags.gpus],
        "clips a second": [f"{one.clips_per_second:,.0f}" for one in found],
        "read, GB a second": [f"{one.clips_per_second * size / 1e9:,.2f}" for one in found],
        "read by a node, Gbit/s": [f"{one.read_gbit_per_node:,.1f}" for one in found],
        "gradients of a node, Gbit/s": [f"{one.gradients_gbit_per_node:,.1f}" for one in found],
        "of its network": [
            f"{(one.read_gbit_per_node + one.gradients_gbit_per_node) / assumed.network_gbit_per_node:.0%}"
            for one in found
        ],
        "decoding cores of a node": [f"{one.cores_per_node:,.1f}" for one in found],
        "of its cores": [f"{one.cores_per_node / assumed.cores_per_node:.0%}" for one in found],
        "workers of each process": [f"{one.workers}" for one in found],
        "an epoch": [f"{60 * one.epoch_hours:,.0f} min" for one in found],
        "an epoch, GPU hours": [f"{gpus * one.epoch_hours:,.1f}" for gpus, one in columns.items()],
        "an epoch, core hours": [f"{one.epoch_core_hours:,.1f}" for one in found],
        "shards at least": [f"{one.shards_at_least:,}" for one in found],
        "batch of all": [f"{one.batch:,}" for one in found],
        "similarity matrices on each": [f"{one.matrices_gb:,.2f} GB" for one in found],
        "their products, of a step": [f"{one.matrices_share:.2%}" for one in found],
    }  # fmt: skip
    for name, cells in rows.items():
        print(f"{name:28}" + "".join(f"{cell:>14}" for cell in cells))
    print("most GPUs for " + "; ".join(f"{name}: {most:,}" for name, most in limits(assumed, size).items()))


def _product_flops(batch: int, assumed: Assumptions) -> float:
    """Of the products of embeddings with each other, forward and twice backward."""
    return 3 * assumed.pairs * 2.0 * batch**2 * assumed.embedding


def _decoded(flags: argparse.Namespace, kind: str, row: str) -> Decoded:
    """What was said of sounds or frames, and else what was measured."""
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
    parser.add_argument("--reading", type=Path, help="what reading.py --to wrote")
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
