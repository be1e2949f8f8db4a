"""Requirements of many GPUs equal hand-computed values, the memory of the loss and the size of shards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.parts import LossKind, PairLoss
from tests.benchmarks.feeding import (
    FRAME,
    SOUND,
    Assumptions,
    Decoded,
    Needs,
    clip_bytes,
    limits,
    main,
    needs,
)
from tests.utils.tasks.contrasts import PeakMemory
from utils.datasets import Table
from utils.shards.making import Options, make

SOUNDS, FRAMES = Decoded(50, 160_000), Decoded(200, 30_000)


def test_requirements_of_one_and_of_several_nodes_equal_those_computed_by_hand() -> None:
    assumed = Assumptions(clips_per_second_per_gpu=400, frames_per_clip=4)
    node = needs(8, assumed, SOUNDS, FRAMES)
    assert node.clips_per_second == 3200
    assert node.cores_per_node == pytest.approx(3200 * (0.02 + 0.005))  # 80
    assert node.workers == 10
    assert clip_bytes(assumed, SOUNDS, FRAMES) == 160_000 + 768 + 4 * 30_768 + 1024
    assert node.read_gbit_per_node == pytest.approx(3200 * 284_864 * 8 / 1e9)  # 7.3
    assert node.gradients_gbit_per_node == 0
    assert node.epoch_hours == pytest.approx(625 / 3600)
    assert node.epoch_core_hours == pytest.approx(80 * 625 / 3600)
    assert (node.shards_at_least, node.batch) == (64, 2048)
    assert node.matrices_gb == pytest.approx(6 * 256 * 2048 * 4 / 1e9)
    # 3 pairs, rows and columns, 3 products of 2 * 256 * 2048 * 1024 operations, in 0.64 s of 100 teraflops.
    assert node.matrices_share == pytest.approx(18 * 2**30 / 64e12)
    assert node.sigmoid_gb == pytest.approx(4 * 256**2 * 4 / 1e9)
    assert node.sigmoid_share == pytest.approx(12 * 2**30 / 64e12)
    assert node.embeddings_gb == pytest.approx(2 * 3 * 2048 * 1024 * 4 / 1e9)
    assert node.embeddings_gbit_per_node == 0
    nodes = needs(64, assumed, SOUNDS, FRAMES)
    assert nodes.cores_per_node == node.cores_per_node
    assert nodes.read_gbit_per_node == node.read_gbit_per_node
    assert nodes.gradients_gbit_per_node == pytest.approx(2 * 134e6 * 32 / 1e9 / 0.64)  # 13.4
    assert nodes.epoch_hours == pytest.approx(node.epoch_hours / 8)
    assert nodes.embeddings_gbit_per_node == pytest.approx(2 * 3 * 16384 * 1024 * 32 / 1e9 / 0.64)  # 5.0
    for name in ("matrices_gb", "matrices_share", "sigmoid_share", "embeddings_gb"):
        assert getattr(nodes, name) == pytest.approx(8 * getattr(node, name))
    assert nodes.sigmoid_gb == node.sigmoid_gb


def test_one_gpu_is_a_part_of_a_node_and_sounds_need_no_frames() -> None:
    one = needs(1, Assumptions(frames_per_clip=0), SOUNDS, FRAMES)
    assert one.cores_per_node == pytest.approx(500 / 50)


def test_at_the_limits_a_bound_is_met_exactly() -> None:
    assumed = Assumptions()
    most = limits(assumed, SOUNDS, FRAMES)
    bounds: dict[str, tuple[float, Callable[[Needs], float]]] = {
        "matrices and embeddings of 10 GB, softmax": (10.0, lambda of: of.matrices_gb + of.embeddings_gb),
        "embeddings of 10 GB, sigmoid": (10.0, lambda of: of.sigmoid_gb + of.embeddings_gb),
        "products 10% of a step, softmax": (0.1, lambda of: of.matrices_share),
        "products 10% of a step, sigmoid": (0.1, lambda of: of.sigmoid_share),
        "the network of a node": (
            100.0,
            lambda of: of.read_gbit_per_node + of.gradients_gbit_per_node + of.embeddings_gbit_per_node,
        ),
    }
    for name, (bound, quantity) in bounds.items():
        within, beyond = (
            quantity(needs(gpus, assumed, SOUNDS, FRAMES)) for gpus in (most[name], most[name] + 1)
        )
        assert within <= bound < beyond, name
    by_shards = most["a shard for each lane of each process"]
    assert by_shards == math.ceil(2e6 * clip_bytes(assumed, SOUNDS, FRAMES) / 1e8) // 8


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_loss_keeps_as_many_matrices_as_assumed(kind: LossKind) -> None:
    gpus, share = 4, 256
    rows, columns = (torch.randn(gpus * share, 4, requires_grad=True) for _ in range(2))
    own = slice(share, 2 * share)
    kept = dict[int, int]()

    def note(tensor: Tensor) -> Tensor:
        if tensor.numel() >= share**2:
            kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    found = needs(gpus, Assumptions(batch_per_gpu=share, modalities=2), SOUNDS, FRAMES)
    loss = PairLoss(batch=gpus * share, kind=kind)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), PeakMemory() as memory:
        part = loss.part(lambda i, j: rows[i] @ columns[j].T, own)
        part.backward()
    if kind == "softmax":
        assert sum(kept.values()) / 1e9 == pytest.approx(found.matrices_gb)
    else:
        assert not kept
        # Besides the block, there are gradients of features, [1024, 4].
        assert memory.peak / 1e9 == pytest.approx(found.sigmoid_gb, rel=0.1)


def test_a_clip_takes_the_computed_size_in_a_shard(tmp_path: Path) -> None:
    sizes = []
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
        sizes.append((tmp_path / f"{number}.jpg").stat().st_size)
    rows = (json.dumps({"images": [f"{2 * row}.jpg", f"{2 * row + 1}.jpg"]}) for row in range(10))
    (tmp_path / "table.jsonl").write_text("\n".join(rows))
    manifest, _ = make({None: Table(tmp_path / "table.jsonl")}, tmp_path / "shards", Options(), made_from={})
    written = int(manifest.shards[0].offsets[-1])
    said = clip_bytes(Assumptions(frames_per_clip=2), Decoded(1, -768), Decoded(1, float(np.mean(sizes))))
    assert written / 10 == pytest.approx(said, rel=0.1)


def test_the_table_uses_measured_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {SOUND: {"clips_per_second": 50.0, "bytes_per_clip": 160_000.0}}
    figures[FRAME] = {"clips_per_second": 200.0, "bytes_per_clip": 30_000.0}
    (tmp_path / "reading.json").write_text(json.dumps({"figures": figures}))
    main(["--reading", str(tmp_path / "reading.json"), "--gpus", "8", "16", "--frames-per-clip", "4"])
    printed = capsys.readouterr().out
    assert "a core decodes 50.0 sounds or 200.0 frames per second" in printed
    lines = {line[:28].strip(): line[28:].split() for line in printed.splitlines()}
    assert lines["GPUs"] == ["8", "16"]
    assert lines["clips per second"] == ["4,000", "8,000"]
    assert lines["decoding cores per node"] == ["100.0", "100.0"]
    with pytest.raises(SystemExit, match="--reading, or --sounds-per-second-per-core"):
        main([])
