"""From the bands of a file to the channels of a network: which ones are taken, and what their values become.

Bands are counted from 1, as GDAL counts them. Colours count as three: those of a palette, of inks and of other colour
spaces are made before.
"""
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import DatasetError

__all__ = [
    'EIGHT_BITS', 'PERCENTILE', 'Bands', 'Scale', 'as_channels', 'as_uint8', 'check_bands', 'check_bits', 'pick_bands',
    'scale_of', 'scaled', 'turned']

# A number that becomes 1; or a lowest value that becomes 0 and a highest one that becomes 1, for all channels or each
Scale = float | tuple[tuple[float, float], ...]
EIGHT_BITS = 255.
PERCENTILE = 'percentile'
_LUMA = (0.299, 0.587, 0.114)  # of ITU-R 601, as Pillow weighs colours


class Bands(NamedTuple):
    """What a file holds.

    Attributes:
        values: (bands, H, W) of any real type, as displayed.
        has_alpha: Whether the last band is marked as alpha.
    """
    values: np.ndarray
    has_alpha: bool = False


def scale_of(value: Any) -> Scale | str | None:
    """A scale from what was given: None, 'percentile', a number, a pair of numbers, several pairs, or such in words.

    Args:
        value: Words are '65535', 'percentile', '0:4000', or a list of them.

    Raises:
        ValueError: None of these, a number that is not above 0, or a pair that does not rise.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if values in ([None], [PERCENTILE]):
        return values[0]
    try:
        values = [word.split(':') if isinstance(word, str) and ':' in word else word for word in values]
        if len(values) == 1 and not isinstance(values[0], (list, tuple)):
            number = float(values[0])
            if not 0 < number < math.inf or isinstance(value, bool):
                raise ValueError(value)
            return number
        pairs = values if isinstance(values[0], (list, tuple)) else [values]  # one without a list around it
        ranges = tuple((float(low), float(high)) for low, high in pairs)
        if not all(-math.inf < low < high < math.inf for low, high in ranges):
            raise ValueError(value)
        return ranges
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"image_scale must be a number above 0 that becomes 1, such as 255 or 65535, '{PERCENTILE}', or the lowest "
            f"and the highest value, such as 0:4000, of all channels or of each, got {value!r}.") from error


def check_bands(bands: Sequence[int]) -> tuple[int, ...]:
    """The numbers of bands as a tuple. ValueError for others than whole numbers from 1, or one that stands twice."""
    valid = all(isinstance(band, int) and not isinstance(band, bool) and band >= 1 for band in bands)
    if not valid or len(set(bands)) < len(bands):
        raise ValueError(
            f'bands must be the numbers of the bands of a file, counted from 1, each once, got {list(bands)}.')
    return tuple(bands)


def pick_bands(count: int, has_alpha: bool, in_chans: int, chosen: Sequence[int], where: Any) -> list[int]:
    """The numbers of the bands that are read, of which :func:`as_channels` makes the channels.

    All of them, without alpha unless it is counted on; of grey for three channels the one, of colours for one channel
    the three.

    Args:
        count: Bands of the file, alpha included.
        has_alpha: Whether the last one is marked as alpha.
        in_chans: Channels of the network.
        chosen: Numbers of bands; empty for all.
        where: The file, for messages.

    Raises:
        DatasetError: A band that the file does not have, or another number of bands.
    """
    alpha = ' with alpha' if has_alpha else ''
    if chosen:
        lacking = next((band for band in chosen if band > count), None)
        if lacking is not None:
            raise DatasetError(
                f'An image must have the bands that are chosen, {" ".join(map(str, chosen))}: {where} has '
                f'{count}{alpha}; choose bands from 1 to {count}, or name a file that has band {lacking}.')
        return list(chosen)
    colors = count - has_alpha
    if count == in_chans:
        return list(range(1, count + 1))
    if colors == in_chans or {colors, in_chans} == {1, 3}:
        return list(range(1, colors + 1))
    remedy = f'train a model with in_chans={colors} for all of them'
    if count > in_chans:
        first = ' '.join(map(str, range(1, in_chans + 1)))
        remedy = f'choose which by their numbers, such as bands={first}, or {remedy}'
    else:
        remedy = f'take images with {in_chans} bands, or train a model with in_chans={colors} for such images'
    raise DatasetError(
        f'An image must have as many bands as the model has channels, {in_chans}: {where} has {count}{alpha}; '
        f'{remedy}.')


def as_channels(values: np.ndarray, in_chans: int) -> np.ndarray:
    """Bands (n, H, W) as channels (in_chans, H, W): themselves, grey for each colour, or the grey of three colours."""
    if len(values) == in_chans:
        return values
    if len(values) == 1:
        return np.repeat(values, in_chans, axis=0)
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(np.moveaxis(values, 0, -1))).convert('L'))[None]
    return np.tensordot(np.array(_LUMA, np.float32), values.astype(np.float32), 1)[None]


def scaled(values: np.ndarray, scale: Scale, where: Any) -> torch.Tensor:
    """Values of a file as a network sees them.

    Args:
        values: (channels, H, W) of any real type.
        scale: A number, by which values are divided; what is above it comes out above 1. Or pairs of the lowest and
            the highest value, which become 0 and 1; what is beyond becomes one of them.
        where: The file, for messages.

    Returns:
        uint8 as they are, where they are uint8 and the scale is 255; float32 otherwise, 0 where a value is no number.

    Raises:
        DatasetError: Values of another kind than the scale is for, such as 16 bits for a scale of 255.
    """
    if values.dtype == np.bool_:
        values = values * np.uint8(EIGHT_BITS)
    if values.dtype.kind not in 'uif':
        raise DatasetError(
            f'The values of an image must be real numbers: {where} has {values.dtype}; save their size, or each part '
            'as a band of its own.')
    if values.dtype == np.uint8 and scale == EIGHT_BITS:
        return torch.from_numpy(np.require(values, requirements='CW'))
    _check_kind(values, scale, where)
    result = values.astype(np.float32)
    if isinstance(scale, tuple):
        low, high = np.array(scale, np.float64).T[..., None, None]
        result = (values.astype(np.float64) - low) / (high - low) if values.dtype.itemsize > 4 else (
            (result - low.astype(np.float32)) * (1 / (high - low)).astype(np.float32))
        result = np.clip(result, 0, 1).astype(np.float32)
    else:
        result *= np.float32(1 / scale)
    if values.dtype.kind == 'f':
        result[~np.isfinite(values)] = 0
    return torch.from_numpy(np.ascontiguousarray(result))


def check_bits(bits: int, scale: Scale, where: Any) -> None:
    """Raise DatasetError for an image of 8 bits whose scale is for images of more."""
    highest = max(high for _, high in scale) if isinstance(scale, tuple) else scale
    if bits <= 8 and highest > EIGHT_BITS:
        raise DatasetError(
            f'Images must have the bits of the others, whose values go up to {highest:g}: {where} has 8 bits a '
            'channel; convert it by the rule of the others, or pass image_scale=255 for a model of images of 8 bits.')


def _check_kind(values: np.ndarray, scale: Scale, where: Any) -> None:
    bits = values.dtype.itemsize * 8
    check_bits(bits, scale, where)
    if isinstance(scale, tuple) or values.dtype != np.uint8 and scale != EIGHT_BITS:
        return
    finite = values if values.dtype.kind != 'f' else values[np.isfinite(values)]
    lowest, highest = finite.min(initial=0), finite.max(initial=0)
    if values.dtype == np.uint8 and highest > scale:
        raise DatasetError(
            f'Images of 8 bits must have values up to {scale:g}, as their scale says: {where} has {highest}; pass '
            'image_scale=255, or take images as those of the training.')
    is_fraction = values.dtype.kind == 'f' and 0 < highest <= 1
    if scale == EIGHT_BITS and (highest > EIGHT_BITS or lowest < 0 or is_fraction):
        kind = {'f': 'floating-point numbers', 'i': f'{bits} bits with a sign'}.get(values.dtype.kind, f'{bits} bits')
        raise DatasetError(
            f'Images must have 8 bits a channel: {where} has {kind}, values from {lowest:g} to {highest:g}; convert it '
            'to 8 bits by the range of its values, or train a model on such images with image_scale=percentile, since '
            'cutting it off here would lose that range unseen.')


def as_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels to look at: uint8 as they are, and floats by rounding 0 to 1 to 0 to 255."""
    if pixels.dtype == torch.uint8:
        return pixels
    return (pixels * EIGHT_BITS).round().clamp(0, EIGHT_BITS).to(torch.uint8)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """What is stored with an EXIF orientation, 1 to 8, as displayed; the last two dimensions are rows and columns."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(-1, -2)
    rows, columns = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1), slice(
        None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(values[..., rows, columns])
