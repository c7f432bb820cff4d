"""Activations that keep less for the backward pass.

Autograd keeps the input of an activation beside its output, which the next convolution keeps anyway. Here
* SiLU after BatchNorm keeps neither. Its backward pass computes its input again from that of BatchNorm, which BatchNorm
  keeps, as In-Place Activated BatchNorm does for invertible activations, https://arxiv.org/abs/1712.02616
  It works in place, as in timm, on a tensor that only hooks on the activation and the drop layer before it meet.
* ReLU6 keeps its output, which tells as well as its input where it was cut off

What is computed, saved in state dicts and seen by hooks is what timm's layers compute, save and show. Limits:
* On CPUs; on CUDA devices after `set_lean(True)`, as it has not been measured there; nowhere else.
* In training by the batch's own statistics with a running average. Frozen norms, evaluation, norms without running
  statistics or with a cumulative average, and parameters below float32 take timm's way.
* Compiled, exported, traced and scripted models hold timm's and torch's own operations: compilers decide themselves
  what to compute again. `torch.jit.script` leaves them in the model that it was given too.
* BatchNorm's bias must not change between the forward and the backward pass, as torch asks of its weight anyway.
* A hook on the activation that changes its input without autograd's knowledge is not noticed in the backward pass.
"""
import copy
import os
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct, SyncBatchNormAct
from timm.models import register_notrace_module
from torch.autograd.forward_ad import unpack_dual

__all__ = ['KeepsActivation', 'LeanBatchNormAct2d', 'LeanReLU6', 'LeanSiLU', 'convert_lean', 'set_lean']

_DEVICES = {False: (), 'cpu': ('cpu',), True: ('cpu', 'cuda')}
_VARIABLE: dict[str, bool | str] = {'0': False, 'cpu': 'cpu', '1': True}


def _initial_mode() -> bool | str:
    value = os.environ.get('REXNET_LEAN') or 'cpu'
    if value not in _VARIABLE:
        raise ValueError(
            f'The environment variable REXNET_LEAN must be 0 (off), cpu (the default) or 1 (CUDA too), got {value!r}: '
            'set it to one of them, or unset it.')
    return _VARIABLE[value]


_mode = _initial_mode()


def set_lean(mode: bool | str = True) -> bool | str:
    """Switch the lean layers of all ReXNetV1 models on or off, of those that exist too: each forward pass asks.

    The environment variable `REXNET_LEAN` (0, cpu or 1) sets what holds at the start, 'cpu' unless given.

    Args:
        mode: False turns them off, True on, 'cpu' on for CPUs only.

    Returns:
        The mode before, which `set_lean` takes to restore it.

    Raises:
        ValueError: Another mode.
    """
    global _mode
    if not isinstance(mode, (bool, str)) or mode not in _DEVICES:
        raise ValueError(f"mode must be True, False or 'cpu', got {mode!r}.")
    before, _mode = _mode, mode
    return before


def _may_be_lean(x: torch.Tensor) -> bool:
    """Whether `x` is computed with as it stands, for a backward pass, on a device that is switched on."""
    return (
        not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        and type(x) is torch.Tensor  # no proxy of a graph, no tensor that knows other rules
        and torch.is_grad_enabled() and x.device.type in _DEVICES[_mode])


class _NormInput(NamedTuple):
    """What BatchNorm made its output from, and the node of autograd that stands for it."""
    x: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    mean: torch.Tensor  # (C,), of the batch
    invstd: torch.Tensor  # (C,), 1 / sqrt(variance + eps)
    eps: float
    grad_fn: Any


class _SiLUOfNorm(torch.autograd.Function):
    """SiLU in place of `z`, BatchNorm's output for `x`; the backward pass computes `z` again."""
    generate_vmap_rule = True

    @staticmethod
    def forward(
            z: torch.Tensor,
            x: torch.Tensor,
            weight: torch.Tensor | None,
            bias: torch.Tensor | None,
            mean: torch.Tensor,
            invstd: torch.Tensor,
            eps: float,
    ) -> torch.Tensor:
        return F.silu(z, inplace=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.mark_dirty(inputs[0])
        *tensors, ctx.eps = inputs[1:]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, mean, invstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants gradients of gradients
            return grad * _slope(ctx), *[None] * 6
        z = F.batch_norm(x, mean, invstd ** -2 - ctx.eps, weight, bias, eps=ctx.eps)
        return torch.ops.aten.silu_backward(grad, z), *[None] * 6

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *others: Any) -> torch.Tensor:
        return tangent.mul_(_slope(ctx))  # in place, as the forward pass is


def _slope(ctx: Any) -> torch.Tensor:
    """The derivative of SiLU as a differentiable function of the input of BatchNorm."""
    x, weight, bias, *_ = ctx.saved_tensors
    z = F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
    gate = z.sigmoid()
    return gate * (1 + z * (1 - gate))


