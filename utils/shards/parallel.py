"""The same done for many shards, by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from ignite_trainer.support.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    call: Callable[[T], R],
    items: Sequence[T],
    *,
    processes: int,
    title: str,
    unit: str = "shards",
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[R]:
    """Give `call(item)` of every item, in their order, and show how far they are.

    Args:
        call: can be pickled; what it raises, an OSError or a ValueError, is raised here.
        items: what it is called with.
        processes: at most; 1: this one.
        title: of the bar, or of the lines where there is no terminal.
        unit: of what `size` counts.
        size: how much of the whole an item is.
    """
    workers = min(processes, len(items)) if processes > 1 else 0
    # torch's loader sends `call` to each process once, and ends the processes with this one.
    loader = DataLoader(_Calls(call, items), batch_size=None, num_workers=workers, collate_fn=_same)
    with Progress(desc=title, total=sum(map(size, items)), unit=unit) as bar:
        for item, result in zip(items, loader, strict=True):
            if isinstance(result, Exception):
                raise result
            yield result
            bar.update(size(item))


class _Calls(Dataset[Any]):
    """What a call gives for each item, or what it raises."""

    def __init__(self, call: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self._call, self._items = call, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Any:
        try:
            return self._call(self._items[number])
        except (OSError, ValueError) as error:
            return error  # raised in another process it would arrive as pages of text


def _same(result: Any) -> Any:
    return result
