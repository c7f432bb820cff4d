"""Training and evaluation loops.

They know the task interface of timm (timm/task/task.py) and nothing of losses, models or data: whatever returns a dict
with `loss` and has an evaluator trains here, timm's own tasks included.
"""
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.task.evaluator import evaluation_sample_limit
from timm.utils import CheckpointSaver, NativeScaler, dispatch_clip_grad, distribute_bn, trim_summary, update_summary
from tqdm import tqdm

_logger = logging.getLogger(__name__)

__all__ = ['Precision', 'check_metric', 'evaluate', 'fit', 'train_one_epoch']


@dataclass
class Precision:
    """How a step computes: a factory of autocast contexts, and the gradient scaler that float16 needs."""
    autocast: Callable[[], Any] = nullcontext
    scaler: NativeScaler | None = None

    @classmethod
    def create(cls, device: torch.device, amp: bool = False, amp_dtype: str = 'float16') -> 'Precision':
        """Mixed precision for a device; where it has no float16, bfloat16 is taken instead and said.

        Raises:
            ValueError: `amp_dtype` is neither 'float16' nor 'bfloat16'.
        """
        if amp_dtype not in ('float16', 'bfloat16'):
            raise ValueError(f"amp_dtype must be 'float16' or 'bfloat16', got {amp_dtype!r}.")
        if not amp:
            return cls()
        if device.type == 'cpu' and amp_dtype == 'float16':
            _logger.info('AMP on the CPU computes in bfloat16: float16 needs a gradient scaler, which CPUs lack.')
            amp_dtype = 'bfloat16'
        if device.type == 'cuda' and amp_dtype == 'bfloat16' and not torch.cuda.is_bf16_supported():
            _logger.info('AMP computes in float16: this GPU has no bfloat16.')
            amp_dtype = 'float16'
        autocast = partial(torch.autocast, device_type=device.type, dtype=getattr(torch, amp_dtype))
        return cls(autocast, NativeScaler(device=device.type) if amp_dtype == 'float16' else None)


class _Averages:
    """Sample-weighted means of named scalars, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.num_samples = 0

    def update(self, result: dict[str, torch.Tensor], num_samples: int) -> None:
        for name, value in result.items():
            if name != 'output' and value.numel() == 1:
                self.sums[name] = self.sums.get(name, 0.) + value.detach().float() * num_samples
        self.num_samples += num_samples

    def compute(self) -> OrderedDict[str, float]:
        return OrderedDict((name, float(total) / self.num_samples) for name, total in self.sums.items())


def _to_device(
        batch: tuple[torch.Tensor, torch.Tensor],
        device: torch.device,
        channels_last: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    input, target = (tensor.to(device, non_blocking=True) for tensor in batch)
    return (input.contiguous(memory_format=torch.channels_last) if channels_last else input), target


class _Waiting:
    """The batches of a loader, and the seconds for which they were waited."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader, self.seconds = loader, 0.

    def __iter__(self) -> Iterator[Any]:
        iterator, end = iter(self.loader), object()
        while True:
            start = time.perf_counter()
            batch = next(iterator, end)
            self.seconds += time.perf_counter() - start
            if batch is end:
                return
            yield batch


