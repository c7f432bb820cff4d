"""Joint transforms: augmentation and normalisation of (image, mask) pairs, composed of torchvision's v2 transforms.

Scale jitter, crop, flips and colour are the recipe that segmentation has kept since DeepLab
(https://arxiv.org/abs/1706.05587); argument names and defaults are timm's.

Own code stands only where v2 has none: a scale relative to each image's own size, crops that look for rare classes,
brightness and contrast for any channels and values, displacements in pixels, and masks resized on the pixel centres
that images are resized on.

Images are uint8, or float32 whose values from 0 to 1 are what 0 to 255 are of uint8; see `bands.scaled`.
"""
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .color import RgbJitter
from .description import DEFAULT_IGNORE_LABEL

# v2's NEAREST reads the pixel at a cell's corner, up to half a pixel off what the other modes read around its centre;
# NEAREST_EXACT reads the pixel at the centre.
_INTERPOLATIONS = {
    'nearest': InterpolationMode.NEAREST_EXACT,
    'bilinear': InterpolationMode.BILINEAR,
    'bicubic': InterpolationMode.BICUBIC,
}
# Of rotation and elastic deformation, for which v2 has nothing smoother
_OF_GRIDS = {'nearest': InterpolationMode.NEAREST, 'bilinear': InterpolationMode.BILINEAR,
             'bicubic': InterpolationMode.BILINEAR}
_ELASTIC_CELL = 64  # pixels between points that are displaced independently of each other
# Hue is the colour that class names most depend on: as a share of the jitter of the other three it stays small.
_HUE_SHARE = 0.1

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]
Span = tuple[int, int]  # begin and end along one side


def _resize_pair(image: tv_tensors.Image, mask: tv_tensors.Mask, size: Sequence[int], interpolation: str) -> Pair:
    """Resize both to (height, width), the mask by nearest neighbour."""
    size = list(size)
    if list(image.shape[-2:]) == size:
        return image, mask
    image = F.resize(image, size, interpolation=_INTERPOLATIONS[interpolation], antialias=True)
    # As a plain tensor, because for a tv_tensors.Mask v2 knows only NEAREST.
    labels = F.resize(mask.as_subclass(torch.Tensor)[None], size, interpolation=_INTERPOLATIONS['nearest'])[0]
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
        return _resize_pair(image, mask, self.size, self.interpolation)


def _fill_of(image: torch.Tensor, fill: Sequence[float]) -> list[float]:
    """Values of padding, 0 to 255, as an image has them."""
    return [round(value) if image.dtype == torch.uint8 else value / 255 for value in fill]


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
        angle = _uniform(-self.rotation, self.rotation) if self.rotation else 0.
        margin = math.ceil(2 * self.elastic.pixels) if self.elastic else 0
        size = _covering([side + 2 * margin for side in self.size], angle)
        return angle, size, [max(1, round(side / factor)) for side in size]

    def of_source(self, sides: Sequence[int], read: Callable[[Span, Span], Pair]) -> Pair:
        """A crop of a pair that is not in memory as a whole, of which only the window is read.

        Args:
            sides: Height and width of the pair.
            read: The part of both from the first to before the second row, and column.
        """
        angle, size, window = self._draw()
        begins = [int(torch.randint(min(0, side - length), max(0, side - length) + 1, ()))
                  for side, length in zip(sides, window, strict=True)]
        spans = [(max(0, begin), min(side, begin + length))
                 for begin, side, length in zip(begins, sides, window, strict=True)]
        image, mask = read(*spans)
        fill = {tv_tensors.Image: _fill_of(image, self.fill), tv_tensors.Mask: self.ignore_label}
        begins = [begin - first for begin, (first, _) in zip(begins, spans, strict=True)]
        return self._finish(*_crop_at(image, mask, begins, window, fill), angle, size, fill)

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        angle, size, window = self._draw()
        place = None
        if self.balanced_share and _uniform(0, 1) < self.balanced_share:
            place = _pixel_of_a_rarer_class(mask, self.ignore_label)
        fill = {tv_tensors.Image: _fill_of(image, self.fill), tv_tensors.Mask: self.ignore_label}
        if place is None:
            image, mask = v2.RandomCrop(window, pad_if_needed=True, fill=fill)(image, mask)
        else:
            image, mask = _crop_around(image, mask, place, window, fill)
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
        image, mask = _resize_pair(image, mask, size, self.interpolation)
        if angle:
            mode = _OF_GRIDS[self.interpolation]
            image = F.rotate(image, angle, interpolation=mode, fill=fill[tv_tensors.Image])
            mask = F.rotate(mask, angle, fill=self.ignore_label)
        if self.elastic:
            image, mask = self.elastic(image, mask)
        return F.center_crop(image, list(self.size)), F.center_crop(mask, list(self.size))


