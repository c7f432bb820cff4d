"""Classes of pixels."""
import argparse
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from timm.task import TrainingTask

from ...data import DataDescription, SegmentationFolder, SyntheticShapes, create_segmentation_transform
from ...data.bands import EIGHT_BITS
from ...data.description import IMAGE_EXTENSIONS
from ...data.formats import data_above, holds_masks
from ...training.base_losses import create_segmentation_loss
from ...training.losses import MultiScaleLoss
from ...training.tasks import SegmentationTask
from ..build import Process, in_channels, is_smp
from ..data_options import described, scale_words, summary
from ..unused import CLASSIFICATION, DEPTH, NEEDS, NEEDS_OF_SCALES, NEEDS_OF_SEGMENTATION, SCALES, warn_of_unused
from .base import Batches, Kind, data_config, names_of_split
from .dense import DENSE_DEFAULTS, check_interpolation, dense_loaders, lengths, scale_weights

_logger = logging.getLogger(__name__)

__all__ = ['Segmentation']


class Segmentation(Kind):
    """Classes of pixels: all of SMP's architectures and this package's U-Nets."""

    name = 'segmentation'
    without_effect = frozenset(CLASSIFICATION | DEPTH)
    needs = (*NEEDS, *NEEDS_OF_SCALES, *NEEDS_OF_SEGMENTATION)
    takes_files = True
    defaults = {**DENSE_DEFAULTS, 'opt': 'nmuon', 'seg_loss': 'ce+dice+dice'}
    rates = {'nmuon': 2e-3, 'adamw': 1e-3}

    def __init__(self) -> None:
        self._data: DataDescription | None = None

    def defaults_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        defaults = super().defaults_beside(given)
        if given.get('scale_target') == 'soft':
            del defaults['seg_loss']  # shares of classes are a target of the cross entropy only
        return defaults

    def _described(self, args: argparse.Namespace) -> DataDescription:
        """What is known of the data, found once a run."""
        if self._data is None:
            is_said = not os.path.isdir(args.data_dir) or args.image_dir or args.data_format not in (None, 'auto')
            if not is_said and not holds_masks(args.data_dir, args.train_split):
                above = data_above(args.data_dir)
                if above is not None:
                    raise ValueError(
                        f'{args.data_dir!r} is a part of a data set: {above[0]!r} is of the format {above[1]}; pass '
                        'that folder.')
                if _has_class_folders(args):
                    raise ValueError(
                        f'--model {args.model} learns masks, and {args.data_dir!r} holds folders of images without '
                        'any: pass --model rexnetv1_1_0 where they are classes, or add a folder of masks beside each, '
                        'or name the folders by --image-dir and --mask-dir.')
            self._data = described(args, args.data_dir, args.ignore_index)
        return self._data

    def check(self, args: argparse.Namespace) -> None:
        if args.dataset == 'synthetic-depth':
            raise ValueError(
                f'--dataset synthetic-depth has depth and no classes, got --model {args.model} for segmentation: pass '
                '--model rexdepth_1_0, or --dataset synthetic for segmentation.')
        if args.dataset not in ('', 'synthetic'):
            raise ValueError(
                f'--model {args.model} learns masks, got --dataset {args.dataset}, which has none: give a folder of '
                'images and masks, or --dataset synthetic.')
        super().check(args)
        check_interpolation(args)
        _check_background(args)
        if is_smp(args.model) and args.model.lower() != 'multiscaleunet':
            unused = SCALES - {'scales'} | {'scale_target', 'object_share', 'background_classes'}
            warn_of_unused(args, f'--model {args.model}, which has one scale', unused)

    def takes_plan(self, args: argparse.Namespace) -> bool:
        return args.dataset != 'synthetic'

    def num_classes(self, args: argparse.Namespace) -> int:
        """Channels of the logits. ValueError where they are needed and not given."""
        if args.num_classes is not None:
            return args.num_classes
        if args.dataset == 'synthetic':
            return SyntheticShapes(1).num_classes
        number = self._described(args).num_classes
        if number is None:
            self._described(args).source.samples(args.train_split)  # where there are no masks, that is the mistake
            raise ValueError(
                '--num-classes is needed for segmentation: the classes of the masks, or 1 if binary. "rexnet check" '
                'counts them.')
        return number

    def datasets(self, args: argparse.Namespace, num_classes: int) -> tuple[Any, Any]:
        if args.dataset == 'synthetic':
            # another seed gives other images
            return tuple(
                SyntheticShapes(length, num_classes=max(2, num_classes), seed=args.seed + index)
                for index, length in enumerate(lengths(args)))
        train_set = SegmentationFolder(
            self._described(args), args.train_split, num_classes, in_chans=in_channels(args))
        train_set.crops = args.crops_per_image
        # images of the other split are read by what was found in, and measured on, those of training
        known = self._described(args).seen_as(train_set.description)
        datasets = train_set, SegmentationFolder(known, args.val_split, num_classes, in_chans=train_set.in_chans)
        told = train_set.told_of_labels()
        lines = [*train_set.told_of_images(), datasets[1].cut_large()]
        if args.no_aug:  # whole images, or whole tiles, are resized to the crop
            lines.append(train_set.cut_large())
        if int(os.environ.get('RANK') or 0) == 0:
            _logger.info(summary(datasets))
            if told and 'looked at' in told:
                told += '; "rexnet check" counts all'
            for line in filter(None, (*lines, told)):
                _logger.warning(line)
        return datasets

    def completed(self, args: argparse.Namespace, datasets: tuple[Any, Any]) -> argparse.Namespace:
        """With the channels and the scale of the images, and where weights know nothing of them their mean and std."""
        found: dict[str, Any] = {'in_chans': in_channels(args) or datasets[0].in_chans}
        if isinstance(datasets[0], SegmentationFolder):
            scale = datasets[0].description.image_scale
            if scale != EIGHT_BITS:
                found['image_scale'] = scale_words(scale)
            measured = datasets[0].statistics() if args.mean is None or args.std is None else None
            for name, values in zip(('mean', 'std'), measured or (), strict=False):
                if getattr(args, name) is None:
                    found[name] = list(values)
            if measured and int(os.environ.get('RANK') or 0) == 0:
                shown = (' '.join(f'{value:.3g}' for value in values) for values in measured)
                _logger.info('Mean %s and deviation %s of the images are measured.', *shown)
        return argparse.Namespace(**{**vars(args), **found})

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        config = data_config(args, model, datasets[0].in_chans)
        in_chans, *crop_size = config['input_size']
        # most of SMP's architectures take only multiples; validation images are padded to one, and the padding is
        # ignored
        size_divisor = model.encoder.output_stride if model.requires_divisible_input_shape else 1
        if any(side % size_divisor for side in crop_size):
            raise ValueError(
                f'--model {args.model} takes multiples of {size_divisor}, got crops of {crop_size[0]} x '
                f'{crop_size[1]}: change --img-size or --input-size.')
        if args.class_balanced_crops and not args.no_aug and isinstance(datasets[0], SegmentationFolder):
            datasets[0].find_classes()
        for is_training, dataset in zip((True, False), datasets, strict=True):
            dataset.transform = create_segmentation_transform(
                is_training and not args.no_aug,
                img_size=tuple(crop_size) if is_training else None,
                mean=config['mean'],
                std=config['std'],
                ignore_label=dataset.ignore_label,
                scale=tuple(args.scale or (0.5, 2.0)),
                hflip=args.hflip,
                vflip=args.vflip,
                color_jitter=args.color_jitter,
                interpolation=args.interpolation or 'bilinear',
                in_chans=in_chans,
                has_colors=getattr(dataset, 'has_colors', True),
                rotation=args.rotation,
                elastic=args.elastic,
                balanced_share=args.class_balanced_crops,
            )
        return dense_loaders(args, model, datasets, process, config['input_size'], size_divisor)

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        criterion = MultiScaleLoss(
            create_segmentation_loss(args.seg_loss, num_classes, dataset.ignore_label, args.class_weights),
            weights=scale_weights(args.scale_weights), target=args.scale_target, ignore_index=dataset.ignore_label,
            object_share=args.object_share, background=args.background_classes, fade_epochs=args.fade_epochs)
        criterion.scale_weights(getattr(model, 'scales', (0,)))  # as many as there are scales, or an error now
        return SegmentationTask(
            model, num_classes, criterion, dataset.ignore_label, dataset.class_names, device=process.device,
            verbose=process.primary)

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        own = super()._own_description(args, dataset, config)
        if not isinstance(dataset, SegmentationFolder):
            return {**own, 'class_names': dataset.class_names}
        data = dataset.description
        return {**own, **{name: getattr(data, name) for name in (
            'class_names', 'colors', 'ignore_index', 'label_map', 'color_map', 'foreground', 'bands', 'image_scale',
            'layout')}}


def _check_background(args: argparse.Namespace) -> None:
    """ValueError for a class of the background that is none of the classes."""
    number = max(2, args.num_classes or 2)
    if args.scale_target == 'object' and args.num_classes and max(args.background_classes) >= number:
        raise ValueError(
            f'--background-classes must be classes from 0 to {number - 1}, got '
            f'{" ".join(map(str, args.background_classes))}.')


def _has_class_folders(args: argparse.Namespace) -> bool:
    """Whether the training part of a folder has folders of images, as classification takes them."""
    part = next((path for name in names_of_split(args.train_split)
                 if os.path.isdir(path := os.path.join(args.data_dir, name))), args.data_dir)
    return any(
        entry.is_dir() and any(file.name.lower().endswith(IMAGE_EXTENSIONS) for file in os.scandir(entry))
        for entry in os.scandir(part))
