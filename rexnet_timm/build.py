""" From parsed arguments to the objects of a run: device, model, loaders, task, optimizer. """
import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import create_classification_loss
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.task import ClassificationTask, TrainingTask

from .data import (
    SegmentationFolder,
    SyntheticShapes,
    check_batch_size,
    create_segmentation_loader,
    create_segmentation_transform,
)
from .encoder import check_encoder_name, check_encoder_weights
from .losses import MultiScaleLoss, create_segmentation_loss
from .names import near_names
from .task import SegmentationTask
from .weights import load_encoder_weights

_logger = logging.getLogger(__name__)

__all__ = ['create_loaders', 'create_mixup', 'create_model', 'create_optimizer', 'create_task', 'default_device']


def default_device() -> str:
    """Name of the best device there is: 'cuda', 'mps' or 'cpu'."""
    if torch.cuda.is_available():
        return 'cuda'
    return 'mps' if torch.backends.mps.is_available() else 'cpu'


def create_model(args: argparse.Namespace) -> nn.Module:
    """The model of --model: one of timm's registry, or an SMP architecture on --encoder-name.

    Args:
        args: Arguments of the run; `num_classes` is set to the model's own where none was given.

    Raises:
        ValueError: An unknown name, or an argument that the model does not take.
    """
    name = args.model
    for path in filter(None, (args.pretrained_path, args.initial_checkpoint)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'There is no checkpoint {path!r}.')
    if args.dataset == 'synthetic' and args.num_classes is None:
        args.num_classes = SyntheticShapes(1).num_classes
    flags = {
        '--drop': ('drop_rate', args.drop), '--drop-path': ('drop_path_rate', args.drop_path),
        '--gp': ('global_pool', args.gp), '--rex-width-mult': ('width_mult', args.rex_width_mult),
        '--rex-depth-mult': ('depth_mult', args.rex_depth_mult), '--scales': ('scales', args.scales),
    }
    flags = {flag: pair for flag, pair in flags.items() if pair[1] is not None}
    given = {**dict(flags.values()), **args.model_kwargs}
    is_smp = name.lower() in smp.MODEL_ARCHITECTURES_MAPPING
    if is_smp:
        if args.encoder_name is None:
            raise ValueError(f'--model {name} is an SMP architecture and needs an --encoder-name, such as rexnetv1.')
        check_encoder_name(args.encoder_name)
        check_encoder_weights(args.encoder_name, args.encoder_weights)
        if args.pretrained:
            raise ValueError(f'--model {name} does not see --pretrained: name the weights with --encoder-weights.')
        if flags and name.lower() != 'multiscaleunet':
            raise ValueError(
                f'--model {name} does not see {", ".join(flags)}: leave them out, or use --model multiscaleunet.')
        create = smp.create_model
        given = {
            'arch': name, 'encoder_name': args.encoder_name, 'encoder_weights': args.encoder_weights,
            'in_channels': args.in_chans or 3, 'classes': args.num_classes or 1, **given}
    else:
        if ':' not in name and not timm.is_model(name.split('.')[0]):
            known = [*timm.list_models(), *smp.MODEL_ARCHITECTURES_MAPPING]
            raise ValueError(
                f'--model must be a model of timm or an architecture of SMP, got {name!r}.{near_names(name, known)}')
        create = timm.create_model
        given = {
            'model_name': name, 'pretrained': args.pretrained or bool(args.pretrained_path),
            'in_chans': args.in_chans, 'num_classes': args.num_classes, **given}  # timm leaves out what is None
        if args.pretrained_path:
            # as in timm's train.py: no number of classes equals -1, so the classifier of the file is left out
            given['pretrained_cfg_overlay'] = dict(file=args.pretrained_path, num_classes=-1)
    try:
        model = create(**given)
    except TypeError as error:
        # an argument that the constructor does not know, such as --gp for a U-Net
        raise ValueError(f'--model {name} does not take all of its arguments: {error}.') from error
    except RuntimeError as error:
        # timm's, of a name without published weights or a file that does not fit
        raise ValueError(f'--model {name} does not start from these weights: {_first_lines(error)}') from error
    if args.pretrained_path and is_smp:
        load_encoder_weights(model.encoder, args.pretrained_path)
    if args.initial_checkpoint:
        _load_weights(model, args.initial_checkpoint)
    if args.grad_checkpointing:
        if not hasattr(model, 'set_grad_checkpointing'):
            raise ValueError(f'--model {name} has no gradient checkpointing: leave out --grad-checkpointing.')
        model.set_grad_checkpointing(True)
    if args.num_classes is None:
        if is_segmentation(model):
            raise ValueError('--num-classes is needed for segmentation: the classes of the masks, or 1 if binary.')
        args.num_classes = model.num_classes
    return model


