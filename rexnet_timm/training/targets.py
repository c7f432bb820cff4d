""" Targets at smaller scales

A label map is brought to the size of coarser logits by taking the label in the middle of each cell, or by counting the
labels in it. Counting was asked for because the middle of a cell misses objects smaller than the cell.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ['cell_shares', 'majority_target', 'object_target', 'resize_target', 'soft_target']


def resize_target(target: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Shrink a label map by taking the label in the middle of each cell, so that no label is invented.

    Args:
        target: (N, H, W) labels of any dtype, or (N, C, H, W) masks.
        size: New height and width.

    Returns:
        (N, *size) or (N, C, *size), same dtype; `target` itself where it has that size already.
    """
    for dim, length in zip((-2, -1), size, strict=True):
        if target.shape[dim] != length:
            # integer arithmetic: floor((i + 0.5) * old / new)
            middle = (2 * torch.arange(length, device=target.device) + 1) * target.shape[dim] // (2 * length)
            target = target.index_select(dim, middle)
    return target


def cell_shares(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
) -> torch.Tensor:
    """Share of each class among the labelled pixels of each cell of 2**scale x 2**scale pixels.

    Args:
        target: (N, H, W) integer labels in 0..num_classes-1 or `ignore_index`. Cells at the right and lower edge may
            be cut off.
        scale: Scale of the cells.
        num_classes: Number of classes.
        ignore_index: Label that does not count.

    Returns:
        (N, num_classes, ceil(H/2**scale), ceil(W/2**scale)) float32, summing to 1 over the classes, or to 0 in a cell
        without a labelled pixel.
    """
    cell = 2 ** scale
    height, width = target.shape[-2:]
    rows, columns = -(-height // cell), -(-width // cell)
    row = torch.arange(height, device=target.device)[:, None] // cell
    column = torch.arange(width, device=target.device) // cell
    image = torch.arange(len(target), device=target.device)[:, None, None]
    place = ((image * rows + row) * columns + column) * num_classes  # of class 0 in the counts
    valid = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    index = place + torch.where(valid, target, 0)
    counts = torch.zeros(len(target) * rows * columns * num_classes, device=target.device)
    counts.scatter_add_(0, index.flatten(), valid.float().flatten())
    counts = counts.view(len(target), rows, columns, num_classes).permute(0, 3, 1, 2)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _with_ignored(labels: torch.Tensor, shares: torch.Tensor, ignore_index: int | None) -> torch.Tensor:
    return labels if ignore_index is None else labels.masked_fill(shares.sum(1) == 0, ignore_index)


def majority_target(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
) -> torch.Tensor:
    """The commonest label of each cell, the lowest of equals; `ignore_index` where no pixel has a label.

    Arguments as :func:`cell_shares`. (N, C, H, W) masks of 0 and 1 become 1 where at least half of the cell is.

    Returns:
        (N, ceil(H/2**scale), ceil(W/2**scale)) int64, or (N, C, ...) of the masks' dtype.
    """
    if target.ndim == 4:
        return (soft_target(target, scale, num_classes) >= 0.5).to(target.dtype)
    shares = cell_shares(target, scale, num_classes, ignore_index)
    return _with_ignored(shares.argmax(1), shares, ignore_index)


def object_target(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
        share: float = 0.25,
        background: Sequence[int] = (0,),
) -> torch.Tensor:
    """As :func:`majority_target`, but that an object wins over the background with a smaller share of the cell.

    Args:
        target: As for :func:`cell_shares`, and the following ones.
        scale: Scale of the cells.
        num_classes: Number of classes.
        ignore_index: Label that does not count.
        share: Share of the labelled pixels, above 0 to 1, from which on the commonest object wins.
        background: The classes that give way; all others are objects.

    Raises:
        ValueError: A background class that there is not.
    """
    if target.ndim == 4:
        return (soft_target(target, scale, num_classes) >= share).to(target.dtype)
    if not all(0 <= label < num_classes for label in background):
        raise ValueError(f'background must be classes from 0 to {num_classes - 1}, got {tuple(background)}.')
    shares = cell_shares(target, scale, num_classes, ignore_index)
    objects = shares.clone()
    objects[:, list(background)] = 0
    largest, label = objects.max(1)
    return _with_ignored(torch.where(largest >= share, label, shares.argmax(1)), shares, ignore_index)


def soft_target(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
) -> torch.Tensor:
    """The share of each class in each cell, for losses that take probabilities; see :func:`cell_shares`.

    Returns:
        (N, num_classes, ceil(H/2**scale), ceil(W/2**scale)) float32. (N, C, H, W) masks of 0 and 1 become their means
        over the cells.
    """
    if target.ndim == 3:
        return cell_shares(target, scale, num_classes, ignore_index)
    cell = 2 ** scale
    # cells that are cut off at the edge are averaged over what there is of them
    return F.avg_pool2d(target.float(), cell, ceil_mode=True, count_include_pad=False) if scale else target.float()
