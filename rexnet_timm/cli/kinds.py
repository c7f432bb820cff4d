"""What each kind of model is trained on and by: classes of images, masks, or depth.

A run asks `kind_of` once; whatever depends on the kind is a method of the object that it gets. A further kind is a
class here, with the methods of `Kind`.
"""
import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import create_classification_loss
from timm.task import ClassificationTask, TrainingTask

from ..data import (
    DataDescription,
    SegmentationFolder,
    SyntheticDepth,
    SyntheticShapes,
    create_depth_transform,
    create_segmentation_loader,
    create_segmentation_transform,
)
from ..data.description import IMAGE_EXTENSIONS
from ..data.formats import holds_masks
from ..errors import first_sentence, is_refusal
from ..files import some
from ..models import depth, rexnetv1, unet
from ..models.any_encoder import encoder_arguments, min_training_batch
from ..models.weights import get_preprocessing_params
from ..training.base_losses import create_segmentation_loss
from ..training.depth_losses import MultiScaleDepthLoss
from ..training.losses import MultiScaleLoss
from ..training.tasks import DepthTask, SegmentationTask
from .build import Process, architecture_of, in_channels, is_smp
from .data_options import described, summary
from .unused import (
    CLASSIFICATION,
    DEPTH,
    NEEDS,
    NEEDS_OF_CLASSIFICATION,
    NEEDS_OF_SCALES,
    NEEDS_OF_SEGMENTATION,
    SCALES,
    SEGMENTATION,
    SYNTHETIC,
    Need,
    warn_of_unused,
)

_logger = logging.getLogger(__name__)

__all__ = ['Classification', 'Depth', 'Kind', 'Segmentation', 'kind_of']

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]

DENSE_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic')


class Kind:
    """What a kind of model is trained on and by. The arguments of a run are read, never written.

    Attributes:
        name: What the model learns, for messages.
        without_effect: Options that this kind does not read.
        needs: Options that it reads in some runs only.
        takes_files: Whether a file may stand for the folder of the data, as it describes one.
    """

    name: str
    without_effect: frozenset[str]
    needs: tuple[Need, ...] = NEEDS
    takes_files = False

    def check(self, args: argparse.Namespace) -> None:
        """Say which options have no effect, and refuse a data set that belongs to another kind.

        Raises:
            ValueError: With the data set or the model that fits.
        """
        if args.dataset in SYNTHETIC and args.data_dir is not None:
            raise ValueError(
                f'--dataset {args.dataset} is built in and reads no folder, got {args.data_dir!r} too: leave out one '
                'of the two.')
        if args.data_dir is not None and not (os.path.isdir(args.data_dir) or (
                self.takes_files and os.path.isfile(args.data_dir))):
            raise ValueError(f'The folder of the data must exist, {args.data_dir!r} does not.')
        warn_of_unused(args, self.name, self.without_effect, self.needs)

    def num_classes(self, args: argparse.Namespace) -> int | None:
        """Channels of the model's output; None for the model's own number."""
        return args.num_classes

    def datasets(self, args: argparse.Namespace, num_classes: int | None) -> tuple[Any, Any]:
        """The training and the validation set, without transforms, before there is a model.

        Raises:
            ValueError: Data that does not fit; a `DatasetError` names the file.
        """
        raise NotImplementedError

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        """Loaders of both sets, as the model takes its images. ValueError for sizes or batches that it does not."""
        raise NotImplementedError

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        """The task that trains the model; `dataset` is the validation set. ValueError for a loss that does not fit."""
        raise NotImplementedError

    def mixup(self, args: argparse.Namespace, num_classes: int) -> Mixup | None:
        """What mixes training batches, if anything."""
        return None

    def description(self, args: argparse.Namespace, model: nn.Module, dataset: Any) -> DataDescription:
        """What the model knows of its data, for its checkpoints; `dataset` is the validation set."""
        config = _resolve_data_config(args, model)
        in_chans, *size = config['input_size']
        return DataDescription(
            task=self.name, in_chans=in_chans, mean=config['mean'], std=config['std'], input_size=tuple(size),
            crop_pct=config['crop_pct'], **self._own_description(args, dataset, config))

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        return {'interpolation': args.interpolation or 'bilinear'}


