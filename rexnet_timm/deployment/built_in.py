"""The built-in sets after training: the parts that a run learns from and validates on, and a test part."""
import torch.nn as nn
from torch.utils.data import Dataset

from ..data import DataDescription, SyntheticDepth, SyntheticShapes
from .samples import num_classes_of

__all__ = ['PARTS', 'SETS', 'built_in_set']

SETS = {'synthetic': 'segmentation', 'synthetic-depth': 'depth'}  # and the task of each
# What is added to the seed, and images as a share of those for training. Training and validation are those of a run;
# the test part is seen by neither.
PARTS = {'train': (0, 1), 'validation': (1, 8), 'val': (1, 8), 'test': (2, 8)}


def built_in_set(part: str, num_images: int, seed: int, model: nn.Module, description: DataDescription) -> Dataset:
    """A part of the set of a model's task, as a run makes it for such a model.

    Args:
        part: One of `PARTS`.
        num_images: Training images of the run.
        seed: Of the run.
        model: The trained model.
        description: What it knows of its data; its task is one of those of `SETS`.
    """
    more, share = PARTS[part]
    length, seed = max(1, num_images // share), seed + more
    if description.task == 'depth':
        return SyntheticDepth(length, tuple(description.input_size or (96, 128)), seed)
    return SyntheticShapes(length, num_classes=min(6, num_classes_of(model, description)), seed=seed)
