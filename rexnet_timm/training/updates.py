"""From the losses of batches to updates of the weights; one whose numbers are bad leaves no trace."""
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.task import TrainingTask
from timm.utils import dispatch_clip_grad

_logger = logging.getLogger(__name__)

__all__ = ['Precision', 'Updates', 'settle']


@dataclass
class Precision:
    """How a step computes: a factory of autocast contexts, and the gradient scaler that float16 needs."""
    autocast: Callable[[], Any] = nullcontext
    scaler: torch.amp.GradScaler | None = None

    @classmethod
    def create(
            cls, device: torch.device, amp: bool = False, amp_dtype: str = 'float16', primary: bool = True,
    ) -> 'Precision':
        """Mixed precision for a device; where it has no float16, bfloat16 is taken, as the primary process says.

        Raises:
            ValueError: `amp_dtype` is neither 'float16' nor 'bfloat16'.
        """
        if amp_dtype not in ('float16', 'bfloat16'):
            raise ValueError(f"amp_dtype must be 'float16' or 'bfloat16', got {amp_dtype!r}.")
        if not amp:
            return cls()
        tell = _logger.info if primary else _logger.debug
        if device.type == 'cpu' and amp_dtype == 'float16':
            tell('AMP on the CPU computes in bfloat16: float16 needs a gradient scaler, which CPUs lack.')
            amp_dtype = 'bfloat16'
        if device.type == 'cuda' and amp_dtype == 'bfloat16' and not torch.cuda.is_bf16_supported():
            tell('AMP computes in float16: this GPU has no bfloat16.')
            amp_dtype = 'float16'
        autocast = partial(torch.autocast, device_type=device.type, dtype=getattr(torch, amp_dtype))
        return cls(autocast, torch.amp.GradScaler(device.type) if amp_dtype == 'float16' else None)


class _Buffers:
    """The buffers of a module as they were when `keep` was called last: a copy in one piece for each type."""

    def __init__(self, module: nn.Module) -> None:
        self._groups: dict[Any, list[torch.Tensor]] = {}
        for buffer in module.buffers():
            self._groups.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self.keep()

    def keep(self) -> None:
        self._kept = {
            key: torch.cat([buffer.detach().reshape(-1) for buffer in group]) for key, group in self._groups.items()}

    @torch.no_grad()
    def put_back(self) -> None:
        for key, group in self._groups.items():
            parts = self._kept[key].split([buffer.numel() for buffer in group])
            for buffer, part in zip(group, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


class Updates:
    """Updates the weights by the gradients of one batch or several.

    Attributes:
        loss_was_finite: Whether the losses of the last update were finite on this process.

    Args:
        task: The task.
        optimizer: Optimizer of its trainable parameters.
        scaler: Gradient scaler of float16.
        clip_grad: Limit of the gradient, None for no limit.
        clip_mode: 'norm', 'value' or 'agc', as timm's `dispatch_clip_grad`.
        world_size: Number of processes, which all update alike.
    """

    def __init__(
            self,
            task: TrainingTask,
            optimizer: torch.optim.Optimizer,
            scaler: torch.amp.GradScaler | None = None,
            clip_grad: float | None = None,
            clip_mode: str = 'norm',
            world_size: int = 1,
    ) -> None:
        self.task = task
        self.optimizer = optimizer
        self.scaler = scaler
        self.clip_grad = clip_grad
        self.clip_mode = clip_mode
        self.world_size = world_size
        self.loss_was_finite = True
        self._losses: list[torch.Tensor] = []
        self._buffers = _Buffers(task.get_trainable_module())
        optimizer.zero_grad()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss, a scalar."""
        self._losses.append(loss.detach())
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self) -> bool:
        """Update the weights by the gradients since the last step, alike on all processes.

        Returns:
            Whether that has happened. Where a loss or a gradient is NaN or infinite on any process, the weights, the
            optimizer and the buffers (BatchNorm's statistics) stay as they were before these batches.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        is_good = self._is_finite()
        if not is_good:
            self._buffers.put_back()
        else:
            if self.clip_grad is not None:
                # adaptive clipping does not touch the classifier
                parameters = self.task.get_clip_parameters(exclude_head='agc' in self.clip_mode)
                dispatch_clip_grad(parameters, value=self.clip_grad, mode=self.clip_mode)
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
            self._buffers.keep()
        if self.scaler is not None:
            self.scaler.update()  # which lowers the scale where it was too high
        self.optimizer.zero_grad()
        return is_good

    def _is_finite(self) -> bool:
        gradients = [
            parameter.grad for group in self.optimizer.param_groups for parameter in group['params']
            if parameter.grad is not None]
        numbers = torch.stack([
            torch.stack(self._losses).float().sum(),
            # the sum of all absolute values, through which NaN and infinity come in any precision
            nn.utils.get_total_norm(gradients, norm_type=1.).float().to(self._losses[0].device)])
        self._losses.clear()
        are_finite = numbers.isfinite()
        self.loss_was_finite, gradient_is_finite = are_finite.tolist()
        if self.world_size > 1:
            flag = are_finite.all().int()
            dist.all_reduce(flag, dist.ReduceOp.MIN)
            return bool(flag)
        return self.loss_was_finite and gradient_is_finite


def settle(
        task: TrainingTask,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        input: torch.Tensor,
        target: torch.Tensor,
) -> None:
    """Spend a step of several processes that leaves no trace but the order in which they sum.

    After its first backward pass torch's DistributedDataParallel puts the gradients into the order in which they came,
    and from three processes on a sum is rounded by its place in that order. So the first update after a start would
    differ from the same one in the middle of a run.
    """
    buffers = _Buffers(task.get_trainable_module())
    with precision.autocast():
        loss = task(input, target)['loss']
    loss.backward()
    optimizer.zero_grad()
    buffers.put_back()
