"""Calls that run ahead in threads, a few at a time, with their results in order."""
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ['called_ahead', 'default_threads']

Item, Result = TypeVar('Item'), TypeVar('Result')


def default_threads() -> int:
    """One for each core, at most 16."""
    return min(16, os.cpu_count() or 1)


def called_ahead(
        call: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Each item with what a function returns of it, in order.

    Decoders and NumPy let other threads run, so that files are read at the same time; and only a few results are held,
    however many items there are.

    Args:
        call: The function, which is called in threads.
        items: What it is called with, one at a time; they are taken as they are needed.
        threads: Calls at a time; None takes `default_threads`.

    Raises:
        Exception: What the function raises, when it is the turn of its item.
    """
    threads = threads or default_threads()
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(call, item)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
