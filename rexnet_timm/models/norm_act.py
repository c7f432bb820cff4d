"""BatchNorm and activations that train with less memory on a CPU.

Autograd keeps the input of an activation beside its output, which the next convolution keeps anyway. Here
* SiLU after BatchNorm keeps neither, and computes its input again from that of BatchNorm in the backward pass, as
  In-Place Activated BatchNorm does for invertible activations, https://arxiv.org/abs/1712.02616
* ReLU6 keeps its output alone, which tells as well as its input where it was cut off

Values and gradients are torch's. Compiled, exported, traced and scripted models take timm's and torch's own modules, as
compilers decide themselves what to compute again; so do, for SiLU, other devices and mixed precision.
"""
from typing import Any

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d

__all__ = ['LeanBatchNormAct2d', 'LeanReLU6', 'in_plain_eager', 'take_over']


def in_plain_eager(x: torch.Tensor) -> bool:
    """Whether a forward pass of `x` is run as it stands: not compiled, exported, traced or recorded as a graph, which
    are to hold torch's own operations."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy))


def take_over(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give `new` the parameters and buffers of `old` themselves, and its mode; returns `new`."""
    for name, tensor in (*old.named_parameters(recurse=False), *old.named_buffers(recurse=False)):
        setattr(new, name, tensor)
    return new.train(old.training)


class _NormalisedSiLU(torch.autograd.Function):
    """SiLU in place of `z`, which is BatchNorm's output for `x`, and is computed again from it in the backward pass."""

    @staticmethod
    def forward(
            ctx: Any,
            z: torch.Tensor,
            x: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor,
            mean: torch.Tensor,
            invstd: torch.Tensor,
            eps: float,
    ) -> torch.Tensor:
        ctx.mark_dirty(z)
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        ctx.eps = eps
        return F.silu(z, inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, mean, invstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants gradients of gradients
            z = F.batch_norm(x, None, None, weight, bias, training=True, eps=ctx.eps)
            gate = z.sigmoid()
            return grad * gate * (1 + z * (1 - gate)), *[None] * 6
        scale = weight * invstd
        z = torch.addcmul((bias - mean * scale)[:, None, None], x, scale[:, None, None])
        return torch.ops.aten.silu_backward.grad_input(grad, z, grad_input=z), *[None] * 6


def _copy_norm(norm_cls: type[BatchNormAct2d], norm: BatchNormAct2d) -> BatchNormAct2d:
    new = norm_cls(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device='meta')
    new.drop, new.act = norm.drop, norm.act
    return take_over(new, norm)


class LeanBatchNormAct2d(BatchNormAct2d):
    """timm's BatchNormAct2d, with the same parameters and values; (N, C, H, W) in and out."""

    @classmethod
    def from_plain(cls, norm: BatchNormAct2d) -> 'LeanBatchNormAct2d':
        """In the place of `norm`, with its parameters, buffers and activation."""
        return _copy_norm(cls, norm)

    def forward(self, x: torch.Tensor, applied: bool = False) -> torch.Tensor:
        """`x` normalised and activated, or, where the convolution before has done that already (`applied`), itself."""
        if applied:
            return x
        if not in_plain_eager(x) or not self._is_lean(x):
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        z, mean, invstd = torch.native_batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, True, self.momentum, self.eps)
        return _NormalisedSiLU.apply(z, x, self.weight, self.bias, mean, invstd, self.eps)

    def normalise_statistics(
            self,
            mean: torch.Tensor,
            var: torch.Tensor,
            count: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift of each channel by a batch's statistics, which the running ones are moved towards.

        Args:
            mean: Mean of each channel, (C,).
            var: Variance of each channel, (C,), over all `count` values, biased.
            count: Values a channel, at least 2.

        Returns:
            Scale and shift, each of shape (C,): `scale * x + shift` is normalised.
        """
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return scale, self.bias - scale * mean

    def is_plain_affine(self, x: torch.Tensor) -> bool:
        """Whether parameters and running statistics of the dtype of `x` are there, on a CPU."""
        return (
            x.is_cpu and not torch.is_autocast_enabled('cpu') and x.dtype in (torch.float32, torch.float64)
            and self.weight is not None and self.running_mean is not None and self.weight.dtype == x.dtype)

    def is_lean_in_training(self) -> bool:
        """Whether training does nothing but to normalise by the batch, average its statistics and activate."""
        return self.momentum is not None and isinstance(self.drop, nn.Identity)

    def _is_lean(self, x: torch.Tensor) -> bool:
        return (
            self.training and torch.is_grad_enabled() and self.is_plain_affine(x) and self.is_lean_in_training()
            and isinstance(self.act, nn.SiLU)
            and x.numel() > x.shape[1])  # torch refuses to normalise a single value

    def __prepare_scriptable__(self) -> BatchNormAct2d:
        # torch.jit.script asks for it: it knows no autograd.Function and no super()
        return _copy_norm(BatchNormAct2d, self)


class _ReLU6(torch.autograd.Function):
    """ReLU6 in place that keeps its output."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        F.hardtanh_(x, 0., 6.)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        y, = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.where((y > 0) & (y < 6), grad, 0.)
        return torch.ops.aten.hardtanh_backward(grad, y, 0., 6.)


class LeanReLU6(nn.ReLU6):
    """ReLU6 in place, for the output of a layer that does not need it in its backward pass, as BatchNorm's or a
    product's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not in_plain_eager(x) or not (self.training and x.requires_grad) or x.is_leaf:
            return super().forward(x)
        return _ReLU6.apply(x)

    def __prepare_scriptable__(self) -> nn.ReLU6:
        return nn.ReLU6()
