"""Batches made ahead: in order, beside the consumer, with errors told, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ignite_trainer.data.prefetch import one_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_everything_is_made_once_and_in_order(count: int) -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    assert list(one_ahead(make, range(count))) == [number * number for number in range(count)]
    assert made == list(range(count))


def test_the_next_one_is_made_while_the_last_one_is_used_and_no_further() -> None:
    made = [threading.Event() for _ in range(4)]
    threads: set[threading.Thread] = set()

    def make(number: int) -> int:
        threads.add(threading.current_thread())
        made[number].set()
        return number

    for number in one_ahead(make, range(4)):
        if number < 3:
            assert made[number + 1].wait(timeout=5)  # would never come, were it made when asked for
        assert not any(event.is_set() for event in made[number + 2 :])
    assert threading.current_thread() not in threads


def test_one_is_made_at_a_time() -> None:
    lock = threading.Lock()

    def make(number: int) -> int:
        assert lock.acquire(blocking=False)
        threading.Event().wait(0.005)
        lock.release()
        return number

    assert list(one_ahead(make, range(5))) == list(range(5))


def test_what_goes_wrong_is_told_where_the_result_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("sample 2 cannot be read")
        return number

    batches, given = one_ahead(make, range(5)), []
    with pytest.raises(OSError, match=r"^sample 2 cannot be read$"):
        for batch in batches:
            given.append(batch)  # noqa: PERF402 (an error ends it)
    assert given == [0, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_consumer_that_stops_early_leaves_nothing_behind(error: type[BaseException]) -> None:
    batches = one_ahead(lambda number: number, range(1000))
    with pytest.raises(error):
        for number in batches:
            if number == 3:
                raise error
    # The iterator is still there, as it is in an engine that was interrupted.
    assert next(batches, None) is not None
