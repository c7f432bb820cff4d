"""Dense networks on images of any size: padding, tiles, mirrored and zoomed copies, and the mean over all of them.

Tiles are windows whose results are blended with Gaussian weights. The weights of all windows add up to one at every
pixel, so results are only added. A part of a window is final as soon as no later window reaches it; in memory are one
window and, of the row of windows before it, the rows that the next one shares (:func:`infer_pieces`).
"""
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from ..data.description import DataDescription
from ..grid import enlarge

__all__ = [
    'Piece', 'Source', 'at_trained_size', 'check_views', 'class_probabilities', 'class_votes', 'count_windows',
    'depth_at', 'disparities', 'infer', 'infer_pieces', 'normalize', 'only_size', 'read_ahead', 'windows']

FLIPS = {'h': (-1,), 'v': (-2,), 'hv': (-2, -1)}
MIN_SIZE = 32  # height and width that every network takes
_LARGEST_CELL = 32  # windows begin on the grid of the coarsest features, as far as their size allows
AHEAD = 4  # windows that are read while the network runs; the first ones of a row take the longest

Span = tuple[int, int]  # begin and end along one side


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
    result = None
    for piece in infer_pieces(network, images, tile=tile, overlap=overlap, flips=flips, zooms=zooms):
        if result is None:
            result = piece.maps.new_empty((*piece.maps.shape[:2], *images.shape[-2:]))
        rows, columns = piece.maps.shape[-2:]
        result[..., piece.top:piece.top + rows, piece.left:piece.left + columns] = piece.maps
    return result


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


def at_trained_size(images: torch.Tensor, description: DataDescription) -> torch.Tensor:
    """Whole images of a depth network, resized as in training: what depth an appearance means depends on its size.

    Args:
        images: (..., channels, H, W), uint8 or floating-point.
        description: What the network knows of its data.

    Returns:
        The images at the description's `input_size`; as they are where it has none.
    """
    size = description.input_size
    if size is None or tuple(images.shape[-2:]) == tuple(size):
        return images
    mode = 'nearest-exact' if description.interpolation == 'nearest' else description.interpolation
    return resize(images, list(size), InterpolationMode(mode), antialias=True)


