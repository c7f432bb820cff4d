import logging
import math

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from rexnet_timm import MultiScaleLoss, SegmentationTask
from rexnet_timm.training.base_losses import create_segmentation_loss
from rexnet_timm.training.engine import evaluate, fit, train_one_epoch
from rexnet_timm.training.tasks import SegmentationEvaluator


def logits_of(target: torch.Tensor, channels: int) -> torch.Tensor:
    """The logits of a perfect prediction of labels (N, H, W)."""
    if channels == 1:
        return 2. * target[:, None] - 1
    return nn.functional.one_hot(target, channels).movedim(-1, 1).float()


# Binary masks.


def test_a_binary_task_learns_with_its_default_loss():
    torch.manual_seed(0)
    masks = torch.randint(2, (4, 16, 16))
    batches = [(masks[:, None] + 0.3 * torch.randn(4, 1, 16, 16), masks.clone())]
    batches[0][1][:, :4] = 255
    task = SegmentationTask(nn.Conv2d(1, 1, 1), 1, ignore_index=255, class_names=['tumour'], verbose=False)
    before = evaluate(task, batches)
    optimizer = torch.optim.SGD(task.parameters(), 2.)
    for epoch in range(60):
        train_one_epoch(task, batches, optimizer, epoch)
    after = evaluate(task, batches)
    assert list(after) == ['loss', 'miou', 'mdice', 'macc', 'pixel_acc', 'iou_background', 'iou_tumour']
    assert after['loss'] < 0.5 * before['loss'] and after['miou'] > 85 > before['miou']
    logits = task.get_eval_model()(batches[0][0])[:, 0, 4:]
    # images of equally many labelled pixels, so that the mean of their means is that of all pixels
    expected = nn.functional.binary_cross_entropy_with_logits(logits, masks[:, 4:].float())
    assert after['loss'] == pytest.approx(expected.item())


@pytest.mark.parametrize('names, expected', [
    (None, ['iou_0', 'iou_1']), (['cell'], ['iou_background', 'iou_cell']),
    (('ground', 'cell'), ['iou_ground', 'iou_cell']),
])
def test_a_perfect_binary_prediction(names, expected):
    target = torch.randint(2, (2, 8, 8))
    target[0] = 0  # an image without an object
    for ignore_index in (None, 255):
        evaluator = SegmentationEvaluator(1, ignore_index, names)
        evaluator.update(logits_of(target, 1), target)
        metrics = evaluator.compute()
        assert list(metrics)[-2:] == expected
        assert set(metrics.values()) == {100}


def test_a_binary_prediction_counted_by_hand():
    evaluator = SegmentationEvaluator(1, 255, ['object'])
    evaluator.update(torch.tensor([[[[1., -1., 2., -3., 0.]]]]), torch.tensor([[[1, 1, 0, 255, 0]]]))
    metrics = evaluator.compute()  # 1, 0, 1, ignored, 0
    assert metrics['iou_object'] == pytest.approx(100 / 3) and metrics['iou_background'] == pytest.approx(100 / 3)


# What evaluators count.


@pytest.mark.parametrize('name', ['ce', 'dice', 'focal', 'lovasz'])
@pytest.mark.parametrize('channels', [1, 3])
def test_no_metric_depends_on_the_batch_size(name, channels):
    torch.manual_seed(0)
    output, target = torch.randn(6, channels, 8, 10), torch.randint(max(2, channels), (6, 8, 10))
    target[0, :7] = target[1, :3] = target[4] = 255  # different numbers of labelled pixels, one of them 0
    loss = create_segmentation_loss(name, channels, 255)
    results = []
    for size in (1, 2, 4, 6):
        evaluator = SegmentationEvaluator(channels, 255, criterion=MultiScaleLoss(loss).finest)
        for part in range(0, 6, size):
            evaluator.update(output[part:part + size], target[part:part + size])
        results.append(evaluator.compute())
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)
    expected = [loss(output[i:i + 1], target[i:i + 1]).item() for i in (0, 1, 2, 3, 5)]
    assert results[0]['loss'] == pytest.approx(sum(expected) / 5)


def test_an_ignored_class_has_no_part_in_the_metrics():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), 3, ignore_index=0, class_names=['void', 'a', 'b'], verbose=False)
    target = torch.randint(3, (2, 8, 8))
    evaluator = task.create_evaluator()
    evaluator.update(100 * logits_of(target.clamp(min=1), 3), target)
    metrics = evaluator.compute()
    assert metrics['miou'] == 100 and metrics['loss'] < 1e-6 and math.isnan(metrics['iou_void'])


@pytest.mark.parametrize('channels', [1, 3])
def test_labels_with_a_channel(channels):
    target = torch.randint(2, (2, 8, 8))
    output = torch.randn(2, channels, 8, 8)
    task = SegmentationTask(nn.Identity(), channels, verbose=False)
    torch.testing.assert_close(task(output, target[:, None]), task(output, target))
    evaluators = [task.create_evaluator() for _ in range(2)]
    evaluators[0].update(output, target)
    evaluators[1].update(output, target[:, None])
    assert evaluators[0].compute() == pytest.approx(evaluators[1].compute(), nan_ok=True)