def _uniform(low: float, high: float) -> float:
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


def _pixel_of_a_rarer_class(mask: torch.Tensor, ignore_label: int) -> tuple[int, int] | None:
    """Row and column of a pixel of a class that is not the image's commonest one; None where there is no such."""
    labels = mask.as_subclass(torch.Tensor).flatten()
    counts = labels.bincount(minlength=ignore_label + 1)
    counts[ignore_label] = 0
    counts[counts.argmax()] = 0
    classes = counts.nonzero()[:, 0]
    if not len(classes):
        return None
    label = classes[torch.randint(len(classes), ())]
    number = torch.randint(int(counts[label]), ()).item()
    place = int((labels == label).nonzero()[number, 0])
    return divmod(place, mask.shape[-1])


def _crop_around(
        image: tv_tensors.Image,
        mask: tv_tensors.Mask,
        place: Sequence[int],
        window: Sequence[int],
        fill: dict[type, float | list[float]],
) -> Pair:
    """The window at a random place among those that hold a pixel, and as much of the image as they can."""
    begins = []
    for at, side, length in zip(place, mask.shape[-2:], window, strict=True):
        low, high = (max(0, at - length + 1), min(at, side - length)) if side >= length else (side - length, 0)
        begins.append(int(torch.randint(low, high + 1, ())))
    return _crop_at(image, mask, begins, window, fill)


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


class ColorJitter(nn.Module):
    """Random brightness, contrast, saturation and a little hue, as far as an image has them.

    The first three channels of an image in colour get all of them. Other channels, of which nothing tells what their
    sum or their differences mean, get brightness and contrast by factors that all have in common, so that the
    proportions between bands stay.

    Args:
        color_jitter: Each of the three factors is drawn from 1 - color_jitter to 1 + color_jitter; hue is turned by at
            most a tenth of it, in turns of the colour circle.
        has_colors: Whether the first three channels are red, green and blue. Of float images they never are.
    """

    def __init__(self, color_jitter: float, has_colors: bool = True) -> None:
        super().__init__()
        self.strength, self.has_colors = color_jitter, has_colors
        self.of_colors = RgbJitter(color_jitter, min(color_jitter * _HUE_SHARE, 0.5))

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        planes, parts = image.as_subclass(torch.Tensor), []
        if self.has_colors and len(planes) >= 3 and planes.dtype == torch.uint8:
            parts.append(self.of_colors(planes[:3]))
            planes = planes[3:]
        if len(planes):
            parts.append(self._brightness_and_contrast(planes))
        return tv_tensors.wrap(torch.cat(parts) if len(parts) > 1 else parts[0], like=image), mask

    def _brightness_and_contrast(self, planes: torch.Tensor) -> torch.Tensor:
        # v2 takes one or three channels only, and would cut floats off at 0 and 1
        brightness, contrast = (_uniform(max(0, 1 - self.strength), 1 + self.strength) for _ in range(2))
        values = planes.float() * brightness
        mean = values.mean((-2, -1), keepdim=True)
        values = (values - mean) * contrast + mean
        return values.round().clamp(0, 255).to(torch.uint8) if planes.dtype == torch.uint8 else values


