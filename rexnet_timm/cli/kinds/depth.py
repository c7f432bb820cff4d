"""Depth of pixels."""
import argparse
import logging
import os
from typing import Any

import torch.nn as nn
from timm.task import TrainingTask

from ...data import DepthFolder, SyntheticDepth, create_depth_transform
from ...data.formats import holds_masks
from ...training.depth_losses import MultiScaleDepthLoss
from ...training.tasks import DepthTask
from ..build import Process, in_channels
from ..data_options import depth_summary, described_depth
from ..unused import CLASSIFICATION, NEEDS, NEEDS_OF_DEPTH, NEEDS_OF_SCALES, OF_LAYOUT, SEGMENTATION
from .base import Batches, Kind, data_config
from .dense import DENSE_DEFAULTS, check_interpolation, dense_loaders, lengths, scale_weights

_logger = logging.getLogger(__name__)

__all__ = ['Depth']


class Depth(Kind):
    """Depth of pixels: ReXDepth."""

    name = 'depth'
    without_effect = frozenset((CLASSIFICATION | SEGMENTATION | {'scale', 'vflip'}) - OF_LAYOUT)
    needs = (*NEEDS, *NEEDS_OF_SCALES, *NEEDS_OF_DEPTH)
    takes_files = True
    defaults = DENSE_DEFAULTS
    rates = {'adamw': 1e-3}

    def check(self, args: argparse.Namespace) -> None:
        if args.dataset not in ('', 'synthetic-depth'):
            raise ValueError(
                f'--model {args.model} learns depth, got --dataset {args.dataset}: give a folder of images and depth, '
                '--dataset synthetic-depth, or a model such as rexnetv1_unet_1_0 for masks and rexnetv1_1_0 for '
                'classes.')
        super().check(args)
        check_interpolation(args)
        if args.dataset and in_channels(args) not in (None, 3):
            raise ValueError(f'--dataset synthetic-depth has RGB images, got {in_channels(args)} channels: take 3.')
        if args.num_classes not in (None, 1):
            raise ValueError(
                f'--model {args.model} predicts disparity, which is one channel and no classes, got --num-classes '
                f'{args.num_classes}: leave it out.')

    def num_classes(self, args: argparse.Namespace) -> int:
        """One channel of disparity."""
        return 1

    def datasets(self, args: argparse.Namespace, num_classes: int) -> tuple[Any, Any]:
        if not args.dataset:
            return self._folders(args)
        size = (args.input_size or [3, args.img_size, args.img_size])[1:]
        return tuple(
            SyntheticDepth(length, tuple(size) if all(size) else (96, 128), seed=args.seed + index)
            for index, length in enumerate(lengths(args)))

    @staticmethod
    def _folders(args: argparse.Namespace) -> tuple[DepthFolder, DepthFolder]:
        data = described_depth(args, args.data_dir)
        has_depth = data.layout.keys() & {'image_dir', 'split_file'} or data.source.name_of(args.train_split)
        masks = None if has_depth or os.path.isfile(args.data_dir) else holds_masks(args.data_dir, args.train_split)
        if masks:
            raise ValueError(
                f'--model {args.model} learns depth, and {args.data_dir!r} holds images with masks ({masks}): pass a '
                'model such as rexnetv1_unet_1_0, or name the folders by --image-dir and --depth-dir.')
        datasets = tuple(
            DepthFolder(data, split, in_chans=in_channels(args) or 3) for split in (args.train_split, args.val_split))
        if int(os.environ.get('RANK') or 0) == 0:
            told, is_suspect = depth_summary(datasets, args.min_depth, args.max_depth)
            _logger.info(told)
            if is_suspect:
                _logger.warning(
                    'Most of the depth is out of the range that counts: check --depth-scale, --min-depth and '
                    '--max-depth.')
        return datasets

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        config = data_config(args, model, datasets[0].in_chans)
        size = tuple(config['input_size'][1:])
        for is_training, dataset in zip((True, False), datasets, strict=True):
            dataset.transform = create_depth_transform(
                is_training and not args.no_aug,
                img_size=size,
                mean=config['mean'],
                std=config['std'],
                hflip=args.hflip,
                color_jitter=args.color_jitter,
                interpolation=args.interpolation or 'bilinear',
                in_chans=config['input_size'][0],
            )
        return dense_loaders(args, model, datasets, process, config['input_size'])

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        criterion = MultiScaleDepthLoss(
            args.min_depth, args.max_depth, scale_weights(args.scale_weights), args.smoothness,
            fade_epochs=args.fade_epochs)
        criterion.multi_scale.scale_weights(model.scales)  # as many as there are scales, or an error now
        return DepthTask(model, criterion, device=process.device, verbose=process.primary)

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        own = super()._own_description(args, dataset, config)
        own |= {'min_depth': args.min_depth, 'max_depth': args.max_depth}
        if isinstance(dataset, DepthFolder):
            own |= {'depth_scale': dataset.depth_scale, 'layout': dataset.description.layout}
        return own
