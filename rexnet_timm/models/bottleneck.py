"""ReXNet's block, with timm's parameters and values, and less to write and to keep in training.

* The shortcut, which reaches the first channels alone, is added in place, where timm's block joins two new parts.
* Squeeze-excitation and the ReLU6 after it work in place and keep their common output alone: where that was not cut
  off, it tells their input.
"""
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, ConvNormAct, SEModule
from timm.models.rexnet import LinearBottleneck

from .conv_norm_act import LeanConv2d, LeanConvNormAct
from .norm_act import LeanBatchNormAct2d, LeanReLU6, in_plain_eager

__all__ = ['LeanBottleneck', 'convert_lean']


class _AddShortcut(torch.autograd.Function):
    """Add `shortcut` to the first channels of `x`, in place."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        ctx.channels = shortcut.shape[1]
        x[:, :ctx.channels] += shortcut
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grad, grad[:, :ctx.channels]


class _Pool(torch.autograd.Function):
    """`x` itself and its mean over height and width, so that both gradients are added at once."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.mark_dirty(x)  # it is not changed; this is how autograd lets a function return its input
        ctx.pixels = x.shape[2] * x.shape[3]
        return x, x.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, grad_mean: torch.Tensor) -> torch.Tensor:
        return grad + grad_mean / ctx.pixels


class _ExciteReLU6(torch.autograd.Function):
    """ReLU6 of `x * gate`, in place of `x`; the gate is above 0."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        F.hardtanh_(x.mul_(gate), 0., 6.)
        ctx.save_for_backward(x, gate)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, gate = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants gradients of gradients
            grad = torch.where((y > 0) & (y < 6), grad, 0.)
            return grad * gate, (grad * y).sum((2, 3), keepdim=True) / gate
        grad = torch.ops.aten.hardtanh_backward(grad, y, 0., 6.)
        grad_gate = (grad * y).sum((2, 3), keepdim=True) / gate
        return grad.mul_(gate), grad_gate


class LeanBottleneck(nn.Module):
    """timm's LinearBottleneck; (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        block: The block whose layers it takes over.
    """

    def __init__(self, block: LinearBottleneck):
        super().__init__()
        self.in_channels, self.out_channels, self.use_shortcut = (
            block.in_channels, block.out_channels, block.use_shortcut)
        self.conv_exp, self.conv_dw, self.se, self.act_dw, self.conv_pwl, self.drop_path = (
            block.conv_exp, block.conv_dw, block.se, block.act_dw, block.conv_pwl, block.drop_path)
        self.train(block.training)

    def feat_channels(self, exp: bool = False) -> int:
        """Channels of the output, or, with `exp`, of the depthwise convolution."""
        return self.conv_dw.out_channels if exp else self.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.conv_exp is not None:
            x = self.conv_exp(x)
        x = self.conv_dw(x)
        x = self._excite(x)
        x = self.conv_pwl(x)
        if self.use_shortcut:
            if self.drop_path is not None:
                x = self.drop_path(x)
            x = self._add_shortcut(x, shortcut)
        return x

    def _excite(self, x: torch.Tensor) -> torch.Tensor:
        # an `if` of its own: torch.jit.script leaves out what stands in it, but compiles what stands behind an `and`
        if not torch.jit.is_scripting():
            if in_plain_eager(x) and self._is_lean(x):
                x, mean = _Pool.apply(x)
                se = self.se
                gate = se.gate(se.fc2(se.act(se.bn(se.fc1(mean)))))
                return _ExciteReLU6.apply(x, gate)
        if self.se is not None:
            x = self.se(x)
        return self.act_dw(x)

    def _add_shortcut(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            if in_plain_eager(x) and x.dtype == shortcut.dtype:
                if self.training and x.requires_grad and not x.is_leaf:
                    return _AddShortcut.apply(x, shortcut)
                if not (torch.is_grad_enabled() and (x.requires_grad or shortcut.requires_grad)):
                    x[:, :self.in_channels] += shortcut
                    return x
        return torch.cat([x[:, :self.in_channels] + shortcut, x[:, self.in_channels:]], dim=1)

    @torch.jit.unused
    def _is_lean(self, x: torch.Tensor) -> bool:
        return (
            self.training and type(self.se) is SEModule and not self.se.add_maxpool and type(self.act_dw) is LeanReLU6
            and isinstance(self.se.gate, nn.Sigmoid) and x.is_cpu and x.requires_grad and not x.is_leaf
            and not torch.is_autocast_enabled('cpu'))


def convert_lean(module: nn.Module) -> nn.Module:
    """Put the lean forms in the place of timm's layers and blocks, in place and with the same parameters.

    Args:
        module: A network each ReLU6 of which follows a BatchNorm or a product.

    Returns:
        The module itself.
    """
    for name, child in module.named_children():
        convert_lean(child)
        if type(child) is BatchNormAct2d:
            setattr(module, name, LeanBatchNormAct2d.from_plain(child))
        elif type(child) is nn.ReLU6:
            setattr(module, name, LeanReLU6())
        elif type(child) is nn.Conv2d:
            setattr(module, name, LeanConv2d.from_plain(child))
        elif type(child) is ConvNormAct:
            setattr(module, name, LeanConvNormAct(child))
        elif type(child) is LinearBottleneck:
            setattr(module, name, LeanBottleneck(child))
    return module
