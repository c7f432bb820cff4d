"""What one sample of a data set tells: its headers, the values of its image, and the labels of its mask.

Samples are read by the functions by which training reads them, so that what is refused there is refused here.
"""
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DatasetError
from .components import Objects
from .description import DataDescription, Sample
from .geo import Scene
from .headers import ARRAY_EXTENSION, Header, is_too_large, read_header
from .images import read_image
from .labels import ColorTable, LabelTable
from .large import LargeMask, bands_of, blocks_of, tiles_of
from .masks import ColoredMaskError, found_colors, stored_labels
from .pairs import is_drawn_as_stored, refuse_sizes, turned_with

__all__ = ['DIGEST', 'Facts', 'Moments', 'Reading', 'facts_of', 'shown_of']

DIGEST = 16  # bytes
NOTHING = -1  # class of what a label map does not list
_COLOR_MODES = ('RGB', 'RGBA', 'RGBX')
_MOST_NEIGHBOURS = 64  # labels of a mask from which on it is not asked which touch


class Reading:
    """How the samples of a data set are read.

    Args:
        description: What is known of the data, with the channels, bands and scale of the images.

    Attributes:
        is_mapped: Whether labels become classes by a map, so that those of `Facts` are classes.
    """

    def __init__(self, description: DataDescription) -> None:
        self.images = description.reading
        self.colors = ColorTable(description.color_map) if description.color_map else None
        # what a colour table does not have is ignored, as what a label map does not have
        pairs = description.label_map or tuple(
            (label, label) for label in sorted({label for _, label in description.color_map}))
        self.is_mapped = bool(pairs)
        self.table = LabelTable(1, description.ignore_index, NOTHING, pairs)


class Moments(NamedTuple):
    """Of some pixels of images, float64 for each channel.

    Attributes:
        pixels: Their number.
        mean: Their mean.
        squares: Sum of their squared distances from it.
    """
    pixels: int
    mean: np.ndarray
    squares: np.ndarray

    def with_others(self, other: 'Moments') -> 'Moments':
        """Those of both together (Chan, Golub, LeVeque, 1979)."""
        total, apart = self.pixels + other.pixels, other.mean - self.mean
        return Moments(
            total, self.mean + apart * (other.pixels / total),
            self.squares + other.squares + apart ** 2 * (self.pixels * other.pixels / total))


@dataclass
class Facts:
    """What a sample tells.

    Attributes:
        problem: Why it cannot be used, with the remedy; None where it can.
        is_large: Whether the image has more pixels than are decoded at once, and is read by windows.
        image: Header of the image; None where it cannot be read.
        mask: Header of the mask; None for those that have none, as arrays and outlines.
        moments: Mean of each channel of the image, and what its deviation follows from.
        dtype: Of the values of the image.
        digest: Of the values of the image, `DIGEST` bytes.
        stored: Pixels of each number in the mask.
        is_bits: Whether the mask has one bit a pixel, so that 1 stands for what other masks may have as 255.
        colors: Pixels of each colour of a mask in colours, where no table is known.
        pixels: Pixels of each label, or of each class where labels are mapped, then without what is ignored.
        objects: Pixels of each object, by label or class.
        neighbours: Pairs of labels or classes that touch.
    """
    problem: str | None = None
    is_large: bool = False
    image: Header | None = None
    mask: Header | None = None
    moments: Moments | None = None
    dtype: str = ''
    digest: bytes = b''
    stored: dict[int, int] = field(default_factory=dict)
    is_bits: bool = False
    colors: dict[tuple[int, int, int], int] = field(default_factory=dict)
    pixels: dict[int, int] = field(default_factory=dict)
    objects: dict[int, np.ndarray] = field(default_factory=dict)
    neighbours: set[tuple[int, int]] = field(default_factory=set)


def facts_of(sample: Sample, reading: Reading) -> Facts:
    """Read a sample whole. What a `DatasetError` tells is its problem; all other errors are raised."""
    facts = Facts()
    image_path, mask_path = sample
    try:
        facts.image = read_header(image_path, 'image')
        facts.is_large = is_too_large(image_path)
        if facts.is_large:
            _add_large(facts, image_path, mask_path, reading)
            return facts
        image = read_image(image_path, **reading.images).numpy()
        _add_image(facts, image.shape[-2:], [image])
        has_header = not hasattr(mask_path, 'labels') and mask_path.suffix.lower() != ARRAY_EXTENSION
        facts.mask = read_header(mask_path, 'mask') if has_header else None
        _add_mask(facts, image_path, mask_path, image.shape[-2:], reading)
    except DatasetError as error:
        facts.problem = str(error)
    return facts


def _add_large(facts: Facts, image: Path, mask: Any, reading: Reading) -> None:
    """Add what an image and a mask tell that are read by windows, as training reads them."""
    with Scene(image, **reading.images) as scene, LargeMask(mask, scene.size, reading.colors) as large:
        _add_image(facts, scene.size, (scene.read(*block).pixels.numpy() for block in blocks_of(scene.size)))
        facts.mask = read_header(mask, 'image')  # of which Pillow need not take the pixels
        columns = 0, scene.size[1]
        try:
            _add_labels(facts, (large.read(rows, columns) for rows in bands_of(scene.size)), reading)
        except ColoredMaskError:
            facts.colors = found_colors([mask])
            return
    if reading.colors is None and facts.mask.channels > 2:
        facts.colors = found_colors([mask])


