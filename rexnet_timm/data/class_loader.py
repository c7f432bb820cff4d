"""Training batches of images and classes: timm's transforms and transfer, over seeded samples.

timm's `create_loader` draws order and augmentation from random states that a run that goes on does not have.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate
from torch.utils.data import DataLoader, Dataset

from .sampling import SeededSamples, TrainingSampler

__all__ = ['create_class_loader']


def create_class_loader(
        dataset: Dataset,
        input_size: Sequence[int],
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        num_workers: int = 1,
        distributed: bool = False,
        seed: int = 0,
        pin_memory: bool = False,
        device: torch.device | str = 'cpu',
        **transform: Any,
) -> PrefetchLoader:
    """Create a loader of shuffled whole training batches, whose last smaller one is left out.

    Call `loader.sampler.set_epoch(epoch)` before each epoch, or `start_at(epoch, batch)`.

    Args:
        dataset: Map-style, of PIL images and classes, with an attribute `transform`, which is set.
        input_size: Channels, height and width of the images.
        batch_size: Images a batch and process.
        mean: Mean of each channel, of 1.
        std: Standard deviation of each channel, of 1.
        num_workers: Processes that read, 0 to read in this one.
        distributed: Give each process of the process group its own part.
        seed: Of order and augmentation, at least 0, the same in all processes.
        pin_memory: Page-lock batches, for faster copies to a GPU.
        device: Where batches are brought, while the batch before is trained on.
        **transform: Further arguments of timm's `create_transform`.

    Returns:
        A loader of images float32 (N, C, H, W), normalised, and classes int64 (N), both on the device.
    """
    dataset.transform = create_transform(
        tuple(input_size), is_training=True, use_prefetcher=True, mean=mean, std=std, **transform)
    num_replicas, rank = (dist.get_world_size(), dist.get_rank()) if distributed else (1, 0)
    loader = DataLoader(
        SeededSamples(dataset, seed), batch_size,
        sampler=TrainingSampler(dataset, batch_size, num_replicas, rank, seed), drop_last=True,
        collate_fn=fast_collate, num_workers=num_workers, pin_memory=pin_memory, persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(seed))
    return PrefetchLoader(loader, mean=mean, std=std, channels=input_size[0], device=torch.device(device))
