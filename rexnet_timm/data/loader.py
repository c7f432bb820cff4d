"""Batches of (image, mask) for training and evaluation, over one or several processes.

What differs from timm's `create_loader`:

* The order and the random state of every training sample follow only from seed, epoch and index (`sampling`).
* A sample of an evaluation is padded by an amount that follows only from its own size, and only samples of one padded
  size share a batch. Padding reaches the prediction (squeeze-and-excitation averages over it), so a metric would
  otherwise depend on the batch size.
"""
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from .sampling import SeededSamples, TrainingSampler


class EvaluationBatches(Sampler[list[int]]):
    """Every index once over all processes, in batches of samples of one size.

    The largest samples come first, so that a batch too large for the memory shows at once. Batches are dealt out in
    turn. A process that goes without one in the last round repeats the last batch of all, so that every process runs
    the same number of them: a model in DistributedDataParallel would wait for the others.

    Attributes:
        num_valid_samples: Samples of this process before the repeated ones, which come last. It is what
            `timm.task.evaluation_sample_limit` reads.

    Args:
        sizes: Height and width of every sample. Samples stay in the order of the data set within a size.
        batch_size: Most samples in a batch.
        num_replicas: Number of processes.
        rank: Of this process.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], batch_size: int, num_replicas: int = 1, rank: int = 0) -> None:
        of_size: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(sizes):
            of_size.setdefault(size, []).append(index)
        batches = []
        for size in sorted(of_size, key=math.prod, reverse=True):
            indices = of_size[size]
            step = min(batch_size, math.ceil(len(indices) / num_replicas))  # few samples are shared among all processes
            batches += [indices[start:start + step] for start in range(0, len(indices), step)]
        self.batches = batches[rank::num_replicas]
        self.num_valid_samples = sum(map(len, self.batches))
        if len(self.batches) < math.ceil(len(batches) / num_replicas):
            self.batches.append(batches[-1])

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class EvaluationLoader:
    """Batches of (images (N, C, H, W), masks (N, H, W)), each of samples of one padded size.

    Sizes that the data set tells by a method `sample_sizes()`, a list of (height, width), are used to fill batches.
    Where it has none, samples are read in order and a batch is split where they differ, so that the number of batches
    may differ between processes.

    Attributes:
        dataset: The data set.
        sampler: Iterates over the lists of indices of the batches. Flattened, it is the order in which the samples
            arrive, unless a batch had to be split.

    Args:
        loader: Loader of lists of batches.
        sizes_are_known: Whether the sampler had the sizes, so that no batch is split.
    """

    def __init__(self, loader: DataLoader, sizes_are_known: bool) -> None:
        self.dataset = loader.dataset
        self.sampler = loader.batch_sampler
        self._loader = loader
        self._length = len(loader) if sizes_are_known else None

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        number = 0
        for batches in self._loader:
            number += len(batches)
            yield from batches
        self._length = number

    def __len__(self) -> int:
        """Number of batches. A data set that does not tell sizes is read for it, unless it has been read to the end."""
        if self._length is None:
            self._length = sum(len(batches) for batches in self._loader)
        return self._length


def _padded_size(size: Sequence[int], size_divisor: int, min_size: int) -> tuple[int, int]:
    height, width = (-(-max(side, min_size) // size_divisor) * size_divisor for side in size)
    return height, width


def collate_segmentation(
        samples: Sequence[tuple[torch.Tensor, torch.Tensor]],
        ignore_label: int,
        size_divisor: int = 1,
        min_size: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack samples, padding smaller ones at the right and the bottom to the largest height and width among them.

    Args:
        samples: Pairs of image (C, H, W) and mask (H, W).
        ignore_label: Value of padded mask pixels; padded image pixels are 0, the mean colour after normalisation.
        size_divisor: Height and width are padded to a multiple of this.
        min_size: Height and width are padded to at least this.

    Returns:
        Images (N, C, H, W) and masks (N, H, W), dtypes as they came.
    """
    largest = [max(mask.shape[dim] for _, mask in samples) for dim in (-2, -1)]
    height, width = _padded_size(largest, size_divisor, min_size)
    images, masks = [], []
    for image, mask in samples:
        padding = (0, width - mask.shape[-1], 0, height - mask.shape[-2])
        images.append(F.pad(image, padding) if any(padding) else image)
        masks.append(F.pad(mask, padding, value=ignore_label) if any(padding) else mask)
    return torch.stack(images), torch.stack(masks)


