"""Options that name a built-in set, for the commands after training."""
import argparse
from collections.abc import Callable

import torch.nn as nn
from torch.utils.data import Dataset

from ..data import DataDescription
from ..deployment.built_in import PARTS, SETS, built_in_set
from .values import number, one_of

__all__ = ['PARTS', 'SETS', 'add_built_in', 'built_in_part']


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
    return built_in_set(part, args.synthetic_images, args.seed, model, description)
