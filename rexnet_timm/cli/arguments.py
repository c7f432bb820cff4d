"""Arguments of `rexnet train`.

Names and defaults are those of timm's train.py (https://github.com/huggingface/pytorch-image-models), so that its
recipes carry over; what timm lacks is in the groups "multi-scale U-Net", "segmentation" and "depth". A YAML file given
with --config sets defaults that the command line overrides; its values are read as if they were typed.
"""
import argparse
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.optim import get_optimizer_info, list_optimizers

from ..files import ENCODER_DOOR, PRETRAINED_DOOR
from ..training.base_losses import LOSSES
from ..training.losses import TARGETS, WEIGHTS
from .data_options import FLAGS, IGNORE_INDEX, add_depth_scale, add_images, add_labels, add_layout
from .kinds import KINDS, kind_of
from .mistakes import UsageError
from .parsing import Parser
from .recipes import find_recipe, read_recipe
from .resume import ALLOWABLE
from .values import Kind, number, one_of, one_of_table

__all__ = ['create_train_parser', 'parse_train_args', 'repeatable_args', 'train_args_of', 'train_flags']

SCHEDULES = ('cosine', 'tanh', 'step', 'multistep', 'constant', 'plateau', 'poly', 'wsd', 'rsqrt', 'none')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
DATASETS = ('synthetic', 'synthetic-depth')
DATASET_SOURCES = ('torch', 'hfds', 'hfids', 'tfds', 'wds')

# What other tools call an option, where the spelling does not lead to ours.
_SYNONYMS = {
    'arch': 'model', 'batch': 'batch_size', 'classes': 'num_classes', 'dropout': 'drop', 'ema': 'model_ema',
    'fp16': 'amp', 'gpu': 'device', 'imgsz': 'img_size', 'label_smoothing': 'smoothing', 'learning_rate': 'lr',
    'loss': 'seg_loss', 'lr_scheduler': 'sched', 'name': 'experiment', 'num_workers': 'workers', 'optimizer': 'opt',
    'scheduler': 'sched', 'wd': 'weight_decay'}
# What the library calls an argument, where that is not the name of the option.
_LIBRARY_NAMES = {
    'depth_mult': 'rex_depth_mult', 'drop_path_rate': 'drop_path', 'drop_rate': 'drop', 'global_pool': 'gp',
    'in_channels': 'in_chans', 'width_mult': 'rex_width_mult'}


# What else the library's errors say, with the words in its place.
_LIBRARY_WORDS = {
    f'rexnet_timm.{ENCODER_DOOR}': '--pretrained-path', ENCODER_DOOR: '--pretrained-path',
    PRETRAINED_DOOR: '--pretrained-path', 'as an initial checkpoint instead of resuming it':
    'with --initial-checkpoint instead of --resume', 'scales must': '--scales must',
    'weights must': '--scale-weights must', 'background must': '--background-classes must'}


def _scale_weight(word: str) -> str | float:
    if word in WEIGHTS:
        return word
    if not 0 <= float(word) < math.inf:
        raise ValueError(word)
    return float(word)


def _dataset(word: str) -> str:
    source, _, name = word.partition('/')
    if word and word not in DATASETS and not (name and source.lower() in DATASET_SOURCES):
        raise ValueError(word)
    return word


def _policy(word: str) -> str:
    first = word.split('-')[0]
    create = {'rand': rand_augment_transform, 'augmix': augment_and_mix_transform}.get(first, auto_augment_transform)
    try:
        if word:
            create(word, {})
    except (AssertionError, KeyError) as error:  # timm's, of a part that it does not know
        raise ValueError(word) from error
    return word


COUNT, INDEX, SIDE = number(int, at_least=1), number(int, at_least=0), number(int, at_least=32)
POSITIVE, NOT_NEGATIVE = number(float, above=0), number(float, at_least=0)
SHARE, RATE = number(float, at_least=0, at_most=1), number(float, at_least=0, below=1)
SHARE_ABOVE_0 = number(float, above=0, at_most=1)
# of pixels from 0 to 1, and beyond where --image-scale is below some of their values
MEAN, DEVIATION = number(float, at_least=-10, at_most=10), number(float, above=0, at_most=10)
CHANGED = one_of(*ALLOWABLE, read=lambda word: word.removeprefix('--').replace('_', '-'))
OPTIMIZER = one_of(
    *list_optimizers(), rule="one of timm's optimizers (timm.optim.list_optimizers())",
    read=lambda word: word.lower().removeprefix('lookahead_'))
