"""A value that is kept for as long as the tensors that it was made from are what they were."""

import operator
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Kept(Generic[T]):
    """Make a value once, and anew when a tensor behind it is written, cast, moved or replaced.

    A write through `parameter.data` goes unseen, as it does to autograd, and so does a step of a fused
    optimizer: after one, call `torch.autograd.graph.increment_version(parameters)`, as the trainer does.
    Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget the value."""
        self._value: T | None = None
        self._sources: tuple[Tensor, ...] = ()
        self._state: tuple[object, ...] = ()

    def get(self, make: Callable[[], T], sources: Iterable[Tensor], *, setting: object = None) -> T:
        """Return the value that was made from `sources`; if they or `setting` changed since, make it."""
        sources = tuple(sources)
        state = (setting, *_state(sources))
        same = len(sources) == len(self._sources) and all(map(operator.is_, sources, self._sources))
        if self._value is None or not same or state != self._state:
            self._value = make()
            self._sources = sources  # held, so that no other tensor takes their place in memory
            self._state = state
        return self._value

    def __reduce__(self) -> tuple[type["Kept[T]"], tuple[()]]:
        return type(self), ()


def _state(sources: tuple[Tensor, ...]) -> tuple[object, ...]:
    """What changes when a tensor is written in place, cast or moved, or inference mode switched.

    The version of a tensor has no public name. Inference tensors have none; under them every state is new.
    """
    return (
        torch.is_inference_mode_enabled(),
        *((object() if t.is_inference() else t._version, t.data_ptr(), t.dtype, t.device) for t in sources),
    )
