"""Dense networks on images of any size: padding, tiles, mirrored and zoomed copies, and the mean over all of them.

Tiles are windows whose results are blended with Gaussian weights. The weights of all windows add up to one at every
pixel, so results are only added. Rows are final as soon as no later window reaches them, so at most one row of windows
is kept in memory (:func:`infer_bands`).
"""
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..data.description import DataDescription
from ..grid import enlarge

__all__ = [
    'check_views', 'class_probabilities', 'class_votes', 'disparities', 'infer', 'infer_bands', 'normalize',
    'only_size', 'windows']

FLIPS = {'h': (-1,), 'v': (-2,), 'hv': (-2, -1)}
MIN_SIZE = 32  # height and width that every network takes
_LARGEST_CELL = 32  # windows begin on the grid of the coarsest features, as far as their size allows


def infer(
        network: Callable[[torch.Tensor], torch.Tensor],
        images: torch.Tensor,
        *,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        flips: Sequence[str] = (),
        zooms: Sequence[float] = (1.,),
) -> torch.Tensor:
    """Class probabilities of images, as the mean over mirrored and zoomed copies.

    Args:
        network: Returns logits (N, C, H, W) of images (N, channels, H, W); one channel of logits is a binary mask.
            Images are padded at the right and the bottom to at least 32 x 32, and to multiples of its
            `encoder.output_stride` where it says `requires_divisible_input_shape`; where it has a `size`, height and
            width of all that it takes, to that.
        images: (N, channels, H, W) as the network takes them, of any size.
        tile: Height and width of the largest window, or one number for both; None runs each image as a whole.
        overlap: Share of a window that it has in common with the next, 0 or more and less than 1; see `windows`.
        flips: Mirrored copies that are run besides each image: 'h' left and right, 'v' up and down, 'hv' both.
        zooms: Factors of the sizes at which images are run; (1.,) is only their own.

    Returns:
        float32 (N, K, H, W) that add up to one over K: the channels of the logits, or background and foreground where
        that is one channel.

    Raises:
        ValueError: An argument out of range, or a network that does not return logits of the size of its input.
    """
    bands = infer_bands(network, images, tile=tile, overlap=overlap, flips=flips, zooms=zooms)
    return torch.cat(list(bands), dim=-2)


def class_probabilities(logits: Any, size: tuple[int, int]) -> torch.Tensor:
    """float32 (N, K, H, W) class probabilities of logits (N, C, H, W); K is 2 for one channel. `size` is H and W."""
    if not isinstance(logits, torch.Tensor) or logits.ndim != 4 or tuple(logits.shape[-2:]) != tuple(size):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f'The network must return logits (N, C, {size[0]}, {size[1]}) for an input of that size, got {found}: set '
            'it to evaluation mode, and check that it is a network of segmentation.')
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    foreground = logits.sigmoid()
    return torch.cat([1 - foreground, foreground], dim=1)


def disparities(output: Any, size: tuple[int, int]) -> torch.Tensor:
    """float32 (N, 1, H, W) disparities of a depth network's output: its finest scale, enlarged to `size`, H and W.

    Args:
        output: {('disp', scale): (N, 1, ceil(H/2**scale), ceil(W/2**scale))}, or (N, 1, H, W).
        size: H and W.
    """
    if isinstance(output, Mapping):
        key = min(output, key=lambda key: key[1])
        return enlarge(output[key].float(), key[1], size)
    if output.ndim != 4 or output.shape[1] != 1 or tuple(output.shape[-2:]) != tuple(size):
        raise ValueError(
            f'The network must return disparities (N, 1, {size[0]}, {size[1]}) for an input of that size, got '
            f'{tuple(output.shape)}: check that it is a network of depth.')
    return output.float()


def class_votes(classes: torch.Tensor, size: tuple[int, int], num_classes: int) -> torch.Tensor:
    """float32 (N, num_classes, H, W) of integer classes (N, H, W): 1 for the class of each pixel, 0 for the others."""
    if tuple(classes.shape[1:]) != tuple(size):
        raise ValueError(f'The network must return classes (N, {size[0]}, {size[1]}), got {tuple(classes.shape)}.')
    return F.one_hot(classes.long(), num_classes).movedim(-1, 1).float()


def normalize(images: torch.Tensor, description: DataDescription) -> torch.Tensor:
    """Images as the networks take them: float32 `(value - mean) / std`, of values in the description's `value_range`.

    Args:
        images: uint8 (..., channels, H, W).
        description: What the network knows of its data.
    """
    low, high = description.value_range
    mean, std = (images.new_tensor(values, dtype=torch.float32)[:, None, None]
                 for values in (description.mean, description.std))
    return (images.float() / 255 * (high - low) + low - mean) / std