class Segmentation(Kind):
    """Classes of pixels: all of SMP's architectures and this package's U-Nets."""

    name = 'segmentation'
    without_effect = frozenset(CLASSIFICATION | DEPTH)
    needs = (*NEEDS, *NEEDS_OF_SCALES, *NEEDS_OF_SEGMENTATION)
    takes_files = True

    def __init__(self) -> None:
        self._data: DataDescription | None = None

    def _described(self, args: argparse.Namespace) -> DataDescription:
        """What is known of the data, found once a run."""
        if self._data is None:
            is_said = os.path.isfile(args.data_dir) or args.image_dir or args.data_format not in (None, 'auto')
            if not is_said and not holds_masks(args.data_dir, args.train_split) and _has_class_folders(args):
                raise ValueError(
                    f'--model {args.model} learns masks, and {args.data_dir!r} holds folders of images without any: '
                    'pass --model rexnetv1_1_0 where they are classes, or add a folder of masks beside each.')
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
        _check_interpolation(args)
        _check_background(args)
        if is_smp(args.model) and args.model.lower() != 'multiscaleunet':
            unused = SCALES - {'scales'} | {'scale_target', 'object_share', 'background_classes'}
            warn_of_unused(args, f'--model {args.model}, which has one scale', unused)

    def num_classes(self, args: argparse.Namespace) -> int:
        """Channels of the logits. ValueError where they are needed and not given."""
        if args.num_classes is not None:
            return args.num_classes
        if args.dataset == 'synthetic':
            return SyntheticShapes(1).num_classes
        number = self._described(args).num_classes
        if number is None:
            raise ValueError('--num-classes is needed for segmentation: the classes of the masks, or 1 if binary.')
        return number

    def datasets(self, args: argparse.Namespace, num_classes: int) -> tuple[Any, Any]:
        if args.dataset == 'synthetic':
            # another seed gives other images
            return tuple(
                SyntheticShapes(length, num_classes=max(2, num_classes), seed=args.seed + index)
                for index, length in enumerate(_lengths(args)))
        datasets = tuple(
            SegmentationFolder(self._described(args), split, num_classes, in_chans=in_channels(args) or 3)
            for split in (args.train_split, args.val_split))
        told = datasets[0].told_of_labels()
        if int(os.environ.get('RANK') or 0) == 0:
            _logger.info(summary(datasets))
            if told:
                _logger.warning(told)
        return datasets

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        config = _data_config(args, model, datasets[0].in_chans)
        in_chans, *crop_size = config['input_size']
        # most of SMP's architectures take only multiples; validation images are padded to one, and the padding is
        # ignored
        size_divisor = model.encoder.output_stride if model.requires_divisible_input_shape else 1
        if any(side % size_divisor for side in crop_size):
            raise ValueError(
                f'--model {args.model} takes multiples of {size_divisor}, got crops of {crop_size[0]} x '
                f'{crop_size[1]}: change --img-size or --input-size.')
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
            )
        return _dense_loaders(args, model, datasets, process, config['input_size'], size_divisor)

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
            weights=_scale_weights(args.scale_weights), target=args.scale_target, ignore_index=dataset.ignore_label,
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
            'class_names', 'colors', 'ignore_index', 'label_map', 'color_map', 'foreground', 'layout')}}