def _load_weights(model: nn.Module, path: str) -> None:
    try:
        load_checkpoint(model, path)  # timm's: any of its files, the moving average where there is one, no code run
    except RuntimeError as error:
        hint = ' --pretrained-path takes the weights of an encoder alone.' if is_segmentation(model) else ''
        raise ValueError(
            f'--initial-checkpoint {path!r} does not fit the model: {_first_lines(error)}{hint}') from error


def _first_lines(error: Exception) -> str:
    return '; '.join(line.strip() for line in str(error).splitlines()[:3])


def is_segmentation(model: nn.Module) -> bool:
    """Whether a model's output is a map of classes; all of SMP's and our own U-Nets are."""
    return isinstance(model, smp.base.SegmentationModel)


def create_loaders(
        args: argparse.Namespace,
        model: nn.Module,
        device: torch.device,
) -> tuple[Iterable[tuple[torch.Tensor, torch.Tensor]], Iterable[tuple[torch.Tensor, torch.Tensor]]]:
    """Loaders of the training and the validation split.

    Raises:
        ValueError: Data that does not fit, as told by the readers.
    """
    check_batch_size(args.batch_size)
    if args.data_dir is not None and not os.path.isdir(args.data_dir):
        raise ValueError(f'The folder of the data must exist, {args.data_dir!r} does not.')
    create = _segmentation_loaders if is_segmentation(model) else _classification_loaders
    return create(args, model, device)


def _segmentation_loaders(args: argparse.Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = resolve_data_config(vars(args), model=model)
    in_chans, *crop_size = config['input_size']
    # most of SMP's architectures take only multiples; validation images are padded to one, and the padding is ignored
    size_divisor = model.encoder.output_stride if model.requires_divisible_input_shape else 1
    if any(side % size_divisor for side in crop_size):
        raise ValueError(
            f'--model {args.model} takes multiples of {size_divisor}, got crops of {crop_size[0]} x {crop_size[1]}: '
            f'change --img-size or --input-size.')
    for name in ('aa', 'reprob', 'mixup', 'cutmix'):
        if getattr(args, name):
            _logger.warning('--%s is for classification and has no effect on segmentation.', name)
    datasets = []
    for split, is_training in ((args.train_split, True), (args.val_split, False)):
        if args.dataset == 'synthetic':
            # another seed gives other images
            length = args.synthetic_images if is_training else max(1, args.synthetic_images // 8)
            dataset = SyntheticShapes(length, num_classes=args.num_classes, seed=args.seed + (not is_training))
        else:
            dataset = SegmentationFolder(args.data_dir, split, args.num_classes, args.ignore_index, in_chans)
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
            in_chans=in_chans,
        )
        datasets.append(dataset)
    shared = dict(
        num_workers=args.workers, distributed=args.distributed, seed=args.seed,
        pin_memory=args.pin_mem and device.type == 'cuda', size_divisor=size_divisor)
    return (
        create_segmentation_loader(datasets[0], args.batch_size, is_training=True, **shared),
        create_segmentation_loader(
            datasets[1], args.validation_batch_size or args.batch_size, is_training=False, **shared),
    )


def _classification_loaders(args: argparse.Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = resolve_data_config(vars(args), model=model, verbose=args.rank == 0)
    loaders = []
    for split, is_training in ((args.train_split, True), (args.val_split, False)):
        try:
            dataset = create_dataset(
                args.dataset, root=args.data_dir, split=split, is_training=is_training, class_map=args.class_map,
                batch_size=args.batch_size, seed=args.seed,
                input_img_mode='L' if config['input_size'][0] == 1 else 'RGB')
        except RuntimeError as error:
            raise ValueError(
                f'The {split!r} part of {args.data_dir!r} must be folders of images, one for each class: {error}'
            ) from error
        classes = getattr(getattr(dataset, 'reader', None), 'class_to_idx', {})
        if len(classes) > args.num_classes:
            raise ValueError(
                f'--num-classes is {args.num_classes}, and the {split!r} part of {args.data_dir!r} has '
                f'{len(classes)} folders of classes: pass --num-classes {len(classes)}.')
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
            distributed=args.distributed,
            pin_memory=args.pin_mem,
            persistent_workers=args.workers > 0,
            device=device,
        ))
    if len(loaders[0]) == 0:
        raise ValueError(
            f'Training needs at least one whole batch in each process: {len(loaders[0].dataset)} images over '
            f'{args.world_size} process(es) do not fill one of {args.batch_size}; pass a smaller --batch-size.')
    return tuple(loaders)


