"""Convolution, BatchNorm and activation in one go.

* In evaluation BatchNorm is an affine map of each channel, which the weights of the convolution take in; the map itself
  is not run. It is done in every forward pass, so that weights may change in between.
* In training a 1x1 convolution that widens its input by far is normalised before it is run: its mean and variance
  follow from the mean and covariance of the narrow input, as W m and diag(W C W'). So neither the forward nor the
  backward pass of BatchNorm runs over the wide output, which SiLU computes again from the narrow input instead of
  keeping it.
* A 1x1 convolution of a single pixel, as in squeeze-excitation, is a matrix product, which is much the faster for it.

Parameters, buffers and values are those of timm's modules, whose way is taken where none applies: on other devices
than a CPU, in mixed precision, and in compiled, exported, traced and scripted models.
"""
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import ConvNormAct

from .norm_act import LeanBatchNormAct2d, in_plain_eager, take_over

__all__ = ['LeanConv2d', 'LeanConvNormAct']

# From that many pixels for each input channel on, the covariance costs less than BatchNorm would.
_PIXELS_PER_CHANNEL = 40


class _ConvSiLU(torch.autograd.Function):
    """SiLU of a 1x1 convolution, which is computed again from its input in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        return F.silu(F.conv2d(x, weight, bias), inplace=True)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone wants gradients of gradients
            # by their aliases, as the weight itself depends on x
            x, weight, bias = aliases = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
            wanted = [tensor for tensor, needed in zip(aliases, ctx.needs_input_grad, strict=True) if needed]
            grads = iter(torch.autograd.grad(F.silu(F.conv2d(x, weight, bias)), wanted, grad, create_graph=True))
            return tuple(next(grads) if needed else None for needed in ctx.needs_input_grad)
        z = F.conv2d(x, weight, bias)
        grad = torch.ops.aten.silu_backward.grad_input(grad, z, grad_input=z)
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[0]], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, ctx.needs_input_grad)


def _copy_conv(conv_cls: type[nn.Conv2d], conv: nn.Conv2d) -> nn.Conv2d:
    new = conv_cls(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        conv.bias is not None, conv.padding_mode, device='meta')
    return take_over(new, conv)


class LeanConv2d(nn.Conv2d):
    """torch's Conv2d, which can take in the norm and activation after it."""

    def forward(self, x: torch.Tensor, norm: LeanBatchNormAct2d | None = None) -> torch.Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W').

        Args:
            x: Input.
            norm: Norm with an activation, which is applied to the output; in training mode only for the convolutions
                and inputs that `LeanConvNormAct` gives one to.
        """
        if norm is not None:
            return self._normalise_by_batch(x, norm) if norm.training else self._normalise_by_average(x, norm)
        if in_plain_eager(x) and x.is_cpu and self._is_linear(x):
            return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]
        return super().forward(x)

    def _normalise_by_average(self, x: torch.Tensor, norm: LeanBatchNormAct2d) -> torch.Tensor:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - scale * norm.running_mean
        if self.bias is not None:
            shift = torch.addcmul(shift, scale, self.bias)
        return norm.act(norm.drop(F.conv2d(
            x, self.weight * scale[:, None, None, None], shift,
            self.stride, self.padding, self.dilation, self.groups)))

    def _normalise_by_batch(self, x: torch.Tensor, norm: LeanBatchNormAct2d) -> torch.Tensor:
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
        mean = pixels.mean(0)
        centred = pixels - mean
        covariance = centred.T @ centred / len(pixels)
        weight = self.weight.flatten(1)
        scale, shift = norm.normalise_statistics(
            weight @ mean, (weight @ covariance * weight).sum(1).clamp(min=0), len(pixels))
        weight = (weight * scale[:, None])[:, :, None, None]
        if isinstance(norm.act, nn.SiLU):
            return _ConvSiLU.apply(x, weight, shift)
        return norm.act(F.conv2d(x, weight, shift))

    def _is_linear(self, x: torch.Tensor) -> bool:
        return x.shape[2:] == self.kernel_size == (1, 1) and self.padding == (0, 0) and self.groups == 1

    @classmethod
    def from_plain(cls, conv: nn.Conv2d) -> 'LeanConv2d':
        """In the place of `conv`, with its parameters."""
        return _copy_conv(cls, conv)

    def __prepare_scriptable__(self) -> nn.Conv2d:
        return _copy_conv(nn.Conv2d, self)


class LeanConvNormAct(ConvNormAct):
    """timm's ConvNormAct of a `LeanConv2d` and a `LeanBatchNormAct2d`; (N, C, H, W) in and out.

    Args:
        conv_norm_act: The module whose convolution and norm it takes over.
    """

    def __init__(self, conv_norm_act: ConvNormAct):
        nn.Module.__init__(self)
        self.conv, self.bn, self.aa = conv_norm_act.conv, conv_norm_act.bn, conv_norm_act.aa
        self.train(conv_norm_act.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not in_plain_eager(x) or not self._is_lean(x):
            return super().forward(x)
        x = self.conv(x, self.bn)
        return self.bn(x, applied=True)  # for the hooks of the module

    def _is_lean(self, x: torch.Tensor) -> bool:
        conv, norm = self.conv, self.bn
        if (self.aa is not None or type(conv) is not LeanConv2d or type(norm) is not LeanBatchNormAct2d
                or not norm.is_plain_affine(x) or conv.padding_mode != 'zeros'):
            return False
        if not norm.training:
            return True
        return (
            torch.is_grad_enabled() and norm.is_lean_in_training()
            and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
            and conv.groups == 1 and conv.bias is None and conv.out_channels >= 2 * conv.in_channels
            and x.shape[0] * x.shape[2] * x.shape[3] >= _PIXELS_PER_CHANNEL * x.shape[1])

    def __prepare_scriptable__(self) -> ConvNormAct:
        plain = ConvNormAct(1, 1, device='meta')
        plain.conv, plain.bn, plain.aa = self.conv, self.bn, self.aa
        return plain.train(self.training)