class Depth(Kind):
    """Depth of pixels: ReXDepth."""

    name = 'depth'
    without_effect = frozenset(
        CLASSIFICATION | SEGMENTATION | {'scale', 'vflip', 'train_split', 'val_split'})
    needs = (*NEEDS, *NEEDS_OF_SCALES)

    def check(self, args: argparse.Namespace) -> None:
        if args.dataset != 'synthetic-depth':
            given = f'--dataset {args.dataset}' if args.dataset else f'the folder {args.data_dir!r}'
            raise ValueError(
                f'--model {args.model} learns depth, got {given}: pass --dataset synthetic-depth, or a model such as '
                'rexnetv1_unet_1_0 for masks and rexnetv1_1_0 for classes.')
        super().check(args)
        _check_interpolation(args)
        if in_channels(args) not in (None, 3):
            raise ValueError(f'--dataset synthetic-depth has RGB images, got {in_channels(args)} channels: take 3.')
        if args.num_classes not in (None, 1):
            raise ValueError(
                f'--model {args.model} predicts disparity, which is one channel and no classes, got --num-classes '
                f'{args.num_classes}: leave it out.')

    def num_classes(self, args: argparse.Namespace) -> int:
        """One channel of disparity."""
        return 1

    def datasets(self, args: argparse.Namespace, num_classes: int) -> tuple[Any, Any]:
        size = (args.input_size or [3, args.img_size, args.img_size])[1:]
        return tuple(
            SyntheticDepth(length, tuple(size) if all(size) else (96, 128), seed=args.seed + index)
            for index, length in enumerate(_lengths(args)))

    def loaders(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            datasets: tuple[Any, Any],
            process: Process,
    ) -> tuple[Batches, Batches]:
        config = _data_config(args, model, datasets[0].in_chans)
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
            )
        return _dense_loaders(args, model, datasets, process, config['input_size'])

    def task(
            self,
            args: argparse.Namespace,
            model: nn.Module,
            num_classes: int,
            dataset: Any,
            process: Process,
    ) -> TrainingTask:
        criterion = MultiScaleDepthLoss(
            args.min_depth, args.max_depth, _scale_weights(args.scale_weights), args.smoothness,
            fade_epochs=args.fade_epochs)
        criterion.multi_scale.scale_weights(model.scales)  # as many as there are scales, or an error now
        return DepthTask(model, criterion, device=process.device, verbose=process.primary)

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        own = super()._own_description(args, dataset, config)
        return {**own, 'min_depth': args.min_depth, 'max_depth': args.max_depth}


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
        if args.class_map and not args.class_map.lower().endswith(('.txt', '.pkl')):
            raise ValueError(
                f"--class-map must end in .txt, one name a line, or in timm's .pkl, got {args.class_map!r}.")
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
            if not any(os.path.exists(os.path.join(args.data_dir, name)) for name in _names_of_split(split)):
                found = sorted(entry.name for entry in os.scandir(args.data_dir) if entry.is_dir())
                raise ValueError(
                    f'{args.data_dir!r} must have a folder {split!r} with a folder of images for each class, and has '
                    f'{f"the folders {some(found)}" if found else "no folders"}: make it, or name another by {flag}.')

    def datasets(self, args: argparse.Namespace, num_classes: int | None) -> tuple[Any, Any]:
        found = []
        for split, is_training in ((args.train_split, True), (args.val_split, False)):
            try:
                dataset = create_dataset(
                    args.dataset, root=args.data_dir, split=split, is_training=is_training, class_map=args.class_map,
                    batch_size=args.batch_size, seed=args.seed, input_img_mode='L' if in_channels(args) == 1 else 'RGB')
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
        config = _data_config(args, model, 1 if in_channels(args) == 1 else 3)
        least = _least_batch(args, model, config['input_size'])
        if args.batch_size < least:
            raise ValueError(
                f'--model {args.model} trains on at least {least} images in the batch of each process, got '
                f'--batch-size {args.batch_size}.')
        loaders = []
        for is_training, dataset in zip((True, False), datasets, strict=True):
            self._check_classes(args, args.train_split if is_training else args.val_split, dataset, model.num_classes)
            loaders.append(create_loader(
                dataset,
                input_size=config['input_size'],
                batch_size=args.batch_size if is_training else args.validation_batch_size or args.batch_size,
                is_training=is_training,
                no_aug=args.no_aug,
                re_prob=args.reprob if is_training else 0.,
                re_mode=args.remode,
                re_count=args.recount,
                scale=args.scale,
                ratio=args.ratio,
                hflip=args.hflip,
                vflip=args.vflip,
                color_jitter=args.color_jitter,
                auto_augment=args.aa,
                interpolation=args.train_interpolation if is_training else config['interpolation'],
                mean=config['mean'],
                std=config['std'],
                crop_pct=config['crop_pct'],
                num_workers=args.workers,
                distributed=process.distributed,
                pin_memory=args.pin_mem,
                persistent_workers=args.workers > 0,
                device=process.device,
            ))
        if len(loaders[0]) == 0:
            raise ValueError(
                f'Training needs at least one whole batch in each process: {len(datasets[0])} images over '
                f'{process.world_size} process(es) do not fill one of {args.batch_size}; pass a smaller --batch-size.')
        return tuple(loaders)

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

    def mixup(self, args: argparse.Namespace, num_classes: int) -> Mixup | None:
        """Mixup and CutMix, where asked for."""
        if not (args.mixup > 0 or args.cutmix > 0):
            return None
        return Mixup(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob, mode=args.mixup_mode, label_smoothing=args.smoothing,
            num_classes=num_classes)

    def _own_description(self, args: argparse.Namespace, dataset: Any, config: dict[str, Any]) -> dict[str, Any]:
        classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', {})
        return {'interpolation': config['interpolation'], 'class_names': sorted(classes, key=classes.get)}


