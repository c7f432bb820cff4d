"""The built-in sets after training: the parts that `rexnet train` learns from and validates on, and a test part."""
import argparse
from collections.abc import Callable

import torch.nn as nn
from torch.utils.data import Dataset

from ..data import DataDescription, SyntheticDepth, SyntheticShapes
from ..deployment.samples import num_classes_of
from .parsing import number, one_of

__all__ = ['PARTS', 'SETS', 'add_built_in', 'built_in_part']

SETS = {'synthetic': 'segmentation', 'synthetic-depth': 'depth'}  # and the task of each
# What is added to the seed, and images as a share of --synthetic-images. Training and validation are those of
# rexnet train; the test part is seen by neither.
PARTS = {'train': (0, 1), 'validation': (1, 8), 'val': (1, 8), 'test': (2, 8)}


def add_built_in(add: Callable[..., None]) -> None:
    """Add the options that name a built-in set to a group."""
    add('--dataset', kind=one_of('', *SETS), default='', help='a built-in set', unset='files')
    add('--synthetic-images', kind=number(int, at_least=1), default=512,
        help='training images of a built-in set, as in training; an eighth as many for validation and for test')
    add('--seed', kind=number(int, at_least=0), default=42, help='of a built-in set, as in training')


def built_in_part(args: argparse.Namespace, part: str, model: nn.Module, description: DataDescription) -> Dataset:
    """A part of the set of --dataset, as `rexnet train` makes it for such a model.

    Args:
        args: With the options of `add_built_in`, and `checkpoint` for messages.
        part: One of `PARTS`.
        model: The trained model.
        description: What it knows of its data.

    Raises:
        ValueError: A model of another task.
    """
    if description.task != SETS[args.dataset]:
        raise ValueError(
            f'--dataset {args.dataset} is for {SETS[args.dataset]}, and the model of --checkpoint {args.checkpoint} is '
            f'for {description.task}: pass data of that.')
    more, share = PARTS[part]
    length, seed = max(1, args.synthetic_images // share), args.seed + more
    if description.task == 'depth':
        return SyntheticDepth(length, tuple(description.input_size or (96, 128)), seed)
    return SyntheticShapes(length, num_classes=min(6, num_classes_of(model, description)), seed=seed)