def _add_image(facts: Facts, size: Sequence[int], parts: Iterable[np.ndarray]) -> None:
    """Add what the values of an image of a height and width tell, whose parts are (channels, rows, columns)."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        if facts.moments is None:
            facts.dtype = str(part.dtype)
            digest.update(str(((len(part), *size), facts.dtype)).encode())
        moments = _moments_of(part)
        facts.moments = moments if facts.moments is None else facts.moments.with_others(moments)
        digest.update(np.ascontiguousarray(part))
    facts.digest = digest.digest()


def _moments_of(image: np.ndarray) -> Moments:
    means, squares = [], []
    for plane in image.reshape(len(image), -1):  # one at a time, for the memory
        plane = plane.astype(np.float64)
        means.append(plane.mean())
        plane -= means[-1]
        squares.append(np.dot(plane, plane))
    return Moments(math.prod(image.shape[1:]), np.array(means), np.array(squares))


def _add_mask(facts: Facts, image: Any, mask: Any, size: tuple[int, int], reading: Reading) -> None:
    try:
        stored = _fitting_labels(image, mask, size, reading)
    except ColoredMaskError:
        if facts.mask.size != size and not is_drawn_as_stored(image, mask, facts.mask.size):
            refuse_sizes(image, mask, size, facts.mask.size)
        facts.colors = found_colors([mask])
        return
    if reading.colors is None and facts.mask is not None and facts.mask.mode in _COLOR_MODES:
        facts.colors = found_colors([mask])  # grey among masks in colours is a colour too
    _add_labels(facts, [stored], reading)


def _add_labels(facts: Facts, bands: Iterable[np.ndarray], reading: Reading) -> None:
    """Add what the numbers of a mask tell, which comes in bands of rows from the top, (rows, columns)."""
    objects, counted, neighbours, above = Objects(), Counter(), set(), None
    for stored in bands:
        is_bits = stored.dtype == np.bool_
        labels = stored
        if reading.is_mapped:
            counted.update(_counts(stored.astype(np.uint8) if is_bits else stored))
            labels = reading.table(stored)
        elif is_bits:
            labels = stored.astype(np.uint8)
        kinds = np.unique(objects.add(labels))
        if len(kinds) <= _MOST_NEIGHBOURS:
            neighbours |= _neighbours(labels) | (set() if above is None else _neighbours(np.stack([above, labels[0]])))
        above = labels[-1]
    facts.is_bits = is_bits
    kinds, sizes = objects.sizes()
    order = np.argsort(kinds, kind='stable')
    found, starts = np.unique(kinds[order], return_index=True)
    for label, part in zip(found.tolist(), np.split(sizes[order], starts[1:]), strict=True):
        if label != NOTHING or not reading.is_mapped:
            facts.objects[label], facts.pixels[label] = part, int(part.sum())
    facts.stored = dict(counted) if reading.is_mapped else facts.pixels
    if len(found) <= _MOST_NEIGHBOURS:
        facts.neighbours = neighbours


def _fitting_labels(image: Any, mask: Any, size: tuple[int, int], reading: Reading) -> np.ndarray:
    """What a mask has stored, of the size of its image. DatasetError for another size."""
    stored = stored_labels(mask, reading.colors)
    if stored.shape != size:
        stored = turned_with(image, mask, stored)
    if stored.shape != size:
        refuse_sizes(image, mask, size, stored.shape)
    return stored


def _counts(labels: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _neighbours(labels: np.ndarray) -> set[tuple[int, int]]:
    """Pairs of labels, the lower one first, that lie side by side or one below the other."""
    found = set()
    for first, second in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        apart = first != second
        pairs = np.sort(np.stack([first[apart], second[apart]]).astype(np.int64), axis=0)
        if pairs.size:
            low, high = pairs.min(), pairs.max() + 1
            keys = np.unique((pairs[0] - low) * (high - low) + pairs[1] - low).tolist()
            found |= {(key // int(high - low) + int(low), key % int(high - low) + int(low)) for key in keys}
    return found


def shown_of(sample: Sample, reading: Reading) -> tuple[np.ndarray, np.ndarray, str]:
    """A sample for a picture: the image (C, H, W), labels or classes (H, W) as `Facts` counts them, and its name.

    Of an image that is read by windows it is the tile with the most labels.

    Raises:
        DatasetError: As in training.
    """
    if is_too_large(sample[0]):
        tiles = tiles_of(*sample, reading.colors)
        sample = max(tiles, key=lambda tile: len(np.unique(tile[1].labels())))
    image = read_image(sample[0], **reading.images).numpy()
    labels = _fitting_labels(*sample, image.shape[-2:], reading)
    if reading.is_mapped:
        labels = reading.table(labels)
    return image, labels.astype(np.int64), Path(sample[0]).name
