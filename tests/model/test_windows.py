"""How clips are cut into windows."""

import pytest
import torch
from torch import Tensor

from model.windows import WindowedEmbedding, window_starts


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (50, [0]),
        (1000, [0]),
        (1009, [4]),  # 1 % is cut off, half of it in front
        (1010, [5]),
        (1011, [0, 11]),
        (2000, [0, 1000]),
        (2010, [5, 1005]),
        (2500, [0, 750, 1500]),
        (3000, [0, 1000, 2000]),
    ],
)
def test_windows_cover_a_clip_but_for_a_hundredth_of_one(samples: int, starts: list[int]) -> None:
    assert window_starts(samples, 1000) == starts


def test_every_clip_is_the_average_over_its_windows_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(1, length, generator=generator) for length in (7, 20, 30, 10, 35, 7, 20)]
    projection = torch.randn(3, 10, generator=generator)
    sizes: list[int] = []

    def encode(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows[:, 0] @ projection[:, : windows.shape[-1]].T

    expected = []
    for clip in clips:
        windows = [clip[:, start : start + 10] for start in window_starts(clip.shape[-1], 10)]
        each = [(window @ projection[:, : window.shape[-1]].T)[0] for window in windows]
        total = sum((one / one.norm() for one in each), torch.zeros(3))
        expected.append(total / total.norm())
    for batch_size in (1, 2, 5, 100):
        embedding = WindowedEmbedding(encode, window=10, batch_size=batch_size)
        for clip in clips:
            embedding.add(clip)
        assert torch.allclose(embedding.embeddings(), torch.stack(expected), atol=1e-6)
        assert max(sizes) <= batch_size
        sizes.clear()


def test_no_clip_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="the list of inputs is empty"):
        WindowedEmbedding(lambda windows: windows, window=1, batch_size=1).embeddings()
