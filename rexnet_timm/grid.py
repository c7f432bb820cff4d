"""The grid of a scale: the features and logits of scale s lie on every 2**s-th pixel of the input.

Their size is rounded up, so that the last row and column may reach beyond the input. They are therefore enlarged by
exactly 2**s and cut to the input's size; stretching them to it would move everything but the first pixel.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ['enlarge', 'scale_size']


def scale_size(size: Sequence[int], scale: int) -> tuple[int, int]:
    """Height and width at `scale` of an input of `size`: `ceil(size / 2**scale)`."""
    # never the negative of a floor division: ONNX divides whole numbers towards zero
    height, width = size
    cell = 2 ** scale
    return (height + cell - 1) // cell, (width + cell - 1) // cell


def enlarge(x: torch.Tensor, scale: int, size: Sequence[int]) -> torch.Tensor:
    """Bring logits or disparities of `scale` to the size of the input, bilinearly.

    Args:
        x: (N, C, ceil(H / 2**scale), ceil(W / 2**scale)) float.
        scale: 0, which changes nothing, or more.
        size: H and W.

    Returns:
        (N, C, H, W), of the dtype of `x`.
    """
    if scale:
        x = F.interpolate(x, scale_factor=float(2 ** scale), mode='bilinear', align_corners=False)
    return x[..., :size[0], :size[1]]
