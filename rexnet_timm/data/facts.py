"""What one sample of a data set tells: its headers, the values of its image, and the labels of its mask.

Samples are read by the functions by which training reads them, so that what is refused there is refused here.
"""
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from .components import object_sizes
from .description import DataDescription, Sample
from .folder import is_drawn_as_stored, refuse_sizes, turned_with
from .images import ARRAY_EXTENSION, Header, is_too_large, read_header, read_image
from .labels import ColorTable, LabelTable
from .masks import ColoredMaskError, found_colors, stored_labels

__all__ = ['DIGEST', 'Facts', 'Reading', 'facts_of', 'shown_of']

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


@dataclass
class Facts:
    """What a sample tells.

    Attributes:
        problem: Why it cannot be used, with the remedy; None where it can.
        is_large: Whether the image has more pixels than are read at once, so that only its header is.
        image: Header of the image; None where it cannot be read.
        mask: Header of the mask; None for those that have none, as arrays and outlines.
        mean: Mean of each channel of the image, float64.
        squares: Sum over the pixels of the squared distances from it, likewise.
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
    mean: np.ndarray | None = None
    squares: np.ndarray | None = None
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
        if is_too_large(image_path):
            facts.is_large = True
            return facts
        image = read_image(image_path, **reading.images).numpy()
        _add_image(facts, image)
        has_header = not hasattr(mask_path, 'labels') and mask_path.suffix.lower() != ARRAY_EXTENSION
        facts.mask = read_header(mask_path, 'mask') if has_header else None
        _add_mask(facts, image_path, mask_path, image.shape[-2:], reading)
    except DatasetError as error:
        facts.problem = str(error)
    return facts


def _add_image(facts: Facts, image: np.ndarray) -> None:
    facts.dtype = str(image.dtype)
    planes = image.reshape(len(image), -1)
    means, squares = [], []
    for plane in planes:  # one at a time, for the memory
        plane = plane.astype(np.float64)
        means.append(plane.mean())
        plane -= means[-1]
        squares.append(np.dot(plane, plane))
    facts.mean, facts.squares = np.array(means), np.array(squares)
    digest = hashlib.blake2b(str((image.shape, facts.dtype)).encode(), digest_size=DIGEST)
    digest.update(np.ascontiguousarray(image))
    facts.digest = digest.digest()


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
    facts.is_bits = stored.dtype == np.bool_
    labels = stored
    if reading.is_mapped:
        facts.stored = _counts(stored.astype(np.uint8) if facts.is_bits else stored)
        labels = reading.table(stored)
    elif facts.is_bits:
        labels = stored.astype(np.uint8)
    kinds, sizes = object_sizes(labels)
    order = np.argsort(kinds, kind='stable')
    found, starts = np.unique(kinds[order], return_index=True)
    for label, part in zip(found.tolist(), np.split(sizes[order], starts[1:]), strict=True):
        if label != NOTHING or not reading.is_mapped:
            facts.objects[label], facts.pixels[label] = part, int(part.sum())
    if not reading.is_mapped:
        facts.stored = facts.pixels
    if len(found) <= _MOST_NEIGHBOURS:
        facts.neighbours = _neighbours(labels)


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

    Raises:
        DatasetError: As in training.
    """
    image = read_image(sample[0], **reading.images).numpy()
    labels = _fitting_labels(*sample, image.shape[-2:], reading)
    if reading.is_mapped:
        labels = reading.table(labels)
    return image, labels.astype(np.int64), Path(sample[0]).name
