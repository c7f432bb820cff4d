"""Sequences of images with their masks, and whether the two of a pair fit.

A sequence may know more than its samples: a method `sizes()` gives height and width of every image without opening
them, and a method `groups()` which samples lie together in a file (`Groups`). Both give None where that is not known.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DatasetError
from .bands import turned
from .description import Sample
from .headers import ARRAY_EXTENSION, TooLargeError, is_too_large, max_pixels, read_header
from .images import check_image_header
from .resizing import Resize

__all__ = [
    'Chosen', 'Files', 'Groups', 'groups_of', 'is_drawn_as_stored', 'refuse_large', 'refuse_sizes', 'sample_sizes',
    'sizes_of', 'turned_with']


class Groups(NamedTuple):
    """Which samples are read together, because a file gives them only together.

    Attributes:
        of_sample: The number of the group of each sample, int64.
        bytes: Bytes of each group.
    """
    of_sample: np.ndarray
    bytes: np.ndarray


class Files(Sequence[Any]):
    """The images, or the masks, of samples, each when it is asked for."""

    def __init__(self, samples: Sequence[Sample], place: int) -> None:
        self.samples, self.place = samples, place

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index][self.place]


class Chosen(Sequence[Sample]):
    """Some of the samples of a sequence, of which only the numbers are kept.

    Args:
        samples: The sequence.
        numbers: Which of them, in their order.
    """

    def __init__(self, samples: Sequence[Sample], numbers: Sequence[int]) -> None:
        self.samples, self.numbers = samples, np.asarray(numbers, np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[int(self.numbers[index])]

    def sizes(self) -> list[tuple[int, int]] | None:
        """Height and width of every image, None where they are not known."""
        sizes = sizes_of(self.samples)
        return None if sizes is None else [sizes[number] for number in self.numbers]

    def groups(self) -> Groups | None:
        """Which samples lie together."""
        groups = groups_of(self.samples)
        return None if groups is None else Groups(groups.of_sample[self.numbers], groups.bytes)


def sizes_of(samples: Sequence[Sample]) -> list[tuple[int, int]] | None:
    """Height and width of every image, as far as a sequence knows them; None where it does not."""
    return samples.sizes() if hasattr(samples, 'sizes') else None


def groups_of(samples: Sequence[Sample]) -> Groups | None:
    """Which samples lie together in a file; None where each is read by itself."""
    return samples.groups() if hasattr(samples, 'groups') else None


def sample_sizes(samples: Sequence[Sample], transform: Any, reading: dict[str, Any]) -> list[tuple[int, int]]:
    """Height and width of every sample of a data set, without reading pixels.

    Args:
        samples: Its pairs.
        transform: What it does with them: where that resizes, it tells.
        reading: How images are read, keywords of `images.read_image`.

    Raises:
        DatasetError: An image whose header is damaged, or tells that it would lose something, or that it is too large.
    """
    resized = [step.size for step in getattr(transform, 'transforms', ()) if isinstance(step, Resize)]
    if resized:
        return resized[-1:] * len(samples)
    known = sizes_of(samples)
    if known is not None:
        return known
    sizes = []
    for image, _ in samples:
        header = read_header(image, 'image')
        check_image_header(image, header, **reading)
        if is_too_large(image):
            refuse_large(image)
        sizes.append(header.size)
    return sizes


def is_drawn_as_stored(image: Any, mask: Any, size: Sequence[int]) -> bool:
    """Whether a mask of a height and width was drawn on a photo as stored, which is displayed turned."""
    header = read_header(image, 'image')
    has_header = not hasattr(mask, 'labels') and mask.suffix.lower() != ARRAY_EXTENSION
    return header.turned and header.size == tuple(size)[::-1] and (
        not has_header or read_header(mask, 'mask').orientation == 1)


def turned_with(image: Any, mask: Any, labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) that were drawn on a photo as stored, turned as the photo is displayed; others as they are."""
    if not is_drawn_as_stored(image, mask, labels.shape):
        return labels
    return turned(labels, read_header(image, 'image').orientation)


def refuse_large(image: Any) -> None:
    """Raise TooLargeError for an image of more pixels than are decoded at once, where it is not read by windows."""
    raise TooLargeError(
        f'An image of more than {max_pixels()} pixels is read by windows only, in random crops for training and in '
        f'tiles (SegmentationFolder.cut_large) for validation: {image} has more; cut it and its mask into smaller '
        'ones, such as 2048 x 2048.')


def refuse_sizes(
        image: Path, mask: Path, image_size: Sequence[int], mask_size: Sequence[int], kind: str = 'mask') -> None:
    """Raise DatasetError for an image and a mask, or a depth map, of different sizes, (height, width), with what may be
    the reason.
    """
    shown = [f'{width} x {height}' for height, width in (image_size, mask_size)]
    remedy = f'resize the {kind} by nearest neighbour, or export it again at the size of the image'
    has_header = not hasattr(mask, 'labels') and mask.suffix.lower() != ARRAY_EXTENSION
    if has_header and tuple(image_size) == tuple(mask_size)[::-1] and read_header(mask, kind).turned:
        remedy = f'{mask} has an EXIF orientation, by which it is shown turned, and {image} fits it as stored: ' \
            f'remove the orientation from the {kind}, or turn the image as the {kind} is shown'
    raise DatasetError(
        f'Image and {kind} must have the same size: {image} is {shown[0]} but {mask} is {shown[1]} (width x height); '
        f'{remedy}.')