def train_one_epoch(
        task: TrainingTask,
        loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
        optimizer: torch.optim.Optimizer,
        epoch: int = 0,
        lr_scheduler: Scheduler | None = None,
        precision: Precision | None = None,
        mixup_fn: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
        grad_accum_steps: int = 1,
        clip_grad: float | None = None,
        clip_mode: str = 'norm',
        channels_last: bool = False,
        log_interval: int = 50,
        primary: bool = True,
        progress: bool = False,
) -> OrderedDict[str, float]:
    """Train a task for one pass over the loader.

    Args:
        task: Task whose call returns a dict with the scalar 'loss'; other scalars in it are averaged and logged.
        loader: Batches of (input, target), with a length.
        optimizer: Optimizer of the task's trainable parameters.
        epoch: Number of the epoch, for the scheduler and the log.
        lr_scheduler: timm scheduler, told of every update.
        precision: Mixed precision; None: float32.
        mixup_fn: Mixes a batch with itself and makes its targets soft.
        grad_accum_steps: Batches that make up one update.
        clip_grad: Limit of the gradient, None for no limit.
        clip_mode: 'norm', 'value' or 'agc', as timm's `dispatch_clip_grad`.
        channels_last: Whether inputs are laid out NHWC.
        log_interval: Batches between two lines of the log.
        primary: Whether this process logs.
        progress: Whether a bar is shown instead of lines.

    Returns:
        Means over the epoch's samples on this rank: 'loss' and the task's other scalars.

    Raises:
        FloatingPointError: The loss became infinite or NaN.
    """
    precision = precision or Precision()
    task.train()
    averages = _Averages()
    num_batches = len(loader)
    updates_per_epoch = math.ceil(num_batches / grad_accum_steps)
    num_updates = epoch * updates_per_epoch
    # the last update of the epoch may be of fewer batches
    last_accum_steps = num_batches % grad_accum_steps or grad_accum_steps
    bar = tqdm(total=num_batches, desc=f'epoch {epoch}', leave=False, disable=not (progress and primary))
    start = time.perf_counter()
    optimizer.zero_grad()

    waiting = _Waiting(loader)
    for batch_idx, batch in enumerate(waiting):
        input, target = _to_device(batch, task.device, channels_last)
        if mixup_fn is not None:
            input, target = mixup_fn(input, target)
        need_update = (batch_idx + 1) % grad_accum_steps == 0 or batch_idx + 1 == num_batches
        accum_steps = grad_accum_steps if batch_idx < num_batches - last_accum_steps else last_accum_steps

        with nullcontext() if need_update else task.no_sync():
            with precision.autocast():
                result = task(input, target)
            _backward_and_step(
                result['loss'] / accum_steps, task, optimizer, precision.scaler, clip_grad, clip_mode, need_update)
        averages.update(result, len(input))

        if need_update:
            optimizer.zero_grad()
            num_updates += 1
            task.update_ema(step=num_updates)
            if lr_scheduler is not None:
                lr_scheduler.step_update(num_updates=num_updates)

        bar.update()
        if (batch_idx + 1) % log_interval == 0 or batch_idx + 1 == num_batches:
            means = averages.compute()
            if not math.isfinite(means['loss']):
                raise FloatingPointError(
                    f'The loss is {means["loss"]} in epoch {epoch}: lower the learning rate, limit the gradient '
                    '(clip_grad), or leave out mixed precision.')
            bar.set_postfix(loss=f'{means["loss"]:.3f}')
            if primary and not progress:
                seconds = (time.perf_counter() - start) / (batch_idx + 1)
                parts = '  '.join(f'{name} {value:.4f}' for name, value in means.items())
                _logger.info(
                    f'Train {epoch} [{batch_idx + 1:>4d}/{num_batches}]  {parts}  '
                    f'lr {optimizer.param_groups[0]["lr"]:.3e}  {seconds:.3f} s/batch')
    bar.close()
    if primary:
        seconds = time.perf_counter() - start
        _logger.info(f'Train {epoch} took {seconds:.1f} s, of which {waiting.seconds:.1f} s '
                     f'({waiting.seconds / seconds:.0%}) were spent waiting for data')
    return averages.compute()


def _backward_and_step(
        loss: torch.Tensor,
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        scaler: NativeScaler | None,
        clip_grad: float | None,
        clip_mode: str,
        need_update: bool,
) -> None:
    # adaptive clipping does not touch the classifier
    parameters = task.get_clip_parameters(exclude_head='agc' in clip_mode)
    if scaler is not None:
        scaler(
            loss, optimizer, clip_grad=clip_grad, clip_mode=clip_mode, parameters=parameters, need_update=need_update)
        return
    loss.backward()
    if need_update:
        if clip_grad is not None:
            dispatch_clip_grad(parameters, value=clip_grad, mode=clip_mode)
        optimizer.step()


