"""Random crops of images with their masks: zoomed, turned, bent, and in search of rare classes.

Argument names are timm's. Own code stands only where torchvision's v2 has none: a scale relative to each image's own
size, crops that look for rare classes, and displacements in pixels.
"""
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode, RandomCrop
from torchvision.transforms.v2 import functional as F

from .resizing import Pair, resize_pair

__all__ = ['Elastic', 'RandomScaleCrop', 'Span', 'draw_rarer_class', 'uniform']

# Of rotation and elastic deformation, for which v2 has nothing smoother
_OF_GRIDS = {'nearest': InterpolationMode.NEAREST, 'bilinear': InterpolationMode.BILINEAR,
             'bicubic': InterpolationMode.BILINEAR}
_ELASTIC_CELL = 64  # pixels between points that are displaced independently of each other

Span = tuple[int, int]  # begin and end along one side


def _fill_of(image: torch.Tensor, fill: Sequence[float]) -> list[float]:
    """Values of padding, 0 to 255, as an image has them."""
    return [round(value) if image.dtype == torch.uint8 else value / 255 for value in fill]


class RandomScaleCrop(nn.Module):
    """Scale the image by a random factor and crop it at a random place, padding it where it is smaller.

    The window of `size / factor` is cut first and then resized to `size`, which gives what scaling the whole image and
    then cropping gives, at a cost that does not grow with the image. An image that is smaller than the window is
    wholly inside it, at a random place. Where the crop is turned or bent, a window is cut that covers it.

    Some crops may be made to hold a pixel of a class that is drawn evenly from those of the image, without the
    commonest one: classes of few pixels are then seen more often, as in nnU-Net (https://arxiv.org/abs/1904.08128),
    which draws one of the foreground.

    Args:
        size: Height and width of the result in pixels.
        scale: Lowest and highest factor, relative to the image's own size; drawn log-uniformly, so that halving is
            as likely as doubling.
        fill: Value of padded image pixels, one a channel, 0 to 255.
        ignore_label: Value of padded mask pixels.
        interpolation: Of the image.
        rotation: Largest angle in degrees by which the crop is turned, to either side.
        elastic: Standard deviation of a smooth displacement in pixels, see `Elastic`.
        balanced_share: Share of the crops that hold a pixel of such a class, where the image has one.
    """

    def __init__(
            self,
            size: tuple[int, int],
            scale: tuple[float, float],
            fill: Sequence[float],
            ignore_label: int,
            interpolation: str = 'bilinear',
            rotation: float = 0.,
            elastic: float = 0.,
            balanced_share: float = 0.,
    ) -> None:
        super().__init__()
        self.size = size
        self.log_scale = torch.tensor(scale, dtype=torch.float64).log().tolist()
        self.fill = list(fill)
        self.ignore_label = ignore_label
        self.interpolation = interpolation
        self.rotation = rotation
        self.elastic = Elastic(elastic, fill, ignore_label, interpolation) if elastic else None
        self.balanced_share = balanced_share

    def _draw(self) -> tuple[float, list[int], list[int]]:
        """The angle, the size to which the window is resized, and that of the window."""
        factor = torch.empty((), dtype=torch.float64).uniform_(*self.log_scale).exp().item()
        angle = uniform(-self.rotation, self.rotation) if self.rotation else 0.
        margin = math.ceil(2 * self.elastic.pixels) if self.elastic else 0
        size = _covering([side + 2 * margin for side in self.size], angle)
        return angle, size, [max(1, round(side / factor)) for side in size]

    def of_source(
            self,
            sides: Sequence[int],
            read: Callable[[Span, Span], Pair],
            find: Callable[[], tuple[int, int] | None] = lambda: None,
    ) -> Pair:
        """A crop of a pair that is not in memory as a whole, of which only the window is read.

        Args:
            sides: Height and width of the pair.
            read: The part of both from the first to before the second row, and column.
            find: Row and column of a pixel of a rarer class; None where there is no such.
        """
        angle, size, window = self._draw()
        place = find() if self.balanced_share and uniform(0, 1) < self.balanced_share else None
        begins = _begins(sides, window) if place is None else _begins_around(place, sides, window)
        spans = [(max(0, begin), min(side, begin + length))
                 for begin, side, length in zip(begins, sides, window, strict=True)]
        image, mask = read(*spans)
        fill = {tv_tensors.Image: _fill_of(image, self.fill), tv_tensors.Mask: self.ignore_label}
        begins = [begin - first for begin, (first, _) in zip(begins, spans, strict=True)]
        return self._finish(*_crop_at(image, mask, begins, window, fill), angle, size, fill)

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        angle, size, window = self._draw()
        place = None
        if self.balanced_share and uniform(0, 1) < self.balanced_share:
            place = _pixel_of_a_rarer_class(mask, self.ignore_label)
        fill = {tv_tensors.Image: _fill_of(image, self.fill), tv_tensors.Mask: self.ignore_label}
        if place is None:
            image, mask = RandomCrop(window, pad_if_needed=True, fill=fill)(image, mask)
        else:
            image, mask = _crop_at(image, mask, _begins_around(place, mask.shape[-2:], window), window, fill)
        return self._finish(image, mask, angle, size, fill)

    def _finish(
            self,
            image: tv_tensors.Image,
            mask: tv_tensors.Mask,
            angle: float,
            size: Sequence[int],
            fill: dict[type, float | list[float]],
    ) -> Pair:
        """From a window to the crop."""
        image, mask = resize_pair(image, mask, size, self.interpolation)
        if angle:
            mode = _OF_GRIDS[self.interpolation]
            image = F.rotate(image, angle, interpolation=mode, fill=fill[tv_tensors.Image])
            mask = F.rotate(mask, angle, fill=self.ignore_label)
        if self.elastic:
            image, mask = self.elastic(image, mask)
        return F.center_crop(image, list(self.size)), F.center_crop(mask, list(self.size))


