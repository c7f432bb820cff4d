"""The objects of a mask: its connected parts of one label.

A row is cut into runs of one label, runs that touch in neighbouring rows are joined, and what is joined is one object
(Rosenfeld, Pfaltz: "Sequential operations in digital picture processing", 1966); by whole arrays, so that a mask of
a million pixels takes some hundredths of a second.
"""
import numpy as np

__all__ = ['object_sizes']


def object_sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and number of pixels of each object of a mask.

    Pixels that touch at a side or a corner belong together.

    Args:
        labels: (H, W) of whole numbers.

    Returns:
        Labels, of the dtype of the mask, and pixels, int64, both (number of objects,), in the order in which objects
        begin from the top.
    """
    if not labels.size:
        return labels.ravel(), np.zeros(0, np.int64)
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
    pixels = np.bincount(roots, lengths, len(starts)).astype(np.int64)  # whole numbers below 2**53 are exact
    chosen = np.flatnonzero(pixels)
    return flat[starts[chosen]], pixels[chosen]


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
