"""Which run a command goes on with: its folder, its checkpoint, and what has changed since.

`--resume auto` finds the run by `--experiment`, or, without it, as the newest one in `--output` that was begun with the
same arguments. One process looks and reads, and tells the others.
"""
import argparse
import glob
import itertools
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import torch
import yaml
from timm.models import safe_model_name

from ..files import load_checkpoint_file
from ..plain_text import load_yaml
from ..training.record import RECORD
from ..training.saver import load_newest, position_of, remove_rest
from ..training.summary import SUMMARY, TIMES
from .build import Process
from .data_options import LABELS, LAYOUT, PLANNED
from .lock import refuse_folder_in_use
from .mistakes import UsageError

__all__ = [
    'ALLOWABLE', 'AUTO', 'Changes', 'Origin', 'changes_of', 'facts_of', 'find_origin', 'from_primary', 'make_folder']

_logger = logging.getLogger(__name__)

AUTO = 'auto'
PROCESSES, IMAGES = 'processes', 'training_images'  # what is compared beside the options

# Options without a say in what a run that goes on computes.
_NO_EFFECT = {
    'allow_changed', 'checkpoint_hist', 'config', 'data', 'dist_timeout', 'experiment', 'initial_checkpoint',
    'log_interval', 'log_tensorboard', 'log_trackio', 'log_wandb', 'max_skipped', 'no_resume_opt', 'output',
    'overwrite', 'picture_interval', 'pin_mem', 'pretrained', 'pretrained_path', 'progress',
    'recovery_interval', 'report', 'resume', 'workers'}
# Options of the network: with others, its weights do not fit.
_NETWORK = {'encoder_name', 'in_chans', 'model', 'num_classes', 'rex_depth_mult', 'rex_width_mult'}
# What decides of which images which batch consists.
_BATCHES = {
    'batch_size', 'class_map', 'data_dir', 'dataset', 'grad_accum_steps', 'seed', 'synthetic_images', 'train_split',
    PROCESSES, IMAGES, *LAYOUT}
_FIXED = _BATCHES | set(LABELS) | {'ignore_index', 'model_kwargs', 'opt', 'scales', 'task', 'val_split'}
# What the optimizer and its schedule are built from; others than these leave them as the checkpoint has them.
_OPTIMIZER = {
    'cooldown_epochs', 'decay_epochs', 'decay_milestones', 'decay_rate', 'epochs', 'eval_metric', 'lr', 'lr_k_decay',
    'min_lr', 'momentum', 'opt', 'opt_args', 'opt_betas', 'opt_eps', 'patience_epochs', 'sched', 'sched_on_updates',
    'warmup_epochs', 'warmup_lr', 'warmup_prefix', 'weight_decay', *_BATCHES}
_WORKED_OUT = ('eval_metric', 'image_scale', 'in_chans', 'lr', 'mean', 'num_classes', 'std')
ALLOWABLE = tuple(sorted(name.replace('_', '-') for name in _FIXED))


@dataclass(frozen=True)
class Origin:
    """What a run goes on from.

    Attributes:
        folder: The folder of the run that goes on, or that has begun without a checkpoint; None where a run begins, or
            goes on elsewhere.
        path: The checkpoint, None where the run begins.
        checkpoint: Its content.
    """
    folder: str | None = None
    path: str | None = None
    checkpoint: Mapping[str, Any] | None = None


def from_primary(process: Process, ask: Callable[[], Any]) -> Any:
    """What the primary process answers, in every process; a mistake of the user that it finds is raised in all."""
    answer = None
    if process.primary:
        try:
            answer = ask()
        except (ValueError, OSError) as error:
            if not process.distributed:
                raise
            answer = error
    if process.distributed:
        values = [answer]
        torch.distributed.broadcast_object_list(values)
        answer = values[0]
    if isinstance(answer, (ValueError, OSError)):
        raise answer
    return answer


def find_origin(args: argparse.Namespace, process: Process) -> Origin:
    """What the run goes on from, alike in all processes; they ask together.

    Raises:
        UsageError: A run in the folder that is neither gone on with nor replaced; options that exclude each other.
        FileNotFoundError: No such checkpoint.
        ValueError: A checkpoint that cannot be read.
    """
    return from_primary(process, lambda: _find_origin(args))


