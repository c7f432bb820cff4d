"""Classes of images."""
import argparse
import os
from typing import Any

import torch
import torch.nn as nn
from timm.data import Mixup, create_dataset, create_loader
from timm.data.random_erasing import RandomErasing
from timm.loss import create_classification_loss
from timm.task import ClassificationTask, TrainingTask
from torch.utils.data import IterableDataset

from ...data import create_class_loader
from ...data.class_folder import ClassFolder
from ...data.formats import holds_masks
from ...errors import first_sentence
from ...files import some
from ..build import Process, in_channels
from ..unused import DEPTH, NEEDS, NEEDS_OF_CLASSIFICATION, SCALES, SEGMENTATION, SYNTHETIC
from .base import Batches, Kind, Mix, data_config, least_batch, names_of_split

__all__ = ['Classification']


class Classification(Kind):
    """Classes of images: any other model of timm."""

    name = 'classification'
    without_effect = frozenset(SEGMENTATION | SCALES - {'scales'} | DEPTH)
    needs = (*NEEDS, *NEEDS_OF_CLASSIFICATION)

    def check(self, args: argparse.Namespace) -> None:
        if args.dataset in SYNTHETIC:
            fitting = 'rexdepth_1_0' if args.dataset == 'synthetic-depth' else 'rexnetv1_unet_1_0'
            content = 'depth and no classes' if args.dataset == 'synthetic-depth' else 'masks and no classes of images'
            raise ValueError(
                f'--dataset {args.dataset} has {content}, got --model {args.model} for classification: pass --model '
                f'{fitting}.')
        super().check(args)
        if in_channels(args) not in (None, 1, 3):
            raise ValueError(
                f'Images of classes are read as grey (1 channel) or RGB (3), got {in_channels(args)} channels: take '
                'one of the two.')
        if (args.mixup or args.cutmix) and args.batch_size % 2:
            raise ValueError(
                f'--mixup and --cutmix mix pairs of images and need an even --batch-size, got {args.batch_size}.')
        if args.class_map and not os.path.isfile(args.class_map):
            raise ValueError(f'--class-map must be a file of class names, one a line, and {args.class_map!r} is none.')
        if args.class_map and not args.class_map.lower().endswith('.txt'):  # timm would read a .pkl as a pickle
            raise ValueError(
                f'--class-map must be a text file that ends in .txt, one name a line, got {args.class_map!r}: write '
                'the names into one, in the order of their indices.')
        source = args.dataset.partition('/')[0].lower()
        if source in ('torch', 'wds') and args.data_dir is None:
            raise ValueError(f'--dataset {args.dataset} is read from a folder: pass --data-dir.')
        if not args.dataset:
            self._check_folder(args)

    @staticmethod
    def _check_folder(args: argparse.Namespace) -> None:
        found = holds_masks(args.data_dir, args.train_split)
        if found:
            raise ValueError(
                f'--model {args.model} learns one class for each image, and {args.data_dir!r} holds images with masks '
                f'({found}): pass --model rexnetv1_unet_1_0 and --num-classes, or a folder '
                'with a folder of images for each class.')
        for flag, split in (('--train-split', args.train_split), ('--val-split', args.val_split)):
            # timm would take all images for a part that is not there
            if not any(os.path.exists(os.path.join(args.data_dir, name)) for name in names_of_split(split)):
                found = sorted(entry.name for entry in os.scandir(args.data_dir) if entry.is_dir())
                raise ValueError(
                    f'{args.data_dir!r} must have a folder {split!r} with a folder of images for each class, and has '
                    f'{f"the folders {some(found)}" if found else "no folders"}: make it, or name another by {flag}.')

    def datasets(self, args: argparse.Namespace, num_classes: int | None) -> tuple[Any, Any]:
        found = []
        for split, is_training in ((args.train_split, True), (args.val_split, False)):
            try:
                mode = 'L' if in_channels(args) == 1 else 'RGB'
                dataset = create_dataset(
                    args.dataset, root=args.data_dir, split=split, is_training=is_training, class_map=args.class_map,
                    batch_size=args.batch_size, seed=args.seed, input_img_mode=mode)
                dataset = dataset if args.dataset else ClassFolder(dataset.reader, mode)
            except (RuntimeError, AssertionError) as error:
                form = f'of --dataset {args.dataset}' if args.dataset else 'folders of images, one for each class'
                raise ValueError(f'The {split!r} part of {args.data_dir!r} must be {form}: {error}') from error
            except ImportError as error:
                if not args.dataset:
                    raise
                raise ValueError(
                    f'--dataset {args.dataset} needs a package that is not installed: {first_sentence(error)} Install '
                    'it, or take another data set.') from error
            if num_classes is not None:
                self._check_classes(args, split, dataset, num_classes)
            found.append(dataset)
        train_classes, val_classes = map(_class_indices, found)
        if not args.dataset and train_classes != val_classes:
            # each part numbers its own classes, so the numbers would not mean the same
            different = sorted(train_classes.keys() ^ val_classes.keys()) or sorted(train_classes)
            raise ValueError(
                f'Both parts of {args.data_dir!r} must have the same classes, and only one of {args.train_split!r} and '
                f'{args.val_split!r} has images of {some(different)}: add images, or list all classes in a file '
                'for --class-map.')
        return tuple(found)

    @staticmethod
    def _check_classes(args: argparse.Namespace, split: str, dataset: Any, num_classes: int) -> None:
        classes = _class_indices(dataset)
        if len(classes) > num_classes:
            raise ValueError(
                f'--num-classes is {num_classes}, and the {split!r} part of {args.data_dir!r} has {len(classes)} '
                f'classes: pass --num-classes {len(classes)}.')

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        config = data_config(args, model, 1 if in_channels(args) == 1 else 3)
        least = least_batch(args, model, config['input_size'])
        if args.batch_size < least:
            raise ValueError(
                f'--model {args.model} trains on at least {least} images in the batch of each process, got '
                f'--batch-size {args.batch_size}.')
        for split, dataset in zip((args.train_split, args.val_split), datasets, strict=True):
            self._check_classes(args, split, dataset, model.num_classes)
        shared = dict(
            input_size=config['input_size'], mean=config['mean'], std=config['std'], num_workers=args.workers,
            distributed=process.distributed, pin_memory=args.pin_mem, device=process.device)
        augmentation = dict(
            no_aug=args.no_aug, scale=args.scale, ratio=args.ratio, hflip=args.hflip, vflip=args.vflip,
            color_jitter=args.color_jitter, auto_augment=args.aa, interpolation=args.train_interpolation)
        train_set, eval_set = datasets
        if isinstance(train_set, IterableDataset):  # in the order that timm's reader gives
            train_loader = create_loader(
                train_set, batch_size=args.batch_size, is_training=True, persistent_workers=args.workers > 0,
                **augmentation, **shared)
        else:
            train_loader = create_class_loader(
                train_set, batch_size=args.batch_size, seed=args.seed, **augmentation, **shared)
        loaders = train_loader, create_loader(
            eval_set, batch_size=args.validation_batch_size or args.batch_size, crop_pct=config['crop_pct'],
            interpolation=config['interpolation'], persistent_workers=args.workers > 0, **shared)
        if len(loaders[0]) == 0:
            raise ValueError(
                f'Training needs at least one whole batch in each process: {len(datasets[0])} images over '
                f'{process.world_size} process(es) do not fill one of {args.batch_size}; pass a smaller --batch-size.')
        return loaders

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        criterion = create_classification_loss(
            'bce' if args.bce_loss else None, smoothing=args.smoothing, soft_targets=args.mixup > 0 or args.cutmix > 0)
        return ClassificationTask(model, criterion, device=process.device, verbose=process.primary)

    def mixup(self, args: argparse.Namespace, num_classes: int, process: Process) -> Mix | None:
        """Erasing, then mixup and CutMix, where asked for."""
        steps = []
        if args.reprob > 0 and not args.no_aug:
            erase = RandomErasing(
                args.reprob, mode=args.remode, max_count=args.recount, device=process.device)
            steps.append(lambda input, target: (erase(input), target))
        if args.mixup > 0 or args.cutmix > 0:
            steps.append(Mixup(
                mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob,
                switch_prob=args.mixup_switch_prob, mode=args.mixup_mode, label_smoothing=args.smoothing,
                num_classes=num_classes))
        if not steps:
            return None

        def mix(input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            for step in steps:
                input, target = step(input, target)
            return input, target

        return mix

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', {})
        return {'interpolation': config['interpolation'], 'class_names': sorted(classes, key=classes.get)}


def _class_indices(dataset: Any) -> dict[str, int]:
    """The numbers of the classes by name: timm's readers know them, and so do torchvision's data sets."""
    return getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) or {}
