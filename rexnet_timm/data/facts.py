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
from .folder import refuse_sizes
from .images import Header, read_header, read_image
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
        description: What is known of the data.
        in_chans: Channels that images are read with.

    Attributes:
        is_mapped: Whether labels become classes by a map, so that those of `Facts` are classes.
    """

    def __init__(self, description: DataDescription, in_chans: int = 3) -> None:
        self.in_chans = in_chans
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
        image = read_image(image_path, reading.in_chans).numpy()
        _add_image(facts, image)
        has_header = not hasattr(mask_path, 'labels') and mask_path.suffix.lower() != '.npy'
        facts.mask = read_header(mask_path, 'mask') if has_header else None
        size = _add_mask(facts, mask_path, reading)
        if size != image.shape[-2:]:
            facts.stored, facts.pixels, facts.objects, facts.colors = {}, {}, {}, {}
            refuse_sizes(image_path, mask_path, image.shape[-2:], size)
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


def _add_mask(facts: Facts, mask: Any, reading: Reading) -> tuple[int, int]:
    """Add what a mask tells; returns its height and width."""
    if reading.colors is None and facts.mask is not None and facts.mask.mode in _COLOR_MODES:
        facts.colors = found_colors([mask])
    try:
        stored = stored_labels(mask, reading.colors)
    except ColoredMaskError:
        return facts.mask.size
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
    return labels.shape


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
    image = read_image(sample[0], reading.in_chans).numpy()
    labels = stored_labels(sample[1], reading.colors)
    if labels.shape != image.shape[-2:]:
        refuse_sizes(*sample, image.shape[-2:], labels.shape)
    if reading.is_mapped:
        labels = reading.table(labels)
    return image, labels.astype(np.int64), Path(sample[0]).name