@pytest.mark.parametrize('output, target, message', [
    (torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 3), r'target must be in 0..2 or the ignore_index 255'),
    (torch.randn(1, 3, 4, 4), torch.full((1, 4, 4), 0.5), r'target must hold whole numbers'),
    (torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4), r'logits \(N, 3, H, W\) and labels .*, got \(1, 2, 4, 4\)'),
    (torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), r'got .* and \(1, 3, 4, 4\); masks of several labels'),
    (torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 5), r'one shape, got \(1, 4, 4\) and \(1, 4, 5\)'),
])
def test_wrong_batches_are_refused(output, target, message):
    with pytest.raises(ValueError, match=message):
        SegmentationEvaluator(3, 255, criterion=nn.CrossEntropyLoss(ignore_index=255)).update(output, target)


# Nothing counted, and names.


def test_an_evaluation_without_a_label_is_an_error_that_names_the_cause():
    task = SegmentationTask(nn.Conv2d(3, 3, 1), 3, ignore_index=255, verbose=False)
    batches = [(torch.randn(2, 3, 8, 8), torch.full((2, 8, 8), 255))]
    for given in (batches, []):
        with pytest.raises(ValueError, match='must have a labelled pixel, got none: .* the ignore_index 255; correct'):
            evaluate(task, given)


def test_the_names_of_metrics_need_no_evaluation():
    torch.manual_seed(0)
    task = SegmentationTask(nn.Conv2d(3, 2, 1), 2, verbose=False)
    evaluator = task.create_evaluator()
    assert evaluator.metric_names == ('loss', 'miou', 'mdice', 'macc', 'pixel_acc', 'iou_0', 'iou_1')
    assert SegmentationEvaluator(2).metric_names == evaluator.metric_names[1:]
    batches = [(torch.randn(2, 3, 8, 8), torch.randint(2, (2, 8, 8)))]
    assert tuple(evaluate(task, batches)) == evaluator.metric_names
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    fit(task, batches, batches, optimizer, 1, eval_metric='iou_1')
    with pytest.raises(ValueError, match='must be one of loss, miou, .* got .iou_7'):
        fit(task, batches, batches, optimizer, 1, eval_metric='iou_7')


def test_classes_of_one_name_are_said_and_none_is_lost(caplog):
    with caplog.at_level(logging.WARNING):
        task = SegmentationTask(nn.Identity(), 3, class_names=['pole', 'car', 'pole'])
    assert 'Several classes have one name' in caplog.text and 'pole (class 0), car, pole (class 2)' in caplog.text
    evaluator = task.create_evaluator()
    evaluator.update(logits_of(torch.tensor([[[0, 1, 2, 2]]]), 3), torch.tensor([[[0, 1, 0, 2]]]))
    metrics = evaluator.compute()
    assert (metrics['iou_pole (class 0)'], metrics['iou_car'], metrics['iou_pole (class 2)']) == (50, 100, 50)


@pytest.mark.parametrize('channels, names, message', [
    (3, ['a', 'b'], 'one name for each of the 3 classes, .* got 2: a, b'),
    (3, ['a', 'b', 'c', 'd'], 'got 4: a, b, c, d'), (2, 'ab', "got 'ab'"), (1, 'cell', "got 'cell'"),
    (1, ['a', 'b', 'c'], 'that of the foreground, or those of background and foreground, got 3: a, b, c'),
    (1, [], 'got 0'),
])
def test_a_wrong_number_of_names_is_refused_at_once(channels, names, message):
    for make in (SegmentationEvaluator, lambda *args, **kwargs: SegmentationTask(nn.Identity(), *args, **kwargs)):
        with pytest.raises(ValueError, match=message):
            make(channels, class_names=names)


# Criteria.


@pytest.mark.parametrize('criterion', [
    nn.CrossEntropyLoss(ignore_index=255),
    nn.CrossEntropyLoss(),
    smp.losses.DiceLoss('multiclass', ignore_index=255),
    smp.losses.DiceLoss('multiclass'),
    smp.losses.FocalLoss('multiclass'),
    lambda logits, labels: nn.functional.cross_entropy(logits, labels, ignore_index=255),
    [nn.CrossEntropyLoss(ignore_index=255), smp.losses.LovaszLoss('multiclass', ignore_index=255)],
], ids=lambda criterion: type(criterion).__name__)
def test_criteria_of_others(criterion):
    torch.manual_seed(0)
    target = torch.randint(3, (2, 8, 8))
    target[0, :4] = 255
    outputs = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)
    task = SegmentationTask(nn.Identity(), 3, criterion, ignore_index=255, verbose=False)
    result = task(outputs, target)
    first = criterion[0] if isinstance(criterion, list) else criterion
    if getattr(first, 'ignore_index', 255) == 255:
        torch.testing.assert_close(result['loss_scale_0'], first(outputs[0], target).detach())
    result['loss'].backward()
    assert (outputs[0].grad[0, :, :4] == 0).all() and outputs[0].grad[0, :, 4:].abs().sum() > 0
    evaluator = task.create_evaluator()
    evaluator.update(outputs[0], target)
    assert 0 < evaluator.compute()['loss'] < 3


def test_the_ignored_label_of_the_criterion_is_that_of_the_metrics():
    task = SegmentationTask(nn.Identity(), 3, nn.CrossEntropyLoss(ignore_index=255), verbose=False)
    target = torch.tensor([[[0, 1, 2, 255]]])
    evaluator = task.create_evaluator()
    evaluator.update(logits_of(target.clamp(max=2), 3), target)
    assert evaluator.compute()['miou'] == 100
