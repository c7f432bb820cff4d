""" Decoders of the multi-scale U-Net

From the features of any encoder of segmentation_models_pytorch (SMP) to those of every scale, coarsest first. What
differs from the decoder of SMP's U-Net:
* skips are added instead of concatenated, and refined by depthwise-separable convolutions (MobileNets,
  https://arxiv.org/abs/1704.04861), so that the decoder costs a fraction of the encoder instead of a multiple
* nothing is computed at full resolution but the logits, enlarged from half resolution
* the features of every stage come out, and the stages finer than asked for are not run
"""
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, SeparableConvNormAct, create_act_layer

__all__ = ['DECODER_CHANNELS', 'FullSizeHead', 'UnetDecoder', 'resize', 'scale_size']

# Widths of the decoder's stages, from 1/16 of the input's size to 1/2.
DECODER_CHANNELS = (128, 96, 64, 32)


def scale_size(size: Sequence[int], scale: int) -> tuple[int, int]:
    """Height and width of the logits at `scale` for an input of `size`: `ceil(size / 2**scale)`."""
    height, width = size
    return -(-height // 2 ** scale), -(-width // 2 ** scale)


def resize(x: torch.Tensor, size: tuple[int, int], mode: str = 'nearest') -> torch.Tensor:
    """Resize (N, C, H, W) to `size`, or return it untouched where it has that size already."""
    if x.shape[-2] == size[0] and x.shape[-1] == size[1]:
        return x
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == 'bilinear' else None)


class DecoderBlock(nn.Module):
    """One step up: the coarser features are reduced, enlarged and added to the skip; a residual branch refines the sum.

    The coarser features are reduced before they are enlarged, where a convolution costs a quarter.
    """

    def __init__(
            self,
            in_chs: int,
            skip_chs: int,
            out_chs: int,
            kernel_size: int = 3,
            act_layer: str = 'relu',
            interpolation: str = 'nearest',
    ):
        super().__init__()
        self.interpolation = interpolation
        self.conv_in = nn.Conv2d(in_chs, out_chs, 1, bias=False)
        # Patch-4 encoders have no half-scale feature: SMP hands out one with no channels.
        self.conv_skip = nn.Conv2d(skip_chs, out_chs, 1, bias=False) if skip_chs > 0 else None
        self.norm = BatchNormAct2d(out_chs, act_layer=act_layer)
        self.refine = SeparableConvNormAct(out_chs, out_chs, kernel_size, apply_act=False)
        self.act = create_act_layer(act_layer)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, in_chs, h, w) and (N, skip_chs, ...) -> (N, out_chs, *size)."""
        x = resize(self.conv_in(x), size, self.interpolation)
        if self.conv_skip is not None:
            x = x + resize(self.conv_skip(skip), size, self.interpolation)
        x = self.norm(x)
        return self.act(x + self.refine(x))


class FullSizeHead(nn.Module):
    """Logits of features of half the size, enlarged, so that nothing but them is computed at the size of the input."""

    def __init__(self, in_chs: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chs, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_chs, h, w) -> (N, num_classes, 2 * h, 2 * w)."""
        return F.interpolate(self.conv(x), scale_factor=2., mode='bilinear', align_corners=False)


class UnetDecoder(nn.Module):
    """Additive U-Net decoder.

    Args:
        encoder_channels: Channels of the encoder's features, index s at 1/2**s of the input's size.
        decoder_channels: Channels of the stages, coarsest first; the last one is at 1/2 of the input's size.
        act_layer: Activation, by timm's name.
        interpolation: How coarse features are enlarged, 'nearest' or 'bilinear'.
    """

    def __init__(
            self,
            encoder_channels: Sequence[int],
            decoder_channels: Sequence[int],
            act_layer: str = 'relu',
            interpolation: str = 'nearest',
    ):
        super().__init__()
        coarsest = len(encoder_channels) - 2  # the last feature is the decoder's input
        in_chs = encoder_channels[-1]
        # keyed by scale, so that a stage keeps its name in the state dict when finer ones are cut off
        self.stages = nn.ModuleDict()
        for scale, out_chs in zip(range(coarsest, 0, -1), decoder_channels, strict=True):
            # a wide kernel costs little where the features are small
            self.stages[str(scale)] = DecoderBlock(
                in_chs, encoder_channels[scale], out_chs, 5 if scale > 1 else 3, act_layer, interpolation)
            in_chs = out_chs

    def forward(self, features: list[torch.Tensor], size: tuple[int, int], finest: int = 1) -> dict[int, torch.Tensor]:
        """Run the stages down to scale `finest`.

        Args:
            features: The encoder's features, index s of shape (N, C_s, ~H/2**s, ~W/2**s).
            size: Height and width of the network's input.
            finest: Scale of the last stage to run, at least 1.

        Returns:
            {scale: (N, decoder_channels of the scale, ceil(H/2**scale), ceil(W/2**scale))}
        """
        x = features[-1]
        outputs: dict[int, torch.Tensor] = {}
        for name, stage in self.stages.items():
            scale = int(name)
            if scale >= finest:
                x = stage(x, features[scale], scale_size(size, scale))
                outputs[scale] = x
        return outputs
