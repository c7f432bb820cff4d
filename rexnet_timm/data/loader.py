""" Segmentation loader

One job: batches of (image, mask) for training and evaluation, over one or several processes. Samplers are torch's and
timm's, and the evaluation sampler's `num_valid_samples` is what `timm.task.evaluation_sample_limit` reads.

What differs from timm's `create_loader`: the random state of every training sample follows from seed, epoch and index
alone, so that neither the number of workers, nor that of processes, nor a resumed run changes an augmentation.
"""
import re
from collections.abc import Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.data.distributed_sampler import OrderedDistributedSampler
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ..errors import DatasetError


class SeededSamples(Dataset):
    """A map-style data set whose random state at each sample follows from (seed, epoch, index).

    The epoch is the sampler's, as `sampler.set_epoch(epoch)` left it when the loader's iteration began.

    Attributes:
        dataset: The wrapped data set.
    """

    def __init__(self, dataset: Dataset, sampler: DistributedSampler, seed: int) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed = np.random.SeedSequence((self.seed, self.sampler.epoch, index)).generate_state(1, np.uint32)[0]
        # Forked, because with num_workers=0 the generator is the one that the model's own randomness uses.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return self.dataset[index]


def create_segmentation_sampler(
        dataset: Sized,
        is_training: bool,
        distributed: bool = False,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
) -> DistributedSampler | OrderedDistributedSampler | None:
    """Create the sampler of a loader.

    Args:
        dataset: The data set, for its length.
        is_training: Shuffle by (seed, epoch); call the sampler's `set_epoch` before each epoch. Otherwise in order.
        distributed: Give each process its own part. Parts are made equally long by repeating samples; in evaluation
            the first `num_valid_samples` of a process are real, and over all processes each sample is so once.
        seed: Of the order in training, the same in all processes.
        num_replicas: Number of processes, None for that of the process group.
        rank: Of this process, None for that in the process group.

    Returns:
        The sampler; None (in order) for evaluation in one process.

    Raises:
        ValueError: `distributed` without a process group, num_replicas and rank not being given.
    """
    if not distributed:
        return DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=seed) if is_training else None
    if (num_replicas is None or rank is None) and not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            'distributed=True needs a process group, and none is initialised; start the script with torchrun or pass '
            'distributed=False.')
    if is_training:
        return DistributedSampler(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
    return OrderedDistributedSampler(dataset, num_replicas=num_replicas, rank=rank)


def collate_segmentation(
        samples: Sequence[tuple[torch.Tensor, torch.Tensor]],
        ignore_label: int,
        size_divisor: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack samples, padding smaller ones at the right and the bottom to the largest height and width among them.

    Args:
        samples: Pairs of image (C, H, W) and mask (H, W).
        ignore_label: Value of padded mask pixels; padded image pixels are 0, the mean colour after normalisation.
        size_divisor: Height and width are padded to a multiple of this.

    Returns:
        Images (N, C, H, W) and masks (N, H, W), dtypes as they came.
    """
    largest = (max(mask.shape[dim] for _, mask in samples) for dim in (-2, -1))
    height, width = (-(-side // size_divisor) * size_divisor for side in largest)
    images, masks = [], []
    for image, mask in samples:
        padding = (0, width - mask.shape[-1], 0, height - mask.shape[-2])
        images.append(F.pad(image, padding) if any(padding) else image)
        masks.append(F.pad(mask, padding, value=ignore_label) if any(padding) else mask)
    return torch.stack(images), torch.stack(masks)


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError for a training batch of one image, which ReXNet cannot normalise."""
    if batch_size < 2:
        raise ValueError(
            f'Training needs at least 2 images in the batch of each process, got batch_size {batch_size}: ReXNet '
            'normalises its squeeze-and-excitation over 1 x 1 maps, where one image has no variance; '
            'pass --batch-size 2 or more.')


def _check_training_batches(num_samples: int, batch_size: int, drop_last: bool, distributed: bool) -> None:
    check_batch_size(batch_size)
    where = ' of each process' if distributed else ''
    if num_samples < 2 or (drop_last and num_samples < batch_size):
        raise ValueError(
            f'Training needs at least one whole batch: the part{where} has {num_samples} samples, batch_size is '
            f'{batch_size}; pass a smaller --batch-size (at least 2), use fewer processes, or add data.')
    if not drop_last and num_samples % batch_size == 1:
        raise ValueError(
            f'No training batch may have a single image: {num_samples} samples{where} in batches of {batch_size} '
            'leave one over; pass drop_last=True or another --batch-size.')


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
) -> DataLoader:
    """Create a loader of image and mask batches.

    In training call `loader.sampler.set_epoch(epoch)` before each epoch: order and augmentation follow from `seed` and
    epoch. `loader.dataset` is then a `SeededSamples` around `dataset`.

    Args:
        dataset: Map-style; samples are a float32 image (C, H, W) and an int64 mask or a float32 depth (H, W).
        batch_size: Images a batch and process.
        is_training: Shuffled whole batches of at least 2, or all samples in order.
        num_workers: Processes that read, 0 to read in this one.
        distributed: Give each process of the process group its own part.
        seed: Of order and augmentation, at least 0, the same in all processes.
        pin_memory: Page-lock batches, for faster copies to a GPU.
        drop_last: Leave out a smaller last batch; None: in training.
        ignore_label: Label of padding between images of different size; None: `dataset.ignore_label`.
        size_divisor: Pad height and width to a multiple of this, for networks that need it.

    Returns:
        A loader of images (N, C, H, W) and masks (N, H, W).

    Raises:
        ValueError: A number out of range, a training batch of one image, fewer samples than one batch,
            `distributed` without a process group, no `ignore_label` to be found.
    """
    if batch_size < 1:
        raise ValueError(f'batch_size must be at least 1, got {batch_size}.')
    if seed < 0:
        raise ValueError(f'seed must be at least 0, got {seed}.')
    if ignore_label is None:
        ignore_label = getattr(dataset, 'ignore_label', None)
    if ignore_label is None:
        raise ValueError(
            f'Padding needs a label to ignore, and {type(dataset).__name__} has no ignore_label; pass ignore_label.')
    drop_last = is_training if drop_last is None else drop_last
    sampler = create_segmentation_sampler(dataset, is_training, distributed, seed)
    if is_training:
        _check_training_batches(len(sampler), batch_size, drop_last, distributed)
        dataset = SeededSamples(dataset, sampler, seed)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=partial(collate_segmentation, ignore_label=ignore_label, size_divisor=size_divisor),
        pin_memory=pin_memory,
        drop_last=drop_last,
        # A generator of its own: the workers' seeds neither depend on nor disturb the model's random state. Workers
        # start anew each epoch, which is how the epoch reaches them.
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=False,
    )


def sample_error_message(error: Exception) -> str:
    """The text of an error to print on one line, without the traceback that a loader's worker puts around it.

    Args:
        error: What iterating over a loader raised.

    Returns:
        The text of the `DatasetError`, raised here or in a worker; of any other error its `str`.
    """
    text = str(error)
    if not isinstance(error, DatasetError):
        return text
    # A worker's error carries the formatted traceback as its text; the last line of that names the class and the text.
    parts = re.split(rf'^(?:[\w.]+\.)?{DatasetError.__name__}: ', text, flags=re.MULTILINE)
    return parts[-1].strip()
