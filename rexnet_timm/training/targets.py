"""Targets at smaller scales

A label map is brought to the size of coarser logits by taking the label in the middle of each cell, or by counting the
labels in it. Counting was asked for because the middle of a cell misses objects smaller than the cell.

The cells are those of `rexnet_timm.grid`: 2**s x 2**s pixels at scale s, from the upper left corner on. Those at the
right and lower edge are cut off where the size is no multiple of 2**s.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..grid import scale_size

__all__ = [
    'cell_shares', 'check_labels', 'check_masks', 'majority_target', 'object_target', 'resize_target', 'scale_of',
    'soft_target']

_MAX_SCALE = 31


def scale_of(size: Sequence[int], full_size: Sequence[int], above: int = -1) -> int:
    """The scale whose size, `ceil(H / 2**s)` x `ceil(W / 2**s)`, is that of an output.

    Args:
        size: Height and width of the output.
        full_size: H and W, those of the target.
        above: Scale of the output before this one, finer than it. It decides where several scales have one size,
            which happens where a cell is as large as the target.

    Returns:
        The finest scale of that size above `above`; the finest of that size where all are at most `above`.

    Raises:
        ValueError: No scale has that size.
    """
    scales = [scale for scale in range(_MAX_SCALE + 1) if scale_size(full_size, scale) == tuple(size)]
    if not scales:
        raise ValueError(
            f'An output must be ceil(H / 2**s) x ceil(W / 2**s) of its target for some scale s, got an output of '
            f'{size[0]} x {size[1]} for a target of {full_size[0]} x {full_size[1]}.')
    return next((scale for scale in scales if scale > above), scales[0])


def check_labels(
        labels: torch.Tensor,
        num_classes: int,
        ignore_index: int | None = None,
        name: str = 'target',
) -> torch.Tensor:
    """Class labels as int64, checked.

    Args:
        labels: Whole numbers of any shape and dtype, bool and floats included.
        num_classes: Number of classes.
        ignore_index: A label that is allowed besides 0..num_classes-1; None: no other.
        name: What the labels are, for the message.

    Returns:
        int64 of the same shape.

    Raises:
        ValueError: A fraction, NaN, or a label that is neither a class nor ignored.
    """
    if torch.compiler.is_compiling():  # a graph has no place for a check of values
        return labels.long()
    if labels.is_floating_point() and not torch.equal(labels, labels.floor()):
        raise ValueError(
            f'{name} must hold whole numbers, the labels of classes, got {labels.dtype} values with fractions or NaN: '
            'pass labels, not probabilities or scaled grey values.')
    labels = labels.long()
    if not labels.numel():
        return labels
    low, high = (int(bound) for bound in torch.stack(labels.aminmax()).tolist())
    if 0 <= low and high < num_classes:
        return labels
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < num_classes:
        ignored = '' if ignore_index is None else f' or the ignore_index {ignore_index}'
        raise ValueError(
            f'{name} must be in 0..{num_classes - 1}{ignored}, got values from {int(counted.min())} to '
            f'{int(counted.max())}: correct the labels or the number of classes, or pass as ignore_index the label '
            'that stands for unlabelled pixels.')
    return labels


def check_masks(masks: torch.Tensor, ignore_index: int | None = None) -> None:
    """Raise ValueError unless all entries of masks, of any shape, are 0 to 1 or `ignore_index`."""
    if torch.compiler.is_compiling() or not masks.numel():
        return
    outside = (masks < 0) | (masks > 1) | (masks != masks)
    if ignore_index is not None:
        outside &= masks != ignore_index
    if outside.any():
        ignored = '' if ignore_index is None else f' or the ignore_index {ignore_index}'
        raise ValueError(
            f'Masks must hold 0 to 1, whether a pixel belongs to a class{ignored}, got {masks[outside][0].item():g}: '
            'pass the numbers of classes as (N, H, W) labels, and as ignore_index the value of unlabelled entries.')


def resize_target(target: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Shrink a label map by taking the label in the middle of each cell, so that no label is invented.

    The middle of cell i is pixel `i * 2**s + 2**(s-1)`, the one at the place of the logit. Where the edge cuts the cell
    off before its middle, the nearest pixel that there is, the last one, gives the label.

    Args:
        target: (N, H, W) labels of any dtype, or (N, C, H, W) masks.
        size: Height and width of a scale, `ceil(H / 2**s)` and `ceil(W / 2**s)`. A size that several scales have
            counts as that of the finest of them.

    Returns:
        (N, *size) or (N, C, *size), same dtype; `target` itself where it has that size already.

    Raises:
        ValueError: No scale has that size.
    """
    scale = scale_of(size, target.shape[-2:])
    if scale:
        for dim, length in zip((-2, -1), size, strict=True):
            middle = torch.arange(length, device=target.device) * 2 ** scale + 2 ** (scale - 1)
            target = target.index_select(dim, middle.clamp(max=target.shape[dim] - 1))
    return target