@torch.no_grad()
def evaluate(
        task: TrainingTask,
        loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
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
        train_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
        eval_loader: Iterable[tuple[torch.Tensor, torch.Tensor]],
        optimizer: torch.optim.Optimizer,
        epochs: int,
        start_epoch: int = 0,
        lr_scheduler: Scheduler | None = None,
        precision: Precision | None = None,
        eval_metric: str = 'miou',
        saver: CheckpointSaver | None = None,
        output_dir: str | None = None,
        world_size: int = 1,
        dist_bn: str = 'reduce',
        primary: bool = True,
        channels_last: bool = False,
        **train_kwargs: Any,
) -> tuple[float | None, int | None]:
    """Train for some epochs, with evaluation, summary and checkpoint after each.

    Args:
        task: The task.
        train_loader: Training batches.
        eval_loader: Evaluation batches.
        optimizer: Optimizer of the task's trainable parameters.
        epochs: Epoch to stop before.
        start_epoch: Epoch to start with.
        lr_scheduler: timm scheduler.
        precision: Mixed precision; None: float32.
        eval_metric: The metric that ranks checkpoints, one of the evaluator's.
        saver: timm's checkpoint saver, on the primary rank.
        output_dir: Where summary.csv goes, on the primary rank.
        world_size: Number of processes.
        dist_bn: How BatchNorm statistics are brought together after an epoch: 'reduce', 'broadcast' or ''.
        primary: Whether this process logs and saves.
        channels_last: Whether inputs are laid out NHWC.
        **train_kwargs: Further arguments of `train_one_epoch`.

    Returns:
        Best metric and its epoch, both None without a saver.

    Raises:
        ValueError: The evaluator has no metric of the name `eval_metric`.
        FloatingPointError: The loss became infinite or NaN.
    """
    distributed = world_size > 1
    best_metric, best_epoch = None, None
    check_metric(task, eval_metric)
    if primary and output_dir is not None:
        trim_summary(os.path.join(output_dir, 'summary.csv'), start_epoch)  # of an earlier run in this folder
    for epoch in range(start_epoch, epochs):
        if hasattr(getattr(train_loader, 'sampler', None), 'set_epoch'):
            train_loader.sampler.set_epoch(epoch)  # another order every epoch, the same on all ranks
        if hasattr(task, 'set_epoch'):
            task.set_epoch(epoch)
        train_metrics = train_one_epoch(
            task, train_loader, optimizer, epoch, lr_scheduler=lr_scheduler, precision=precision, primary=primary,
            channels_last=channels_last, **train_kwargs)
        lr = optimizer.param_groups[0]['lr']
        ema = task.has_ema()  # where there is an average of the weights, it is what counts
        if distributed and dist_bn:
            distribute_bn(task.get_trainable_module(), world_size, dist_bn == 'reduce')
            if ema:
                distribute_bn(task.get_trainable_module(ema=True), world_size, dist_bn == 'reduce')
        eval_metrics = evaluate(
            task, eval_loader, precision, ema=ema, channels_last=channels_last, distributed=distributed)
        metric = eval_metrics[eval_metric]
        if lr_scheduler is not None:
            lr_scheduler.step(epoch + 1, metric)  # the coming epoch's rate
        if primary:
            parts = '  '.join(f'{name} {value:.3f}' for name, value in eval_metrics.items() if 'iou_' not in name)
            _logger.info(f'Eval  {epoch}  {parts}')
            if output_dir is not None:
                update_summary(epoch, train_metrics, eval_metrics, os.path.join(output_dir, 'summary.csv'), lr=lr)
            if saver is not None:
                best_metric, best_epoch = saver.save_checkpoint(epoch, metric=metric)
    return best_metric, best_epoch