class LeanSiLU(nn.SiLU):
    """torch's SiLU, which keeps nothing where it is told what its input was made from."""

    def forward(self, x: torch.Tensor, made_from: _NormInput | None = None) -> torch.Tensor:
        # Another node is that of a hook, or of a drop layer, that has changed the input. Tangents of forward mode may
        # come in batches, which nothing in place of a single one can take.
        if (made_from is None or made_from.grad_fn is None or x.grad_fn is not made_from.grad_fn
                or unpack_dual(x).tangent is not None):
            return super().forward(x)
        return _SiLUOfNorm.apply(x, *made_from[:-1])

    def __prepare_scriptable__(self) -> nn.SiLU:
        # torch.jit.script asks for it: it knows no autograd.Function and no super()
        return nn.SiLU(self.inplace)


@register_notrace_module
class LeanBatchNormAct2d(BatchNormAct2d):
    """timm's BatchNormAct2d, (N, C, H, W) in and out, which tells a :class:`LeanSiLU` what its input was made from."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._is_lean(x):
            return super().forward(x)
        assert self.num_batches_tracked is not None and self.momentum is not None  # as `_is_lean` says
        self.num_batches_tracked.add_(1)
        z, mean, invstd = torch.native_batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, True, self.momentum, self.eps)
        made_from = _NormInput(x, self.weight, self.bias, mean, invstd, self.eps, z.grad_fn)
        return self.act(self.drop(z), made_from=made_from)

    def _is_lean(self, x: torch.Tensor) -> bool:
        return (
            _may_be_lean(x) and self.training and type(self.act) is LeanSiLU
            and self.track_running_stats and self.momentum is not None and self.num_batches_tracked is not None
            and self.running_mean is not None and self.running_var is not None
            and any(tensor is not None and tensor.requires_grad for tensor in (x, self.weight, self.bias))
            and self._fits(x))

    def _fits(self, x: torch.Tensor) -> bool:
        """Whether torch would normalise `x` and not raise, and the statistics are as exact as float32."""
        assert self.running_mean is not None
        dtype = self.running_mean.dtype
        exact = dtype == torch.float32 and x.dtype in (dtype, torch.float16, torch.bfloat16) or (
            x.dtype == dtype == torch.float64)
        return (
            exact and x.ndim == 4 and x.numel() > x.shape[1] and self.eps > 0
            and all(tensor is None or (tensor.shape == x.shape[1:2] and tensor.dtype == dtype
                                       and tensor.device == x.device)
                    for tensor in (self.weight, self.bias, self.running_mean, self.running_var)))

    def __prepare_scriptable__(self) -> BatchNormAct2d:
        plain: BatchNormAct2d = copy.copy(self)
        plain.__class__ = BatchNormAct2d
        return plain


class _ReLU6(torch.autograd.Function):
    """ReLU6 that keeps its output."""
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.hardtanh_backward(grad, *ctx.saved_tensors, 0., 6.)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.hardtanh_backward(tangent, *ctx.saved_tensors, 0., 6.)


class LeanReLU6(nn.ReLU6):
    """torch's ReLU6, which keeps its output instead of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _may_be_lean(x) and x.requires_grad:
            return _ReLU6.apply(x)
        return super().forward(x)

    def __prepare_scriptable__(self) -> nn.ReLU6:
        return nn.ReLU6(self.inplace)


class KeepsActivation(nn.Module):
    """A module whose norms keep their activation when torch's own SyncBatchNorm conversion replaces them.

    `torch.nn.SyncBatchNorm.convert_sync_batchnorm`, which Lightning calls, makes of timm's BatchNormAct2d a norm that
    holds its tensors and its activation and does not call that, silently; so does what Lightning puts back at the end
    of a run. Both enter the module around the norm by its `add_module`.
    """

    def add_module(self, name: str, module: nn.Module | None) -> None:
        before = getattr(self, name, None)
        if (isinstance(before, (BatchNormAct2d, SyncBatchNormAct)) and module is not None
                and hasattr(module, 'running_mean') and module.running_mean is before.running_mean
                and module.weight is before.weight and not isinstance(module, (BatchNormAct2d, SyncBatchNormAct))):
            module.__class__ = SyncBatchNormAct if isinstance(module, nn.SyncBatchNorm) else LeanBatchNormAct2d
            module.drop, module.act = before.drop, before.act
        super().add_module(name, module)


class _ConvNormAct(KeepsActivation, ConvNormAct):
    """timm's ConvNormAct."""


def convert_lean(module: nn.Module) -> nn.Module:
    """Make the layers of timm and torch in a network lean, in place.

    They keep their parameters, buffers, settings and hooks; only their classes change. Layers of classes derived from
    timm's and torch's stay as they are.

    Args:
        module: A network.

    Returns:
        The module itself.
    """
    for layer in list(module.modules()):
        if type(layer) is BatchNormAct2d and type(layer.act) is nn.SiLU:
            layer.__class__, layer.act.__class__ = LeanBatchNormAct2d, LeanSiLU
        elif type(layer) is nn.ReLU6:
            layer.__class__ = LeanReLU6
        elif type(layer) is ConvNormAct:
            layer.__class__ = _ConvNormAct
    return module
