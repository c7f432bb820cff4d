"""Depth: the losses by their identities, the metrics, and the task that brings them together."""
import math

import pytest
import torch

import rexnet_timm
from rexnet_timm.disparity import disparity_to_depth
from rexnet_timm.training.depth_losses import (
    MultiScaleDepthLoss,
    ScaleInvariantLogLoss,
    edge_aware_smoothness,
    scale_invariant_log,
)
from rexnet_timm.training.engine import evaluate, train_one_epoch
from rexnet_timm.training.losses import MultiScaleLoss
from rexnet_timm.training.metrics import DepthErrors
from rexnet_timm.training.tasks import DepthEvaluator

# Losses.


def depths(seed: int = 0, shape=(3, 8, 10)) -> torch.Tensor:
    return torch.empty(shape).uniform_(1, 20, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('variance_focus', [0., 0.5, 1.])
def test_a_perfect_prediction_costs_nothing(variance_focus):
    assert scale_invariant_log(depths(), depths(), variance_focus=variance_focus) == 0


@pytest.mark.parametrize('variance_focus', [0., 0.3, 0.85])
def test_the_loss_is_eigens_formula(variance_focus):
    prediction, target = depths(0), depths(1)
    error = (prediction.log() - target.log()).flatten(1)
    expected = (error ** 2).mean(1) - variance_focus * error.mean(1) ** 2
    actual = scale_invariant_log(prediction, target, variance_focus=variance_focus)
    torch.testing.assert_close(actual, expected.mean())


def test_a_common_factor_costs_nothing_with_variance_alone():
    prediction, target = depths(0), depths(1)
    factors = torch.tensor([0.2, 3., 10.])[:, None, None]  # one for each image
    alone, scaled = (scale_invariant_log(p, target, variance_focus=1.) for p in (prediction, factors * prediction))
    assert alone > 0.1
    torch.testing.assert_close(alone, scaled)
    assert scale_invariant_log(factors * target, target, variance_focus=1.) < 1e-10
    assert scale_invariant_log(factors * target, target, variance_focus=0.5) > 0.5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_losses_under_autocast(dtype):
    torch.manual_seed(0)
    criterion, layer = MultiScaleDepthLoss(1., 50., smoothness=0.5), torch.nn.Conv2d(3, 1, 1)
    images, depth = torch.randn(2, 3, 16, 20), depths(0, (2, 16, 20))

    def losses():
        return criterion({
            ('disp', 0): layer(images).sigmoid(), ('disp', 2): layer(images[..., ::4, ::4]).sigmoid()}, depth, images)

    expected = losses()
    with torch.autocast('cpu', dtype):
        assert layer(images).dtype == dtype
        actual = losses()
    assert all(value.dtype == torch.float32 for value in actual.values())
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0)
    gradients = [torch.autograd.grad(loss['loss'], layer.weight)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients, rtol=0.1, atol=0.05 * gradients[1].abs().max())


def test_swapping_prediction_and_truth_changes_nothing():
    # |log(a / b)| is symmetric, so depth and disparity (1 / depth) cost the same
    one, other = depths(0), depths(1)
    torch.testing.assert_close(scale_invariant_log(one, other), scale_invariant_log(other, one))
    torch.testing.assert_close(scale_invariant_log(one, other), scale_invariant_log(1 / one, 1 / other))


@pytest.mark.parametrize('missing', [0., math.nan, math.inf, 1000.])
def test_pixels_without_depth_do_not_count(missing):
    loss = ScaleInvariantLogLoss(1., 50.)
    disparity, target = torch.rand(2, 1, 6, 8), depths(0, (2, 6, 8))
    cut = loss(disparity[..., :5], target[..., :5])
    target[..., 5:] = missing
    disparity.requires_grad_()
    whole = loss(disparity, target)
    torch.testing.assert_close(whole, cut)
    whole.backward()
    assert disparity.grad.isfinite().all()
    assert (disparity.grad[..., 5:] == 0).all() and (disparity.grad[..., :5] != 0).any()