def windows(length: int, tile: int, overlap: float, fixed: bool = False) -> list[tuple[int, int]]:
    """Begin and end of the windows along one side of an image: as few as reach from end to end.

    There are `1 + ceil((length - tile) / stride)` of them, the stride being the part of a tile that is not overlap.
    Where they would reach beyond the end they all shrink alike, so that none is shifted back over its neighbour or
    left a narrow strip: no pixel is run more often than the overlap asks for. They begin on multiples of the largest
    power of two up to 32 that divides the stride, so that a network with strides sees its grid where it lies when the
    image is run as a whole.

    Args:
        length: Of the side, at least 1.
        tile: Length of a window, which none exceeds; at least 1.
        overlap: Share of a window that it has in common with the next, 0 or more and less than 1.
        fixed: Whether all have the length of a tile, for a network that takes no other: the last one ends with the
            image, and sees pixels that the one before has seen.
    """
    if tile >= length:
        return [(0, length)]
    stride = max(1, tile - round(tile * overlap))
    number = 1 + math.ceil((length - tile) / stride)
    if fixed:
        begins = [min(index * stride, length - tile) for index in range(number)]
        return [(begin, begin + tile) for begin in begins]
    cell = math.gcd(stride, _LARGEST_CELL)
    # windows that end with the image have `length / whole` of the size of a tile
    whole = tile + (number - 1) * stride
    begins = [math.ceil(index * length * stride / whole / cell) * cell for index in range(number)]
    # ends lie on that grid too, where the tile does
    shared = min(tile - stride, math.ceil(length * (tile - stride) / whole / cell) * cell)
    at_once = math.ceil(tile / stride)  # windows over one pixel
    begins_and_end = [*begins, *[length] * at_once]
    ends = [
        min(begins_and_end[index + 1] + shared, begins_and_end[index + at_once], length) for index in range(number)]
    return list(zip(begins, ends, strict=True))