class ToNormalizedTensor(nn.Module):
    """End of every chain: image float32 `(value - mean) / std` and mask in its dtype, as plain tensors.

    uint8 is divided by 255 before.

    Args:
        mean: Mean of each channel, of values in 0 to 1.
        std: Standard deviation of each channel, likewise.
        mask_dtype: dtype of the mask.
    """

    def __init__(
            self,
            mean: Sequence[float],
            std: Sequence[float],
            mask_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__()
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.mask_dtype = mask_dtype

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[torch.Tensor, torch.Tensor]:
        if image.shape[-3] != len(self.mean):
            raise ValueError(
                f'The image must have a channel for each value of mean and std: it has {image.shape[-3]}, they have '
                f'{len(self.mean)}; create data set and transform with the same in_chans.')
        image = F.normalize(F.to_dtype(image, torch.float32, scale=True), self.mean, self.std)
        mask = mask.as_subclass(torch.Tensor).to(self.mask_dtype)
        return image.as_subclass(torch.Tensor).contiguous(), mask.contiguous()


def _channel_values(name: str, values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """One value a channel; statistics of another number of channels are averaged, as timm does."""
    if len(values) == 0:
        raise ValueError(f'{name} must have a value for each channel, got none.')
    if len(values) == in_chans:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * in_chans


def _check_transform(
        is_training: bool,
        img_size: int | tuple[int, int] | None,
        interpolation: str,
        **shares: float,
) -> tuple[int, int] | None:
    """Check what the transforms have in common; returns height and width."""
    if img_size is not None:
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(img_size) != 2 or min(img_size) < 1:
            raise ValueError(f'img_size must be one or two (height, width) positive numbers, got {img_size}.')
    elif is_training:
        raise ValueError('Training takes images of one size so that they form a batch: pass img_size.')
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(f'interpolation must be one of {", ".join(_INTERPOLATIONS)}, got {interpolation!r}.')
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name} must be from 0 to 1, got {value}.')
    return img_size


def create_segmentation_transform(
        is_training: bool,
        img_size: int | tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        ignore_label: int = DEFAULT_IGNORE_LABEL,
        scale: tuple[float, float] = (0.5, 2.0),
        hflip: float = 0.5,
        vflip: float = 0.0,
        color_jitter: float = 0.4,
        interpolation: str = 'bilinear',
        in_chans: int = 3,
        has_colors: bool = True,
        rotation: float = 0.,
        elastic: float = 0.,
        balanced_share: float = 0.,
) -> v2.Compose:
    """Create the transform of a segmentation data set.

    Training: random scale, rotation and elastic deformation, random crop to `img_size` (padding with the mean colour
    and `ignore_label`), random flips, colour jitter, normalisation. Evaluation: the native size, or resized to
    `img_size`, and normalisation. All randomness comes from torch's global generator.

    Args:
        is_training: Whether to augment.
        img_size: Height and width in pixels, or one number for both; training needs it, evaluation takes None for
            each image's own size.
        mean: Mean of each channel, of values in 0 to 1. Where there are not `in_chans` of them, their average is
            taken for all channels, as in timm.
        std: Standard deviation of each channel, likewise.
        ignore_label: Label of padding, the data set's `ignore_label`.
        scale: Range of the random scale, relative to the image's own size.
        hflip: Probability of mirroring left and right.
        vflip: Probability of mirroring top and bottom.
        color_jitter: Strength of the change of brightness, contrast and saturation, 0 for none to 1.
        interpolation: Of images: 'nearest', 'bilinear' or 'bicubic'. Masks are always resized by nearest neighbour.
        in_chans: Channels of the images.
        has_colors: Whether the first three channels are red, green and blue; see `ColorJitter`.
        rotation: Largest angle by which crops are turned to either side, 0 to 180 degrees.
        elastic: Standard deviation of a smooth random displacement, in pixels of the crop; see `Elastic`.
        balanced_share: Share of the crops that look for rarer classes; see `RandomScaleCrop`.

    Returns:
        A callable that takes `tv_tensors.Image` (in_chans, H, W), uint8 or float32 from 0 to 1, and `tv_tensors.Mask`
        (H, W), and returns the image as float32 tensor (in_chans, H, W) and the mask as int64 tensor (H, W).

    Raises:
        ValueError: An argument out of range, or training without `img_size`.
    """
    img_size = _check_transform(
        is_training, img_size, interpolation, hflip=hflip, vflip=vflip, color_jitter=color_jitter,
        balanced_share=balanced_share)
    if not 0 <= rotation <= 180:
        raise ValueError(f'rotation must be from 0 to 180 degrees, got {rotation}.')
    if not 0 <= elastic < math.inf:
        raise ValueError(f'elastic must be at least 0 pixels, got {elastic}.')
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f'scale must be two factors, 0 < lowest <= highest, got {scale}.')

    mean, std = _channel_values('mean', mean, in_chans), _channel_values('std', std, in_chans)
    steps: list[nn.Module] = []
    if is_training:
        fill = [255 * value for value in mean]
        steps.append(
            RandomScaleCrop(img_size, scale, fill, ignore_label, interpolation, rotation, elastic, balanced_share))
        if hflip > 0:
            steps.append(v2.RandomHorizontalFlip(hflip))
        if vflip > 0:
            steps.append(v2.RandomVerticalFlip(vflip))
        if color_jitter > 0:
            steps.append(ColorJitter(color_jitter, has_colors))
    elif img_size is not None:
        steps.append(Resize(img_size, interpolation))
    return v2.Compose([*steps, ToNormalizedTensor(mean, std)])