def collate_equal_sizes(
        samples: Sequence[tuple[torch.Tensor, torch.Tensor]],
        ignore_label: int,
        size_divisor: int = 1,
        min_size: int = 1,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As `collate_segmentation`, but a batch for each size: what a sample is padded to depends on no other sample.

    Returns:
        A list of images (N, C, H, W) and masks (N, H, W), in the order in which their sizes occur.
    """
    of_size: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for image, mask in samples:
        of_size.setdefault(_padded_size(mask.shape[-2:], size_divisor, min_size), []).append((image, mask))
    return [collate_segmentation(group, ignore_label, size_divisor, min_size) for group in of_size.values()]


def check_batch_size(batch_size: int, min_batch_size: int = 1) -> None:
    """Raise ValueError for training batches that are smaller than a model needs.

    Args:
        batch_size: Images in a training batch of each process.
        min_batch_size: Fewest images on which the model can take a training step.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    if batch_size < min_batch_size:
        raise ValueError(
            f'The model needs at least {min_batch_size} images in the training batch of each process, got batch_size '
            f'{batch_size}; pass batch_size={min_batch_size} or more.')


def _check_training_batches(
        num_samples: int, batch_size: int, min_batch_size: int, drop_last: bool, distributed: bool) -> None:
    check_batch_size(batch_size, min_batch_size)
    min_batch_size = max(min_batch_size, 1)
    where, fewer = (' of each process', 'use fewer processes, ') if distributed else ('', '')
    if drop_last and min_batch_size <= num_samples < batch_size:
        raise ValueError(
            f'Training needs at least one whole batch: the part{where} has {num_samples} samples, batch_size is '
            f'{batch_size}; pass a batch_size from {min_batch_size} to {num_samples}, {fewer}or add data.')
    if num_samples < min_batch_size:
        raise ValueError(
            f'Training needs at least {min_batch_size} samples{where}, as many as the model needs in a batch, '
            f'got {num_samples}; {fewer}{"or " if fewer else ""}add data.')
    rest = num_samples % batch_size
    if not drop_last and 0 < rest < min_batch_size:
        raise ValueError(
            f'The model needs at least {min_batch_size} images in every training batch: {num_samples} samples{where} '
            f'in batches of {batch_size} leave {rest} over; pass another batch_size'
            + (', or drop_last=True.' if num_samples > batch_size else '.'))


def create_segmentation_loader(
        dataset: Dataset,
        batch_size: int,
        is_training: bool,
        num_workers: int = 1,
        distributed: bool = False,
        seed: int = 0,
        pin_memory: bool = False,
        drop_last: bool | None = None,
        ignore_label: int | None = None,
        size_divisor: int = 1,
        min_size: int = 32,
        min_batch_size: int = 1,
) -> DataLoader | EvaluationLoader:
    """Create a loader of image and mask batches.

    In training call `loader.sampler.set_epoch(epoch)` before each epoch, or `start_at(epoch, batch)`: order and
    augmentation follow from `seed` and epoch. `loader.dataset` is then a `SeededSamples` around `dataset`, and the
    sampler a `TrainingSampler`.

    In evaluation every sample comes once over all processes, and what the model sees of it does not depend on
    `batch_size`: samples of different size are not put into one batch. A data set with a method `sample_sizes()` fills
    its batches with samples of one size, largest first; see `EvaluationLoader`.

    Args:
        dataset: Map-style; samples are a float32 image (C, H, W) and an int64 mask or a float32 depth (H, W).
        batch_size: Images a batch and process; in evaluation at most so many.
        is_training: Shuffled whole batches, or all samples once.
        num_workers: Processes that read, 0 to read in this one.
        distributed: Give each process of the process group its own part.
        seed: Of order and augmentation, at least 0, the same in all processes.
        pin_memory: Page-lock batches, for faster copies to a GPU.
        drop_last: Leave out a smaller last batch in training; None: yes. An evaluation leaves nothing out.
        ignore_label: Label of padding; None: `dataset.ignore_label`.
        size_divisor: Pad height and width to a multiple of this, for networks that need it.
        min_size: Pad height and width to at least this in evaluation, for networks that take nothing smaller.
        min_batch_size: Fewest images on which the model can take a training step.

    Returns:
        A loader of images (N, C, H, W) and masks (N, H, W), padded at the right and the bottom.

    Raises:
        ValueError: A number out of range, training batches smaller than the model needs, fewer samples than one batch,
            `distributed` without a process group, no `ignore_label` to be found.
        DatasetError: In evaluation, what `sample_sizes()` finds wrong with a file.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    if seed < 0:
        raise ValueError(f'seed must be at least 0, got {seed}.')
    if drop_last and not is_training:
        raise ValueError('drop_last is for training: an evaluation counts every sample; leave it out.')
    if ignore_label is None:
        ignore_label = getattr(dataset, 'ignore_label', None)
    if ignore_label is None:
        raise ValueError(
            f'Padding needs a label to ignore, and {type(dataset).__name__} has no ignore_label; pass ignore_label.')
    if distributed and not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            'distributed=True needs a process group, and none is initialised; start the script with torchrun or pass '
            'distributed=False.')
    num_replicas, rank = (dist.get_world_size(), dist.get_rank()) if distributed else (1, 0)
    shared = dict(
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A generator of its own: the workers' seeds neither depend on nor disturb the model's random state.
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=False,
    )
    if is_training:
        drop_last = drop_last is None or drop_last
        sampler = TrainingSampler(dataset, batch_size, num_replicas, rank, seed)
        _check_training_batches(len(sampler), batch_size, min_batch_size, drop_last, distributed)
        return DataLoader(
            SeededSamples(dataset, seed), batch_size, sampler=sampler, drop_last=drop_last,
            collate_fn=partial(collate_segmentation, ignore_label=ignore_label, size_divisor=size_divisor), **shared)

    padding = dict(size_divisor=size_divisor, min_size=min_size)
    sizes_are_known = hasattr(dataset, 'sample_sizes')
    sizes = dataset.sample_sizes() if sizes_are_known else [(1, 1)] * len(dataset)
    sizes = [_padded_size(size, **padding) for size in sizes]
    loader = DataLoader(
        dataset, batch_sampler=EvaluationBatches(sizes, batch_size, num_replicas, rank),
        collate_fn=partial(collate_equal_sizes, ignore_label=ignore_label, **padding), **shared)
    return EvaluationLoader(loader, sizes_are_known)