def create_mixup(args: argparse.Namespace, model: nn.Module) -> Mixup | None:
    """Mixup and CutMix of classification batches, where asked for."""
    if is_segmentation(model) or not (args.mixup > 0 or args.cutmix > 0):
        return None
    return Mixup(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode, label_smoothing=args.smoothing, num_classes=model.num_classes)


def create_task(args: argparse.Namespace, model: nn.Module, dataset: Any, device: torch.device) -> TrainingTask:
    """The task that fits the model: timm's classification, or our segmentation.

    Args:
        args: Arguments of the run.
        model: The model, on `device`.
        dataset: Validation set; a segmentation set tells the names of its classes and the label to ignore.
        device: Device of the task.

    Raises:
        ValueError: An unknown loss, or wrong weights of the scales.
    """
    if is_segmentation(model):
        criterion = MultiScaleLoss(
            create_segmentation_loss(args.seg_loss, args.num_classes, dataset.ignore_label),
            weights=_scale_weights(args.scale_weights), target=args.scale_target, ignore_index=dataset.ignore_label,
            object_share=args.object_share, fade_epochs=args.fade_epochs)
        criterion.scale_weights(getattr(model, 'scales', (0,)))  # as many as there are scales, or an error now
        return SegmentationTask(
            model, args.num_classes, criterion, dataset.ignore_label, dataset.class_names, device=device,
            verbose=args.rank == 0)
    criterion = create_classification_loss(
        'bce' if args.bce_loss else None, smoothing=args.smoothing, soft_targets=args.mixup > 0 or args.cutmix > 0)
    return ClassificationTask(model, criterion, device=device, verbose=args.rank == 0)


def _scale_weights(words: Sequence[str]) -> str | list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return ' '.join(words)  # a name, which the loss checks


def create_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    """timm's optimizer of the arguments; without --lr its rate follows the number of images in an update."""
    if args.lr is None:
        global_batch_size = args.batch_size * args.world_size * args.grad_accum_steps
        ratio = global_batch_size / args.lr_base_size
        adaptive = any(name in args.opt.lower() for name in ('ada', 'lamb'))
        scale = args.lr_base_scale or ('sqrt' if adaptive else 'linear')
        args.lr = args.lr_base * (ratio ** 0.5 if scale == 'sqrt' else ratio)
        _logger.info(
            'Learning rate %.4g: --lr-base %g, %s scaling to %d images in an update.', args.lr, args.lr_base, scale,
            global_batch_size)
    try:
        return create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f'--opt {args.opt} with these arguments is not to be had: {error}') from error
