"""Continuing a run from a checkpoint that timm's `CheckpointSaver` wrote."""
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import NativeScaler

from ..errors import first_lines
from ..files import load_checkpoint_file

_logger = logging.getLogger(__name__)

__all__ = ['RunState', 'resume']

# What a run's arguments say of an optimizer; a state dict carries them too, as they were when it was saved.
_OPTIONS = ('lr', 'weight_decay', 'momentum', 'betas', 'eps')


@dataclass(frozen=True)
class RunState:
    """Where a run goes on.

    Attributes:
        epoch: The epoch to go on with.
        history: Which checkpoints of the run are kept and which is the best, for `CheckpointSaver.load_state_dict`;
            plain names of files only. Empty where the checkpoint does not tell.
        arguments: What the run was started with, by name. Empty where the checkpoint does not tell.
    """
    epoch: int
    history: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def resume(
        path: str | os.PathLike,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer | None = None,
        scaler: NativeScaler | None = None,
) -> RunState:
    """Continue from a training checkpoint: weights, their moving average, optimizer and gradient scaler.

    The optimizer keeps the options that it was built with (learning rate, weight decay, momentum), so that a changed
    one is used; its state is the checkpoint's. A moving average that the checkpoint does not have starts from its
    weights.

    Args:
        path: A file written by timm's `CheckpointSaver`.
        task: Task whose weights are set.
        optimizer: Optimizer to set; None leaves its state out.
        scaler: Gradient scaler to set.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file holds no training state, or that of another model or optimizer.
    """
    checkpoint = load_checkpoint_file(path)
    name = os.fspath(path)
    if 'state_dict' not in checkpoint or not isinstance(checkpoint.get('epoch'), int):
        raise ValueError(
            f"{name!r} holds weights and no training state ('state_dict' and 'epoch'): start from it as an initial "
            'checkpoint instead of resuming it.')
    try:
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint.get('task_state'))
        if task.has_ema():
            average = checkpoint.get('state_dict_ema', checkpoint['state_dict'])
            task.load_checkpoint_state(
                average, checkpoint.get('task_state_ema', checkpoint.get('task_state')), ema=True)
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f'{name!r} does not fit this run: it was trained as {checkpoint.get("arch")!r}. Give the arguments that it '
            f'was trained with. ({first_lines(error)})') from error
    if optimizer is not None:
        _load_optimizer(optimizer, checkpoint.get('optimizer'), name)
    if scaler is not None and scaler.state_dict_key in checkpoint:
        scaler.load_state_dict(checkpoint[scaler.state_dict_key])
    epoch = checkpoint['epoch'] + 1  # it was saved at the end of its epoch
    _logger.info('Resumed %s, going on with epoch %d', name, epoch)
    arguments = dict(getattr(checkpoint.get('args'), '__dict__', {}))
    return RunState(epoch, _plain_history(checkpoint.get('saver')), arguments)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Any, name: str) -> None:
    remedy = 'Take the optimizer that it was trained with, or go on without its state (no_resume_opt).'
    if not isinstance(state, Mapping) or not {'state', 'param_groups'} <= state.keys():
        raise ValueError(f'{name!r} holds no state of an optimizer. {remedy}')
    options = [{key: group[key] for key in _OPTIONS if key in group} for group in optimizer.param_groups]
    saved = [{key for key in _OPTIONS if key in group} for group in state['param_groups']]
    if saved != [group.keys() for group in options]:
        raise ValueError(
            f'{name!r} was trained by another optimizer, or with its parameters in other groups: it has '
            f'{_listed(saved)}, this run has {_listed(options)}. {remedy}')
    try:
        optimizer.load_state_dict(dict(state))
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f'The optimizer of {name!r} does not fit: {first_lines(error)}. {remedy}') from error
    for group, given in zip(optimizer.param_groups, options, strict=True):
        group.pop('initial_lr', None)  # of the saved run's schedule; this run's starts from its own rate
        group.update(given)


def _listed(groups: list[Any]) -> str:
    return f'{len(groups)} group(s) with {", ".join(map(repr, sorted(groups[0]))) if groups else "nothing"}'


def _plain_history(saver: Any) -> dict[str, Any]:
    """The saver's history without anything that could lead it out of its folder, or that is no history."""
    if not isinstance(saver, Mapping):
        return {}

    def is_plain(entry: Any) -> bool:
        return (
            isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)
            and entry[0] not in ('', '.', '..') and not {'/', '\\'} & set(entry[0]))

    epoch, metric = saver.get('pending') or (None, None)
    return {
        'checkpoint_files': [tuple(entry) for entry in saver.get('checkpoint_files') or () if is_plain(entry)],
        'best_epoch': saver.get('best_epoch'),
        'best_metric': saver.get('best_metric'),
        'pending': (epoch, metric) if isinstance(epoch, int) else (None, None)}
