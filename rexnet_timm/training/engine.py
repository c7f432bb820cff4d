"""Training and evaluation loops.

They know the task interface of timm (timm/task/task.py) and nothing of losses, models or data: whatever returns a dict
with `loss` and has an evaluator trains here, timm's own tasks included.
"""
import logging
import math
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.task.evaluator import evaluation_sample_limit
from timm.utils import distribute_bn
from tqdm import tqdm

from ..seeds import seed_everything
from .pace import Pace, peak_memory
from .run_state import RunState
from .signals import Stopped, StopRequest
from .summary import SUMMARY, TIMES, EpochRows, Summary, values_of
from .updates import Precision, Updates, settle

_logger = logging.getLogger(__name__)

__all__ = ['Precision', 'check_metric', 'evaluate', 'fit', 'train_one_epoch']

Batch = tuple[torch.Tensor, torch.Tensor]


def _to_device(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    input, target = (tensor.to(device, non_blocking=True) for tensor in batch)
    return (input.contiguous(memory_format=torch.channels_last) if channels_last else input), target


def _batches(loader: Iterable[Batch], epoch: int, first: int) -> Iterator[Batch]:
    """The batches of an epoch from one on; a loader whose sampler cannot start there is read up to it."""
    sampler = getattr(loader, 'sampler', None)
    if hasattr(sampler, 'start_at'):
        sampler.start_at(epoch, first)
        return iter(loader)
    for part in (sampler, getattr(loader, 'dataset', None)):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)  # another order every epoch, the same on all ranks
    return islice(loader, first, None)


def _files_of(loader: Iterable[Batch], batches: Iterable[int]) -> str:
    """The files of some batches of the epoch of this process, for a message; empty where the loader cannot tell."""
    if not hasattr(getattr(loader, 'sampler', None), 'samples_of') or not hasattr(loader.dataset, 'name'):
        return ''
    names = [loader.dataset.name(index) for batch in batches for index in loader.sampler.samples_of(batch)]
    return f' Its images: {", ".join(names[:16])}{", ..." if len(names) > 16 else ""}.'


def train_one_epoch(
        task: TrainingTask,
        loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        epoch: int = 0,
        lr_scheduler: Scheduler | None = None,
        precision: Precision | None = None,
        mixup_fn: Callable[[torch.Tensor, torch.Tensor], Batch] | None = None,
        grad_accum_steps: int = 1,
        clip_grad: float | None = None,
        clip_mode: str = 'norm',
        channels_last: bool = False,
        log_interval: int = 50,
        primary: bool = True,
        progress: bool = False,
        seed: int | None = None,
        max_skipped: int = 20,
        state: RunState | None = None,
        after_update: Callable[[int], None] | None = None,
        epochs: int | None = None,
        times: MutableMapping[str, float] | None = None,
) -> OrderedDict[str, float]:
    """Train a task for one pass over the loader, or for the rest of one.

    Args:
        task: Task whose call returns a dict with the scalar 'loss'; other scalars in it are averaged and logged.
        loader: Batches of (input, target), with a length.
        optimizer: Optimizer of the task's trainable parameters.
        epoch: Number of the epoch, for the scheduler and the log.
        lr_scheduler: timm scheduler, told of every update.
        precision: Mixed precision; None: float32.
        mixup_fn: Changes a batch on its device, such as by mixing it with itself.
        grad_accum_steps: Batches that make up one update.
        clip_grad: Limit of the gradient, None for no limit.
        clip_mode: 'norm', 'value' or 'agc', as timm's `dispatch_clip_grad`.
        channels_last: Whether inputs are laid out NHWC.
        log_interval: Batches between two lines of the log.
        primary: Whether this process logs.
        progress: Whether a bar is shown instead of lines.
        seed: At least 0: what is random in a batch follows from it, the epoch, the batch and the process. None leaves
            the random states alone.
        max_skipped: As many updates in a row that are left out, since a loss or a gradient is not finite, end training.
        state: Where the run is; training begins with its batch. None: the first batch of the epoch.
        after_update: Called in every process after each update with the number of updates of the run so far.
        epochs: Epoch to stop before, for the time left; None tells that of this epoch.
        times: Gets what `Pace.seconds` tells of the pass.

    Returns:
        Means over the epoch's samples on this rank: 'loss' and the task's other scalars; NaN where nothing counted.

    Raises:
        FloatingPointError: `max_skipped` updates in a row had a loss or gradient that is NaN or infinite.
    """
    precision = precision or Precision()
    if state is None:
        state = RunState(task, optimizer)
        state.begin_epoch(epoch)
    task.train()
    num_batches = len(loader)
    updates_per_epoch = math.ceil(num_batches / grad_accum_steps)
    num_updates = epoch * updates_per_epoch + state.batch // grad_accum_steps
    # the last update of the epoch may be of fewer batches
    last_accum_steps = num_batches % grad_accum_steps or grad_accum_steps
    bar = tqdm(
        total=num_batches, initial=state.batch, desc=f'epoch {epoch}', leave=False, disable=not (progress and primary))
    updates = Updates(task, optimizer, precision.scaler, clip_grad, clip_mode, state.world_size)
    first = state.batch
    is_left = first < num_batches
    pace = Pace(num_batches - first + num_batches * ((epochs or epoch + 1) - epoch - 1), task.device)

    for batch_idx, batch in enumerate(pace.timed(_batches(loader, epoch, first) if is_left else ()), first):
        input, target = _to_device(batch, task.device, channels_last)
        _seed_batch(seed, epoch, batch_idx, state.rank, 0)
        if mixup_fn is not None:
            input, target = mixup_fn(input, target)
        if not state.settled and state.world_size > 2:
            settle(task, optimizer, precision, input, target)
        state.settled = True
        need_update = (batch_idx + 1) % grad_accum_steps == 0 or batch_idx + 1 == num_batches
        accum_steps = grad_accum_steps if batch_idx < num_batches - last_accum_steps else last_accum_steps

        _seed_batch(seed, epoch, batch_idx, state.rank, 1)
        with nullcontext() if need_update else task.no_sync():
            with precision.autocast():
                result = task(input, target)
            updates.backward(result['loss'] / accum_steps)
        state.averages.add(result, len(input))

        if need_update:
            num_updates += 1
            if updates.step():
                state.averages.commit()
                state.skipped.in_row = 0
                task.update_ema(step=num_updates - state.skipped.total)
            else:
                state.averages.drop()
                files = _files_of(loader, range(batch_idx + 1 - accum_steps, batch_idx + 1))
                _leave_out(state, updates, epoch, batch_idx, files, max_skipped)
            if lr_scheduler is not None:
                lr_scheduler.step_update(num_updates=num_updates)
            state.batch = batch_idx + 1

        bar.update()
        if (batch_idx + 1) % log_interval == 0 or batch_idx + 1 == num_batches:
            means = state.averages.compute()
            bar.set_postfix(loss=f'{means.get("loss", math.nan):.3f}')
            if primary and not progress:
                parts = '  '.join(f'{name} {value:.4f}' for name, value in means.items())
                _logger.info(
                    f'Train {epoch} [{batch_idx + 1:>4d}/{num_batches}]  {parts}  '
                    f'lr {optimizer.param_groups[0]["lr"]:.3e}  {pace.text()}')
        if need_update and after_update is not None:
            after_update(num_updates)
    bar.close()
    if primary and is_left:
        _logger.info(f'Train {epoch} {pace.whole()}')
    means = state.averages.compute()  # which waits for what a device has still to do
    if times is not None:
        times.update(pace.seconds())
    return means


