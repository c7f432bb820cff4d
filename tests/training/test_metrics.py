import math

import numpy as np
import pytest
import torch

from rexnet_timm.training.metrics import ConfusionMatrix


def test_metrics_agree_with_counting_by_hand():
    prediction = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 0]])
    target = torch.tensor([[0, 1, 1, 1, 2, 0, 9, 9]])
    matrix = ConfusionMatrix(4, ignore_index=9)
    matrix.update(prediction, target)
    assert matrix.counts[:3, :3].tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 1]]
    iou = matrix.iou().tolist()
    assert iou[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2]) and math.isnan(iou[3])
    assert matrix.dice().tolist()[:3] == pytest.approx([1 / 2, 4 / 5, 2 / 3])
    assert matrix.recall().tolist()[:3] == pytest.approx([1 / 2, 2 / 3, 1])
    assert matrix.pixel_accuracy() == pytest.approx(4 / 6)
    summary = matrix.summary(['a', 'b', 'c', 'd'])
    assert summary['miou'] == pytest.approx(100 * (1 / 3 + 2 / 3 + 1 / 2) / 3)  # d is neither present nor predicted
    assert summary['iou_b'] == pytest.approx(100 * 2 / 3)


def test_batches_sum_to_the_whole():
    rng = np.random.default_rng(0)
    prediction, target = (torch.from_numpy(rng.integers(0, 5, (6, 20, 20))) for _ in range(2))
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(prediction, target)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        parts.update(prediction[part], target[part])
    assert torch.equal(whole.counts, parts.counts)
    assert int(whole.counts.sum()) == target.numel()


def test_a_class_that_is_only_predicted_counts_as_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 2]), torch.tensor([0, 0]))
    assert matrix.iou()[2] == 0
    assert matrix.summary()['miou'] == pytest.approx(25.)


@pytest.mark.parametrize('prediction, target, message', [
    ([0, 1], [0, 3], r'target must be in 0..2 or the ignore_index 255, got values from 0 to 3'),
    ([0, 3], [0, 1], r'prediction must be in 0..2'),
    ([0, 1, 2], [0, 1], r'one shape, got \(3,\) and \(2,\)'),
])
def test_wrong_labels_are_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3, 255).update(torch.tensor(prediction), torch.tensor(target))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match='at least 2 .* got 1'):
        ConfusionMatrix(1)
