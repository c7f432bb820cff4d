"""Continuing a run from a checkpoint that timm's `CheckpointSaver` wrote."""
import logging
import os

import torch
from timm.task import TrainingTask
from timm.utils import NativeScaler

from ..errors import first_lines
from ..files import load_checkpoint_file

_logger = logging.getLogger(__name__)

__all__ = ['resume']


def resume(
        path: str | os.PathLike,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer | None = None,
        scaler: NativeScaler | None = None,
) -> int:
    """Continue from a training checkpoint: weights, their moving average, optimizer and gradient scaler.

    Args:
        path: A file written by timm's `CheckpointSaver`.
        task: Task whose weights are set.
        optimizer: Optimizer to set; None leaves its state out.
        scaler: Gradient scaler to set.

    Returns:
        The epoch to go on with.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file holds no training state, or that of another model.
    """
    checkpoint = load_checkpoint_file(path)
    if 'state_dict' not in checkpoint or 'epoch' not in checkpoint:
        raise ValueError(
            f"{os.fspath(path)!r} holds weights and no training state ('state_dict' and 'epoch'): "
            'start from it with --initial-checkpoint instead of --resume.')
    try:
        task.load_checkpoint_state(checkpoint['state_dict'], checkpoint.get('task_state'))
        if task.has_ema() and 'state_dict_ema' in checkpoint:
            task.load_checkpoint_state(checkpoint['state_dict_ema'], checkpoint.get('task_state_ema'), ema=True)
        if optimizer is not None:
            optimizer.load_state_dict(checkpoint['optimizer'])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f'{os.fspath(path)!r} does not fit this run: it was trained as {checkpoint.get("arch")!r}. '
            f'Give the arguments that it was trained with. ({first_lines(error)})') from error
    if scaler is not None and scaler.state_dict_key in checkpoint:
        scaler.load_state_dict(checkpoint[scaler.state_dict_key])
    epoch = checkpoint['epoch'] + 1  # it was saved at the end of its epoch
    _logger.info('Resumed %s, going on with epoch %d', os.fspath(path), epoch)
    return epoch
