"""How fast a run goes: time left, the share of time spent waiting for data, memory."""
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

__all__ = ['Pace', 'peak_memory']


class Pace:
    """Times the batches of an epoch.

    Args:
        left: Batches that the run still has, with those of this epoch.
        device: Of the model.
    """

    def __init__(self, left: int, device: torch.device) -> None:
        self._left = left
        self._device = device
        self._number = 0
        self._waited = 0.
        self._start = time.perf_counter()

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time that each one takes to come counts as waiting."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch
            self._number += 1

    def text(self) -> str:
        """Seconds a batch, what of it is waiting for data, memory, and the time left, without evaluations."""
        number = self._number + 1  # the batch that is under way is done where this is asked
        seconds = time.perf_counter() - self._start
        return (
            f'{seconds / number:.3f} s/batch  {self._waited / max(seconds, 1e-9):.0%} waiting for data  '
            f'{peak_memory(self._device) / 1e9:.2f} GB  {_hours(seconds / number * (self._left - number))} left')

    def seconds(self) -> dict[str, float]:
        """Of the epoch so far: 'batches' done, and the seconds of 'data', waiting for it, and of 'step', the rest."""
        seconds = time.perf_counter() - self._start
        return {'batches': self._number, 'data': self._waited, 'step': seconds - self._waited}

    def whole(self) -> str:
        """Seconds of the epoch so far, and what of them was waiting for data."""
        seconds = time.perf_counter() - self._start
        return (f'took {seconds:.1f} s, of which {self._waited:.1f} s ({self._waited / max(seconds, 1e-9):.0%}) were '
                'spent waiting for data')


def _hours(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}'


def peak_memory(device: torch.device) -> int:
    """Bytes that were held at most: on a CUDA device by tensors, otherwise by this process; 0 where nothing tells."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
