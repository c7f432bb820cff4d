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

__all__ = ['LeanBatchNormAct2d', 'LeanReLU6', 'convert_lean']


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


class LeanBatchNormAct2d(BatchNormAct2d):
    """timm's BatchNormAct2d, with the same parameters and values; (N, C, H, W) in and out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # a graph is to hold torch's own operations; who compiles it plans its memory
        if torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy) or not self._is_lean(x):
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        z, mean, invstd = torch.native_batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, True, self.momentum, self.eps)
        return _NormalisedSiLU.apply(z, x, self.weight, self.bias, mean, invstd, self.eps)

    def _is_lean(self, x: torch.Tensor) -> bool:
        return (
            x.numel() > x.shape[1]  # torch refuses to normalise a single value
            and self.training and torch.is_grad_enabled() and x.is_cpu and x.dtype == self.weight.dtype
            and self.momentum is not None and isinstance(self.drop, nn.Identity) and isinstance(self.act, nn.SiLU))

    def __prepare_scriptable__(self) -> BatchNormAct2d:
        # torch.jit.script asks for it: it knows no autograd.Function and no super()
        return _with_tensors_of(self, BatchNormAct2d)


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
        if torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy):
            return super().forward(x)
        if not (self.training and x.requires_grad) or x.is_leaf:
            return super().forward(x)
        return _ReLU6.apply(x)

    def __prepare_scriptable__(self) -> nn.ReLU6:
        return nn.ReLU6()


def convert_lean(module: nn.Module) -> nn.Module:
    """Put the lean forms in the place of timm's BatchNormAct2d and of ReLU6, in place and with the same parameters.

    Args:
        module: A network each ReLU6 of which follows a BatchNorm or a product.

    Returns:
        The module itself.
    """
    for name, child in module.named_children():
        if type(child) is BatchNormAct2d:
            child = _with_tensors_of(child, LeanBatchNormAct2d)
        elif type(child) is nn.ReLU6:
            child = LeanReLU6()
        setattr(module, name, convert_lean(child))
    return module


def _with_tensors_of(norm: BatchNormAct2d, norm_cls: type[BatchNormAct2d]) -> BatchNormAct2d:
    new = norm_cls(norm.num_features, norm.eps, norm.momentum, device='meta')
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        setattr(new, name, tensor)
    new.drop, new.act = norm.drop, norm.act
    return new.train(norm.training)
