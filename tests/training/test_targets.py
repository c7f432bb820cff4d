import math

import pytest
import torch

from rexnet_timm.grid import enlarge
from rexnet_timm.training.targets import (
    cell_shares,
    check_labels,
    majority_target,
    object_target,
    resize_target,
    scale_of,
    soft_target,
)


@pytest.mark.parametrize('full', [(24, 33), (97, 97), (180, 240), (32, 64)])
@pytest.mark.parametrize('scale', [0, 1, 2, 3, 4, 5])
def test_resized_targets_hold_the_label_at_the_place_of_the_logit(full, scale):
    rows, columns = torch.meshgrid(*map(torch.arange, full), indexing='ij')
    target = (1000 * rows + columns)[None]
    cell = 2 ** scale
    # where enlarging by 2**scale puts the middle of a logit, between two pixels of which the later one counts
    expected = [[min(int((i + 0.5) * cell), length - 1) for i in range(math.ceil(length / cell))] for length in full]
    resized = resize_target(target, tuple(map(len, expected)))[0]
    assert resized.tolist() == [[1000 * row + column for column in expected[1]] for row in expected[0]]


def test_an_enlarged_label_is_where_it_was_taken():
    # no pixel of the bilinear enlargement depends on a cell more than the one that gave its label; only the first
    # cell is all of several pixels
    for scale in (1, 2, 3):
        height = 4 * 2 ** scale + 1  # the fifth cell has one row
        rows = resize_target(torch.arange(height)[None, :, None].expand(1, -1, 5 * 2 ** scale), (5, 5))[0, :, 0]
        for i in range(1, 5):
            cells = torch.zeros(1, 1, 5, 5)
            cells[0, 0, i] = 1
            weights = enlarge(cells, scale, (height, 5))[0, 0, :, 0]
            assert weights[rows[i]] == weights.max()


def test_sizes_of_no_scale_are_refused():
    with pytest.raises(ValueError, match='an output of 10 x 11 for a target of 40 x 30'):
        resize_target(torch.zeros(1, 40, 30), (10, 11))


def test_scales_of_sizes():
    for full in ((32, 32), (97, 180), (33, 500)):
        for scale in range(6):
            assert scale_of([math.ceil(length / 2 ** scale) for length in full], full) == scale
    assert [scale_of((1, 1), (8, 6), above) for above in (-1, 2, 3, 4)] == [3, 3, 4, 5]
    assert scale_of((8, 6), (8, 6), above=2) == 0


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_resized_targets_invent_no_label_and_keep_their_dtype(dtype):
    target = torch.randint(2, (2, 40, 30)).mul(200).to(dtype)
    resized = resize_target(target, (5, 4))  # scale 3
    assert resized.dtype == dtype
    assert set(resized.unique().tolist()) <= set(target.unique().tolist())


def labels(size=(11, 14), classes=5, batch=2, ignored=255) -> torch.Tensor:
    torch.manual_seed(0)
    target = torch.randint(classes, (batch, *size))
    target[torch.rand(target.shape) < 0.2] = ignored
    target[0, :4, :4] = ignored
    return target


