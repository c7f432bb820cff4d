"""Hidden channels of ReXNet's blocks filled up to a number that inference engines run fast.

ReXNet's blocks have 162 or 228 channels between their convolutions. onnxruntime runs a depthwise convolution whose
channels are no multiple of 16 by another kernel, several times slower, and reorders the map before and after it.
"""
import torch.nn as nn
import torch.nn.functional as F
from timm.models.rexnet import LinearBottleneck

__all__ = ['fill_channels']


def fill_channels(network: nn.Module, multiple: int = 16) -> nn.Module:
    """Fill up the channels inside the blocks of timm's and our ReXNet with zeros, in place; the outputs are the same.

    Args:
        network: Any network, with its norms folded by `fuse`; blocks that still have one stay as they are.
        multiple: What the number of channels is to be a multiple of.

    Returns:
        The network itself.
    """
    for block in network.modules():
        if type(block) is not LinearBottleneck or block.conv_exp is None:
            continue
        extra = -block.conv_dw.conv.out_channels % multiple
        if extra and not any(hasattr(module, 'running_mean') for module in block.modules()):
            _fill(block.conv_exp.conv, out_chs=extra)
            _fill(block.conv_dw.conv, out_chs=extra)
            if block.se is not None:
                _fill(block.se.fc1, in_chs=extra)
                _fill(block.se.fc2, out_chs=extra)
            _fill(block.conv_pwl.conv, in_chs=extra)
    return network


def _fill(conv: nn.Conv2d, in_chs: int = 0, out_chs: int = 0) -> None:
    """Channels with zero weights after those of a convolution; a depthwise one gets both by `out_chs`."""
    conv.weight = nn.Parameter(F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, in_chs, 0, out_chs)), requires_grad=False)
    if conv.bias is not None:
        conv.bias = nn.Parameter(F.pad(conv.bias.detach(), (0, out_chs)), requires_grad=False)
    if conv.groups > 1:
        conv.groups += out_chs
        in_chs = out_chs
    conv.in_channels += in_chs
    conv.out_channels += out_chs