def uniform(low: float, high: float) -> float:
    return torch.empty((), dtype=torch.float64).uniform_(low, high).item()


def _covering(size: Sequence[int], angle: float) -> list[int]:
    """Height and width of what covers a crop of a size that is turned by an angle in degrees."""
    if not angle:
        return list(size)
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    height, width = size
    covering = math.ceil(height * cosine + width * sine), math.ceil(width * cosine + height * sine)
    # as much more on either side, so that the centre stays between the same pixels
    return [outer + (outer - inner) % 2 for outer, inner in zip(covering, size, strict=True)]


def draw_rarer_class(counts: torch.Tensor, ignore_label: int) -> tuple[int, int] | None:
    """A class that is drawn evenly from those of an image without the commonest one, and which of its pixels.

    Args:
        counts: Pixels of each label, int64; it is changed.
        ignore_label: Label that does not count, in `counts` or not.

    Returns:
        The class, and a number from 0 to before that of its pixels; None where the image has no such class.
    """
    if ignore_label < len(counts):
        counts[ignore_label] = 0
    counts[counts.argmax()] = 0
    classes = counts.nonzero()[:, 0]
    if not len(classes):
        return None
    label = int(classes[torch.randint(len(classes), ())])
    return label, int(torch.randint(int(counts[label]), ()))


def _pixel_of_a_rarer_class(mask: torch.Tensor, ignore_label: int) -> tuple[int, int] | None:
    """Row and column of a pixel of a class that is not the image's commonest one; None where there is no such."""
    labels = mask.as_subclass(torch.Tensor).flatten()
    drawn = draw_rarer_class(labels.bincount(minlength=ignore_label + 1), ignore_label)
    if drawn is None:
        return None
    label, number = drawn
    return divmod(int((labels == label).nonzero()[number, 0]), mask.shape[-1])


def _begins(sides: Sequence[int], window: Sequence[int]) -> list[int]:
    """First row and column of a window at any place in an image, or of one around it."""
    return [int(torch.randint(min(0, side - length), max(0, side - length) + 1, ()))
            for side, length in zip(sides, window, strict=True)]


def _begins_around(place: Sequence[int], sides: Sequence[int], window: Sequence[int]) -> list[int]:
    """Likewise of a window at a random place among those that hold a pixel, and as much of the image as they can."""
    begins = []
    for at, side, length in zip(place, sides, window, strict=True):
        low, high = (max(0, at - length + 1), min(at, side - length)) if side >= length else (side - length, 0)
        begins.append(int(torch.randint(low, high + 1, ())))
    return begins


def _crop_at(
        image: tv_tensors.Image,
        mask: tv_tensors.Mask,
        begins: Sequence[int],
        window: Sequence[int],
        fill: dict[type, float | list[float]],
) -> Pair:
    """The window of a height and width whose first row and column are told, padded where it is outside."""
    (top, left), (height, width) = begins, window
    rows, columns = mask.shape[-2:]
    outside = [max(0, -left), max(0, -top), max(0, left + width - columns), max(0, top + height - rows)]
    if any(outside):
        image = F.pad(image, outside, fill=fill[tv_tensors.Image])
        mask = F.pad(mask, outside, fill=fill[tv_tensors.Mask])
    where = (top + outside[1], left + outside[0], height, width)
    return F.crop(image, *where), F.crop(mask, *where)


class Elastic(nn.Module):
    """Random displacement of the pixels, smooth over the distance of 64 pixels.

    Args:
        pixels: Standard deviation of the displacement in each direction, in pixels.
        fill: Value of image pixels that come from outside, one a channel, 0 to 255.
        ignore_label: Value of such mask pixels.
        interpolation: Of the image.
    """

    def __init__(self, pixels: float, fill: Sequence[float], ignore_label: int, interpolation: str) -> None:
        super().__init__()
        self.pixels = pixels
        self.fill = list(fill)
        self.ignore_label = ignore_label
        self.interpolation = interpolation

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        height, width = mask.shape[-2:]
        cells = [max(2, math.ceil(side / _ELASTIC_CELL) + 1) for side in (height, width)]
        points = nn.functional.interpolate(
            torch.randn(1, 2, *cells), (height, width), mode='bicubic', align_corners=True)
        # v2 measures from -1 to 1 over the image, in the order x, y
        shifts = points.permute(0, 2, 3, 1) * (2 * self.pixels / torch.tensor([width, height]))
        image = F.elastic(image, shifts, _OF_GRIDS[self.interpolation], fill=_fill_of(image, self.fill))
        return image, F.elastic(mask, shifts, fill=self.ignore_label)