@pytest.mark.parametrize('scale', [0, 1, 2, 3])
@pytest.mark.parametrize('ignored', [255, 0, 3])
def test_shares_majority_and_objects_agree_with_counting_by_hand(scale, ignored):
    target, cell = labels(ignored=ignored), 2 ** scale
    shares = cell_shares(target, scale, 5, ignored)
    majority = majority_target(target, scale, 5, ignored)
    objects = object_target(target, scale, 5, ignored, share=0.2)
    assert shares.shape == (2, 5, -(-11 // cell), -(-14 // cell))
    for image in range(2):
        for row in range(shares.shape[2]):
            for column in range(shares.shape[3]):
                part = target[image, row * cell:(row + 1) * cell, column * cell:(column + 1) * cell]
                counts = [(part == label).sum().item() * (label != ignored) for label in range(5)]
                if sum(counts) == 0:
                    assert shares[image, :, row, column].sum() == 0
                    assert majority[image, row, column] == objects[image, row, column] == ignored
                    continue
                expected = [count / sum(counts) for count in counts]
                assert shares[image, :, row, column].tolist() == pytest.approx(expected)
                assert majority[image, row, column] == counts.index(max(counts))
                best = max(counts[1:])
                wins = best / sum(counts) >= 0.2
                assert objects[image, row, column] == (counts.index(best, 1) if wins else counts.index(max(counts)))


def test_a_small_object_survives_where_nearest_and_majority_lose_it():
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[0, :4, :4] = 2  # a quarter of the first 8 x 8 cell, and not its middle
    assert resize_target(target, (2, 2)).max() == 0
    assert majority_target(target, 3, 3).max() == 0
    assert object_target(target, 3, 3, share=0.25)[0].tolist() == [[2, 0], [0, 0]]
    assert object_target(target, 3, 3, share=0.3).max() == 0


def test_objects_win_over_every_class_of_the_background():
    target = torch.tensor([[[1, 1, 1, 2], [1, 1, 1, 1], [3, 3, 1, 1], [0, 3, 1, 0]]])  # one cell of 16 pixels
    assert object_target(target, 2, 4, share=0.0625).item() == 1  # a common object beside class 0
    assert object_target(target, 2, 4, share=0.0625, background=(0, 1)).item() == 3
    assert object_target(target, 2, 4, share=0.2, background=(0, 1)).item() == 1  # too small a share
    assert object_target(target, 2, 4, share=0.0625, background=(0, 1, 3)).item() == 2


def test_a_background_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r'background must be classes from 0 to 3, got \(0, 4\)'):
        object_target(torch.zeros(1, 4, 4, dtype=torch.int64), 2, 4, background=(0, 4))


def test_masks_of_several_labels_are_averaged():
    target = torch.zeros(1, 2, 5, 6)
    target[0, 0, :2, :2] = 1
    target[0, 1, 4, :2] = 1  # all of a cell that is cut off at the edge
    soft = soft_target(target, 2, 2)
    assert soft[0, 0].tolist() == [[0.25, 0], [0, 0]]
    assert soft[0, 1].tolist() == [[0, 0], [0.5, 0]]
    assert majority_target(target, 2, 2)[0, 1].tolist() == [[0, 0], [1, 0]]
    assert object_target(target, 2, 2, share=0.25)[0, 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize('scale', [1, 2, 3])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_ignored_entries_of_masks_do_not_count(scale, dtype):
    torch.manual_seed(0)
    masks, cell = torch.randint(2, (2, 3, 11, 14)), 2 ** scale
    masks[torch.rand(masks.shape) < 0.3] = 255
    masks[0, 1, :8, :8] = 255
    masks = masks.to(dtype)
    soft, majority, objects = (
        function(masks, scale, 3, 255) for function in (soft_target, majority_target, object_target))
    assert majority.dtype == objects.dtype == dtype
    for place in torch.cartesian_prod(*map(torch.arange, soft.shape)).tolist():
        image, label, row, column = place
        part = masks[image, label, row * cell:(row + 1) * cell, column * cell:(column + 1) * cell].float()
        part = part[part != 255]
        got = soft[tuple(place)], majority[tuple(place)], objects[tuple(place)]
        mean = part.mean().item() if len(part) else 255
        assert got == ((pytest.approx(mean), mean >= 0.5, mean >= 0.25) if len(part) else (255, 255, 255))


@pytest.mark.parametrize('function', [cell_shares, majority_target, object_target, soft_target])
def test_labels_outside_the_classes_are_refused_and_not_counted_elsewhere(function):
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    for wrong in (3, -1, 255):
        target[0, 0, 0] = wrong
        with pytest.raises(ValueError, match=f'target must be in 0..2, got values from .*{wrong}.* as ignore_index'):
            function(target, 1, 3)
    assert function(target, 1, 3, 255).shape[-2:] == (2, 2)


def test_labels_are_whole_numbers_of_any_dtype():
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        assert check_labels(torch.tensor([0, 1, 1]).to(dtype), 2).tolist() == [0, 1, 1]
    assert check_labels(torch.tensor([], dtype=torch.long), 2).numel() == 0
    for wrong in (0.5, math.nan):
        with pytest.raises(ValueError, match='mask must hold whole numbers'):
            check_labels(torch.tensor([0., wrong]), 2, name='mask')
