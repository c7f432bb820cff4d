import math

import pytest
import torch

from rexnet_timm.training.targets import cell_shares, majority_target, object_target, resize_target, soft_target


@pytest.mark.parametrize('size', [(12, 17), (6, 9), (3, 5), (24, 33)])
def test_resized_targets_hold_the_label_in_the_middle(size):
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(33), indexing='ij')
    target = (100 * rows + columns)[None]
    resized = resize_target(target, size)[0]
    for i in range(size[0]):
        for j in range(size[1]):
            row, column = math.floor((i + 0.5) * 24 / size[0]), math.floor((j + 0.5) * 33 / size[1])
            assert resized[i, j] == 100 * row + column


@pytest.mark.parametrize('dtype', [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_resized_targets_invent_no_label_and_keep_their_dtype(dtype):
    target = torch.randint(2, (2, 40, 30)).mul(200).to(dtype)
    resized = resize_target(target, (5, 4))
    assert resized.dtype == dtype
    assert set(resized.unique().tolist()) <= set(target.unique().tolist())


def labels(size=(11, 14), classes=5, batch=2) -> torch.Tensor:
    torch.manual_seed(0)
    target = torch.randint(classes, (batch, *size))
    target[torch.rand(target.shape) < 0.2] = 255
    target[0, :4, :4] = 255
    return target


@pytest.mark.parametrize('scale', [0, 1, 2, 3])
def test_shares_majority_and_objects_agree_with_counting_by_hand(scale):
    target, cell = labels(), 2 ** scale
    shares = cell_shares(target, scale, 5, 255)
    majority = majority_target(target, scale, 5, 255)
    objects = object_target(target, scale, 5, 255, share=0.2)
    assert shares.shape == (2, 5, -(-11 // cell), -(-14 // cell))
    for image in range(2):
        for row in range(shares.shape[2]):
            for column in range(shares.shape[3]):
                part = target[image, row * cell:(row + 1) * cell, column * cell:(column + 1) * cell]
                counts = [(part == label).sum().item() for label in range(5)]
                if sum(counts) == 0:
                    assert shares[image, :, row, column].sum() == 0
                    assert majority[image, row, column] == objects[image, row, column] == 255
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


def test_a_background_class_that_there_is_not_is_refused():
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
