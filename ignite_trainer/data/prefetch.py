"""Make the next batch in a thread while a step uses the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def one_ahead(make: Callable[[S], T], sources: Iterable[S]) -> Iterator[T]:
    """Yield `make(source)` for each source, each made in a thread while the previous one is used.

        thread:     make 1  make 2     make 3
        consumer:           |  step 1  |  step 2  |  step 3

    One is made at a time. An error of `make` is raised where its result would be yielded.
    """
    coming: Future[T] | None = None
    for source in sources:
        if coming:
            wait([coming])
        ready, coming = coming, in_thread(make, source)
        if ready:
            yield ready.result()
    if coming:
        yield coming.result()


def in_thread(function: Callable[..., T], *args: Any) -> Future[T]:
    """Start a call in a thread that ends with it: loader processes are not forked beside idle threads."""
    executor = ThreadPoolExecutor(max_workers=1)
    future = executor.submit(function, *args)
    executor.shutdown(wait=False)
    return future
