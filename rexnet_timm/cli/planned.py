"""What a check of the data proposes for training, as options of `rexnet train`: printed by `rexnet check`, taken by
`--auto`.
"""
import argparse
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import DatasetError
from ..data.check import Check, check_data
from ..data.plan import Plan, plan_of
from ..deployment.memory import fitting_batch
from ..files import atomic_path
from .arguments import train_args_of
from .build import Process, create_model, in_channels, start_process
from .data_options import FLAGS, PLANNED, described
from .kinds import kind_of
from .kinds.base import least_batch
from .mistakes import UsageError, with_flags
from .progress import progress_bar

__all__ = ['MODEL', 'check_model', 'default_folder', 'planned', 'with_plan', 'words_of', 'write_colors']

_logger = logging.getLogger(__name__)

MODEL = 'rexnetv1_unet_1_0'
MOST_IMAGES = 16  # in a batch
BATCHES = 10  # in an epoch, at least
COLORS = 'color_map.txt'


def default_folder(data: str) -> str:
    """Where what is found of a data set is written."""
    name = re.sub(r'[^\w.-]+', '_', Path(os.path.abspath(data)).name) or 'data'
    return os.path.join('output', 'check', name)


def write_colors(folder: str, check: Check) -> str:
    """Write the proposed colour table; beside one of another content, which may have been worked on. Returns its path.
    """
    lines = [f'class {label},{",".join(map(str, color))}' for color, label in check.description.color_map]
    text = '\n'.join(lines) + '\n'
    os.makedirs(folder, exist_ok=True)
    for index in range(1, 1000):
        path = Path(folder) / (COLORS if index == 1 else COLORS.replace('.', f'-{index}.'))
        if not path.exists():
            with atomic_path(path) as part:
                Path(part).write_text(text, encoding='utf-8')
        if path.read_text(encoding='utf-8') == text:
            break
    return str(path)


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line, by their names."""
    words = []
    for name, value in options.items():
        if name == 'label_map' and not isinstance(value, str) and not isinstance(value[0], str):
            value = [f'{label}:{index}' for label, index in value]
            if value[0].startswith('-'):  # in one word, which is no option
                value = [' '.join(value)]
        values = value if isinstance(value, (list, tuple)) else [value]
        flag = f'--{name.replace("_", "-")}'
        values = [f'{item:g}' if isinstance(item, float) else str(item) for item in values]
        if len(values) == 1 and values[0].startswith('-'):
            words.append(f'{flag}={values[0]}')
        else:
            words += [flag, *values]
    return words


def check_model(args: argparse.Namespace) -> None:
    """Refuse a model of the arguments of `rexnet check` that learns no masks, or that cannot be built, before the work.
    """
    kind = kind_of(args.model)
    if kind.name != 'segmentation':
        raise UsageError(f'--model must be one that learns masks, such as {MODEL}; {args.model} is for {kind.name}.')
    with torch.random.fork_rng(devices=[]):
        create_model(train_args_of({'data': '.', **_said(args)}), 2, kind.without_effect)


def _said(args: argparse.Namespace) -> dict[str, Any]:
    """Options of the model, of those that are given."""
    return {name: value for name in ('model', 'encoder_name', 'device') if (value := getattr(args, name)) is not None}


def planned(args: argparse.Namespace, folder: str, check: Check, color_file: str | None) -> Plan:
    """The plan for a check, with the batch size for the model of the arguments of `rexnet check`."""
    plan = plan_of(check)
    if not plan.values:
        return plan
    if check.colors_are_proposed:
        plan.add('color_map', color_file, 'The colours of the masks, whose classes can be named in the file.')
    number = plan.values.get('num_classes') or len(check.class_names)
    train_args = train_args_of({
        'data': folder, 'img_size': plan.values['img_size'], 'in_chans': check.description.in_chans, **_said(args)})
    split = check.splits[check.train]
    _add_batch(plan, train_args, number, split.pairs - split.num_bad, start_process(args.device))
    return plan


def _add_batch(plan: Plan, args: argparse.Namespace, num_classes: int, images: int, process: Process) -> None:
    """Add the batch size to a plan: what fits into the memory, and leaves some batches in an epoch."""
    kind = kind_of(args.model, args.task)
    size = args.input_size[1:] if args.input_size else (args.img_size,) * 2
    input_size = (in_channels(args), *size)
    with torch.random.fork_rng(devices=[]):
        model = create_model(args, num_classes, kind.without_effect).train()
        least = max(2, least_batch(args, model, input_size))  # a normalisation over one image tells little
        most = max(least, min(MOST_IMAGES, images // BATCHES))
        batch = fitting_batch(
            model.to(process.device), input_size, process.device, least, most, process.world_size)
    plan.add('batch_size', batch, f'A power of two up to {MOST_IMAGES} that fits into the free memory of '
             f'{process.device.type}, and leaves at least {BATCHES} batches in an epoch where it can.')


def with_plan(
        args: argparse.Namespace, process: Process, stored: Mapping[str, Any] | None = None) -> argparse.Namespace:
    """The arguments of a run with what a check of its data proposes; what was given stays.

    Args:
        args: The arguments.
        process: This process; all ask together.
        stored: The arguments of the run that goes on, which has taken what was proposed. None: the data are checked.

    Raises:
        ValueError: Data that cannot be trained on.
    """
    if stored is not None:
        taken = {name: stored[name] for name in PLANNED if name in stored and name not in args.given}
        return argparse.Namespace(**{**vars(args), **taken, 'auto': False})
    values = [_plan_values(args, process) if process.primary else None]
    if process.distributed:
        torch.distributed.broadcast_object_list(values)
    # what was taken is recorded as if it had been given, and not asked for again
    return argparse.Namespace(**{**vars(args), **values[0], 'auto': False})


def _plan_values(args: argparse.Namespace, process: Process) -> dict[str, Any]:
    check = check_data(
        described(args, args.data_dir, args.ignore_index), args.train_split, args.val_split,
        num_classes=args.num_classes, in_chans=in_channels(args), progress=progress_bar)
    flags = {**FLAGS, 'val_share': '--val-share'}
    bad = sum(split.num_bad for split in check.splits.values())
    for finding in check.findings:
        if finding.level == 'error' and not (finding.kind == 'samples' and bad <= args.skip_bad_samples):
            raise DatasetError(finding.text)
        if finding.level != 'note':
            _logger.warning(with_flags(finding.text, flags))
    plan = plan_of(check)
    if check.colors_are_proposed:
        plan.add('color_map', write_colors(default_folder(args.data_dir), check), '')
    unused = {*args.given, *(['img_size'] if args.input_size else []), *(['scale'] if args.no_aug else [])}
    for name in unused & plan.values.keys():
        del plan.values[name]
    if 'batch_size' not in unused and check.train in check.splits:
        split = check.splits[check.train]
        number = args.num_classes or plan.values.get('num_classes') or len(check.class_names)
        sized = argparse.Namespace(**{
            **vars(args), 'img_size': plan.values.get('img_size', args.img_size),
            'in_chans': in_channels(args) or check.description.in_chans})
        _add_batch(plan, sized, number, (split.pairs - split.num_bad) * args.crops_per_image, process)
    words = words_of(plan.values)
    _logger.info('--auto takes %s; "rexnet check %s" says why', ' '.join(words) or 'nothing', args.data_dir)
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in plan.values.items()}
    if 'label_map' in values:
        values['label_map'] = [f'{label}:{index}' for label, index in values['label_map']]
    return values
