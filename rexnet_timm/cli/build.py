""" From parsed arguments to the objects of a run: device, model, loaders, task, optimizer. """
import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.layers import convert_sync_batchnorm
from timm.loss import create_classification_loss
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.task import ClassificationTask, TrainingTask

from ..data import (
    SegmentationFolder,
    SyntheticDepth,
    SyntheticShapes,
    check_batch_size,
    create_depth_transform,
    create_segmentation_loader,
    create_segmentation_transform,
)
from ..errors import first_lines, near_names
from ..files import ENCODER_DOOR, PRETRAINED_DOOR, WeightsError, build_with_file
from ..models.any_encoder import check_encoder_name, check_encoder_weights
from ..models.depth import ReXDepth
from ..models.weights import load_encoder_weights, load_weights
from ..training.depth_losses import MultiScaleDepthLoss
from ..training.losses import MultiScaleLoss, create_segmentation_loss
from ..training.tasks import DepthTask, SegmentationTask

_logger = logging.getLogger(__name__)

__all__ = [
    'create_loaders', 'create_mixup', 'create_model', 'create_optimizer', 'create_task', 'default_device',
    'synchronize_batch_norm', 'warn_of_slow_average']


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
        create = partial(build_with_file, timm.create_model)
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
        raise ValueError(f'--model {name} does not start from these weights: {first_lines(error)}') from error
    _check_dataset(args, model)
    if args.pretrained_path and is_smp:
        load_encoder_weights(model.encoder, args.pretrained_path)
    if args.initial_checkpoint:
        _load_weights(model, args.initial_checkpoint)
    if args.grad_checkpointing:
        if not hasattr(model, 'set_grad_checkpointing'):
            raise ValueError(f'--model {name} has no gradient checkpointing: leave out --grad-checkpointing.')
        model.set_grad_checkpointing(True)
    if args.num_classes is None:
        if kind_of(model) == 'segmentation':
            raise ValueError('--num-classes is needed for segmentation: the classes of the masks, or 1 if binary.')
        args.num_classes = model.num_classes
    return model


def _load_weights(model: nn.Module, path: str) -> None:
    try:
        load_weights(model, path)
    except WeightsError as error:
        text = str(error)
        for door in (ENCODER_DOOR, PRETRAINED_DOOR):
            text = text.replace(door, '--pretrained-path')
        raise ValueError(f'--initial-checkpoint {text}') from error


def kind_of(model: nn.Module) -> str:
    """What a model does: 'segmentation' (all of SMP's and our U-Nets), 'depth' or, any other, 'classification'."""
    if isinstance(model, ReXDepth):
        return 'depth'
    return 'segmentation' if isinstance(model, smp.base.SegmentationModel) else 'classification'


def _check_dataset(args: argparse.Namespace, model: nn.Module) -> None:
    kind = kind_of(model)
    if kind == 'depth' and args.dataset != 'synthetic-depth':
        given = f'--dataset {args.dataset}' if args.dataset else f'the folder {args.data_dir!r}'
        raise ValueError(
            f'--model {args.model} learns depth, got {given}: pass --dataset synthetic-depth, or a model such as '
            'rexnetv1_unet_1_0 for masks and rexnetv1_1_0 for classes.')
    if kind != 'depth' and args.dataset == 'synthetic-depth':
        raise ValueError(
            f'--dataset synthetic-depth has depth and no classes, got --model {args.model} for {kind}: pass --model '
            'rexdepth_1_0, or --dataset synthetic for segmentation.')


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
    return _LOADERS[kind_of(model)](args, model, device)


