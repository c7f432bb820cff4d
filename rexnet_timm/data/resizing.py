"""Images resized with their masks, or their depth, on the same pixel centres."""
from collections.abc import Sequence

import torch
import torch.nn as nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

__all__ = ['INTERPOLATIONS', 'Pair', 'Resize', 'ResizeDepth', 'resize_pair']

# v2's NEAREST reads the pixel at a cell's corner, up to half a pixel off what the other modes read around its centre;
# NEAREST_EXACT reads the pixel at the centre.
INTERPOLATIONS = {
    'nearest': InterpolationMode.NEAREST_EXACT,
    'bilinear': InterpolationMode.BILINEAR,
    'bicubic': InterpolationMode.BICUBIC,
}

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]


def resize_pair(image: tv_tensors.Image, mask: tv_tensors.Mask, size: Sequence[int], interpolation: str) -> Pair:
    """Resize both to (height, width), the mask by nearest neighbour."""
    size = list(size)
    if list(image.shape[-2:]) == size:
        return image, mask
    image = F.resize(image, size, interpolation=INTERPOLATIONS[interpolation], antialias=True)
    # As a plain tensor, because for a tv_tensors.Mask v2 knows only NEAREST.
    labels = F.resize(mask.as_subclass(torch.Tensor)[None], size, interpolation=INTERPOLATIONS['nearest'])[0]
    return image, tv_tensors.wrap(labels, like=mask)


class Resize(nn.Module):
    """Resize image and mask to one size, whatever their shape.

    Args:
        size: Height and width in pixels.
        interpolation: Of the image: 'nearest', 'bilinear' or 'bicubic'; masks are always resized by nearest.
    """

    def __init__(self, size: tuple[int, int], interpolation: str = 'bilinear') -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        return resize_pair(image, mask, self.size, self.interpolation)


class ResizeDepth(Resize):
    """Resize image and depth map to one size, whatever their shape.

    Depths are those of measured pixels, never means of several, which would lie between an object and what is behind
    it, or between a depth and none. Where the pixel at the centre of a cell was not measured, the measured one in the
    cell that is nearest to its centre counts: of a sparse depth map most would otherwise be lost.
    """

    def forward(self, image: tv_tensors.Image, depth: tv_tensors.Mask) -> Pair:
        resized, nearest = super().forward(image, depth)
        if nearest.shape != depth.shape:
            nearest = tv_tensors.wrap(_filled_from_cells(
                nearest.as_subclass(torch.Tensor), depth.as_subclass(torch.Tensor)), like=depth)
        return resized, nearest


def _filled_from_cells(nearest: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """(h, w) with the zeros that have a value in their cell of (H, W) filled by the one nearest to the cell's centre.

    Of equally near ones it is the first; whole numbers tell that exactly.
    """
    (height, width), (rows, columns) = depth.shape, nearest.shape
    y, x = depth.nonzero(as_tuple=True)
    row, column = (2 * y + 1) * rows // (2 * height), (2 * x + 1) * columns // (2 * width)
    cell, values, filled = row * columns + column, depth[y, x], nearest.flatten().clone()
    hole = filled[cell] == 0
    # from the cell's centre, in units of 1 / (2 * rows) and 1 / (2 * columns) pixels, and then of the product of both
    down, right = (2 * y + 1) * rows - (2 * row + 1) * height, (2 * x + 1) * columns - (2 * column + 1) * width
    distance = ((down * columns).square() + (right * rows).square())[hole]
    cell, values = cell[hole], values[hole]
    least = distance.new_full(filled.shape, 2 ** 62).scatter_reduce(0, cell, distance, 'amin')
    cell, values = (part[distance == least[cell]] for part in (cell, values))
    order = torch.arange(len(cell))
    first = order.new_full(filled.shape, len(cell)).scatter_reduce(0, cell, order, 'amin')[cell] == order
    filled[cell[first]] = values[first]
    return filled.view_as(nearest)
