"""Everything that a run needs to go on bit for bit, by name: captured, written, and put back.

What is random is not here: it follows from the seed and the place in the run (`seeds`).
"""
import logging
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import unwrap_model

from ..errors import first_lines
from ..files import WeightsError, check_finite, some
from .saver import Saver, position_of

_logger = logging.getLogger(__name__)

__all__ = ['Averages', 'RunState']

# What a run's arguments say of an optimizer; a state dict carries them too, as they were when it was saved.
_OPTIONS = ('lr', 'weight_decay', 'momentum', 'betas', 'eps')
_SCALER = 'amp_scaler'  # timm's name of its entry
_PLATEAU = ('best', 'cooldown_counter', 'last_epoch', 'num_bad_epochs')  # what torch's schedule by the metric counts


class Averages:
    """Sample-weighted means of named scalars, kept on their device so that no step waits for them.

    What is added counts once `commit` has been called, so that the batches of an update that fails can be dropped.
    """

    def __init__(self) -> None:
        self.sums: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.num_samples = 0
        self._pending: list[tuple[dict[str, torch.Tensor], int]] = []

    def add(self, result: Mapping[str, torch.Tensor], num_samples: int) -> None:
        """Note the scalars of a batch."""
        scalars = {
            name: value.detach().float() for name, value in result.items() if name != 'output' and value.numel() == 1}
        self._pending.append((scalars, num_samples))

    def commit(self) -> None:
        """Count what has been added."""
        for scalars, num_samples in self._pending:
            for name, value in scalars.items():
                self.sums[name] = self.sums.get(name, 0.) + value * num_samples
            self.num_samples += num_samples
        self._pending.clear()

    def drop(self) -> None:
        """Leave out what has been added; its names are known all the same."""
        for scalars, _ in self._pending:
            for name, value in scalars.items():
                self.sums.setdefault(name, torch.zeros_like(value))
        self._pending.clear()

    def compute(self) -> OrderedDict[str, float]:
        """The means; NaN where no batch has counted."""
        number = self.num_samples or float('nan')
        return OrderedDict((name, float(total) / number) for name, total in self.sums.items())

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        return {'sums': {name: value.cpu() for name, value in self.sums.items()}, 'num_samples': self.num_samples}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on as `state_dict` said."""
        self.sums = OrderedDict((name, value.to(device)) for name, value in state['sums'].items())
        self.num_samples = state['num_samples']


class RunState:
    """Where a run is, and everything that it needs to go on from there bit for bit.

    Attributes:
        epoch: The epoch that the run is in, from 0.
        batch: Batches of it that are done, always whole updates.
        averages: Of its training so far.
        skipped: Updates that were left out for bad numbers: in a row until now, and in all.
        settled: Whether the processes sum their gradients in the order that they will keep.

    Args:
        task: Weights, their moving average, and the buffers of both.
        optimizer: Its state and its options, with the rate.
        lr_scheduler: timm's; what it knows beside epoch and update is stored.
        scaler: Gradient scaler of float16.
        saver: What writes the files, on the primary process only.
        arguments: What the run was started with, a namespace with `model`, and what rebuilds the model; goes into every
            checkpoint.
        facts: Further plain values that tell whether a run is the same, such as the number of samples; goes into every
            checkpoint.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(
            self,
            task: TrainingTask,
            optimizer: torch.optim.Optimizer,
            lr_scheduler: Scheduler | None = None,
            scaler: torch.amp.GradScaler | None = None,
            saver: Saver | None = None,
            arguments: Any = None,
            facts: Mapping[str, Any] | None = None,
            rank: int = 0,
            world_size: int = 1,
    ) -> None:
        self.task = task
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.scaler = scaler
        self.saver = saver
        self.arguments = arguments
        self.facts = dict(facts or {})
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.batch = 0
        self.averages = Averages()
        self.settled = False
        self.skipped = SimpleNamespace(in_row=0, total=0)

    def begin_epoch(self, epoch: int) -> None:
        """Go to the first batch of an epoch."""
        self.epoch, self.batch, self.averages = epoch, 0, Averages()

    def save(self) -> None:
        """Write the state now, in the middle of an epoch. Every process calls it, after the same whole update.

        Raises:
            FloatingPointError: A weight is NaN or infinite; nothing is written.
            OSError: The file cannot be written; those that were there are whole.
        """
        content = self.capture()
        if self.saver is not None:
            self._check(content)
            self.saver.save_recovery(content, self.epoch, self.batch)

    def save_epoch(self, metric: float | None) -> tuple[float | None, int | None]:
        """Write the state after an epoch, and begin the next. Every process calls it.

        Args:
            metric: What ranks the epoch.

        Returns:
            The best metric so far and its epoch; None and None where this process writes nothing.

        Raises:
            As `save`.
        """
        epoch = self.epoch
        self.begin_epoch(epoch + 1)
        content = {**self.capture(), 'epoch': epoch}
        if self.saver is None:
            return None, None
        self._check(content)
        return self.saver.save_checkpoint(content, epoch, metric)

    def capture(self) -> dict[str, Any]:
        """The state as plain values and tensors, which share memory with the run; of use on the primary process.

        The entries are those of timm's checkpoints, and 'run' for what timm does not store. With several processes,
        every one of them must call this.
        """
        processes = [self._of_this_process()]
        if self.world_size > 1:
            gathered: list[Any] = [None] * self.world_size
            dist.all_gather_object(gathered, processes[0])
            processes = gathered
        content = {
            'epoch': self.epoch, 'arch': type(unwrap_model(self.task.get_trainable_module())).__name__.lower(),
            'optimizer': self.optimizer.state_dict(), 'version': 2,
            **self.task.get_checkpoint_state(), **self.task.get_checkpoint_state(ema=True)}
        if self.arguments is not None:
            content |= {'arch': vars(self.arguments)['model'], 'args': self.arguments}
        if self.scaler is not None:
            content[_SCALER] = self.scaler.state_dict()
        content['run'] = {
            'epoch': self.epoch, 'batch': self.batch, 'world_size': self.world_size, 'facts': self.facts,
            'skipped_in_row': self.skipped.in_row, 'skipped': self.skipped.total,
            'schedule': _state_of_plateau(self.lr_scheduler), 'processes': processes}
        return content

    def _of_this_process(self) -> dict[str, Any]:
        """What differs between processes: the buffers, until they are brought together, and the averages."""
        return {
            'averages': self.averages.state_dict(),
            'buffers': [_buffers(self.task.get_trainable_module(ema=ema)) for ema in (False, True)]}

    def _check(self, content: Mapping[str, Any]) -> None:
        for name in ('state_dict', 'state_dict_ema'):
            try:
                check_finite(content.get(name, {}), content.get(name, {}))
            except WeightsError as error:
                text = str(error).partition(': the training')[0]
                raise FloatingPointError(
                    f'{text}. Nothing of them is saved. {self.last_good()} Lower the learning rate, limit the '
                    'gradient (clip_grad), or leave out mixed precision.') from error

    def last_good(self) -> str:
        """A sentence on the newest checkpoint."""
        newest = self.saver.newest if self.saver is not None else None
        return f'The last good checkpoint is {newest!r}.' if newest else 'There is no checkpoint yet.'

    def restore(
            self,
            checkpoint: Mapping[str, Any],
            name: str,
            with_optimizer: bool = True,
            keep_options: bool = False,
            same_batches: bool = True,
    ) -> None:
        """Go on from a checkpoint, bit for bit where nothing has changed. After the task has been distributed.

        Args:
            checkpoint: What `load_checkpoint_file` read; of timm's saver too, which is then gone on with an epoch.
            name: Its path, for messages.
            with_optimizer: Whether the state of the optimizer is taken.
            keep_options: Whether the optimizer keeps the options that it was built with, its rate among them, instead
                of those of the checkpoint.
            same_batches: Whether the epochs consist of the same batches as those of the checkpoint; otherwise an epoch
                that was begun is begun anew.

        Raises:
            ValueError: The file holds no training state, that of another model or optimizer, or numbers that are not
                finite.
        """
        _check_training_state(checkpoint, name)
        weights = checkpoint['state_dict']
        average = checkpoint.get('state_dict_ema', weights)  # one that is new starts from the weights
        try:
            for entries in (weights, average):
                check_finite(entries, entries)
        except WeightsError as error:
            raise WeightsError(f'{name!r}: {error}') from error
        try:
            self.task.load_checkpoint_state(weights, checkpoint.get('task_state'))
            if self.task.has_ema():
                self.task.load_checkpoint_state(
                    average, checkpoint.get('task_state_ema', checkpoint.get('task_state')), ema=True)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f'{name!r} does not fit this run: it was trained as {checkpoint.get("arch")!r}. Give the arguments '
                f'that it was trained with. ({first_lines(error)})') from error
        if with_optimizer:
            _load_optimizer(self.optimizer, checkpoint.get('optimizer'), name, keep_options)
        if self.scaler is not None and _SCALER in checkpoint:
            self.scaler.load_state_dict(checkpoint[_SCALER])
        try:
            self._go_to(checkpoint, keep_options or not with_optimizer, same_batches)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{name!r} holds a place in a run ('run') that cannot be read: {first_lines(error, 1)}. Start from it "
                'as an initial checkpoint instead of resuming it.') from error

    def _go_to(self, checkpoint: Mapping[str, Any], keep_options: bool, same_batches: bool) -> None:
        run = checkpoint.get('run') or {}
        epoch, batch = position_of(checkpoint)
        self.begin_epoch(epoch)
        self.skipped = SimpleNamespace(in_row=run.get('skipped_in_row', 0), total=run.get('skipped', 0))
        if not keep_options:
            _load_plateau(self.lr_scheduler, run.get('schedule'))
        processes = run.get('processes') or []
        if len(processes) != self.world_size or not same_batches:
            return
        own = processes[self.rank]
        for ema, buffers in zip((False, True), own['buffers'], strict=True):
            _load_buffers(self.task.get_trainable_module(ema=ema), buffers)
        if batch:
            self.batch = batch
            self.averages.load_state_dict(own['averages'], self.task.device)