TASK = one_of_table(KINDS)
LOSS = one_of_table(LOSSES, sums=True)
SCALE_WEIGHT = Kind(f'one of {", ".join(WEIGHTS)}, or numbers of at least 0', _scale_weight, tuple(WEIGHTS), 'W')
DATASET = Kind(
    f'one of {", ".join(DATASETS)}, or a set of timm such as torch/cifar10 ({", ".join(DATASET_SOURCES)}), or left out '
    'for folders', _dataset, DATASETS)
POLICY = Kind("a policy of timm, such as 'rand-m9-mstd0.5', 'augmix-m5-w4-d2' or 'original'", _policy)


def _add_data(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('data')
    add('data', nargs='?', metavar='DIR', help='folder of the data; the same as --data-dir')
    add('--data-dir', metavar='DIR', help='folder of the data; of masks also a dataset.yaml that describes it')
    add('--dataset', kind=DATASET, default='',
        help='a built-in set, or one of timm such as torch/cifar10', unset='folders')
    add('--synthetic-images', kind=COUNT, default=512,
        help='training images of a built-in set; an eighth as many for validation')
    add('--train-split', default='train', help='part that is trained on')
    add('--val-split', default='validation', help='part that is validated on')
    add('--auto', kind=bool, help='masks: take what "rexnet check" proposes')
    add('--skip-bad-samples', kind=INDEX, default=0, help='masks: bad samples that may be left out')
    add('--class-map', default='', metavar='FILE', help='classification: file of class names, in the order of indices')
    add('--num-classes', kind=COUNT, help='classes of the labels, 1 for binary masks',
        unset='that of the data or of the model')
    add('--in-chans', kind=COUNT, help='channels of the images', unset='masks: those of the data; 3')
    add('--img-size', kind=SIDE, help='side of the training images or crops, in pixels', unset='that of the model')
    add('--input-size', kind=COUNT, nargs=3, metavar=('C', 'H', 'W'),
        help='channels, height and width of them, instead')
    add('--crop-pct', kind=SHARE_ABOVE_0,
        help='classification: side of the centre crop in validation, of 1', unset='that of the model')
    add('--mean', kind=MEAN, nargs='+', help='mean of the pixels from 0 to 1, one or one a channel',
        unset='that of the model, or measured')
    add('--std', kind=DEVIATION, nargs='+', help='standard deviation of them', unset='as --mean')
    add('--interpolation', kind=one_of('', *INTERPOLATIONS), default='',
        help='how images are resized; classification: in validation', unset="bilinear; classification: the model's")
    add('-b', '--batch-size', kind=COUNT, default=128, help='training images in a batch of each process')
    add('-vb', '--validation-batch-size', kind=COUNT, help='validation images in a batch', unset='--batch-size')
    add('-j', '--workers', kind=INDEX, default=min(4, os.cpu_count() or 1), help='loading processes of each process')
    add('--pin-mem', kind=bool, help='load into pinned memory, with CUDA')


def _add_model(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('model')
    add('--model', default='rexnetv1', help='a model of timm, ours included, or an architecture of SMP such as unet')
    add('--task', kind=TASK, help='what the model learns', unset='what its name tells')
    add('--rex-width-mult', kind=POSITIVE, help='width of rexnetv1, rexnetv1_unet and rexdepth, 1 is standard')
    add('--rex-depth-mult', kind=POSITIVE, help='depth of rexnetv1, rexnetv1_unet and rexdepth, 1 is standard')
    add('--pretrained', kind=bool, help='start from published weights')
    add('--pretrained-path', default='', metavar='PATH', help='start from a file as from published weights')
    add('--initial-checkpoint', default='', metavar='PATH', help='start from all weights of a file')
    add('--resume', default='', metavar='PATH',
        help='continue a run from its checkpoint; auto: the run that this command began, or begin it')
    add('--no-resume-opt', kind=bool, help='continue without the state of the optimizer')
    add('--allow-changed', kind=CHANGED, nargs='+', metavar='NAME',
        help='with --resume: options that may differ from those that the run was begun with', unset='none')
    add('--gp', help='classification: global pooling, such as avg', unset='that of the model')
    add('--drop', kind=RATE,
        help='classification: probability of dropout before the classifier', unset='that of the model')
    add('--drop-path', kind=RATE, help='probability of dropping a block', unset='that of the model')
    add('--model-kwargs', kind=dict,
        help='further arguments of the model, such as scales=[0,1]; those of a recipe are for its model only')
    add('--grad-checkpointing', kind=bool, help='compute activations again in the backward pass, for less memory')
    add('--channels-last', kind=bool, help='keep channels innermost in memory')
    add('--torchcompile', nargs='?', const='inductor', metavar='BACKEND',
        help='compile the model (BACKEND is inductor where it is left out)')


def _add_multi_scale(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('multi-scale U-Net')
    add('--encoder-name', help='encoder of an SMP architecture or of multiscaleunet, such as rexnetv1')
    add('--encoder-weights', help='published weights of the encoder', unset='random')
    add('--scales', kind=INDEX, nargs='+', metavar='S',
        help='scales with a head, 0 is the finest', unset='0 1 2 3 4; of a depth model 0 1 2 3')
    add('--scale-weights', kind=SCALE_WEIGHT, nargs='+', default=['exp'],
        help='weights of the scales: same, exp (1/2^s), two (1, 1/2, 1/2, ...), or a number for each')
    add('--scale-target', kind=one_of(*TARGETS), default='nearest', help='how labels shrink to a coarse scale')
    add('--object-share', kind=SHARE_ABOVE_0, default=0.25,
        help='share of a cell from which on an object wins with --scale-target object')
    add('--background-classes', kind=INDEX, nargs='+', default=[0],
        help='classes over which objects win with --scale-target object')
    add('--fade-epochs', kind=INDEX, nargs=2, metavar=('FIRST', 'LAST'),
        help='epochs between which the coarse scales fade out of the loss', unset='never')


def _add_segmentation(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('files of images and masks, or of images and depth')
    add_layout(add)
    add_images(add)
    add = group('segmentation')
    add('--ignore-index', kind=IGNORE_INDEX,
        help='label of the masks that does not count', unset='that of the data, or none')
    add_labels(add)
    add('--seg-loss', kind=LOSS, default='ce', help="loss of a scale, also a sum such as 'ce+dice'")
    add('--class-weights', kind=POSITIVE, nargs='+', metavar='W',
        help="weight of each class in 'ce', more for rare ones; binary: background and foreground", unset="all 1")


def _add_depth(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('depth')
    add_depth_scale(add)
    add('--min-depth', kind=POSITIVE, default=0.1, metavar='M', help='nearest depth that counts, in metres')
    add('--max-depth', kind=POSITIVE, default=100., metavar='M', help='farthest depth that counts, in metres')
    add('--smoothness', kind=NOT_NEGATIVE, default=1e-3, metavar='W', help='weight of the smoothness in the loss')


def _add_optimization(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('optimizer')
    add('--opt', kind=OPTIMIZER, default='sgd', help="one of timm's optimizers, such as sgd, adamw, lamb")
    add('--opt-eps', kind=NOT_NEGATIVE, help='epsilon of the optimizer', unset='its own')
    add('--opt-betas', kind=RATE, nargs='+', help='betas of the optimizer, as many as it has', unset='its own')
    add('--opt-args', '--opt-kwargs', kind=dict, help='further arguments of the optimizer, such as nesterov=false')
    add('--momentum', kind=RATE, default=0.9, help='momentum of an optimizer with one')
    add('--weight-decay', kind=NOT_NEGATIVE, default=2e-5, help='weight decay, not of biases and norms')
    add('--clip-grad', kind=number(float, above=0, note=', or left out'),
        help='limit of the gradient, in the sense of --clip-mode', unset='none')
    add('--clip-mode', kind=one_of('norm', 'value', 'agc'), default='norm', help='what --clip-grad limits')
    add('--grad-accum-steps', kind=COUNT, default=1, help='batches whose gradients make one update')

    add = group('schedule')
    add('--epochs', kind=COUNT, default=300, help='epochs, before --cooldown-epochs')
    add('--lr', kind=POSITIVE, help='learning rate',
        unset='masks: 2e-3 with nmuon, 1e-3 with adamw; depth: 1e-3 with adamw; else by --lr-base')
    add('--lr-base', kind=POSITIVE, default=0.1, help='learning rate for --lr-base-size images in an update')
    add('--lr-base-size', kind=COUNT, default=256, help='images of an update to which --lr-base belongs')
    add('--lr-base-scale', kind=one_of('', 'linear', 'sqrt'), default='',
        help='how the rate grows with the images', unset='sqrt for adaptive optimizers, else linear')
    add('--sched', kind=one_of(*SCHEDULES), default='cosine',
        help='schedule of the learning rate; none keeps it as it is')
    add('--sched-on-updates', kind=bool, help='change the rate after each update instead of each epoch')
    add('--warmup-epochs', kind=INDEX, default=5, help='epochs from --warmup-lr to --lr')
    add('--warmup-lr', kind=NOT_NEGATIVE, default=1e-5, help='learning rate at the start of the warm-up')
    add('--warmup-prefix', kind=bool, help='add the warm-up to --epochs')
    add('--min-lr', kind=NOT_NEGATIVE, default=0., help='learning rate at the end')
    add('--cooldown-epochs', kind=INDEX, default=0, help='epochs at --min-lr after --epochs')
    add('--start-epoch', kind=INDEX, help='first epoch', unset='0, or that of --resume')
    add('--decay-epochs', kind=POSITIVE, metavar='N', unset='90; wsd, rsqrt: 0.2',
        help='step: epochs from decay to decay; wsd, rsqrt: last epochs that decay, or a share of all below 1')
    add('--decay-milestones', kind=COUNT, nargs='+', default=[90, 180, 270], help='multistep: epochs of the decays')
    add('--decay-rate', '--dr', kind=POSITIVE, default=0.1, help='factor of a decay; poly: exponent')
    add('--patience-epochs', kind=INDEX, default=10, help='plateau: epochs without progress before a decay')
    add('--lr-k-decay', kind=POSITIVE, default=1.0, help='cosine, poly: exponent of the time')


def _add_augmentation(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('augmentation')
    add('--no-aug', kind=bool, help='no augmentation in training')
    add('--scale', kind=POSITIVE, nargs=2, metavar=('LOW', 'HIGH'),
        help='classification: area of the crop, of 1; segmentation: zoom',
        unset='0.08 1 and 0.5 2')
    add('--ratio', kind=POSITIVE, nargs=2, default=[3. / 4., 4. / 3.], metavar=('LOW', 'HIGH'),
        help='classification: width of the crop over its height')
    add('--hflip', kind=SHARE, default=0.5, metavar='P', help='probability of left for right')
    add('--vflip', kind=SHARE, default=0., metavar='P', help='probability of top for bottom')
    add('--color-jitter', kind=NOT_NEGATIVE, default=0.4,
        help='strength of changes of colour, of other bands of brightness and contrast, 0 for none')
    add('--rotation', kind=number(float, at_least=0, at_most=180), default=0., metavar='DEGREES',
        help='segmentation: largest angle by which crops are turned, to either side')
    add('--elastic', kind=NOT_NEGATIVE, default=0., metavar='PIXELS',
        help='segmentation: standard deviation of a smooth random displacement of the pixels')
    add('--crops-per-image', kind=COUNT, default=1,
        help='segmentation: training crops of each image in an epoch')
    add('--class-balanced-crops', kind=SHARE, nargs='?', const=0.33, default=0., metavar='SHARE',
        help='segmentation: share of the crops that look for rarer classes of the image (SHARE is 0.33 where left out)')

    add = group('augmentation and loss of classification')
    add('--train-interpolation', kind=one_of('random', *INTERPOLATIONS), default='random',
        help='how training images are resized')
    add('--aa', kind=POLICY, metavar='POLICY', help="AutoAugment policy, such as 'rand-m9-mstd0.5'", unset="none")
    add('--reprob', kind=SHARE, default=0., metavar='P', help='probability of erasing a rectangle')
    add('--remode', kind=one_of('pixel', 'rand', 'const'), default='pixel', help='what fills the rectangle')
    add('--recount', kind=COUNT, default=1, help='rectangles at most')
    add('--mixup', kind=NOT_NEGATIVE, default=0., help='alpha of mixup, 0 for none')
    add('--cutmix', kind=NOT_NEGATIVE, default=0., help='alpha of CutMix, 0 for none')
    add('--mixup-prob', kind=SHARE, default=1., metavar='P', help='probability of mixup or CutMix')
    add('--mixup-switch-prob', kind=SHARE, default=0.5, metavar='P', help='probability of CutMix where both are on')
    add('--mixup-mode', kind=one_of('batch', 'pair', 'elem'), default='batch', help='what shares one mixing ratio')
    add('--smoothing', kind=RATE, default=0.1, help='label smoothing')
    add('--bce-loss', kind=bool, help='binary cross entropy of each class')


def _add_run(group: Callable[[str], Callable[..., None]]) -> None:
    add = group('run')
    add('-c', '--config', metavar='FILE', help='YAML file of defaults for these options, or the name of a recipe')
    add('--device', help='device, such as cuda, cuda:1, mps, cpu', unset='the best there is')
    add('--amp', kind=bool, help='mixed precision')
    add('--amp-dtype', kind=one_of('float16', 'bfloat16'), default='float16', help='type of --amp')
    add('--sync-bn', kind=bool, help='BatchNorm over all processes')
    add('--dist-bn', kind=one_of('reduce', 'broadcast', ''), default='reduce',
        help="how processes share statistics of BatchNorm after an epoch, '' for not at all")
    add('--dist-timeout', kind=POSITIVE, default=1800., metavar='SECONDS',
        help='how long a process waits for the others before the run ends')
    add('--no-ddp-bb', kind=bool, help='no broadcast of buffers in each step')
    add('--model-ema', kind=bool, help='keep and validate a moving average of the weights')
    add('--model-ema-decay', kind=RATE, default=0.9998, help='share of the average that an update keeps')
    add('--model-ema-warmup', kind=bool, help='average over few updates at first')
    add('--seed', kind=number(int, at_least=0, at_most=2 ** 31 - 1), default=42, help='seed of all random numbers')
    add('--log-interval', kind=COUNT, default=50, help='batches between two lines of the log')
    add('--log-tensorboard', kind=bool,
        help="write numbers and pictures of the epochs for TensorBoard, in the run's folder")
    add('--log-wandb', kind=bool, help='send numbers and pictures of the epochs to Weights & Biases')
    add('--log-trackio', kind=bool, help='keep numbers and pictures of the epochs with Trackio')
    add('--progress', kind=bool, help='a bar instead of lines, on a terminal and in a notebook')
    add('--picture-interval', kind=INDEX, metavar='N',
        help="epochs between two pictures of predictions in the run's folder, 0 for no pictures",
        unset='so many that a run has about 30')
    add('--checkpoint-hist', kind=COUNT, default=10, help='checkpoints that are kept')
    add('--recovery-interval', kind=INDEX, default=0, metavar='N',
        help='updates between two checkpoints in the middle of an epoch, 0 for none')
    add('--max-skipped', kind=COUNT, default=20, metavar='N',
        help='updates in a row that are left out for NaN or infinity, after which the run ends')
    add('--output', default='', metavar='DIR', help='folder of the runs', unset='output/train')
    add('--experiment', default='', help='folder of this run in --output', unset='time and model, or that of --resume')
    add('--overwrite', kind=bool, help='replace a run that is in the folder; other files in it stay')
    add('--report', kind=bool, help="write report.html into the run's folder at the end")
    add('--eval-metric', help='what ranks checkpoints', unset='top1, miou or abs_rel')


def create_train_parser(prog: str = 'rexnet train') -> Parser:
    """The parser of `rexnet train`.

    Args:
        prog: The command, as it is typed.
    """
    parser = Parser(
        prog, 'Train a model of classes, masks or depth with the tools of timm.', _SYNONYMS,
        usage='%(prog)s [DIR] [options]')
    for add in (_add_data, _add_model, _add_multi_scale, _add_segmentation, _add_depth, _add_optimization,
                _add_augmentation, _add_run):
        add(parser.group)
    for kind in KINDS.values():
        for name, value in kind.defaults.items():
            option = parser.options[name]
            option.help = f'{option.help} ({kind.name}: {value})'.replace(') (', '; ')
    return parser


def train_flags() -> dict[str, str]:
    """What the user types by what the library's errors say; of names only those that are no English words."""
    options = create_train_parser().options
    names = {**{name: name for name in options if '_' in name}, **_LIBRARY_NAMES}
    return {**_LIBRARY_WORDS, **FLAGS, **{name: f'--{option.replace("_", "-")}' for name, option in names.items()}}


def parse_train_args(argv: Sequence[str] | None = None, prog: str = 'rexnet train') -> argparse.Namespace:
    """Arguments of `rexnet train`: the command line's over a YAML file's over the defaults of the kind and the parser.

    Args:
        argv: The words after the command; None takes those of the process.
        prog: The command, as it is typed.

    Returns:
        The arguments. `data_dir` is the folder however it was given. `given` has the names of the options that were
        typed, or that the YAML file sets to something else than their defaults; a tuple of str, in order.

    Raises:
        UsageError: A ValueError: an unknown option, a value that its option does not take, options that contradict
            each other, or a YAML file that cannot be read.
    """
    parser = create_train_parser(prog)
    return _complete(parser, parser.given(argv))


def train_args_of(values: Mapping[str, Any]) -> argparse.Namespace:
    """Arguments of `rexnet train` from values of Python by the names of its options, as `parse_train_args` gives them.

    Raises:
        UsageError: As `parse_train_args`.
    """
    parser = create_train_parser()
    return _complete(parser, parser.read_values(values))


def _complete(parser: Parser, typed: dict[str, Any]) -> argparse.Namespace:
    """All arguments, of those that are given."""
    recipe = read_recipe(find_recipe(typed['config']), parser.options, parser.synonyms) if 'config' in typed else {}
    _check_places(recipe, typed)
    for source in (recipe, typed):
        _take_folder(source)
    if 'model' in recipe and typed.get('model', recipe['model']) != recipe['model']:
        recipe.pop('model_kwargs', None)  # of another architecture
    for name, value in typed.items():
        if isinstance(value, dict):
            typed[name] = {**recipe.get(name, {}), **value}
    defaults = vars(parser.parse_args([]))
    del defaults['data']
    said = {**recipe, **typed}
    defaults |= kind_of(said.get('model', defaults['model']), said.get('task')).defaults_beside(said)
    args = argparse.Namespace(**{**defaults, **recipe, **typed})
    set_by_recipe = {name for name, value in recipe.items() if value != defaults[name]}
    args.given = tuple(sorted((set_by_recipe | typed.keys()) - {'config'}))
    _check_together(args)
    return args


def _check_places(recipe: dict[str, Any], typed: Mapping[str, Any]) -> None:
    """Raise UsageError for a YAML file, which may be somebody else's, that chooses what is written or replaced where.

    It may name a folder below the current one, and the arguments of a run name the folder that they lie in.
    """
    if recipe.get('overwrite'):
        raise UsageError(
            f"{typed['config']!r} sets overwrite: what is replaced is said on the command line only, by --overwrite.")
    if 'output' not in recipe or 'output' in typed:
        return
    output, here = os.path.realpath(recipe['output']), os.path.realpath('.')
    run = os.path.dirname(os.path.realpath(find_recipe(typed['config'])))
    own = os.path.dirname(run) if not recipe.get('experiment') else os.path.realpath(
        os.path.join(output, recipe['experiment']))
    if os.path.commonpath((here, output)) != here and own != (run if recipe.get('experiment') else output):
        raise UsageError(
            f"{typed['config']!r} sets output to {recipe['output']!r}, which is outside of the current folder: pass "
            f"--output {shlex.quote(recipe['output'])} if that is meant.")


def _take_folder(values: dict[str, Any]) -> None:
    """Leave `data_dir` of the two names of the folder."""
    first = values.pop('data', None)
    if first is not None:
        second = values.setdefault('data_dir', first)
        if os.path.abspath(first) != os.path.abspath(second):
            raise UsageError(f'The folder of the data is given twice: {first!r} and --data-dir {second!r}.')


def _check_together(args: argparse.Namespace) -> None:
    """Rules that need more than one value, whether it was typed or is from a YAML file."""
    def check(holds: bool, text: str) -> None:
        if not holds:
            raise UsageError(text)

    def shown(values: Sequence[Any]) -> str:
        return ' '.join(map(str, values))

    check(bool(args.data_dir or args.dataset),
          'A folder of data is needed (the first word, or --data-dir), or --dataset synthetic or synthetic-depth.')
    check(not os.path.isabs(args.experiment) and '..' not in args.experiment.replace('\\', '/').split('/'),
          f'--experiment must be the name of a folder in --output, got {args.experiment!r}: name the place of the runs '
          'by --output.')
    for name in ('scale', 'ratio'):
        low, high = getattr(args, name) or (1, 1)
        check(low <= high, f'--{name} must be the lowest and the highest value, got {low} {high}.')
    if args.fade_epochs is not None:
        first, last = args.fade_epochs
        check(first < last, f'--fade-epochs must be a first epoch and a later last one, got {first} {last}.')
    check(all(a < b for a, b in zip(args.decay_milestones, args.decay_milestones[1:], strict=False)),
          f'--decay-milestones must rise from one to the next, got {shown(args.decay_milestones)}.')
    check(args.min_depth < args.max_depth,
          f'--min-depth must be below --max-depth, got {args.min_depth} and {args.max_depth}.')

    words = [weight for weight in args.scale_weights if isinstance(weight, str)]
    check(not words or len(args.scale_weights) == 1,
          f'--scale-weights must be one name or only numbers, got {shown(args.scale_weights)}.')
    check(bool(words) or sum(args.scale_weights) > 0, '--scale-weights must not all be 0.')

    channels, sides = args.in_chans or len(args.bands or ()), (args.img_size, args.img_size)
    check(not args.bands or len(set(args.bands)) == len(args.bands),
          f'--bands must be different ones, got {shown(args.bands or ())}.')
    check(not args.bands or channels == len(args.bands),
          f'--in-chans must be the number of --bands, got {args.in_chans} and {shown(args.bands or ())}: leave it out.')
    if args.input_size is not None:
        channels, sides = args.input_size[0], tuple(args.input_size[1:])
        check(min(sides) >= 32, f'--input-size must have sides of at least 32 pixels, got {shown(args.input_size)}.')
        check(args.img_size in (None, *sides) and (args.img_size is None or sides[0] == sides[1]),
              f'--img-size must agree with --input-size, got {args.img_size} and {shown(args.input_size)}: '
              f'pass --input-size {channels} {args.img_size} {args.img_size}, or only one of the two.')
        check(not args.bands or channels == len(args.bands),
              f'--input-size must have as many channels as there are --bands, got {channels} and '
              f'{shown(args.bands or ())}.')
        check(args.in_chans in (None, channels),
              f'--in-chans must agree with --input-size, got {args.in_chans} and {shown(args.input_size)}: '
              f'pass --input-size {args.in_chans} {shown(sides)}, or only one of the two.')
    for name in ('mean', 'std'):
        values = getattr(args, name) or [0]
        channels = channels or (0 if args.data_dir else 3)  # those of a folder are not known yet
        check(not channels or len(values) in (1, channels),
              f'--{name} must have one value, or one for each of the {channels} channels, got {shown(values)}.')

    betas = get_optimizer_info(args.opt.lower().removeprefix('lookahead_'))
    if args.opt_betas is not None and betas.has_betas:
        check(len(args.opt_betas) == betas.num_betas,
              f'--opt-betas must be {betas.num_betas} numbers for --opt {args.opt}, got {shown(args.opt_betas)}.')
    check(not (args.sched == 'plateau' and args.sched_on_updates),
          '--sched plateau follows the metric of each epoch: leave out --sched-on-updates.')
    if args.sched in ('wsd', 'rsqrt'):
        length = args.epochs - (0 if args.warmup_prefix else args.warmup_epochs)
        check((args.decay_epochs or 0) <= length and length > 0,
              f'--sched {args.sched} needs epochs after the warm-up, at least --decay-epochs of them: {length} are '
              f'left of --epochs {args.epochs}.')
    check(args.sched != 'rsqrt' or args.warmup_epochs > 0, '--sched rsqrt needs --warmup-epochs of at least 1, got 0.')


def repeatable_args(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments as a YAML file for --config that repeats the run from its start, with all defaults."""
    once = {'allow_changed', 'config', 'data', 'no_resume_opt', 'overwrite', 'resume'}
    names = vars(args).keys() & create_train_parser().options.keys() - once
    return {name: getattr(args, name) for name in sorted(names)}
