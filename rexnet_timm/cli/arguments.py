""" Command-line arguments of the scripts

Names and defaults are those of timm's train.py (https://github.com/huggingface/pytorch-image-models), so that its
recipes carry over; what timm lacks is in the groups "multi-scale U-Net", "segmentation" and "depth". A YAML file given
with --config sets defaults that the command line overrides.
"""
import argparse
import os
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import near_names

__all__ = ['create_train_parser', 'parse_train_args', 'repeatable_args']


class _KeyValues(argparse.Action):
    """KEY=VALUE pairs, with values read as YAML scalars."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for value in values:
            key, separator, text = value.partition('=')
            if not separator:
                parser.error(f'{option_string} takes KEY=VALUE pairs, got {value!r}.')
            pairs[key] = yaml.safe_load(text)
        setattr(namespace, self.dest, pairs)


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('data')
    group.add_argument('data', nargs='?', metavar='DIR', help='folder of the data (positional, or --data-dir)')
    group.add_argument('--data-dir', metavar='DIR', help='folder of the data')
    group.add_argument('--dataset', default='', metavar='NAME',
                       help='"synthetic", "synthetic-depth": the built-in sets of segmentation and of depth; else as '
                            'timm, empty for folders')
    group.add_argument('--synthetic-images', type=int, default=512, metavar='N',
                       help='training images of a built-in set; an eighth as many for validation')
    group.add_argument('--train-split', default='train', metavar='NAME')
    group.add_argument('--val-split', default='validation', metavar='NAME')
    group.add_argument('--class-map', default='', metavar='FILE', help='classification: class to index mapping')
    group.add_argument('--num-classes', type=int, metavar='N', help='classes of the labels; 1 for binary masks')
    group.add_argument('--in-chans', type=int, metavar='N', help='channels of the images')
    group.add_argument('--img-size', type=int, metavar='N', help='side of the training images or crops')
    group.add_argument('--input-size', type=int, nargs=3, metavar=('C', 'H', 'W'), help='the same with all dimensions')
    group.add_argument('--crop-pct', type=float, metavar='N', help='classification: centre crop in validation')
    group.add_argument('--mean', type=float, nargs='+', metavar='X', help='mean of the pixels, of 1')
    group.add_argument('--std', type=float, nargs='+', metavar='X', help='standard deviation of the pixels, of 1')
    group.add_argument('--interpolation', default='', metavar='NAME')
    group.add_argument('-b', '--batch-size', type=int, default=128, metavar='N', help='images per process')
    group.add_argument('-vb', '--validation-batch-size', type=int, metavar='N')
    group.add_argument('-j', '--workers', type=int, default=min(4, os.cpu_count() or 1), metavar='N')
    group.add_argument('--pin-mem', action='store_true')


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('model')
    group.add_argument('--model', default='rexnetv1', metavar='NAME',
                       help="a timm model (ours included) or an SMP architecture such as 'unet'")
    group.add_argument('--rex-width-mult', type=float, metavar='X',
                       help="width of 'rexnetv1', 'rexnetv1_unet' and 'rexdepth'")
    group.add_argument('--rex-depth-mult', type=float, metavar='X',
                       help="depth of 'rexnetv1', 'rexnetv1_unet' and 'rexdepth'")
    group.add_argument('--pretrained', action='store_true', help='start from published weights')
    group.add_argument('--pretrained-path', default='', metavar='PATH',
                       help='start from a file as from published weights: adapted, without the classifier')
    group.add_argument('--initial-checkpoint', default='', metavar='PATH', help='start from the weights of a file')
    group.add_argument('--resume', default='', metavar='PATH', help='continue a run from its checkpoint')
    group.add_argument('--no-resume-opt', action='store_true', help='continue without the state of the optimizer')
    group.add_argument('--gp', metavar='NAME', help='classification: global pooling')
    group.add_argument('--drop', type=float, metavar='X', help='dropout before the classifier')
    group.add_argument('--drop-path', type=float, metavar='X', help='stochastic depth')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=_KeyValues, metavar='KEY=VALUE')
    group.add_argument('--grad-checkpointing', action='store_true')
    group.add_argument('--channels-last', action='store_true')
    group.add_argument('--torchcompile', nargs='?', const='inductor', metavar='BACKEND')

    group = parser.add_argument_group('multi-scale U-Net')
    group.add_argument('--encoder-name', metavar='NAME', help="encoder of an SMP architecture or of 'multiscaleunet'")
    group.add_argument('--encoder-weights', metavar='NAME', help='published weights of the encoder')
    group.add_argument('--scales', type=int, nargs='+', metavar='S',
                       help='scales with a head (default: 0 1 2 3 4; for depth 0 1 2 3)')
    group.add_argument('--scale-weights', nargs='+', default=['exp'], metavar='W',
                       help="'same', 'exp' (1/2^s), 'two' (1 and 1/2) or one number for each scale (default: exp)")
    group.add_argument('--scale-target', default='nearest', metavar='NAME',
                       help="'nearest', 'majority', 'object', 'soft' or 'upsample' (default: nearest)")
    group.add_argument('--object-share', type=float, default=0.25, metavar='X',
                       help="share of a cell from which on an object wins with --scale-target object (default: 0.25)")
    group.add_argument('--background-classes', type=int, nargs='+', default=[0], metavar='N',
                       help='classes over which objects win with --scale-target object (default: 0)')
    group.add_argument('--fade-epochs', type=int, nargs=2, metavar='N',
                       help='first and last epoch of a fade of the coarser scales out of the loss')


def _add_optimization(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('optimizer')
    group.add_argument('--opt', default='sgd', metavar='NAME', help="any of timm's")
    group.add_argument('--opt-eps', type=float, metavar='X')
    group.add_argument('--opt-betas', type=float, nargs='+', metavar='X')
    group.add_argument('--opt-args', nargs='*', default={}, action=_KeyValues, metavar='KEY=VALUE')
    group.add_argument('--momentum', type=float, default=0.9, metavar='X')
    group.add_argument('--weight-decay', type=float, default=2e-5, metavar='X')
    group.add_argument('--clip-grad', type=float, metavar='X')
    group.add_argument('--clip-mode', default='norm', choices=('norm', 'value', 'agc'))
    group.add_argument('--grad-accum-steps', type=int, default=1, metavar='N')

    group = parser.add_argument_group('schedule')
    group.add_argument('--sched', default='cosine', metavar='NAME', help="any of timm's")
    group.add_argument('--sched-on-updates', action='store_true', help='follow updates instead of epochs')
    group.add_argument('--lr', type=float, metavar='X', help='learning rate; default from --lr-base and batch size')
    group.add_argument('--lr-base', type=float, default=0.1, metavar='X', help='rate at --lr-base-size images')
    group.add_argument('--lr-base-size', type=int, default=256, metavar='N')
    group.add_argument('--lr-base-scale', default='', choices=('', 'linear', 'sqrt'),
                       help='default: sqrt for adaptive optimizers, else linear')
    group.add_argument('--warmup-lr', type=float, default=1e-5, metavar='X')
    group.add_argument('--min-lr', type=float, default=0., metavar='X')
    group.add_argument('--epochs', type=int, default=300, metavar='N')
    group.add_argument('--start-epoch', type=int, metavar='N')
    group.add_argument('--warmup-epochs', type=int, default=5, metavar='N')
    group.add_argument('--warmup-prefix', action='store_true', help='leave warm-up out of the schedule')
    group.add_argument('--cooldown-epochs', type=int, default=0, metavar='N')
    group.add_argument('--patience-epochs', type=int, default=10, metavar='N')
    group.add_argument('--decay-epochs', type=float, default=90, metavar='N')
    group.add_argument('--decay-milestones', type=int, nargs='+', default=[90, 180, 270], metavar='N')
    group.add_argument('--decay-rate', '--dr', type=float, default=0.1, metavar='X')
    group.add_argument('--lr-k-decay', type=float, default=1.0, metavar='X')


def _add_augmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('augmentation')
    group.add_argument('--no-aug', action='store_true')
    group.add_argument('--scale', type=float, nargs=2, metavar='X',
                       help='classification: area of the crop (0.08 1.0); segmentation: zoom of the image (0.5 2.0)')
    group.add_argument('--ratio', type=float, nargs=2, default=[3. / 4., 4. / 3.], metavar='X')
    group.add_argument('--hflip', type=float, default=0.5, metavar='P')
    group.add_argument('--vflip', type=float, default=0., metavar='P')
    group.add_argument('--color-jitter', type=float, default=0.4, metavar='X')

    group = parser.add_argument_group('augmentation and loss of classification')
    group.add_argument('--train-interpolation', default='random', metavar='NAME')
    group.add_argument('--aa', metavar='POLICY', help="AutoAugment policy, such as 'rand-m9-mstd0.5'")
    group.add_argument('--reprob', type=float, default=0., metavar='P', help='random erasing')
    group.add_argument('--remode', default='pixel', metavar='NAME')
    group.add_argument('--recount', type=int, default=1, metavar='N')
    group.add_argument('--mixup', type=float, default=0., metavar='X')
    group.add_argument('--cutmix', type=float, default=0., metavar='X')
    group.add_argument('--mixup-prob', type=float, default=1., metavar='P')
    group.add_argument('--mixup-switch-prob', type=float, default=0.5, metavar='P')
    group.add_argument('--mixup-mode', default='batch', choices=('batch', 'pair', 'elem'))
    group.add_argument('--smoothing', type=float, default=0.1, metavar='X', help='label smoothing')
    group.add_argument('--bce-loss', action='store_true')


def _add_segmentation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('segmentation')
    group.add_argument('--ignore-index', type=int, metavar='N', help='label of the masks that does not count')
    group.add_argument('--seg-loss', default='ce', metavar='NAME',
                       help="'ce', 'dice', 'focal', 'lovasz', or a sum such as 'ce+dice' (default: ce)")
    group.add_argument('--class-weights', type=float, nargs='+', metavar='W',
                       help="weight of each class in 'ce', more for rare ones; of masks with one class background and "
                            'foreground (default: all 1)')


def _add_depth(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('depth')
    group.add_argument('--min-depth', type=float, default=0.1, metavar='M',
                       help='nearest depth that is predicted and counts, in metres (default: 0.1)')
    group.add_argument('--max-depth', type=float, default=100., metavar='M', help='farthest one (default: 100)')
    group.add_argument('--smoothness', type=float, default=1e-3, metavar='W',
                       help='weight of the edge-aware smoothness in the loss (default: 0.001)')


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('run')
    group.add_argument('-c', '--config', metavar='FILE', help='YAML file of defaults for these arguments')
    group.add_argument('--device', metavar='NAME', help='default: the best there is')
    group.add_argument('--amp', action='store_true', help='mixed precision')
    group.add_argument('--amp-dtype', default='float16', choices=('float16', 'bfloat16'))
    group.add_argument('--sync-bn', action='store_true', help='BatchNorm over all processes')
    group.add_argument('--dist-bn', default='reduce', choices=('reduce', 'broadcast', ''))
    group.add_argument('--no-ddp-bb', action='store_true', help='no broadcast of buffers in each step')
    group.add_argument('--model-ema', action='store_true', help='moving average of the weights')
    group.add_argument('--model-ema-decay', type=float, default=0.9998, metavar='X')
    group.add_argument('--model-ema-warmup', action='store_true')
    group.add_argument('--seed', type=int, default=42, metavar='N')
    group.add_argument('--log-interval', type=int, default=50, metavar='N', help='batches between two lines')
    group.add_argument('--progress', action='store_true', help='a bar instead of lines')
    group.add_argument('--checkpoint-hist', type=int, default=10, metavar='N')
    group.add_argument('--output', default='', metavar='DIR', help='folder of the runs (default: output/train)')
    group.add_argument('--experiment', default='', metavar='NAME', help='folder of this run in it')
    group.add_argument('--eval-metric', metavar='NAME', help='what ranks checkpoints (default: top1, miou or abs_rel)')


def create_train_parser() -> argparse.ArgumentParser:
    """The parser of scripts/train.py."""
    parser = argparse.ArgumentParser(
        prog='train.py', description='Train a model of classes, masks or depth with the tools of timm.',
        allow_abbrev=False)
    for add in (_add_data, _add_model, _add_optimization, _add_augmentation, _add_segmentation, _add_depth,
                _add_run):
        add(parser)
    return parser


def _config_defaults(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f'There is no configuration file {path!r}.')
    with open(path) as file:
        config = yaml.safe_load(file) or {}
    if not isinstance(config, dict):
        raise ValueError(f'{path!r} must hold NAME: VALUE lines, one for each argument.')
    config = {str(key).replace('-', '_'): value for key, value in config.items()}
    known = vars(parser.parse_args([])).keys() - {'config'}
    for key in config:
        if key not in known:
            raise ValueError(f'{path!r} sets {key!r}, which is no argument of {parser.prog}.{near_names(key, known)}')
    return config


def parse_train_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of scripts/train.py: the parser's defaults, a YAML file's over them, the command line's over both.

    Args:
        argv: The command line without the script's name; None takes that of the process.

    Returns:
        The arguments; `data_dir` is the folder however it was given.

    Raises:
        ValueError: An unknown name in the YAML file, or a number out of its range.
        FileNotFoundError: No such YAML file.
    """
    parser = create_train_parser()
    config_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument('-c', '--config')
    config = config_parser.parse_known_args(argv)[0].config
    if config:
        parser.set_defaults(**_config_defaults(config, parser))
    args = parser.parse_args(argv)
    _check_ranges(args)
    args.data_dir = args.data or args.data_dir
    if args.data_dir is None and args.dataset == '':
        parser.error('a folder of data is needed (the first argument, or --data-dir), or --dataset synthetic or '
                     'synthetic-depth')
    return args


def _check_ranges(args: argparse.Namespace) -> None:
    # after parsing, as values of a YAML file do not pass the types of the flags
    for names, rule, holds in (
        (('epochs', 'grad_accum_steps', 'log_interval', 'checkpoint_hist'), 'at least 1', lambda value: value >= 1),
        (('drop', 'drop_path', 'model_ema_decay'), 'at least 0 and below 1', lambda value: 0 <= value < 1),
        (('clip_grad',), 'above 0, or left out', lambda value: value > 0),
    ):
        for name in names:
            value = getattr(args, name)
            if value is not None and not holds(value):
                raise ValueError(f'--{name.replace("_", "-")} must be {rule}, got {value}.')


def repeatable_args(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as a YAML file for --config that repeats the run, without what a process adds while it runs."""
    names = vars(create_train_parser().parse_args([])).keys() - {'config', 'data'}
    return {name: getattr(args, name) for name in sorted(names)}