def _check_training_state(checkpoint: Mapping[str, Any], name: str) -> None:
    if 'state_dict' not in checkpoint or not isinstance(checkpoint.get('epoch'), int):
        raise ValueError(
            f"{name!r} holds weights and no training state ('state_dict' and 'epoch'): start from it as an initial "
            'checkpoint instead of resuming it.')


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Any, name: str, keep_options: bool) -> None:
    remedy = 'Take the optimizer that it was trained with, or go on without its state (no_resume_opt).'
    if not isinstance(state, Mapping) or not {'state', 'param_groups'} <= state.keys():
        raise ValueError(f'{name!r} holds no state of an optimizer. {remedy}')
    options = [{key: group[key] for key in (*_OPTIONS, 'initial_lr') if key in group}
               for group in optimizer.param_groups]
    own = [options_of.keys() - {'initial_lr'} for options_of in options]
    saved = [{key for key in _OPTIONS if key in group} for group in state['param_groups']]
    if saved != own:
        raise ValueError(
            f'{name!r} was trained by another optimizer, or with its parameters in other groups: it has '
            f'{_listed(saved)}, this run has {_listed(own)}. {remedy}')
    try:
        optimizer.load_state_dict(dict(state))
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f'The optimizer of {name!r} does not fit: {first_lines(error)}. {remedy}') from error
    if keep_options:
        for group, given in zip(optimizer.param_groups, options, strict=True):
            group.pop('initial_lr', None)
            group.update(given)


def _listed(groups: list[Any]) -> str:
    return f'{len(groups)} group(s) with {some(map(repr, sorted(groups[0]))) if groups else "nothing"}'


def _buffers(module: torch.nn.Module | None) -> dict[str, torch.Tensor]:
    if module is None:
        return {}
    return {name: buffer.detach().cpu() for name, buffer in unwrap_model(module).named_buffers()}


def _load_buffers(module: torch.nn.Module | None, buffers: Mapping[str, torch.Tensor]) -> None:
    if module is not None:
        for name, buffer in unwrap_model(module).named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def _state_of_plateau(scheduler: Scheduler | None) -> dict[str, Any] | None:
    """What a schedule that follows the metric has seen; others know only epoch and update."""
    plateau = getattr(scheduler, 'lr_scheduler', None)
    return None if plateau is None else {name: getattr(plateau, name) for name in _PLATEAU}


def _load_plateau(scheduler: Scheduler | None, state: Mapping[str, Any] | None) -> None:
    plateau = getattr(scheduler, 'lr_scheduler', None)
    if plateau is not None and state:
        for name in _PLATEAU:
            setattr(plateau, name, state[name])