def test_an_image_without_depth_does_not_count():
    loss = ScaleInvariantLogLoss(1., 50.)
    disparity, target = torch.rand(2, 1, 6, 8), depths(0, (2, 6, 8))
    target[1] = 0
    torch.testing.assert_close(loss(disparity, target), loss(disparity[:1], target[:1]))


@pytest.mark.parametrize('missing', [0., math.nan])
def test_a_batch_without_any_depth_costs_nothing_and_moves_nothing(missing):
    outputs = {('disp', scale): torch.rand(2, 1, 32 >> scale, 40 >> scale, requires_grad=True) for scale in range(3)}
    losses = MultiScaleDepthLoss(smoothness=0.)(outputs, torch.full((2, 32, 40), missing), torch.randn(2, 3, 32, 40))
    assert losses['loss'] == 0
    losses['loss'].backward()
    assert all((output.grad == 0).all() for output in outputs.values())


def test_a_constant_disparity_is_smooth():
    assert edge_aware_smoothness(torch.full((2, 1, 5, 6), 0.3), torch.randn(2, 3, 5, 6)) == 0


def test_smoothness_of_a_step_counted_by_hand():
    disparity, image = torch.full((1, 1, 2, 4), 0.1), torch.zeros(1, 3, 2, 4)
    disparity[..., 2:] = 0.3  # mean 0.2: a step of 1 at one of three places
    torch.testing.assert_close(edge_aware_smoothness(disparity, image), torch.tensor(1 / 3))
    image[..., 2:] = 2.  # the same edge in the image
    torch.testing.assert_close(edge_aware_smoothness(disparity, image), torch.tensor(math.exp(-2) / 3))
    torch.testing.assert_close(edge_aware_smoothness(7 * disparity, image), torch.tensor(math.exp(-2) / 3))
    turned = edge_aware_smoothness(disparity.transpose(2, 3), image.transpose(2, 3))
    torch.testing.assert_close(turned, torch.tensor(math.exp(-2) / 3))


def test_smoothness_of_one_row():
    disparity = torch.rand(1, 1, 1, 4, requires_grad=True)
    edge_aware_smoothness(disparity, torch.randn(1, 3, 1, 4)).backward()
    assert disparity.grad.isfinite().all()