def kind_of(model: str) -> Kind:
    """The kind of a `--model`, by its name. ValueError for an unknown one, with near names."""
    if is_smp(model):
        return Segmentation()
    architecture = architecture_of(model)
    if architecture in unet.default_cfgs:
        return Segmentation()
    return Depth() if architecture in depth.default_cfgs else Classification()


def _check_interpolation(args: argparse.Namespace) -> None:
    """ValueError for a way of resizing that only classification has."""
    if args.interpolation not in ('', *DENSE_INTERPOLATIONS):
        raise ValueError(
            f'--interpolation must be one of {", ".join(DENSE_INTERPOLATIONS)} for --model {args.model}, got '
            f'{args.interpolation!r}.')


def _check_background(args: argparse.Namespace) -> None:
    """ValueError for a class of the background that is none of the classes."""
    number = max(2, args.num_classes or 2)
    if args.scale_target == 'object' and args.num_classes and max(args.background_classes) >= number:
        raise ValueError(
            f'--background-classes must be classes from 0 to {number - 1}, got '
            f'{" ".join(map(str, args.background_classes))}.')


def _resolve_data_config(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """timm's data configuration of the model; of an SMP architecture with the mean and std of its encoder."""
    cfg = _encoder_cfg(args) if is_smp(args.model) else None
    return resolve_data_config(vars(args), pretrained_cfg=cfg, model=model)


def _encoder_cfg(args: argparse.Namespace) -> dict[str, Any] | None:
    if encoder_arguments(args.encoder_name) is not None and args.encoder_name not in rexnetv1.default_cfgs:
        if not args.encoder_weights:  # of SMP's own encoders only their weights say it
            return None
        params = smp.encoders.get_preprocessing_params(args.encoder_name, args.encoder_weights)
    else:
        params = get_preprocessing_params(args.encoder_name)
    return {'mean': tuple(params['mean']), 'std': tuple(params['std'])}


def _data_config(args: argparse.Namespace, model: nn.Module, in_chans: int) -> dict[str, Any]:
    """How the model takes its images, by timm's rules; `in_chans` is what the data set reads."""
    config = _resolve_data_config(args, model)
    if config['input_size'][0] != in_chans:
        raise ValueError(
            f'--model {args.model} takes {config["input_size"][0]} channels, and images are read with {in_chans}: '
            f'pass --in-chans {config["input_size"][0]}.')
    return config


def _least_batch(args: argparse.Namespace, model: nn.Module, input_size: Sequence[int]) -> int:
    """The fewest images that the model trains on. ValueError for a size of images that it does not take."""
    in_chans, *size = input_size
    try:
        return min_training_batch(model, tuple(size), in_chans)
    except AssertionError as error:
        if not is_refusal(error):
            raise
        raise ValueError(
            f'--model {args.model} does not take images of {size[0]} x {size[1]}: {first_sentence(error)} Change '
            "--img-size or --input-size; some models take another size by --model-kwargs 'img_size=N'.") from error


def _names_of_split(split: str) -> tuple[str, ...]:
    """The folders in which timm looks for a part of a data set."""
    synonyms = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'))
    return next(((split, *names) for names in synonyms if split in names), (split,))


def _class_indices(dataset: Any) -> dict[str, int]:
    """The numbers of the classes by name: timm's readers know them, and so do torchvision's data sets."""
    return getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) or {}


def _has_class_folders(args: argparse.Namespace) -> bool:
    """Whether the training part of a folder has folders of images, as classification takes them."""
    part = next((path for name in _names_of_split(args.train_split)
                 if os.path.isdir(path := os.path.join(args.data_dir, name))), args.data_dir)
    return any(
        entry.is_dir() and any(file.name.lower().endswith(IMAGE_EXTENSIONS) for file in os.scandir(entry))
        for entry in os.scandir(part))


def _dense_loaders(
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
            train_set, args.batch_size, is_training=True, min_batch_size=_least_batch(args, model, input_size),
            **shared),
        create_segmentation_loader(
            eval_set, args.validation_batch_size or args.batch_size, is_training=False, **shared),
    )


def _lengths(args: argparse.Namespace) -> tuple[int, int]:
    """Images of a built-in set for training and for validation."""
    return args.synthetic_images, max(1, args.synthetic_images // 8)


def _scale_weights(words: Sequence[str]) -> str | list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return ' '.join(words)  # a name, which the loss checks
