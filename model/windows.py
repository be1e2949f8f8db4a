"""Embeddings of clips of any length: averages over windows that a tower can take."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PENDING_BATCHES = 4  # of windows of all lengths, kept until there are enough of one length


class WindowedEmbedding:
    """Embeds clips one after the other, each as the average over its windows.

    A clip longer than a window is cut into as few windows as cover it, see `window_starts`. Only windows of
    one shape share a batch, so nothing is padded, and a clip's embedding does not depend on the others'.

        |------------- T -------------|
        |-- window --|
                |-- window --|
                         |-- window --|

    Args:
        encode: turns windows `[n, C, T]` into features `[n, D]`.
        window: its length, samples.
        batch_size: windows encoded at once, at most.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], *, window: int, batch_size: int) -> None:
        self._encode, self._window, self._batch_size = encode, window, batch_size
        self._totals: list[Tensor] = []  # of each clip, the sum over its windows
        self._pending: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)

    def add(self, waveform: Tensor) -> None:
        """Take the next clip, `[C, T]`."""
        clip = len(self._totals)
        self._totals.append(torch.zeros(()))
        for start in window_starts(waveform.shape[-1], self._window):
            samples = waveform[..., start : start + self._window]
            group = self._pending[tuple(samples.shape)]
            group.append((clip, samples))
            if len(group) == self._batch_size:
                self._encode_all_of(tuple(samples.shape))
            elif sum(map(len, self._pending.values())) > _PENDING_BATCHES * self._batch_size:
                self._encode_all_of(max(self._pending, key=lambda shape: len(self._pending[shape])))

    def embeddings(self) -> Tensor:
        """Return the embeddings of all clips, float32 `[clips, D]`, each of norm 1.

        Raises:
            ValueError: there was no clip.
        """
        if not self._totals:
            raise ValueError("Nothing to embed: the list of inputs is empty.")
        for shape in list(self._pending):
            self._encode_all_of(shape)
        return F.normalize(torch.stack(self._totals), dim=-1)

    def _encode_all_of(self, shape: tuple[int, ...]) -> None:
        group = self._pending.pop(shape)
        features = self._encode(torch.stack([samples for _, samples in group]))
        for (clip, _), feature in zip(group, F.normalize(features.float(), dim=-1), strict=True):
            self._totals[clip] = feature + self._totals[clip].to(feature.device)


def window_starts(samples: int, window: int) -> list[int]:
    """Say where the windows of a clip begin: as few as cover it but for 1 % of a window, evenly spaced.

    That much is cut off evenly at both ends: codecs round a clip's length up to whole blocks, and a few
    samples more are worth no second window.

    Example:
        >>> window_starts(12, window=5)
        [0, 4, 7]
        >>> window_starts(5, window=5)
        [0]
    """
    count = max(1, math.ceil((samples - window // 100) / window))
    covered = min(samples, count * window)
    left = (samples - covered) // 2
    steps = max(1, count - 1)
    return [left + round(position * max(0, covered - window) / steps) for position in range(count)]
