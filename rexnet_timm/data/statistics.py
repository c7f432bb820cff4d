"""What the samples of a split tell together, summed up one by one; of each only 24 bytes stay."""
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .description import Sample
from .facts import DIGEST, Facts, Moments

__all__ = ['LabelStatistics', 'SplitStatistics', 'duplicates']

MOST_LISTED = 1000  # bad samples that are named
MOST_SIZES = 1000  # sizes that are told apart
MOST_LABELS = 4096  # labels, or colours, from which on a mask holds something else
_STEPS = 8  # of the areas of objects, in a doubling


@dataclass
class LabelStatistics:
    """A label, or a class, in a split.

    Attributes:
        pixels: Its pixels.
        images: Images that have it.
        objects: Its objects.
        smallest: Pixels of the smallest object.
        areas: Objects by their area, of `_STEPS` steps a doubling.
    """
    pixels: int = 0
    images: int = 0
    objects: int = 0
    smallest: int = 0
    areas: Counter[int] = field(default_factory=Counter)

    def add(self, pixels: int, sizes: np.ndarray) -> None:
        """Add those of an image."""
        self.pixels += pixels
        self.images += 1
        self.objects += len(sizes)
        self.smallest = min(self.smallest or int(sizes.min()), int(sizes.min()))
        steps, counts = np.unique(np.round(_STEPS * np.log2(sizes)).astype(int), return_counts=True)
        self.areas.update(dict(zip(steps.tolist(), counts.tolist(), strict=True)))

    def merge(self, other: 'LabelStatistics') -> None:
        """Add those of another label, or of another split."""
        self.pixels += other.pixels
        self.images += other.images
        self.objects += other.objects
        self.smallest = min(filter(None, (self.smallest, other.smallest)), default=0)
        self.areas.update(other.areas)

    @property
    def typical(self) -> float:
        """Pixels of an object: half of the pixels of the class are in objects of at least so many; NaN for none.

        To within a twentieth. The middle of all objects would tell of splinters, where masks have them.
        """
        areas = {2 ** (step / _STEPS): number for step, number in sorted(self.areas.items())}
        passed, middle = 0., sum(area * number for area, number in areas.items()) / 2
        for area, number in areas.items():
            passed += area * number
            if passed >= middle:
                return area
        return math.nan


