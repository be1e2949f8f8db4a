"""The next batch made while a step runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def one_ahead(make: Callable[[S], T], sources: Iterable[S]) -> Iterator[T]:
    """Give `make(source)` of every source, each made in a thread while the one before it is used.

        thread:     make 1  make 2     make 3
        consumer:           |  step 1  |  step 2  |  step 3

    One at a time, and a thread lives no longer than one `make`: however the consumer ends, none is left. What
    `make` raises is raised where its result is asked for.
    """
    coming: _InThread[T] | None = None
    for source in sources:
        ready, coming = coming, None
        if ready:
            ready.thread.join()
        coming = _InThread(lambda source=source: make(source))  # type: ignore[misc]
        if ready:
            yield ready.result()
    if coming:
        yield coming.result()


class _InThread(Generic[T]):
    """A call that runs in a thread of its own."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="next batch")
        self.thread.start()

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:  # whatever it is, it is the consumer's
            self._error = error

    def result(self) -> T:
        self.thread.join()
        if self._error is not None:
            raise self._error
        return self._made.pop()