def create_depth_transform(
        is_training: bool,
        img_size: int | tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        hflip: float = 0.5,
        color_jitter: float = 0.4,
        interpolation: str = 'bilinear',
        in_chans: int = 3,
) -> v2.Compose:
    """Create the transform of a depth data set.

    Training: mirroring left and right, colour jitter, normalisation. Evaluation: normalisation. The image is never
    zoomed, cropped or turned upside down: what depth an appearance means depends on the camera's field of view and on
    which way is down. All randomness comes from torch's global generator.

    Args:
        is_training: Whether to augment.
        img_size: Height and width in pixels to which whole images are resized, or one number for both; training needs
            it, evaluation takes None for each image's own size.
        mean: Mean of each channel, of values in 0 to 1, as for `create_segmentation_transform`.
        std: Standard deviation of each channel, likewise.
        hflip: Probability of mirroring left and right.
        color_jitter: Strength of the change of brightness, contrast and saturation, 0 for none to 1.
        interpolation: Of images: 'nearest', 'bilinear' or 'bicubic'. Depth is resized as `ResizeDepth` says, so that
            none is invented and little of a sparse one is lost.
        in_chans: Channels of the images.

    Returns:
        A callable that takes `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` (H, W) and returns the
        image as float32 tensor (in_chans, H, W) and the depth as float32 tensor (H, W).

    Raises:
        ValueError: An argument out of range, or training without `img_size`.
    """
    img_size = _check_transform(is_training, img_size, interpolation, hflip=hflip, color_jitter=color_jitter)
    mean, std = _channel_values('mean', mean, in_chans), _channel_values('std', std, in_chans)
    steps: list[nn.Module] = []
    if img_size is not None:
        steps.append(ResizeDepth(img_size, interpolation))
    if is_training and hflip > 0:
        steps.append(v2.RandomHorizontalFlip(hflip))
    if is_training and color_jitter > 0:
        steps.append(ColorJitter(color_jitter))
    return v2.Compose([*steps, ToNormalizedTensor(mean, std, torch.float32)])
