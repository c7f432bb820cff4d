"""What the kinds that predict pixels share: crops, loaders, and the weights of the scales."""
import argparse
from collections.abc import Sequence
from typing import Any

import torch.nn as nn

from ...data import create_segmentation_loader
from ..build import Process
from .base import Batches, least_batch

__all__ = ['DENSE_DEFAULTS', 'check_interpolation', 'dense_loaders', 'lengths', 'scale_weights']

# What trains networks of pixels on some hundred images in hours (docs/experiments.md). The parser's are timm's, for a
# million images of classes.
DENSE_DEFAULTS = {
    'batch_size': 8, 'epochs': 100, 'opt': 'adamw', 'weight_decay': 0.01, 'sched_on_updates': True, 'warmup_epochs': 1,
    'warmup_lr': 1e-4}
DENSE_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic')


def check_interpolation(args: argparse.Namespace) -> None:
    """ValueError for a way of resizing that only classification has."""
    if args.interpolation not in ('', *DENSE_INTERPOLATIONS):
        raise ValueError(
            f'--interpolation must be one of {", ".join(DENSE_INTERPOLATIONS)} for --model {args.model}, got '
            f'{args.interpolation!r}.')


def dense_loaders(
        args: argparse.Namespace,
        model: nn.Module,
        datasets: tuple[Any, Any],
        process: Process,
        input_size: Sequence[int],
        size_divisor: int = 1,
) -> tuple[Batches, Batches]:
    shared = dict(
        num_workers=args.workers, distributed=process.distributed, seed=args.seed,
        pin_memory=args.pin_mem and process.device.type == 'cuda', size_divisor=size_divisor)
    train_set, eval_set = datasets
    return (
        create_segmentation_loader(
            train_set, args.batch_size, is_training=True, min_batch_size=least_batch(args, model, input_size),
            **shared),
        create_segmentation_loader(
            eval_set, args.validation_batch_size or args.batch_size, is_training=False, **shared),
    )


def lengths(args: argparse.Namespace) -> tuple[int, int]:
    """Images of a built-in set for training and for validation."""
    return args.synthetic_images, max(1, args.synthetic_images // 8)


def scale_weights(words: Sequence[str]) -> str | list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return ' '.join(words)  # a name, which the loss checks
