"""Which samples make up which training batch, and the random numbers that they are changed by.

Both follow from the seed, the epoch and the place in it. So neither the number of workers, nor that of processes, nor a
run that is stopped and goes on changes an augmentation, and a loader starts at any batch without reading those before.
"""
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, DistributedSampler

from ..seeds import seeded

__all__ = ['SeededSamples', 'TrainingSampler']


WINDOW = 2 ** 26  # bytes of the groups whose samples are shuffled together


class TrainingSampler(DistributedSampler):
    """The samples of this process in the order of an epoch, from any batch on; each as (epoch, index).

    The epoch goes with the index so that it reaches workers that live longer than an epoch.

    Any order of all samples is as likely as another. Only where a data set tells by a method `groups()` that a file
    gives samples only together (`pairs.Groups`), these groups come in a random order, and samples are shuffled among
    those of groups that together have 64 MiB.

    Attributes:
        batch_size: Samples in a batch of this process.

    Args:
        dataset: Map-style.
        batch_size: Samples in a batch of this process.
        num_replicas: Number of processes.
        rank: Of this process.
        seed: Of the order, the same in all processes.
    """

    def __init__(
            self, dataset: Dataset, batch_size: int, num_replicas: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.batch_size = batch_size
        self._first_batch = 0
        self._groups = dataset.groups() if hasattr(dataset, 'groups') else None

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration gives, from its first batch on."""
        self.start_at(epoch, 0)

    def start_at(self, epoch: int, batch: int) -> None:
        """The epoch that the next iteration gives, and the batch that it begins with. The length stays."""
        super().set_epoch(epoch)
        self._first_batch = batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in islice(self._order(), self._first_batch * self.batch_size, None))

    def samples_of(self, batch: int) -> list[int]:
        """The indices of a batch of the epoch."""
        return list(islice(self._order(), batch * self.batch_size, (batch + 1) * self.batch_size))

    def _order(self) -> Iterator[int]:
        """The indices of this process in the order of the epoch."""
        if self._groups is None:
            return super().__iter__()
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        numbers = _order_of_groups(*self._groups, generator)
        # as many for each process, the first ones again where they do not come out even
        return iter(np.resize(numbers, self.total_size)[self.rank:self.total_size:self.num_replicas].tolist())


def _order_of_groups(group_of_sample: np.ndarray, size_of_group: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Numbers of the samples, shuffled among those of groups that follow each other in a random order."""
    order = torch.randperm(len(size_of_group), generator=generator).numpy()
    sizes = size_of_group[order]
    window_of_group = np.empty(len(order), np.int64)
    window_of_group[order] = (np.cumsum(sizes) - sizes) // WINDOW
    places = torch.randperm(len(group_of_sample), generator=generator).numpy()
    return np.lexsort((places, window_of_group[group_of_sample]))


class SeededSamples(Dataset):
    """A map-style data set whose random state at each sample follows from (seed, epoch, index).

    It is asked for (epoch, index), as `TrainingSampler` gives them.

    Attributes:
        dataset: The wrapped data set.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        # what was there is put back, because without workers the model draws from the same states
        with seeded(self.seed, epoch, index):
            return self.dataset[index]

    def name(self, index: int) -> str:
        """What a sample is called in messages: its file where the data set tells it, or its number."""
        if hasattr(self.dataset, 'paths'):
            return str(self.dataset.paths(index)[0])
        if hasattr(self.dataset, 'filename'):
            return str(self.dataset.filename(index, absolute=True))
        return f'sample {index}'
