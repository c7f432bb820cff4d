"""Times of several calls, taken in turn."""
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

__all__ = ['time_in_turns']

Name = TypeVar('Name', bound=Hashable)


def time_in_turns(
        calls: Mapping[Name, Callable[[], Any]], rounds: int, after_round: Callable[[int], None] = lambda number: None,
) -> dict[Name, list[float]]:
    """Seconds that each of several calls takes.

    In every round each takes its turn, so that a machine whose speed drifts is as fast for one as for the other. A turn
    is a call that is not timed and two that are; the first round does not count.

    Args:
        calls: What to call, by name.
        rounds: Rounds that count, at least 1.
        after_round: Called with the number of each round that has ended, from 0 to `rounds`.

    Returns:
        Two times a round of each call.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            for turn in range(3):
                start = time.perf_counter()
                call()
                if number > 0 and turn > 0:
                    seconds[name].append(time.perf_counter() - start)
        after_round(number)
    return seconds