def _weights(spans: Sequence[tuple[int, int]]) -> list[torch.Tensor]:
    """Share of each window in the result, float32 of its length; at each place the shares add up to one.

    They fall off as a Gaussian from the middle of a window. The outer quarter of an overlap has none, since the network
    sees least around it there, and the neighbour sees it whole.
    """
    total, parts = torch.zeros(spans[-1][1], dtype=torch.float64), []
    for index, (begin, end) in enumerate(spans):
        middle, width = (end - begin - 1) / 2, max(1, end - begin) / 8
        part = torch.exp(-0.5 * ((torch.arange(end - begin, dtype=torch.float64) - middle) / width) ** 2)
        if index > 0:
            part[:(spans[index - 1][1] - begin) // 4] = 0
        if index + 1 < len(spans):
            part[len(part) - (end - spans[index + 1][0]) // 4:] = 0
        total[begin:end] += part
        parts.append(part)
    return [(part / total[begin:end]).float() for part, (begin, end) in zip(parts, spans, strict=True)]


def check_views(
        tile: int | tuple[int, int] | None, overlap: float, flips: Sequence[str], zooms: Sequence[float],
) -> tuple[int, int] | None:
    """Check the arguments of `infer`; returns height and width of a tile. ValueError for one out of range."""
    if tile is not None:
        tile = (tile, tile) if isinstance(tile, int) else tuple(tile)
        if len(tile) != 2 or not all(isinstance(side, int) and side >= 1 for side in tile):
            raise ValueError(f'tile must be one or two (height, width) whole numbers of at least 1, got {tile}.')
    if not 0 <= overlap < 1:
        raise ValueError(f'overlap must be a share of the tile of at least 0 and below 1, got {overlap}.')
    unknown = [flip for flip in flips if flip not in FLIPS]
    if isinstance(flips, str) or unknown or len(set(flips)) < len(flips):
        raise ValueError(f"flips must be any of 'h', 'v' and 'hv', each once, as a tuple, got {flips!r}.")
    if not zooms or not all(zoom > 0 and math.isfinite(zoom) for zoom in zooms):
        raise ValueError(f'zooms must be one or more factors above 0, got {tuple(zooms)}.')
    return tile


@torch.no_grad()
def infer_bands(
        network: Callable[[torch.Tensor], Any],
        images: torch.Tensor,
        maps: Callable[[Any, tuple[int, int]], torch.Tensor] = class_probabilities,
        prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        flips: Sequence[str] = (),
        zooms: Sequence[float] = (1.,),
) -> Iterator[torch.Tensor]:
    """What `infer` returns, from top to bottom in parts of whole rows; no more than one row of windows is kept.

    Args:
        network: As for `infer`.
        images: (N, channels, H, W); only windows of them are given to `prepare`.
        maps: From the network's output and the size (H, W) of its input to the maps (N, K, H, W) whose mean is taken.
        prepare: From a window of the images to what the network takes, such as `normalize`; None for no change.
        tile: As for `infer`, as are the rest.

    Yields:
        float32 (N, K, rows, W); the rows of all parts add up to H.
    """
    tile = check_views(tile, overlap, flips, zooms)
    height, width = images.shape[-2:]
    fixed = only_size(network) is not None
    rows = windows(height, tile[0] if tile else height, overlap, fixed)
    columns = windows(width, tile[1] if tile else width, overlap, fixed)
    row_weights, column_weights = _weights(rows), _weights(columns)
    unfinished = None  # rows to which the next row of windows adds
    for index, (top, bottom) in enumerate(rows):
        band = None
        for (left, right), weights in zip(columns, column_weights, strict=True):
            window = images[..., top:bottom, left:right]
            part = _mean_of_views(network, window if prepare is None else prepare(window), maps, flips, zooms)
            if len(rows) == len(columns) == 1:
                yield part
                return
            if band is None:
                band = part.new_zeros((*part.shape[:2], bottom - top, width))
            weights = (row_weights[index][:, None] * weights).to(part.device)
            band[..., left:right] += part * weights
        if unfinished is not None:
            band[..., :unfinished.shape[-2], :] += unfinished
        finished = rows[index + 1][0] - top if index + 1 < len(rows) else bottom - top
        unfinished = band[..., finished:, :].clone()  # a view would keep the whole band
        yield band[..., :finished, :]


def _mean_of_views(
        network: Callable[[torch.Tensor], Any],
        images: torch.Tensor,
        maps: Callable[[Any, tuple[int, int]], torch.Tensor],
        flips: Sequence[str],
        zooms: Sequence[float],
) -> torch.Tensor:
    """The mean of the maps of images (N, channels, H, W), each zoomed, and as it is and mirrored."""
    size, total = tuple(images.shape[-2:]), None
    for zoom in zooms:
        zoomed = _resize(images, tuple(max(1, round(side * zoom)) for side in size))
        of_zoom = None
        for dims in ((), *(FLIPS[flip] for flip in flips)):
            padded = _pad(zoomed.flip(dims), network)
            part = maps(network(padded), tuple(padded.shape[-2:]))
            part = part[..., :zoomed.shape[-2], :zoomed.shape[-1]].flip(dims)
            of_zoom = part if of_zoom is None else of_zoom + part
        of_zoom = _resize(of_zoom, size)
        total = of_zoom if total is None else total + of_zoom
    return total / (len(zooms) * (1 + len(flips)))


def only_size(network: Any) -> tuple[int, int] | None:
    """Height and width of all images that the network of an exported file takes; None for any size."""
    size = getattr(network, 'size', None)
    return size if isinstance(size, tuple) else None


def _resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(x.shape[-2:]) == size:
        return x
    resized = F.interpolate(x.float(), size=size, mode='bilinear', align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else resized.to(x.dtype)


def _pad(images: torch.Tensor, network: Any) -> torch.Tensor:
    """Images padded at the right and the bottom as in training: with the mean colour, which is 0 after `normalize`."""
    divisor = 1
    if getattr(network, 'requires_divisible_input_shape', False):
        divisor = getattr(getattr(network, 'encoder', None), 'output_stride', 1)
    height, width = images.shape[-2:]
    least = only_size(network) or (MIN_SIZE, MIN_SIZE)
    height, width = (
        math.ceil(max(side, low) / divisor) * divisor for side, low in zip((height, width), least, strict=True))
    if (height, width) == tuple(images.shape[-2:]):
        return images
    padded = images.new_zeros((*images.shape[:-2], height, width))
    description = getattr(network, 'description', None)
    if images.dtype == torch.uint8 and isinstance(description, DataDescription):
        low, high = description.value_range
        colors = [round(255 * (value - low) / (high - low)) for value in description.mean]
        padded += padded.new_tensor(colors)[:, None, None]
    padded[..., :images.shape[-2], :images.shape[-1]] = images
    return padded