def _find_origin(args: argparse.Namespace) -> Origin:
    if args.overwrite and args.resume:
        raise UsageError('--overwrite replaces a run and --resume goes on with one: leave one of them out.')
    if not args.resume:
        _refuse_another_run(args)
        return Origin()
    if args.resume != AUTO:
        return _from_path(args)
    folder = _named_folder(args) if args.experiment else _newest_alike(args)
    if folder is None or not _files_of_run(folder):
        return Origin()
    refuse_folder_in_use(folder)
    found = load_newest(folder)
    return Origin(folder, *found) if found else Origin(folder)


def _from_path(args: argparse.Namespace) -> Origin:
    checkpoint = load_checkpoint_file(args.resume)
    folder = _folder_of_checkpoint(args)
    if folder is None:
        _refuse_another_run(args)
        return Origin(None, args.resume, checkpoint)
    newest = load_newest(folder)
    if newest and position_of(newest[1]) > position_of(checkpoint):
        raise UsageError(
            f'{args.resume!r} is older than {newest[0]!r}, which going on in this folder would replace: resume that '
            'one, or name another --experiment.')
    return Origin(folder, args.resume, checkpoint)


def _folder_of_checkpoint(args: argparse.Namespace) -> str | None:
    """The folder of the resumed checkpoint, unless another is asked for."""
    folder = os.path.dirname(os.path.realpath(args.resume))
    if args.experiment:
        return folder if os.path.realpath(_named_folder(args)) == folder else None
    # where runs go may be repeated, as the arguments of the run do
    return folder if not args.output or os.path.realpath(args.output) == os.path.dirname(folder) else None


def _root(args: argparse.Namespace) -> str:
    return args.output or os.path.join('output', 'train')


def _named_folder(args: argparse.Namespace) -> str:
    return os.path.join(_root(args), args.experiment)


def _refuse_another_run(args: argparse.Namespace) -> None:
    if not args.experiment or args.overwrite or not _files_of_run(_named_folder(args)):
        return
    raise UsageError(
        f'{_named_folder(args)!r} holds a run: name another --experiment, replace it with --overwrite, or go on with '
        'it by --resume auto.')


def _files_of_run(folder: str) -> list[str]:
    return [path for pattern in ('args.yaml', RECORD, SUMMARY, TIMES, '*.pth.tar')
            for path in glob.glob(os.path.join(glob.escape(folder), pattern))]


def _newest_alike(args: argparse.Namespace) -> str | None:
    """The newest run in the folder of the runs that was begun with these arguments."""
    records = glob.glob(os.path.join(glob.escape(_root(args)), '*', 'args.yaml'))
    for path in sorted(records, key=os.path.getmtime, reverse=True):
        try:
            with open(path, encoding='utf-8') as file:
                record = load_yaml(file.read())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(record, dict) and not _different(record, vars(args)) - _found_by_the_run(args):
            return os.path.dirname(path)
    return None


def _found_by_the_run(args: argparse.Namespace) -> set[str]:
    """The options that are not given and that a run works out by itself, so that its record has them."""
    names = {name for name in _WORKED_OUT if getattr(args, name) is None}
    return names | {'auto', *PLANNED} - set(args.given) if args.auto else names


def _different(stored: Mapping[str, Any], current: Mapping[str, Any]) -> set[str]:
    """The options that differ."""
    names = stored.keys() & current.keys() - _NO_EFFECT
    return {name for name in names if _plain(stored[name]) != _plain(current[name])}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Changes:
    """What has changed since the run was begun, as far as it is allowed.

    Attributes:
        names: Of the options, and of what else is compared.
    """
    names: frozenset[str] = field(default_factory=frozenset)

    @property
    def of_optimizer(self) -> bool:
        """Whether the optimizer has to be as it is built, with its rate, and not as the checkpoint has it."""
        return bool(self.names & _OPTIMIZER)

    @property
    def of_batches(self) -> bool:
        """Whether the epochs consist of other batches."""
        return bool(self.names & _BATCHES)