def _segmentation_loaders(args: argparse.Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = resolve_data_config(vars(args), model=model)
    in_chans, *crop_size = config['input_size']
    # most of SMP's architectures take only multiples; validation images are padded to one, and the padding is ignored
    size_divisor = model.encoder.output_stride if model.requires_divisible_input_shape else 1
    if any(side % size_divisor for side in crop_size):
        raise ValueError(
            f'--model {args.model} takes multiples of {size_divisor}, got crops of {crop_size[0]} x {crop_size[1]}: '
            f'change --img-size or --input-size.')
    _warn_of_unused(args, 'segmentation', 'aa', 'reprob', 'mixup', 'cutmix')
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
    return _dense_loaders(args, device, *datasets, size_divisor=size_divisor)


def _depth_loaders(args: argparse.Namespace, model: nn.Module, device: torch.device) -> tuple[Any, Any]:
    config = resolve_data_config(vars(args), model=model)
    in_chans, *size = config['input_size']
    if in_chans != 3:
        raise ValueError(f'--dataset synthetic-depth has RGB images, got --in-chans {in_chans}: leave it out.')
    # a zoom or an image upside down would not fit its depth any more
    _warn_of_unused(args, 'depth', 'aa', 'reprob', 'mixup', 'cutmix', 'scale', 'vflip')
    datasets = []
    for is_training in (True, False):
        transform = create_depth_transform(
            is_training and not args.no_aug,
            img_size=tuple(size),
            mean=config['mean'],
            std=config['std'],
            hflip=args.hflip,
            color_jitter=args.color_jitter,
        )
        length = args.synthetic_images if is_training else max(1, args.synthetic_images // 8)
        datasets.append(SyntheticDepth(length, tuple(size), seed=args.seed + (not is_training), transform=transform))
    return _dense_loaders(args, device, *datasets)


def _warn_of_unused(args: argparse.Namespace, kind: str, *names: str) -> None:
    for name in names:
        if getattr(args, name):
            _logger.warning('--%s has no effect on %s.', name, kind)


def _dense_loaders(
        args: argparse.Namespace,
        device: torch.device,
        train_set: Any,
        eval_set: Any,
        size_divisor: int = 1,
) -> tuple[Any, Any]:
    shared = dict(
        num_workers=args.workers, distributed=args.distributed, seed=args.seed,
        pin_memory=args.pin_mem and device.type == 'cuda', size_divisor=size_divisor)
    eval_batch_size = args.validation_batch_size or args.batch_size
    return (
        create_segmentation_loader(train_set, args.batch_size, is_training=True, **shared),
        create_segmentation_loader(eval_set, eval_batch_size, is_training=False, **shared),
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
        except (RuntimeError, AssertionError) as error:
            form = f'of --dataset {args.dataset}' if args.dataset else 'folders of images, one for each class'
            raise ValueError(f'The {split!r} part of {args.data_dir!r} must be {form}: {error}') from error
        # timm's readers know the classes, and so do torchvision's data sets
        classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', {})
        if len(classes) > args.num_classes:
            raise ValueError(
                f'--num-classes is {args.num_classes}, and the {split!r} part of {args.data_dir!r} has '
                f'{len(classes)} classes: pass --num-classes {len(classes)}.')
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


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with BatchNorm over all processes. ValueError on a CPU, for which torch has none."""
    if device.type == 'cpu':
        raise ValueError(
            '--sync-bn needs an accelerator, torch has it not for the CPU: leave it out, and give each process as '
            'many images as it can take.')
    # timm's own: torch's would lose the activation in timm's BatchNormAct2d
    return convert_sync_batchnorm(model)


def warn_of_slow_average(args: argparse.Namespace, updates: int) -> None:
    """Say so where the moving average of the weights would still hold much of the initial ones after a run."""
    share = args.model_ema_decay ** updates
    if args.model_ema and not args.model_ema_warmup and share > 0.01:
        # a tenth of the initial variances in BatchNorm is enough for an average that knows nothing
        _logger.warning(
            'The average of the weights, which is what is evaluated, will consist of the initial ones to %.0f %% after '
            '%d updates: add --model-ema-warmup, or lower --model-ema-decay from %g.', 100 * share, updates,
            args.model_ema_decay)


def create_mixup(args: argparse.Namespace, model: nn.Module) -> Mixup | None:
    """Mixup and CutMix of classification batches, where asked for."""
    if kind_of(model) != 'classification' or not (args.mixup > 0 or args.cutmix > 0):
        return None
    return Mixup(
        mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, prob=args.mixup_prob, switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode, label_smoothing=args.smoothing, num_classes=model.num_classes)


def create_task(args: argparse.Namespace, model: nn.Module, dataset: Any, device: torch.device) -> TrainingTask:
    """The task that fits the model: timm's classification, or our segmentation or depth.

    Args:
        args: Arguments of the run.
        model: The model, on `device`.
        dataset: Validation set; a segmentation set tells the names of its classes and the label to ignore.
        device: Device of the task.

    Raises:
        ValueError: An unknown loss, or wrong weights of the scales.
    """
    return _TASKS[kind_of(model)](args, model, dataset, device)


def _segmentation_task(args: argparse.Namespace, model: nn.Module, dataset: Any, device: torch.device) -> TrainingTask:
    criterion = MultiScaleLoss(
        create_segmentation_loss(args.seg_loss, args.num_classes, dataset.ignore_label, args.class_weights),
        weights=_scale_weights(args.scale_weights), target=args.scale_target, ignore_index=dataset.ignore_label,
        object_share=args.object_share, background=args.background_classes, fade_epochs=args.fade_epochs)
    criterion.scale_weights(getattr(model, 'scales', (0,)))  # as many as there are scales, or an error now
    return SegmentationTask(
        model, args.num_classes, criterion, dataset.ignore_label, dataset.class_names, device=device,
        verbose=args.rank == 0)


def _depth_task(args: argparse.Namespace, model: nn.Module, dataset: Any, device: torch.device) -> TrainingTask:
    criterion = MultiScaleDepthLoss(
        args.min_depth, args.max_depth, _scale_weights(args.scale_weights), args.smoothness,
        fade_epochs=args.fade_epochs)
    criterion.multi_scale.scale_weights(model.scales)  # as many as there are scales, or an error now
    return DepthTask(model, criterion, device=device, verbose=args.rank == 0)


def _classification_task(
        args: argparse.Namespace, model: nn.Module, dataset: Any, device: torch.device) -> TrainingTask:
    criterion = create_classification_loss(
        'bce' if args.bce_loss else None, smoothing=args.smoothing, soft_targets=args.mixup > 0 or args.cutmix > 0)
    return ClassificationTask(model, criterion, device=device, verbose=args.rank == 0)


# What each kind of model is trained on and by.
_LOADERS = {
    'segmentation': _segmentation_loaders, 'depth': _depth_loaders, 'classification': _classification_loaders}
_TASKS = {'segmentation': _segmentation_task, 'depth': _depth_task, 'classification': _classification_task}


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