def depth_at(depth: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Depth (N, h, w) of whole images at another size (H, W): its inverse, and so the disparity, is interpolated."""
    if tuple(depth.shape[-2:]) == tuple(size):
        return depth
    return 1 / F.interpolate(1 / depth[:, None], size, mode='bilinear')[:, 0]


def class_votes(classes: torch.Tensor, size: tuple[int, int], num_classes: int) -> torch.Tensor:
    """float32 (N, num_classes, H, W) of integer classes (N, H, W): 1 for the class of each pixel, 0 for the others."""
    if tuple(classes.shape[1:]) != tuple(size):
        raise ValueError(f'The network must return classes (N, {size[0]}, {size[1]}), got {tuple(classes.shape)}.')
    return F.one_hot(classes.long(), num_classes).movedim(-1, 1).float()


def normalize(images: torch.Tensor, description: DataDescription) -> torch.Tensor:
    """Images as the networks take them: float32 `(value - mean) / std`, of values in the description's `value_range`.

    Args:
        images: uint8 (..., channels, H, W), or float32 from 0 to 1, as `data.bands.scaled` gives them.
        description: What the network knows of its data.
    """
    low, high = description.value_range
    mean, std = (images.new_tensor(values, dtype=torch.float32)[:, None, None]
                 for values in (description.mean, description.std))
    shares = images.float() / 255 if images.dtype == torch.uint8 else images
    return (shares * (high - low) + low - mean) / std


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


class Source(Protocol):
    """An image that is read by windows; `data.geo.Scene` is one."""

    size: tuple[int, int]  # height and width

    def read(self, rows: Span, columns: Span) -> Any:
        """The part from the first to before the second of `rows` and `columns`, in any form that `prepare` takes."""


@dataclass(frozen=True)
class _InMemory:
    """A batch of images (N, channels, H, W) as a source."""
    images: torch.Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.images.shape[-2:])

    def read(self, rows: Span, columns: Span) -> torch.Tensor:
        return self.images[..., slice(*rows), slice(*columns)]


@dataclass(frozen=True)
class Piece:
    """A part of the result that is final.

    Attributes:
        top: Its first row in the image.
        left: Its first column.
        maps: float32 (N, K, rows, columns).
        window: What was read of the image, of at least that size, whose first row and column are those of the piece.
    """
    top: int
    left: int
    maps: torch.Tensor
    window: Any


def read_ahead(read: Callable[[Span, Span], Any], places: Iterable[tuple[Span, Span]]) -> Iterator[Any]:
    """What `read` returns for each place, in order; while one is used, a thread reads up to `AHEAD` of the next.

    An error of `read` is raised where its place comes. When the iterator is closed, the thread has ended.
    """
    with ThreadPoolExecutor(1) as reader:
        waiting = deque()
        try:
            for place in places:
                waiting.append(reader.submit(read, *place))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _spans(
        size: tuple[int, int], network: Any, tile: tuple[int, int] | None, overlap: float,
) -> tuple[list[Span], list[Span]]:
    """Rows and columns of the windows of an image of a size."""
    fixed = only_size(network) is not None
    rows, columns = (
        windows(length, side, overlap, fixed) for length, side in zip(size, tile or size, strict=True))
    return rows, columns


def count_windows(
        size: tuple[int, int], network: Any, tile: int | tuple[int, int] | None = None, overlap: float = 0.25) -> int:
    """How many windows `infer` takes of an image of a size (height and width); see there for the rest."""
    rows, columns = _spans(size, network, check_views(tile, overlap, (), (1.,)), overlap)
    return len(rows) * len(columns)


@torch.no_grad()
def infer_pieces(
        network: Callable[[torch.Tensor], Any],
        images: torch.Tensor | Source,
        maps: Callable[[Any, tuple[int, int]], torch.Tensor] = class_probabilities,
        prepare: Callable[[Any], torch.Tensor] | None = None,
        *,
        tile: int | tuple[int, int] | None = None,
        overlap: float = 0.25,
        flips: Sequence[str] = (),
        zooms: Sequence[float] = (1.,),
) -> Generator[Piece, None, None]:
    """What `infer` returns, in parts, each as soon as it is final: one for each window, row after row.

    The memory that it takes does not depend on the height of the image, and of its width only the rows that two rows
    of windows share are kept: 4 bytes for each of their pixels and each of the K maps.

    Args:
        network: As for `infer`.
        images: (N, channels, H, W), or a source, whose next windows are read by a thread while the network runs.
        maps: From the network's output and the size (H, W) of its input to the maps (N, K, H, W) whose mean is taken.
        prepare: From a window of the images to what the network takes, such as `normalize`; None for no change.
        tile: As for `infer`, as are the rest.

    Yields:
        Pieces that cover every pixel once. Whoever stops before the last one closes the iterator.
    """
    tile = check_views(tile, overlap, flips, zooms)
    is_tensor = isinstance(images, torch.Tensor)
    source = _InMemory(images) if is_tensor else images
    rows, columns = _spans(source.size, network, tile, overlap)
    places = [(row, column) for row in rows for column in columns]
    read = (source.read(*place) for place in places) if is_tensor else read_ahead(source.read, places)
    blend = _Blend(rows, columns)
    with closing(read):
        for number, window in enumerate(read):
            prepared = window if prepare is None else prepare(window)
            part = _mean_of_views(network, prepared, maps, flips, zooms)
            yield Piece(*blend.add(*divmod(number, len(columns)), part), window)


class _Blend:
    """The sum of weighted windows, which come row after row.

    Args:
        rows: Begin and end of each row of windows.
        columns: Begin and end of each column.
    """

    def __init__(self, rows: Sequence[Span], columns: Sequence[Span]) -> None:
        self.rows, self.columns = rows, columns
        self.row_weights, self.column_weights = _weights(rows), _weights(columns)
        self.beside = None  # of the window before: the columns that this one shares
        self.above = None  # of the row of windows before: the rows that this one shares, over the whole width

    def add(self, row: int, column: int, part: torch.Tensor) -> tuple[int, int, torch.Tensor]:
        """Top, left and values of what is final after the window of a row and column, whose maps are (N, K, h, w)."""
        (top, bottom), left = self.rows[row], self.columns[column][0]
        final_rows, final_columns = _before_next(self.rows, row), _before_next(self.columns, column)
        part = part * (self.row_weights[row][:, None] * self.column_weights[column]).to(part.device)
        if column > 0:
            part[..., :self.beside.shape[-1]] += self.beside
        self.beside = part[..., final_columns:].clone()  # a view would keep the whole window
        part, place = part[..., :final_columns], slice(left, left + final_columns)
        if row > 0:
            shared = self.rows[row - 1][1] - top
            part[..., :shared, :] += self.above[..., :shared, place]
        if row + 1 < len(self.rows):
            if self.above is None:
                height = max(end - begin for (_, end), (begin, _) in pairwise(self.rows))
                self.above = part.new_empty((*part.shape[:2], height, self.columns[-1][1]))
            self.above[..., :bottom - top - final_rows, place] = part[..., final_rows:, :]
        return top, left, part[..., :final_rows, :]


def _before_next(spans: Sequence[Span], index: int) -> int:
    """How much of a window no later one reaches."""
    begin, end = spans[index]
    return (spans[index + 1][0] if index + 1 < len(spans) else end) - begin


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
