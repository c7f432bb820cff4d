"""Joint transforms: augmentation and normalisation of (image, mask) pairs, composed of torchvision's v2 transforms.

Scale jitter, crop, flips and colour are the recipe that segmentation has kept since DeepLab
(https://arxiv.org/abs/1706.05587); argument names and defaults are timm's.

Own code stands only where v2 has none: `crops`, `resizing`, and here brightness and contrast for any channels and
values.

Images are uint8, or float32 whose values from 0 to 1 are what 0 to 255 are of uint8; see `bands.scaled`.
"""
import math
from collections.abc import Sequence

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .color import RgbJitter
from .crops import RandomScaleCrop, uniform
from .description import DEFAULT_IGNORE_LABEL
from .resizing import INTERPOLATIONS, Pair, Resize, ResizeDepth

# Hue is the colour that class names most depend on: as a share of the jitter of the other three it stays small.
_HUE_SHARE = 0.1


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
        brightness, contrast = (uniform(max(0, 1 - self.strength), 1 + self.strength) for _ in range(2))
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
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f'interpolation must be one of {", ".join(INTERPOLATIONS)}, got {interpolation!r}.')
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