def _seed_batch(seed: int | None, *place: int) -> None:
    if seed is not None:
        seed_everything(seed, *place)


def _leave_out(state: RunState, updates: Updates, epoch: int, batch: int, files: str, max_skipped: int) -> None:
    """Count and tell an update that did not happen. FloatingPointError where there are too many in a row."""
    state.skipped.in_row += 1
    state.skipped.total += 1
    in_row = state.skipped.in_row
    is_overflow = updates.scaler is not None and updates.loss_was_finite  # of which the scaler takes care
    if is_overflow:
        _logger.info('Epoch %d, batch %d: float16 overflowed; the scale of the gradients is lowered.', epoch, batch)
    else:
        what = 'a gradient' if updates.loss_was_finite else 'the loss'
        _logger.warning(
            'Epoch %d, batch %d: %s is NaN or infinite, and the update is left out (%d in a row, %d in all).%s',
            epoch, batch, what, in_row, state.skipped.total, files)
    if in_row >= max_skipped:
        raise FloatingPointError(
            f'The loss or the gradient is NaN or infinite in {in_row} updates in a row, until batch {batch} of epoch '
            f'{epoch}.{files} {state.last_good()} Lower the learning rate, limit the gradient (clip_grad), or leave '
            'out mixed precision; max_skipped allows more.')


@torch.no_grad()
def evaluate(
        task: TrainingTask,
        loader: Iterable[Batch],
        precision: Precision | None = None,
        ema: bool = False,
        channels_last: bool = False,
        distributed: bool = False,
) -> OrderedDict[str, float]:
    """Evaluate a task's model on every sample of a loader, exactly once over all ranks.

    Args:
        task: Task with an evaluation model and an evaluator.
        loader: Batches of (input, target).
        precision: Mixed precision; None: float32.
        ema: Whether to evaluate the moving average of the weights.
        channels_last: Whether inputs are laid out NHWC.
        distributed: Whether to sum over ranks; every rank must then call this.

    Returns:
        The evaluator's metrics.
    """
    precision = precision or Precision()
    model = task.get_eval_model(ema=ema)
    model.eval()
    evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    for batch in loader:
        input, target = _to_device(batch, task.device, channels_last)
        with precision.autocast():
            output = model(input)
        evaluator.update(output, target)
    return evaluator.compute(distributed=distributed)


def check_metric(task: TrainingTask, eval_metric: str) -> None:
    """Raise ValueError for a metric that the task's evaluator does not have."""
    known = task.create_evaluator().metric_names
    if eval_metric not in known:
        raise ValueError(f'eval_metric must be one of {", ".join(known)}, got {eval_metric!r}.')


