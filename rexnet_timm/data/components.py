"""The objects of a mask: its connected parts of one label.

A row is cut into runs of one label, runs that touch in neighbouring rows are joined, and what is joined is one object
(Rosenfeld, Pfaltz: "Sequential operations in digital picture processing", 1966); by whole arrays, so that a mask of
a million pixels takes some hundredths of a second.
"""
import numpy as np

__all__ = ['Objects', 'object_sizes']


class Objects:
    """The objects of a mask that comes in bands of rows, from the top; of a band only its last row is kept.

    Pixels that touch at a side or a corner belong together, across bands too.
    """

    def __init__(self) -> None:
        self._number = 0
        self._labels: list[np.ndarray] = []
        self._pixels: list[np.ndarray] = []
        self._joins: list[tuple[np.ndarray, np.ndarray]] = []
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # labels of the last row, and the objects they are of

    def add(self, labels: np.ndarray) -> np.ndarray:
        """Add a band, (rows, columns) of whole numbers; returns the labels of its own objects."""
        found, pixels, top, bottom = _objects(labels)
        top, bottom = top + self._number, bottom + self._number
        if self._last is not None and labels.size:
            above, objects = self._last
            for right in (-1, 0, 1):  # from a pixel of the row above to those below it
                upper = slice(max(0, -right), len(top) - max(0, right))
                lower = slice(max(0, right), len(top) + min(0, right))
                same = above[upper] == labels[0, lower]
                self._joins.append((objects[upper][same], top[lower][same]))
        if labels.size:
            self._last = labels[-1].copy(), bottom
        self._labels.append(found)
        self._pixels.append(pixels)
        self._number += len(found)
        return found

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Label and number of pixels of each object, as `object_sizes` returns them."""
        labels, pixels = np.concatenate(self._labels), np.concatenate(self._pixels)
        if self._joins:
            first, second = map(np.concatenate, zip(*self._joins, strict=True))
            labels, pixels, _ = _merged(labels, pixels, _joined(np.arange(len(labels)), first, second))
        return labels, pixels


def object_sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and number of pixels of each object of a mask.

    Pixels that touch at a side or a corner belong together.

    Args:
        labels: (H, W) of whole numbers.

    Returns:
        Labels, of the dtype of the mask, and pixels, int64, both (number of objects,), in the order in which objects
        begin from the top.
    """
    return _objects(labels)[:2]


def _objects(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `object_sizes` returns, and the object of each pixel in the first and in the last row."""
    if not labels.size:
        return labels.ravel(), *(np.zeros(0, np.int64) for _ in range(3))
    height, width = labels.shape
    begins = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    flat, starts = labels.ravel(), np.flatnonzero(begins)
    lengths = np.diff(starts, append=labels.size)
    rows, columns = np.divmod(starts, width)
    first, second = [], []
    # where two runs touch, the first pixel of one of them touches the other
    for down in (-1, 1):
        for right in (-1, 0, 1):
            inside = (rows + down >= 0) & (rows + down < height) & (columns + right >= 0) & (columns + right < width)
            runs = np.flatnonzero(inside)
            others = starts[runs] + down * width + right
            same = flat[starts[runs]] == flat[others]
            first.append(runs[same])
            second.append(np.searchsorted(starts, others[same], 'right') - 1)
    roots = _joined(np.arange(len(starts)), np.concatenate(first), np.concatenate(second))
    found, pixels, places = _merged(flat[starts], lengths, roots)
    top, bottom = (np.repeat(places[rows == row], lengths[rows == row]) for row in (0, height - 1))
    return found, pixels, top, bottom


def _merged(labels: np.ndarray, pixels: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and pixels of what is joined, and the place of each part among these."""
    total = np.bincount(roots, pixels, len(roots)).astype(np.int64)  # whole numbers below 2**53 are exact
    chosen = np.flatnonzero(total)
    return labels[chosen], total[chosen], np.searchsorted(chosen, roots)


def _joined(roots: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The lowest run that each run is joined to, over any number of pairs."""
    while True:
        left, right = roots[first], roots[second]
        apart = left != right
        if not apart.any():
            return roots
        first, second, left, right = first[apart], second[apart], left[apart], right[apart]
        np.minimum.at(roots, np.maximum(left, right), np.minimum(left, right))
        while True:  # every run points to the root of its root
            further = roots[roots]
            if (further == roots).all():
                break
            roots = further