def cell_shares(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
) -> torch.Tensor:
    """Share of each class among the labelled pixels of each cell of 2**scale x 2**scale pixels.

    Args:
        target: (N, H, W) labels in 0..num_classes-1 or `ignore_index`. Cells at the right and lower edge may be cut
            off.
        scale: Scale of the cells.
        num_classes: Number of classes.
        ignore_index: Label that does not count.

    Returns:
        (N, num_classes, ceil(H/2**scale), ceil(W/2**scale)) float32, summing to 1 over the classes, or to 0 in a cell
        without a labelled pixel.

    Raises:
        ValueError: A label that is neither a class nor ignored.
    """
    target = check_labels(target, num_classes, ignore_index)
    cell = 2 ** scale
    height, width = target.shape[-2:]
    rows, columns = scale_size((height, width), scale)
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


def _masks_from(shares: torch.Tensor, least: float, masks: torch.Tensor, ignore_index: int | None) -> torch.Tensor:
    """1 where the share of `soft_target` is at least `least`, in the dtype of the masks that it was taken of."""
    result = (shares >= least).to(masks.dtype)
    return result if ignore_index is None else result.masked_fill(shares == ignore_index, ignore_index)


def majority_target(
        target: torch.Tensor,
        scale: int,
        num_classes: int,
        ignore_index: int | None = None,
) -> torch.Tensor:
    """The commonest label of each cell, the lowest of equals; `ignore_index` where no pixel has a label.

    Arguments as :func:`cell_shares`. (N, C, H, W) masks of 0 and 1 become 1 where at least half of the labelled entries
    of the cell are.

    Returns:
        (N, ceil(H/2**scale), ceil(W/2**scale)) int64, or (N, C, ...) of the masks' dtype.

    Raises:
        ValueError: A label that is neither a class nor ignored, or masks of other values than 0 to 1.
    """
    if target.ndim == 4:
        return _masks_from(soft_target(target, scale, num_classes, ignore_index), 0.5, target, ignore_index)
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
    """As :func:`majority_target`, except that an object wins over the background with a smaller share of the cell.

    Args:
        target: As for :func:`cell_shares`, and the following ones.
        scale: Scale of the cells.
        num_classes: Number of classes.
        ignore_index: Label that does not count.
        share: Share of the labelled pixels, above 0 to 1, from which on the commonest object wins.
        background: The classes that give way; all others are objects.

    Raises:
        ValueError: A background class that does not exist, or as for :func:`majority_target`.
    """
    if target.ndim == 4:
        return _masks_from(soft_target(target, scale, num_classes, ignore_index), share, target, ignore_index)
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
        (N, num_classes, ceil(H/2**scale), ceil(W/2**scale)) float32. (N, C, H, W) masks of 0 and 1 become the means of
        their labelled entries over the cells, and `ignore_index` where a cell has none.

    Raises:
        ValueError: A label that is neither a class nor ignored, or masks of other values than 0 to 1.
    """
    if target.ndim == 3:
        return cell_shares(target, scale, num_classes, ignore_index)
    check_masks(target, ignore_index)
    masks = target.float()
    if not scale:
        return masks
    cell = 2 ** scale
    if ignore_index is None:
        # cells that are cut off at the edge are averaged over what there is of them
        return F.avg_pool2d(masks, cell, ceil_mode=True, count_include_pad=False)
    labelled = masks != ignore_index
    # sums, which are exact
    sums, number = (
        F.avg_pool2d(entries, cell, ceil_mode=True, divisor_override=1)
        for entries in (torch.where(labelled, masks, 0.), labelled.float()))
    return torch.where(number > 0, sums / number.clamp(min=1), float(ignore_index))
