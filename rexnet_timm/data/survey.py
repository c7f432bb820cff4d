"""What the images of a split have in common, found before a run: their bands and bits, their range, mean and deviation.

Which images are looked at is fixed, so that every process of a run, and every run, finds the same.
"""
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DatasetError
from .bands import EIGHT_BITS, PERCENTILE, Bands, Scale, as_channels, pick_bands
from .headers import TIFF_EXTENSIONS, Header, TooLargeError, first_tags, read_header
from .images import read_bands

__all__ = ['Survey', 'percentiles', 'sample_values', 'statistics', 'survey']

PERCENTILES = (0.5, 99.5)  # as nnU-Net cuts the intensities of CT (https://arxiv.org/abs/1904.08128)
_MOST_HEADERS, _MOST_IMAGES, _MOST_ALPHAS, _MOST_PIXELS = 2000, 128, 8, 4096
_DIGITS = 6  # of measured numbers, so that no processor's rounding shows
_NODATA = 42113  # GDAL's tag


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        in_chans: Channels that the images have for a network.
        scale: What their values are scaled by; 'percentile' where that is still to be measured.
        is_plain: Whether they are of 8 bits and read as grey or RGB, as mean and std of published weights are.
        has_colors: Whether the first three channels are red, green and blue of 8 bits.
        told: Lines on what a user should know.
        turned: Places of images that are displayed otherwise than stored, with their headers.
    """
    in_chans: int
    scale: Scale | str
    is_plain: bool = True
    has_colors: bool = True
    told: tuple[str, ...] = ()
    turned: tuple[tuple[int, Header], ...] = ()


def survey(paths: Sequence[Any], in_chans: int | None, bands: Sequence[int], scale: Scale | str | None) -> Survey:
    """Look at the headers of images.

    Args:
        paths: The images. A damaged one is passed over here, and named when its sample is read.
        in_chans: Channels that are asked for; None takes those of the images.
        bands: Numbers of the bands that are read; empty for all.
        scale: What values are scaled by; None takes 255 for images of 8 bits, and percentiles for others.

    Raises:
        DatasetError: Images of different bands or bits, where nothing says which are meant.
    """
    headers = _headers(paths)
    deep = [index for index, header in headers.items() if header.bits > 8]
    shallow = next((index for index in headers if index not in set(deep)), None)
    if deep and shallow is not None and scale in (None, PERCENTILE):
        raise DatasetError(
            f'Images must have the same bits: {paths[deep[0]]} has {headers[deep[0]].bits} a channel and '
            f'{paths[shallow]} has {headers[shallow].bits}; convert one of the two kinds, or take it out.')
    told: list[str] = []
    if bands:
        if in_chans not in (None, len(bands)):
            raise ValueError(
                f'in_chans must be the number of bands that are chosen, {len(bands)}, got {in_chans}: leave it out.')
        in_chans = len(bands)
    elif in_chans is None:
        in_chans = _channels(paths, headers, told)
    if scale is None:
        scale = PERCENTILE if deep else EIGHT_BITS
    is_plain = not deep and scale == EIGHT_BITS and not bands
    if headers and not bands and in_chans == 3 and all(header.bands - header.has_alpha == 1
                                                       for header in headers.values()):
        told.append('images are grey, and each is given to all 3 channels alike; 1 channel would do')
    return Survey(
        in_chans, scale, is_plain and in_chans in (1, 3), is_plain and in_chans in (3, 4), tuple(told),
        tuple((index, header) for index, header in headers.items() if header.orientation != 1))


def _some(paths: Sequence[Any], most: int) -> list[int]:
    """At most so many places, drawn at random, in their order, in which tables are read faster."""
    return sorted(random.Random(0).sample(range(len(paths)), len(paths))[:most])


def _headers(paths: Sequence[Any]) -> dict[int, Header]:
    """Headers by the places of the images."""
    headers = {}
    for index in _some(paths, _MOST_HEADERS):
        try:
            headers[index] = read_header(paths[index], 'image')
        except (DatasetError, OSError):
            continue
    return headers


def _channels(paths: Sequence[Any], headers: dict[int, Header], told: list[str]) -> int:
    """How many channels images have for a network. DatasetError where they differ, but for grey among colours."""
    takes_alpha = _alpha_is_data(paths, [index for index, header in headers.items() if header.has_alpha], told)
    first: dict[int, int] = {}
    for index, header in headers.items():
        first.setdefault(header.bands - (header.has_alpha and not takes_alpha), index)
    if len(first) > 1 and set(first) != {1, 3}:
        (least, one), *_, (_, other) = sorted(first.items())
        raise DatasetError(
            f'Images must have the same bands: {paths[one]} has {headers[one].bands} and {paths[other]} has '
            f'{headers[other].bands}; choose those that all have by their numbers, such as '
            f'bands={" ".join(map(str, range(1, least + 1)))}, or take one of the two kinds out.')
    return max(first, default=3)


def _alpha_is_data(paths: Sequence[Any], marked: Sequence[int], told: list[str]) -> bool:
    """Whether bands that are marked as alpha hold more than what is transparent and what is not.

    Programs mark the fourth band of satellite and aerial images as alpha without being asked.
    """
    for index in marked[:_MOST_ALPHAS]:
        try:
            values = _read(paths[index]).values
        except ValueError:
            continue
        alpha = values[-1]
        limits = alpha.min(), alpha.max()
        if ((alpha != limits[0]) & (alpha != limits[1])).any():
            told.append(
                f'band {len(values)} is marked as alpha and has many values, such as in {paths[index]}: it is read as '
                f'a channel ({len(values) - 1} channels would leave it out)')
            return True
    if marked:
        told.append(f'the last band of images such as {paths[marked[0]]} is alpha, which is left out')
    return False


def sample_values(paths: Sequence[Any], in_chans: int, bands: Sequence[int]) -> np.ndarray:
    """Values of pixels of up to 128 images, as they are stored, float64 (in_chans, pixels).

    Pixels without data count as little as those below full transparency. A damaged image is passed over.

    Raises:
        DatasetError: No image has a value, or one has other bands.
        ValueError: Images that only rasterio reads, where it cannot be imported.
    """
    parts = []
    for index in _some(paths, _MOST_IMAGES):
        try:
            found = _read(paths[index])
        except (DatasetError, OSError):
            continue
        numbers = pick_bands(len(found.values), found.has_alpha, in_chans, bands, paths[index])
        parts.append(_some_pixels(found, numbers, _nodata(paths[index]), index))
    parts = [as_channels(part[..., None], in_chans)[..., 0] for part in parts if part.size]
    if not parts:
        raise DatasetError(
            f'The range of the images must be measured on some that can be read: none of {len(paths)}, such as '
            f'{paths[0]}, can.')
    return np.concatenate(parts, axis=1)


def _read(path: Any) -> Bands:
    try:
        return read_bands(path)
    except TooLargeError:
        if path.suffix.lower() not in TIFF_EXTENSIONS:
            raise
        from .geo import read_parts
        return read_parts(path)


def _some_pixels(found: Bands, numbers: Sequence[int], nodata: float | None, seed: int) -> np.ndarray:
    """float64 (bands, pixels) of some pixels that have data."""
    flat = found.values.reshape(len(found.values), -1)
    if flat.shape[1] > _MOST_PIXELS:
        flat = flat[:, np.sort(np.random.default_rng(seed).choice(flat.shape[1], _MOST_PIXELS, replace=False))]
    values = flat[[number - 1 for number in numbers]].astype(np.float64)
    known = np.isfinite(values).all(0)
    if nodata is not None:
        known &= (values != nodata).any(0)
    if found.has_alpha and len(flat) not in numbers:
        known &= flat[-1] != 0
    return values[:, known]


def _nodata(path: Any) -> float | None:
    """The number that stands for no data in a TIFF of GDAL."""
    text = first_tags(path).get(_NODATA)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def percentiles(values: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The range of each channel of values (channels, pixels), without the 0.5 % at either end."""
    pairs = []
    for low, high in np.percentile(values, PERCENTILES, axis=1).T:
        low, high = (float(f'{value:.{_DIGITS}g}') for value in (low, high))
        pairs.append((low, high if high > low else low + 1.))
    return tuple(pairs)


def statistics(values: np.ndarray, scale: Scale) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of values (channels, pixels), as they are after scaling."""
    if isinstance(scale, tuple):
        low, high = np.array(scale).T[..., None]
        values = ((values - low) / (high - low)).clip(0, 1)
    else:
        values = values / scale
    deviation = values.std(1)
    rounded = [tuple(float(f'{value:.{_DIGITS}g}') for value in part)
               for part in (values.mean(1), np.where(deviation > 0, deviation, 1))]
    return rounded[0], rounded[1]
