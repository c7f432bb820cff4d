"""Joint transforms: augmentation and normalisation of (image, mask) pairs, composed of torchvision's v2 transforms.

Scale jitter, crop, flips and colour are the recipe that segmentation has kept since DeepLab
(https://arxiv.org/abs/1706.05587); argument names and defaults are timm's.

Own code stands only where v2 has none: a scale relative to each image's own size, colour jitter for other than one or
three channels, and masks resized on the pixel centres that images are resized on.
"""
from collections.abc import Sequence

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
# Hue is the colour that class names most depend on: as a share of the jitter of the other three it stays small.
_HUE_SHARE = 0.1

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]


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
    wholly inside it, at a random place.

    Args:
        size: Height and width of the result in pixels.
        scale: Lowest and highest factor, relative to the image's own size; drawn log-uniformly, so that halving is
            as likely as doubling.
        fill: Value of padded image pixels, one a channel, 0 to 255.
        ignore_label: Value of padded mask pixels.
        interpolation: Of the image.
    """

    def __init__(
            self,
            size: tuple[int, int],
            scale: tuple[float, float],
            fill: Sequence[float],
            ignore_label: int,
            interpolation: str = 'bilinear',
    ) -> None:
        super().__init__()
        self.size = size
        self.log_scale = torch.tensor(scale, dtype=torch.float64).log().tolist()
        self.fill = list(fill)
        self.ignore_label = ignore_label
        self.interpolation = interpolation

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        factor = torch.empty((), dtype=torch.float64).uniform_(*self.log_scale).exp().item()
        window = [max(1, round(side / factor)) for side in self.size]
        crop = v2.RandomCrop(
            window,
            pad_if_needed=True,
            fill={tv_tensors.Image: self.fill, tv_tensors.Mask: self.ignore_label},
        )
        return _resize_pair(*crop(image, mask), self.size, self.interpolation)


class ColorJitter(nn.Module):
    """Random brightness, contrast, saturation and a little hue, for any number of channels.

    The first three channels are taken as RGB and any further ones are left as they are; images of fewer than three
    channels get brightness and contrast, each channel for itself.

    Args:
        color_jitter: Each of the three factors is drawn from 1 - color_jitter to 1 + color_jitter; hue is turned by at
            most a tenth of it, in turns of the colour circle.
    """

    def __init__(self, color_jitter: float) -> None:
        super().__init__()
        self.jitter = v2.ColorJitter(color_jitter, color_jitter)  # of one channel
        self.of_colors = RgbJitter(color_jitter, min(color_jitter * _HUE_SHARE, 0.5))

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Pair:
        planes = image.as_subclass(torch.Tensor)
        if len(planes) >= 3:
            parts = [self.of_colors(planes[:3]), planes[3:]]
        else:  # each channel as a picture of its own
            parts = [self.jitter(tv_tensors.wrap(part, like=image)).as_subclass(torch.Tensor)
                     for part in planes.split(1)]
        return tv_tensors.wrap(torch.cat(parts) if len(planes) != 3 else parts[0], like=image), mask


class ToNormalizedTensor(nn.Module):
    """End of every chain: image float32 `(value / 255 - mean) / std` and mask in its dtype, as plain tensors.

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
) -> v2.Compose:
    """Create the transform of a segmentation data set.

    Training: random scale, random crop to `img_size` (padding with the mean colour and `ignore_label`), random flips,
    colour jitter, normalisation. Evaluation: the native size, or resized to `img_size`, and normalisation. All
    randomness comes from torch's global generator.

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

    Returns:
        A callable that takes `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` (H, W) and returns the
        image as float32 tensor (in_chans, H, W) and the mask as int64 tensor (H, W).

    Raises:
        ValueError: An argument out of range, or training without `img_size`.
    """
    img_size = _check_transform(
        is_training, img_size, interpolation, hflip=hflip, vflip=vflip, color_jitter=color_jitter)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f'scale must be two factors, 0 < lowest <= highest, got {scale}.')

    mean, std = _channel_values('mean', mean, in_chans), _channel_values('std', std, in_chans)
    steps: list[nn.Module] = []
    if is_training:
        fill = [round(255 * value) for value in mean]
        steps.append(RandomScaleCrop(img_size, scale, fill, ignore_label, interpolation))
        if hflip > 0:
            steps.append(v2.RandomHorizontalFlip(hflip))
        if vflip > 0:
            steps.append(v2.RandomVerticalFlip(vflip))
        if color_jitter > 0:
            steps.append(ColorJitter(color_jitter))
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
