"""Options that do nothing: for a kind of model, or beside others."""
import argparse
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

from timm.optim import OptimInfo, get_optimizer_info

from .data_options import IMAGES, LABELS, LAYOUT

__all__ = [
    'CLASSIFICATION', 'DEPTH', 'NEEDS', 'NEEDS_OF_CLASSIFICATION', 'NEEDS_OF_DEPTH', 'NEEDS_OF_SCALES',
    'NEEDS_OF_SEGMENTATION', 'OF_LAYOUT', 'Need', 'SCALES', 'SEGMENTATION', 'SYNTHETIC', 'warn_of_unused']

_logger = logging.getLogger(__name__)

SYNTHETIC = ('synthetic', 'synthetic-depth')

# Options that only one kind reads.
CLASSIFICATION = {
    'class_map', 'crop_pct', 'drop', 'gp', 'train_interpolation', 'aa', 'reprob', 'remode', 'recount', 'mixup',
    'cutmix', 'mixup_prob', 'mixup_switch_prob', 'mixup_mode', 'smoothing', 'bce_loss', 'ratio'}
OF_LAYOUT = frozenset(LAYOUT)
MASKS = {*LAYOUT, *LABELS, *IMAGES, 'auto', 'ignore_index', 'crops_per_image', 'skip_bad_samples'}
CROPS = {'rotation', 'elastic', 'class_balanced_crops'}
SEGMENTATION = MASKS | CROPS | {'seg_loss', 'class_weights', 'scale_target', 'object_share', 'background_classes'}
SCALES = {'scales', 'scale_weights', 'fade_epochs'}
DEPTH = {'min_depth', 'max_depth', 'smoothness', 'depth_scale'}

_UPDATES = ('cosine', 'tanh', 'step', 'multistep', 'constant', 'plateau', 'poly', 'wsd', 'rsqrt')  # schedules that do


def _scales(args: argparse.Namespace) -> Sequence[int] | None:
    """The scales of the arguments, None for those that the model has by itself."""
    return args.model_kwargs.get('scales', args.scales)


def _optimizer(args: argparse.Namespace) -> OptimInfo:
    return get_optimizer_info(args.opt.lower().removeprefix('lookahead_'))


Need = tuple[set[str], Callable[[argparse.Namespace], Any], str]

# Options that depend on others: their names, whether they have an effect, and where they have none.
NEEDS: tuple[Need, ...] = (
    ({'model_ema_decay', 'model_ema_warmup'}, lambda args: args.model_ema, 'without --model-ema'),
    ({'amp_dtype'}, lambda args: args.amp, 'without --amp'),
    ({'clip_mode'}, lambda args: args.clip_grad is not None, 'without --clip-grad'),
    ({'no_resume_opt', 'allow_changed'}, lambda args: args.resume, 'without --resume'),
    ({'pretrained', 'pretrained_path', 'initial_checkpoint', 'encoder_weights'},
     lambda args: args.resume in ('', 'auto'), 'with --resume, whose weights are taken'),
    ({'synthetic_images'}, lambda args: args.dataset in SYNTHETIC, 'without --dataset synthetic or synthetic-depth'),
    ({'lr_base', 'lr_base_size', 'lr_base_scale'}, lambda args: args.lr is None, 'with --lr'),
    ({'scale', 'hflip', 'vflip', 'color_jitter'} | CROPS, lambda args: not args.no_aug, 'with --no-aug'),
    ({'momentum'}, lambda args: _optimizer(args).has_momentum, 'on --opt {opt}'),
    ({'opt_eps'}, lambda args: _optimizer(args).has_eps, 'on --opt {opt}'),
    ({'opt_betas'}, lambda args: _optimizer(args).has_betas, 'on --opt {opt}'),
    ({'sched_on_updates'}, lambda args: args.sched in _UPDATES, 'with --sched none'),
    ({'warmup_epochs'}, lambda args: args.sched in _UPDATES, 'with --sched none'),
    ({'warmup_lr', 'warmup_prefix'}, lambda args: args.warmup_epochs and args.sched in _UPDATES,
     'without --warmup-epochs and a schedule'),
    ({'min_lr'}, lambda args: args.sched in ('cosine', 'tanh', 'plateau', 'poly', 'wsd', 'rsqrt'),
     'on --sched {sched}'),
    ({'cooldown_epochs'}, lambda args: args.sched in ('cosine', 'tanh', 'poly', 'wsd', 'rsqrt'),
     'on --sched {sched}'),
    ({'lr_k_decay'}, lambda args: args.sched in ('cosine', 'poly'), 'without --sched cosine or poly'),
    ({'decay_rate'}, lambda args: args.sched in ('step', 'multistep', 'plateau', 'poly'),
     'without --sched step, multistep, plateau or poly'),
    ({'decay_epochs'}, lambda args: args.sched in ('step', 'wsd', 'rsqrt'), 'without --sched step, wsd or rsqrt'),
    ({'decay_milestones'}, lambda args: args.sched == 'multistep', 'without --sched multistep'),
    ({'patience_epochs'}, lambda args: args.sched == 'plateau', 'without --sched plateau'),
)
NEEDS_OF_SCALES: tuple[Need, ...] = (
    ({'scale_weights', 'fade_epochs'}, lambda args: len(_scales(args) or (0, 1)) > 1, 'on one scale'),
)
NEEDS_OF_SEGMENTATION: tuple[Need, ...] = (
    ({'object_share', 'background_classes'}, lambda args: args.scale_target == 'object',
     'without --scale-target object'),
    ({'scale_target'}, lambda args: any(_scales(args) or (0, 1)), 'without a coarse scale'),
    ({'train_split', 'val_split'} | MASKS, lambda args: args.dataset not in SYNTHETIC,
     'with a built-in --dataset'),
)
NEEDS_OF_DEPTH: tuple[Need, ...] = (
    ({'train_split', 'val_split', 'depth_scale', *LAYOUT}, lambda args: args.dataset not in SYNTHETIC,
     'with a built-in --dataset'),
)
NEEDS_OF_CLASSIFICATION: tuple[Need, ...] = (
    ({'ratio', 'aa', 'reprob'}, lambda args: not args.no_aug, 'with --no-aug'),
    ({'color_jitter'}, lambda args: args.no_aug or not args.aa or '3a' in args.aa, 'with --aa, which changes colours'),
    ({'remode', 'recount'}, lambda args: args.reprob, 'without --reprob'),
    ({'mixup_prob', 'mixup_mode'}, lambda args: args.mixup or args.cutmix, 'without --mixup or --cutmix'),
    ({'mixup_switch_prob'}, lambda args: args.mixup and args.cutmix, 'without --mixup and --cutmix'),
)


def warn_of_unused(
        args: argparse.Namespace,
        subject: str,
        without_effect: Collection[str],
        needs: Sequence[Need] = (),
) -> None:
    """Say which of the given options have no effect.

    Args:
        args: Arguments of the run.
        subject: What the first ones have no effect on.
        without_effect: Options that are never read.
        needs: Options that are read in some runs only.
    """
    given = set(args.given)
    for name in sorted(given & set(without_effect)):
        _logger.warning('%s has no effect on %s.', _flag(name), subject)
    for names, has_effect, where in needs:
        if not has_effect(args):
            for name in sorted((given & names) - set(without_effect)):
                _logger.warning('%s has no effect %s.', _flag(name), where.format(**vars(args)))


def _flag(name: str) -> str:
    return '--' + name.replace('_', '-')