def fit(
        task: TrainingTask,
        train_loader: Iterable[Batch],
        eval_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        epochs: int,
        lr_scheduler: Scheduler | None = None,
        precision: Precision | None = None,
        eval_metric: str = 'miou',
        output_dir: str | None = None,
        dist_bn: str = 'reduce',
        primary: bool = True,
        channels_last: bool = False,
        recovery_interval: int = 0,
        state: RunState | None = None,
        stop: StopRequest | None = None,
        log: Callable[[int, Mapping[str, float]], None] | None = None,
        **train_kwargs: Any,
) -> tuple[float | None, int | None]:
    """Train up to an epoch, with evaluation, summary and checkpoint after each.

    Args:
        task: The task.
        train_loader: Training batches.
        eval_loader: Evaluation batches.
        optimizer: Optimizer of the task's trainable parameters.
        epochs: Epoch to stop before.
        lr_scheduler: timm scheduler.
        precision: Mixed precision; None: float32.
        eval_metric: The metric that ranks checkpoints, one of the evaluator's.
        output_dir: Where summary.csv and times.csv go, on the primary rank.
        dist_bn: How BatchNorm statistics are brought together after an epoch: 'reduce', 'broadcast' or ''.
        primary: Whether this process logs and saves.
        channels_last: Whether inputs are laid out NHWC.
        recovery_interval: Updates between two checkpoints in the middle of an epoch; 0 for none.
        state: Where the run begins, and what saves it. None: at its start, and nothing is saved.
        stop: Asked after every update; where it says so, the state is saved and the run stops.
        log: Called on the primary rank after each epoch with its number and its metrics, as the summary has them.
        **train_kwargs: Further arguments of `train_one_epoch`.

    Returns:
        Best metric and its epoch, both None where nothing is saved.

    Raises:
        ValueError: The evaluator has no metric of the name `eval_metric`.
        Stopped: As `stop` asked.
        FloatingPointError: As `train_one_epoch`, or a weight became NaN or infinite; nothing of it is saved.
    """
    check_metric(task, eval_metric)
    if state is None:
        state = RunState(task, optimizer, lr_scheduler)
    summary = None
    if primary and output_dir is not None:
        summary = Summary(os.path.join(output_dir, SUMMARY), state.epoch)
        seconds = EpochRows(os.path.join(output_dir, TIMES), state.epoch)
    best_metric, best_epoch = None, None

    def after_update(num_updates: int) -> None:
        number = stop.agreed() if stop is not None else 0
        # those from before a row of bad numbers stay
        is_due = recovery_interval and num_updates % recovery_interval == 0 and not state.skipped.in_row
        if number or is_due:
            state.save()
        if number:
            raise Stopped(number, f'{signal.Signals(number).name}: stopped in epoch {state.epoch} after batch '
                                  f'{state.batch}. {state.last_good()}')

    for epoch in range(state.epoch, epochs):
        if hasattr(task, 'set_epoch'):
            task.set_epoch(epoch)
        times: dict[str, float] = {}
        train_metrics = train_one_epoch(
            task, train_loader, optimizer, epoch, lr_scheduler=lr_scheduler, precision=precision, primary=primary,
            channels_last=channels_last, state=state, after_update=after_update, epochs=epochs, times=times,
            **train_kwargs)
        lr = optimizer.param_groups[0]['lr']
        ema = task.has_ema()  # where there is an average of the weights, it is what counts
        if state.world_size > 1 and dist_bn:
            for module in filter(None, (task.get_trainable_module(), task.get_trainable_module(ema=True))):
                distribute_bn(module, state.world_size, dist_bn == 'reduce')
        begun = time.perf_counter()
        eval_metrics = evaluate(
            task, eval_loader, precision, ema=ema, channels_last=channels_last, distributed=state.world_size > 1)
        times |= {'validation': time.perf_counter() - begun, 'memory': peak_memory(task.device)}
        metric = eval_metrics[eval_metric]
        if lr_scheduler is not None:
            lr_scheduler.step(epoch + 1, metric)  # the coming epoch's rate
        if primary:
            parts = '  '.join(f'{name} {value:.3f}' for name, value in eval_metrics.items() if 'iou_' not in name)
            _logger.info(f'Eval  {epoch}  {parts}')
        if summary is not None:
            seconds.add(epoch, {name: round(value, 3) for name, value in times.items()})
            summary.add(epoch, train_metrics, eval_metrics, lr)  # before the checkpoint that goes on after it
        if log is not None and primary:  # before the checkpoint too, so that an epoch that ends in it is told again
            log(epoch, values_of(train_metrics, eval_metrics, lr))
        best_metric, best_epoch = state.save_epoch(metric)
        number = stop.agreed() if stop is not None and epoch + 1 < epochs else 0
        if number:
            raise Stopped(number, f'{signal.Signals(number).name}: stopped after epoch {epoch}. {state.last_good()}')
    return best_metric, best_epoch
