"""Objects of masks beside a search of our own, pixel by pixel."""
from collections import Counter

import numpy as np
import pytest

from rexnet_timm.data.components import Objects, object_sizes


def searched(labels: np.ndarray) -> Counter:
    """(label, pixels) of each object, found by walking from pixel to pixel."""
    height, width = labels.shape
    seen, found = set(), Counter()
    for start in np.ndindex(labels.shape):
        if start in seen:
            continue
        seen.add(start)
        stack, number = [start], 0
        while stack:
            row, column = stack.pop()
            number += 1
            for place in ((row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)):
                inside = 0 <= place[0] < height and 0 <= place[1] < width
                if inside and place not in seen and labels[place] == labels[row, column]:
                    seen.add(place)
                    stack.append(place)
        found[int(labels[start]), number] += 1
    return found


def counted(labels: np.ndarray) -> Counter:
    return Counter((int(label), int(size)) for label, size in zip(*object_sizes(labels), strict=True))


@pytest.mark.parametrize('number', [1, 2, 3, 9])
@pytest.mark.parametrize('size', [(1, 1), (1, 17), (17, 1), (23, 31)])
def test_objects_are_those_of_a_search(size, number):
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, number, size)
        assert counted(labels) == searched(labels)


@pytest.mark.parametrize('rows', [1, 2, 5, 40])
def test_bands_of_a_mask_have_its_objects(rows):
    """Objects go on from band to band, and come in the order of the whole mask."""
    for seed in range(5):
        labels = np.random.default_rng(seed).integers(0, 2, (23, 31))
        objects = Objects()
        for top in range(0, 23, rows):
            band = labels[top:top + rows]
            assert sorted(objects.add(band)) == sorted(object_sizes(band)[0])
        for found, expected in zip(objects.sizes(), object_sizes(labels), strict=True):
            assert np.array_equal(found, expected) and found.dtype == expected.dtype


def test_shapes_that_meet_late():
    spiral = np.zeros((9, 9), np.uint8)
    spiral[0, :] = spiral[:, 8] = spiral[8, :] = spiral[2:, 0] = 1
    spiral[2, :7] = spiral[2:7, 6] = spiral[6, 2:7] = 1
    comb = np.zeros((6, 11), np.int32)
    comb[:, ::2] = comb[-1] = 70_000  # teeth that only their foot joins
    diagonal = np.eye(8, dtype=np.uint8)
    for labels in (spiral, comb, diagonal, np.kron(diagonal, np.ones((3, 3), np.uint8))):
        assert counted(labels) == searched(labels)
    assert counted(comb)[70_000, int((comb > 0).sum())] == 1
    assert counted(diagonal)[1, 8] == 1  # corners touch


def test_the_pixels_of_all_objects_are_those_of_the_mask():
    labels = np.random.default_rng(0).integers(0, 3, (300, 400)).astype(np.uint8)
    kinds, sizes = object_sizes(labels)
    assert kinds.dtype == np.uint8 and sizes.dtype == np.int64
    assert np.array_equal(np.bincount(kinds, sizes), np.bincount(labels.ravel()))
    assert not len(object_sizes(np.zeros((0, 5), np.uint8))[1])