def changes_of(
        args: argparse.Namespace,
        checkpoint: Mapping[str, Any],
        record: Mapping[str, Any],
        facts: Mapping[str, Any],
) -> Changes:
    """What has changed since a checkpoint; what has an effect and may change is told in a warning.

    Args:
        args: The arguments of the run.
        checkpoint: What the run goes on from.
        record: The arguments of the run with what it worked out, as its checkpoints have them.
        facts: What `facts_of` tells, as its checkpoints have them.

    Raises:
        UsageError: What must not change has, and is not allowed by name.
    """
    run = checkpoint.get('run')
    stored = dict(getattr(checkpoint.get('args'), '__dict__', {}))
    if isinstance(run, Mapping) and isinstance(run.get('facts'), Mapping):
        stored |= run['facts']
    current = {**record, **facts}
    names = _different(stored, current)
    allowed = {name.replace('-', '_') for name in args.allow_changed or ()}
    if args.no_resume_opt:
        allowed.add('opt')
    refused = sorted(names & _NETWORK) or sorted(names & _FIXED - allowed)
    if refused:
        raise UsageError(_refusal(refused, stored, current))
    for name in sorted(names):
        _logger.warning(
            'The run was begun with %s and goes on with %s.', _shown(name, stored[name]), _shown(name, current[name]))
    return Changes(frozenset(names))


def _refusal(names: list[str], stored: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    was = ', '.join(_shown(name, stored[name]) for name in names)
    is_now = ', '.join(_shown(name, current[name]) for name in names)
    text = f'The run was begun with {was}, and this command has {is_now}: give what it was begun with'
    if set(names) & _NETWORK:
        return f'{text}, or begin another run from its weights with --initial-checkpoint.'
    flags = ' '.join(name.replace('_', '-') for name in names)
    without = ', or go on without the state of the optimizer (--no-resume-opt)' if names == ['opt'] else ''
    return f'{text}{without}, or allow the change with --allow-changed {flags}.'


def _shown(name: str, value: Any) -> str:
    if name in (PROCESSES, IMAGES):
        number, _, rest = str(value).partition(' ')
        return f'{number} {name.replace("_", " ")} {rest}'.strip()
    flag = f'--{name.replace("_", "-")}'
    if value in (None, '', False):
        return f'no {flag}'
    if isinstance(value, dict):
        value = [f'{key}={entry}' for key, entry in value.items()]
    words = value if isinstance(value, (list, tuple)) else [value]
    return flag if value is True else f'{flag} {" ".join(map(str, words))}'


def facts_of(loader: Any, process: Process) -> dict[str, Any]:
    """What a run must share with the one that it goes on with, beside its options: its processes and its images."""
    facts = {PROCESSES: process.world_size}
    dataset = loader.dataset
    if hasattr(dataset, 'name') and hasattr(dataset, '__len__'):
        number = len(dataset)
        some = range(0, number, max(1, number // 1000))  # as many as tell one set from another
        names = ' '.join(os.path.basename(dataset.name(index)) for index in some)
        facts[IMAGES] = f'{number} (checksum {zlib.crc32(names.encode()):08x})'
    return facts


def make_folder(args: argparse.Namespace, origin: Origin, hold: Callable[[str], object]) -> str:
    """The folder of the run, which is made, without what a killed process was writing there.

    `hold` is called with it before anything in it changes.
    """
    if origin.folder is not None:
        hold(origin.folder)
        remove_rest(origin.folder)
        return origin.folder
    root = _root(args)
    if args.experiment:
        folder = _named_folder(args)
        os.makedirs(folder, exist_ok=True)
        hold(folder)
        if args.overwrite:
            for path in _files_of_run(folder):
                os.remove(path)
        remove_rest(folder)
        return folder
    os.makedirs(root, exist_ok=True)
    name = os.path.join(root, f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(args.model)}')
    for number in itertools.count(1):
        folder = name if number == 1 else f'{name}-{number}'
        try:
            os.mkdir(folder)  # which fails where a run of the same second has made it
        except FileExistsError:
            continue
        hold(folder)
        return folder