@dataclass
class SplitStatistics:
    """What is known of a split.

    Attributes:
        name: Of the split.
        pairs: Samples that were read.
        num_bad: Samples that cannot be used.
        bad: The first of them: image, mask, and why.
        image_kinds: Images by format, mode, bits and channels of their files.
        mask_kinds: Masks by mode and bits.
        sizes: Images by height and width, of the first `MOST_SIZES` sizes.
        shorter: Images by the shorter side.
        large: Images of more pixels than are decoded at once, which are read by windows.
        turned: Images that are shown turned by their EXIF orientation.
        dtypes: Images by the type of their values as they are read.
        moments: Mean of each channel of all pixels, and what its deviation follows from; None before the first image.
        labels: By label, or by class where labels are mapped.
        stored: Pixels of each number in the masks.
        colors: Pixels of each colour of masks in colours, where no table is known.
        colored: Masks in colours, where no table is known.
        grey: Masks of numbers, likewise.
        both: Masks with 1 and 255.
        neighbours: Pairs of labels or classes that touch.
        is_full: Whether there are more labels than are counted.
        digests: Of the images, in their order, without those that are not read.
        places: Number of the sample of each digest.
        shown: Numbers of samples that show each label once.
    """
    name: str
    pairs: int = 0
    num_bad: int = 0
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    image_kinds: Counter = field(default_factory=Counter)
    mask_kinds: Counter = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    shorter: Counter[int] = field(default_factory=Counter)
    large: int = 0
    turned: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    moments: Moments | None = None
    labels: dict[int, LabelStatistics] = field(default_factory=dict)
    stored: Counter[int] = field(default_factory=Counter)
    bits: Counter[int] = field(default_factory=Counter)
    colors: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    colored: int = 0
    grey: int = 0
    both: int = 0
    neighbours: set[tuple[int, int]] = field(default_factory=set)
    is_full: bool = False
    digests: bytearray = field(default_factory=bytearray)
    places: bytearray = field(default_factory=bytearray)
    shown: list[int] = field(default_factory=list)

    @property
    def mean(self) -> np.ndarray | None:
        """Mean of each channel, over all pixels."""
        return None if self.moments is None else self.moments.mean

    @property
    def std(self) -> np.ndarray | None:
        """Standard deviation of each channel, over all pixels."""
        return None if self.moments is None else np.sqrt(self.moments.squares / self.moments.pixels)

    def add(self, sample: Sample, facts: Facts) -> None:
        """Add the facts of the next sample."""
        number, self.pairs = self.pairs, self.pairs + 1
        if facts.image is not None:
            header = facts.image
            self.image_kinds[header.format, header.mode, header.bits, header.channels] += 1
            self.turned += header.turned
            if header.size in self.sizes or len(self.sizes) < MOST_SIZES:
                self.sizes[header.size] += 1
            self.shorter[min(header.size)] += 1
        if facts.mask is not None:
            self.mask_kinds[facts.mask.mode, facts.mask.bits] += 1
        if facts.digest:
            self.digests += facts.digest
            self.places += number.to_bytes(8, 'little')
            self.dtypes[facts.dtype] += 1
            is_alike = self.moments is not None and len(self.moments.mean) == len(facts.moments.mean)
            self.moments = self.moments.with_others(facts.moments) if is_alike else facts.moments
        if facts.problem is not None:
            self.num_bad += 1
            if len(self.bad) < MOST_LISTED:
                self.bad.append((*map(str, sample), facts.problem))
            return
        self.large += facts.is_large
        self._add_labels(number, facts)

    def _add_labels(self, number: int, facts: Facts) -> None:
        is_new = False
        if facts.colors:
            self.colored += not facts.stored  # grey that is saved as colours is both
            self._count(self.colors, facts.colors)
        elif facts.stored:
            self.grey += 1
        self.both += 1 in facts.stored and 255 in facts.stored
        if not self.is_full:
            self.neighbours |= facts.neighbours
        self._count(self.bits if facts.is_bits else self.stored, facts.stored)
        for label, pixels in facts.pixels.items():
            is_new |= label not in self.labels
            if label in self.labels or len(self.labels) < MOST_LABELS:
                self.labels.setdefault(label, LabelStatistics()).add(pixels, facts.objects[label])
        if is_new or len(self.shown) < 1:
            self.shown.append(number)

    def _count(self, counter: Counter, found: Mapping) -> None:
        """Add to a counter, until it has more than masks of classes have."""
        self.is_full |= len(counter) > MOST_LABELS
        if len(counter) <= MOST_LABELS:
            counter.update(found)


def duplicates(splits: list[SplitStatistics]) -> list[list[tuple[int, int]]]:
    """Images of equal values: of each group the split and the number of every sample, the groups in their order."""
    halves = np.concatenate([np.frombuffer(bytes(split.digests), '<u8').reshape(-1, 2) for split in splits])
    owners = np.concatenate([np.full(len(split.digests) // DIGEST, index) for index, split in enumerate(splits)])
    places = np.concatenate([np.frombuffer(bytes(split.places), '<u8') for split in splits])
    order = np.lexsort(halves.T)
    same = (halves[order][1:] == halves[order][:-1]).all(1)
    groups: list[list[int]] = []
    for index in np.flatnonzero(same).tolist():  # each is equal to the next one
        if not index or not same[index - 1]:
            groups.append([int(order[index])])
        groups[-1].append(int(order[index + 1]))
    return sorted([(int(owners[index]), int(places[index])) for index in sorted(group)] for group in groups)
