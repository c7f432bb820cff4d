import math

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT

from rexnet_timm.training.metrics import (
    BoundaryCounts,
    CalibrationSums,
    ConfusionMatrix,
    boundary_band,
    distinct_names,
)


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


def test_precision_is_the_share_of_right_pixels_among_the_predicted():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 2, 1, 1, 0]))
    precision = matrix.precision().tolist()
    assert precision[:2] == pytest.approx([1 / 2, 2 / 3])
    assert math.isnan(precision[2]) and math.isnan(precision[3])  # never predicted, present or not
    ignored = ConfusionMatrix(2, 0)
    ignored.update(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0]))
    assert math.isnan(ignored.precision()[0]) and ignored.precision()[1] == 1


def band_by_hand(labels: torch.Tensor, distance: int, valid: torch.Tensor) -> torch.Tensor:
    """Each pixel by a look at its square."""
    height, width = labels.shape
    band = torch.zeros_like(valid)
    for y in range(height):
        for x in range(width):
            rows = slice(max(y - distance, 0), y + distance + 1)
            columns = slice(max(x - distance, 0), x + distance + 1)
            square = labels[rows, columns][valid[rows, columns]]
            leaves = y < distance or x < distance or y + distance >= height or x + distance >= width
            band[y, x] = valid[y, x] and (leaves or bool((square != labels[y, x]).any()))
    return band


@pytest.mark.parametrize('distance', [1, 2, 3, 5, 8, 30])
def test_the_band_is_what_erosion_by_a_square_takes_away(distance):
    generator = torch.Generator().manual_seed(distance)
    labels = torch.randint(0, 3, (3, 4), generator=generator).repeat_interleave(8, 0).repeat_interleave(9, 1)
    valid = torch.rand(labels.shape, generator=generator) > 0.1
    assert torch.equal(boundary_band(labels, distance, valid), band_by_hand(labels, distance, valid))
    assert torch.equal(boundary_band(labels, distance), band_by_hand(labels, distance, torch.ones_like(valid)))


def erosion_iou(prediction: torch.Tensor, target: torch.Tensor, label: int) -> float:
    """The paper's formula: masks eroded by 3 x 3 squares, d times, with nothing outside the image."""
    distance = max(1, round(0.02 * math.hypot(*target.shape)))
    bands = []
    for mask in (prediction == label, target == label):
        eroded = mask.float()[None, None]
        for _ in range(distance):
            padded = torch.nn.functional.pad(eroded, (1, 1, 1, 1))
            eroded = -torch.nn.functional.max_pool2d(-padded, 3, 1)
        bands.append(mask & (eroded[0, 0] == 0))
    return ((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()).item()


def test_boundary_iou_is_that_of_masks_without_their_eroded_part():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (5, 7), generator=generator).repeat_interleave(24, 0).repeat_interleave(30, 1)
    prediction = target.roll((3, -2), (0, 1))
    counts = BoundaryCounts(4)
    counts.update(prediction, target)
    iou = counts.iou().tolist()
    assert iou[:3] == pytest.approx([erosion_iou(prediction, target, label) for label in range(3)])
    assert math.isnan(iou[3]) and 0 < min(iou[:3]) < max(iou[:3]) < 0.9


@pytest.mark.parametrize('ignored', [2, 9])
def test_ignored_pixels_make_no_boundary(ignored):
    target = torch.zeros(60, 80, dtype=torch.int64)
    target[:, 40:] = 1
    target[20:30, 10:20] = ignored
    prediction = target.where(target != ignored, 1)  # whatever is there
    counts = BoundaryCounts(3, ignored)
    counts.update(prediction, target)
    assert counts.iou()[:2].tolist() == [1, 1] and math.isnan(counts.iou()[2])
    inside = boundary_band(target, 2, target != ignored)
    assert not inside[15:35, 5:25].any()


def test_boundary_counts_add_up_over_images_and_refuse_what_does_not_fit():
    a, b = torch.zeros(40, 40, dtype=torch.int64), torch.ones(40, 40, dtype=torch.int64)
    counts = BoundaryCounts(2)
    counts.update(a, a)
    counts.update(b, a)
    band = 40 * 40 - 38 * 38  # d is 1
    assert counts.counts.tolist() == [[band, 0], [2 * band, 0], [band, band]]
    assert counts.iou().tolist() == [0.5, 0]
    with pytest.raises(ValueError, match=r'one image \(H, W\), got \(2, 4, 4\)'):
        counts.update(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match='at least 1 pixel, got 0'):
        boundary_band(a, 0)


def test_calibration_error_by_hand():
    sums = CalibrationSums(num_bins=2)
    sums.update(torch.tensor([0.5, 0.4, 0.9, 1.0]), torch.tensor([True, False, True, False]))
    # 0.5 is in the lower bin: |1/2 - 0.45| and |1/2 - 0.95|, each of half of the pixels
    assert sums.error() == pytest.approx(0.5 * 0.05 + 0.5 * 0.45)
    assert math.isnan(CalibrationSums().error())


CAMVID = ROOT.parent / 'shared' / 'data' / 'camvid' / 'valannot'


@pytest.mark.skipif(not CAMVID.is_dir(), reason='needs the CamVid masks of shared/data/camvid')
def test_metrics_of_real_masks_agree_with_torchmetrics():
    functional = pytest.importorskip('torchmetrics.functional.classification')
    masks = [torch.from_numpy(np.array(Image.open(path))).long() for path in sorted(CAMVID.glob('*.png'))[:6]]
    matrix, pairs = ConfusionMatrix(11, 11), []
    for target, other in zip(masks, masks[1:] + masks[:1], strict=True):  # the next frame is a likely prediction
        prediction = other.where(other != 11, 0)
        matrix.update(prediction, target)
        pairs.append((prediction[target != 11], target[target != 11]))
    prediction, target = (torch.cat(part) for part in zip(*pairs, strict=True))
    for name, values in (
            ('jaccard_index', matrix.iou()), ('f1_score', matrix.dice()), ('precision', matrix.precision()),
            ('recall', matrix.recall())):
        expected = getattr(functional, f'multiclass_{name}')(prediction, target, num_classes=11, average='none')
        torch.testing.assert_close(values.nan_to_num().float(), expected)  # 0 is its ratio without a pixel


def test_metrics_agree_with_torchmetrics():
    functional = pytest.importorskip('torchmetrics.functional')
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 5, 40, 50, generator=generator)
    target = logits.argmax(1).where(torch.rand(3, 40, 50, generator=generator) < 0.6, torch.randint(
        0, 5, (3, 40, 50), generator=generator))
    target[:, :7] = 255
    prediction, valid = logits.argmax(1), target != 255
    matrix, calibration = ConfusionMatrix(5, 255), CalibrationSums()
    matrix.update(prediction, target)
    calibration.update(logits.softmax(1).amax(1)[valid], prediction[valid] == target[valid])
    # without ignored pixels, which not all of torchmetrics knows
    p, t, options = prediction[valid], target[valid], dict(num_classes=5, average='none')
    for name, values in (
            ('jaccard_index', matrix.iou()), ('f1_score', matrix.dice()), ('precision', matrix.precision()),
            ('recall', matrix.recall())):
        expected = getattr(functional.classification, f'multiclass_{name}')(p, t, **options)
        torch.testing.assert_close(values.float(), expected)
    error = functional.classification.multiclass_calibration_error(
        logits.softmax(1).movedim(1, -1)[valid], t, num_classes=5, n_bins=15)
    assert calibration.error() == pytest.approx(error.item(), abs=1e-6)
