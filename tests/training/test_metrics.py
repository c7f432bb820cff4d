import math

import numpy as np
import pytest
import torch

from rexnet_timm.training.metrics import ConfusionMatrix, distinct_names


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
    ([0, 1], [0.5, 1], r'target must hold whole numbers'),
    ([0, 1, 2], [0, 1], r'one shape, got \(3,\) and \(2,\)'),
])
def test_wrong_labels_are_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3, 255).update(torch.tensor(prediction), torch.tensor(target))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match='at least 2 .* got 1'):
        ConfusionMatrix(1)


@pytest.mark.parametrize('ignored', [0, 2])
def test_an_ignored_class_is_no_class_of_the_means(ignored):
    a, b = (label for label in range(3) if label != ignored)
    target = torch.tensor([ignored] * 2 + [a] * 4 + [b] * 4)
    matrix = ConfusionMatrix(3, ignored)
    matrix.update(target.where(target != ignored, a), target)
    assert {matrix.summary()[name] for name in ('miou', 'mdice', 'macc', 'pixel_acc')} == {100}
    prediction = target.clone()
    prediction[5] = ignored  # one pixel of class a is missed, and no class has it too much
    matrix = ConfusionMatrix(3, ignored)
    matrix.update(prediction, target)
    summary = matrix.summary()
    assert summary['miou'] == pytest.approx(100 * (3 / 4 + 1) / 2)
    assert summary['mdice'] == pytest.approx(100 * (6 / 7 + 1) / 2)
    assert summary['macc'] == pytest.approx(100 * (3 / 4 + 1) / 2)
    assert summary['pixel_acc'] == pytest.approx(100 * 7 / 8)
    assert math.isnan(summary[f'iou_{ignored}']) and summary[f'iou_{a}'] == 75 and summary[f'iou_{b}'] == 100


def test_classes_of_one_name_are_told_apart():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 1, 1, 3]), torch.tensor([0, 1, 3, 3]))
    summary = matrix.summary(['road', 'pole', 'car', 'pole'])
    assert [name for name in summary if name.startswith('iou_')] == [
        'iou_road', 'iou_pole (class 1)', 'iou_car', 'iou_pole (class 3)']
    assert summary['iou_pole (class 1)'] == 50
    assert len(set(distinct_names(['a', 'a', 'a (class 1)'], 3))) == 3


@pytest.mark.parametrize('names, message', [
    (['a', 'b'], 'one name for each of the 3 classes, .* got 2: a, b'),
    (['a', 'b', 'c', 'd'], 'got 4: a, b, c, d'), ('abc', "got 'abc'"),
])
def test_a_wrong_number_of_names_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).summary(names)