@pytest.mark.parametrize('size', [(32, 40), (45, 70)])
def test_the_sum_over_scales(size):
    torch.manual_seed(0)
    target, image = torch.rand(2, *size) * 20 + 1, torch.randn(2, 3, *size)
    outputs = {
        ('disp', scale): torch.rand(2, 1, -(-size[0] // 2 ** scale), -(-size[1] // 2 ** scale)) for scale in (0, 1, 3)}
    criterion = MultiScaleDepthLoss(1., 50., weights='two', smoothness=0.25)
    losses = criterion(outputs, target, image)
    assert list(losses) == ['loss', 'loss_scale_0', 'loss_scale_1', 'loss_scale_3', 'loss_smooth']
    weighted = losses['loss_scale_0'] / 2 + losses['loss_scale_1'] / 4 + losses['loss_scale_3'] / 4
    torch.testing.assert_close(losses['loss'], weighted + 0.25 * losses['loss_smooth'])
    base_loss = ScaleInvariantLogLoss(1., 50.)
    torch.testing.assert_close(losses['loss_scale_0'], base_loss(outputs['disp', 0], target))
    torch.testing.assert_close(losses['loss_scale_0'], criterion.finest(outputs['disp', 0], target))
    multi_scale = MultiScaleLoss(base_loss, weights='two')(list(outputs.values()), target)
    torch.testing.assert_close(weighted, multi_scale)


def test_coarse_scales_can_fade():
    criterion = MultiScaleDepthLoss(smoothness=0., fade_epochs=(0, 2))
    outputs = {('disp', scale): torch.rand(2, 1, 32 >> scale, 32 >> scale) for scale in range(2)}
    batch = outputs, torch.rand(2, 32, 32) * 20 + 1, torch.randn(2, 3, 32, 32)
    before = criterion(*batch)
    criterion.set_epoch(2)
    after = criterion(*batch)
    torch.testing.assert_close(after['loss'], after['loss_scale_0'])
    assert not torch.isclose(before['loss'], before['loss_scale_0'])


# Metrics.


def test_metrics_agree_with_counting_by_hand():
    errors = DepthErrors(1., 50.)
    errors.update(torch.tensor([[2., 4., 13., 40., 7., 7.]]), torch.tensor([[2., 5., 10., 10., 0., math.nan]]))
    summary = errors.summary()
    assert summary['abs_rel'] == pytest.approx((0 + 1 / 5 + 3 / 10 + 30 / 10) / 4)
    assert summary['rmse'] == pytest.approx(math.sqrt((0 + 1 + 9 + 900) / 4))
    # ratios 1, 1.25 (which is not below it), 1.3 and 4
    assert (summary['delta1'], summary['delta2'], summary['delta3']) == (25., 75., 75.)


def test_the_best_metrics():
    errors = DepthErrors()
    errors.update(depths(), depths())
    assert errors.summary() == {'abs_rel': 0, 'rmse': 0, 'delta1': 100, 'delta2': 100, 'delta3': 100}


def test_batches_sum_to_the_whole():
    prediction, target = depths(0), depths(1)
    target[0, :4] = 0
    whole, parts = DepthErrors(), DepthErrors()
    whole.update(prediction, target)
    for index in range(3):
        parts.update(prediction[index], target[index])
    torch.testing.assert_close(parts.sums, whole.sums, rtol=1e-12, atol=0)
    assert whole.sums[0] == (target > 0).sum()


def test_nothing_counted_is_not_a_number():
    assert all(math.isnan(value) for value in DepthErrors().summary().values())


def test_the_evaluator_takes_the_finest_disparity_and_leaves_out_padding():
    evaluator = DepthEvaluator(1., 50., max_samples=3)
    truth = torch.rand(4, 1, 8, 8)
    target = disparity_to_depth(truth[:, 0], 1., 50.)
    target[3] = 1.  # the padding of a sampler
    for part in (slice(0, 2), slice(2, 4)):
        evaluator.update({('disp', 2): torch.rand(2, 1, 2, 2), ('disp', 0): truth[part]}, target[part])
    metrics = evaluator.compute()
    assert metrics['abs_rel'] < 1e-5 and metrics['delta1'] == 100
    assert evaluator.counts.sums[0] == 3 * 64
    assert {evaluator.default_metric, 'rmse', 'loss'} == set(evaluator.decreasing_metrics)


@pytest.mark.parametrize('size', [(9, 13), (16, 16), (32, 33)])
@pytest.mark.parametrize('scale', [1, 2, 3])
def test_the_evaluator_enlarges_a_coarse_disparity_on_its_grid(size, scale):
    torch.manual_seed(0)
    coarse = torch.rand(2, 1, *(-(-length // 2 ** scale) for length in size))
    fine = torch.nn.functional.interpolate(coarse, scale_factor=2 ** scale, mode='bilinear')[..., :size[0], :size[1]]
    evaluator = DepthEvaluator(1., 50.)
    evaluator.update({('disp', scale): coarse}, disparity_to_depth(fine[:, 0], 1., 50.))
    assert evaluator.compute()['abs_rel'] < 1e-6
    with pytest.raises(ValueError, match='an output of 7 x 5 for a target of'):
        evaluator.update({('disp', scale): torch.rand(2, 1, 7, 5)}, torch.ones(2, *size))


def test_the_loss_does_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    disparity, target = torch.rand(6, 1, 8, 10), depths(0, (6, 8, 10))
    target[0, :7] = 0
    target[3] = math.nan  # has no loss, and no part in the mean
    results = []
    for size in (1, 2, 6):
        evaluator = DepthEvaluator(1., 50., MultiScaleDepthLoss(1., 50.).finest)
        for part in range(0, 6, size):
            evaluator.update({('disp', 0): disparity[part:part + size]}, target[part:part + size])
        results.append(evaluator.compute())
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-6)
    assert results[0]['loss'] == pytest.approx(ScaleInvariantLogLoss(1., 50.)(disparity, target).item())


def test_an_evaluation_without_any_depth_is_an_error_that_names_the_cause():
    evaluator = DepthEvaluator(1., 50., MultiScaleDepthLoss(1., 50.).finest)
    assert evaluator.metric_names == ('loss', 'abs_rel', 'rmse', 'delta1', 'delta2', 'delta3')
    evaluator.update({('disp', 0): torch.rand(2, 1, 4, 4)}, torch.full((2, 4, 4), 2000.))
    with pytest.raises(ValueError, match='a pixel of known depth, got none: .* min_depth 1.0 to max_depth 50.0'):
        evaluator.compute()


def test_the_evaluator_enlarges_where_the_finest_scale_is_coarse():
    evaluator = DepthEvaluator(1., 50., MultiScaleDepthLoss(1., 50.).finest)
    evaluator.update({('disp', 1): torch.full((2, 1, 5, 4), 1.)}, torch.full((2, 9, 8), 1.))
    assert evaluator.compute() == pytest.approx(
        {'loss': 0, 'abs_rel': 0, 'rmse': 0, 'delta1': 100, 'delta2': 100, 'delta3': 100})


# The task.


def build() -> rexnet_timm.ReXDepth:
    torch.manual_seed(0)
    return rexnet_timm.ReXDepth(width_mult=0.25, depth_mult=0.2)


def bright_is_near(number: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose brightness tells the depth, a tenth of it missing."""
    torch.manual_seed(0)
    batches = []
    for _ in range(number):
        near = torch.rand(4, 1, 4, 4).gt(0.5).repeat_interleave(16, 2).repeat_interleave(16, 3)
        depth = torch.where(near[:, 0], 2., 12.) * (torch.rand(4, 64, 64) > 0.1)
        batches.append((near * 2. - 1 + 0.1 * torch.randn(4, 3, 64, 64), depth))
    return batches


def test_the_task_learns():
    task, batches = rexnet_timm.DepthTask(build(), MultiScaleDepthLoss(1., 50.), verbose=False), bright_is_near()
    before = evaluate(task, batches)
    optimizer = torch.optim.AdamW(task.get_trainable_module().parameters(), lr=5e-3)
    for epoch in range(16):
        metrics = train_one_epoch(task, batches, optimizer, epoch)
    after = evaluate(task, batches)
    assert list(metrics) == ['loss', *(f'loss_scale_{scale}' for scale in range(4)), 'loss_smooth']
    assert list(after) == ['loss', 'abs_rel', 'rmse', 'delta1', 'delta2', 'delta3']
    assert after['abs_rel'] < 0.3 < before['abs_rel'] and after['loss'] < 0.3 * before['loss']


def test_bfloat16_trains():
    task = rexnet_timm.DepthTask(build(), verbose=False)
    with torch.autocast('cpu', torch.bfloat16):
        result = task(*bright_is_near(1)[0])
    assert result['loss'].dtype == torch.float32 and result['output'].shape == (4, 1, 64, 64)
    result['loss'].backward()
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters())


# Wrong calls.


@pytest.mark.parametrize('call, message', [
    (lambda: MultiScaleDepthLoss(min_depth=0.), 'got 0.0 and 100.0'),
    (lambda: MultiScaleDepthLoss(smoothness=-1), 'smoothness must be at least 0 and finite, got -1'),
    (lambda: MultiScaleDepthLoss(smoothness=math.nan), 'finite, got nan'),
    (lambda: MultiScaleDepthLoss(weights='half'), "a sequence of numbers, got 'half'"),
    (lambda: scale_invariant_log(torch.ones(1, 2), torch.ones(1, 3)), r'one shape, got \(1, 2\) and \(1, 3\)'),
    (lambda: scale_invariant_log(torch.ones(1, 2), torch.ones(1, 2), variance_focus=2), 'from 0 to 1, got 2'),
    (lambda: edge_aware_smoothness(torch.ones(1, 1, 4, 4), torch.ones(1, 3, 8, 8)), 'one size, got .*shrink the image'),
    (lambda: DepthErrors().update(torch.ones(2), torch.ones(3)), r'one shape, got \(2,\) and \(3,\)'),
])
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
