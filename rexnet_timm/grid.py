"""The grid of a scale: the features and logits of scale s lie on every 2**s-th pixel of the input.

Their size is rounded up, so that the last row and column may reach beyond the input. They are therefore enlarged by
exactly 2**s and cut to the input's size; stretching them to it would move everything but the first pixel.

Everything here takes any size after tracing, export and scripting: no branch depends on a size.
"""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

__all__ = ['cut', 'enlarge', 'enlarging_by_convolution', 'move_to_scale', 'scale_size']

_by_convolution = False


@contextmanager
def enlarging_by_convolution() -> Iterator[None]:
    """Inside, what is traced holds a transposed convolution in place of bilinear interpolation, for the same values.

    OpenVINO enlarges the logits of 11 classes from 192 x 192 in 1.0 ms so, and in 2.8 ms otherwise.
    """
    global _by_convolution
    before, _by_convolution = _by_convolution, True
    try:
        yield
    finally:
        _by_convolution = before


def scale_size(size: tuple[int, int], scale: int) -> tuple[int, int]:
    """Height and width at `scale` of an input of `size`: `ceil(size / 2**scale)`."""
    # never the negative of a floor division: ONNX divides whole numbers towards zero
    cell = 1 << scale  # TorchScript makes a float of 2**scale
    return (size[0] + cell - 1) // cell, (size[1] + cell - 1) // cell


def enlarge(x: torch.Tensor, scale: int, size: tuple[int, int], mode: str = 'bilinear') -> torch.Tensor:
    """Bring features, logits or disparities of `scale` to the size of the input.

    Args:
        x: (N, C, ceil(H / 2**scale), ceil(W / 2**scale)) float.
        scale: 0, which changes nothing, or more.
        size: H and W.
        mode: 'bilinear' or 'nearest'.

    Returns:
        (N, C, H, W), of the dtype of `x`.
    """
    if scale == 0:
        return x
    cell = 1 << scale
    if not torch.jit.is_scripting():
        if _by_convolution and mode == 'bilinear':
            return cut(_enlarge_by_convolution(x, cell), size)
    return cut(_interpolate(x, (x.shape[-2] * cell, x.shape[-1] * cell), mode), size)


def _enlarge_by_convolution(x: torch.Tensor, cell: int) -> torch.Tensor:
    """(N, C, h, w) -> (N, C, h * cell, w * cell), as bilinear interpolation."""
    weights = 1 - (torch.arange(2 * cell, dtype=x.dtype, device=x.device) + 0.5 - cell).abs() / cell
    kernel = (weights[:, None] * weights).expand(x.shape[1], 1, -1, -1).contiguous()
    x = F.pad(x, (1, 1, 1, 1), mode='replicate')  # the edge, as interpolation repeats it
    return F.conv_transpose2d(x, kernel, stride=cell, padding=cell + cell // 2, groups=x.shape[1])


def move_to_scale(
        x: torch.Tensor,
        scale: int,
        target: int,
        size: tuple[int, int],
        short: bool = False,
        mode: str = 'bilinear',
) -> torch.Tensor:
    """Bring features or logits of one scale to another, coarser or finer, without moving them.

    Args:
        x: (N, C, ceil(H / 2**scale), ceil(W / 2**scale)) float, or up to one row and column less where `short`.
        scale: The scale of `x`, 0 or more; -1 for what lies on no grid, which is stretched.
        target: The scale asked for.
        size: Height and width at `target`.
        short: Whether the last row and column may be missing, as a network rounds sizes down. They are repeated.
        mode: 'bilinear' or 'nearest'.

    Returns:
        (N, C, *size), of the dtype of `x`.
    """
    if scale < 0:
        return _interpolate(x, size, mode)
    if short:  # one row too many changes nothing: it repeats the last one, and is cut off in the end
        x = F.pad(x, (0, 1, 0, 1), mode='replicate')
    if scale > target:
        return enlarge(x, scale - target, size, mode)
    if scale == target:
        return cut(x, size) if short else x
    # a whole number of pixels makes one: those that the last one lacks are repeated
    cell = 1 << (target - scale)
    x = cut(F.pad(x, (0, cell - 1, 0, cell - 1), mode='replicate'), (size[0] * cell, size[1] * cell))
    return _interpolate(x, size, mode)


def _interpolate(x: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == 'bilinear' else None)


def cut(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The first rows and columns of (N, C, h, w), h and w being at least `size`."""
    if not torch.jit.is_scripting():
        if torch.compiler.is_dynamo_compiling() or any(isinstance(length, torch.SymInt) for length in size):
            # torch.export takes a slice of free length for a constraint on the sizes, and refuses it
            rows, columns = (torch.arange(length, device=x.device) for length in size)
            return x.index_select(-2, rows).index_select(-1, columns)
    return x[..., :size[0], :size[1]]
