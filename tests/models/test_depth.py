""" Depth: the network, its losses by their identities, its metrics, and the task that brings them together. """
import math

import pytest
import timm
import torch
from torch import nn

import rexnet_timm
from rexnet_timm.disparity import disparity_to_depth, valid_depth
from rexnet_timm.models.depth import ReXDepth
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

SMALL = dict(width_mult=0.25, depth_mult=0.2)


def build(**kwargs) -> ReXDepth:
    torch.manual_seed(0)
    return ReXDepth(**{**SMALL, **kwargs})


def sizes(height: int, width: int, scales) -> dict:
    return {('disp', scale): (2, 1, -(-height // 2 ** scale), -(-width // 2 ** scale)) for scale in scales}


def with_statistics(model: nn.Module) -> nn.Module:
    """A model whose BatchNorm statistics are not those of a new one."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


# The network.


@pytest.mark.parametrize('size', [(32, 32), (45, 70), (33, 127)])
@pytest.mark.parametrize('scales', [(0, 1, 2, 3), (0,), (1, 4)])
@pytest.mark.parametrize('training', [True, False])
def test_disparities_at_their_own_sizes_in_both_modes(size, scales, training):
    with torch.no_grad():
        output = build(scales=scales).train(training)(torch.randn(2, 3, *size))
    assert {key: tuple(value.shape) for key, value in output.items()} == sizes(*size, scales)
    assert all(0 < value.min() and value.max() < 1 for value in output.values())


def test_the_public_signature():
    model = rexnet_timm.ReXDepth(width_mult=1.0, scales=(0, 1, 2, 3))
    assert model.scales == (0, 1, 2, 3)
    wide = rexnet_timm.ReXDepth(width_mult=1.3)
    assert sum(p.numel() for p in wide.parameters()) > sum(p.numel() for p in model.parameters())


def test_every_parameter_gets_a_gradient():
    model = build()
    task = rexnet_timm.DepthTask(model, verbose=False)
    task(torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64) * 20 + 1)['loss'].backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize('name', ['rexdepth', 'rexdepth_1_0'])
def test_timm_builds_it_by_name(name):
    model = timm.create_model(name, in_chans=4, scales=(0, 2))
    assert isinstance(model, ReXDepth) and model.num_classes == 1
    output = model(torch.randn(2, 4, 32, 64))
    assert list(output) == [('disp', 0), ('disp', 2)]
    assert model.pretrained_cfg['first_conv'] == 'unet.encoder.stem.conv'


def test_timm_builds_other_widths_by_name():
    model, expected = timm.create_model('rexdepth', **SMALL), build()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()}


def test_pretrained_takes_the_weights_of_the_backbone(tmp_path):
    backbone = timm.create_model('rexnetv1', **SMALL)
    torch.save(backbone.state_dict(), tmp_path / 'backbone.pth')
    overlay = {'file': str(tmp_path / 'backbone.pth')}
    model = timm.create_model('rexdepth', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL)
    expected, loaded = backbone.state_dict(), model.unet.encoder.state_dict()
    assert len(loaded) > 50
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_weights_survive_a_file(tmp_path):
    model, x = with_statistics(build()), torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / 'depth.pth')
    loaded = timm.create_model('rexdepth', checkpoint_path=str(tmp_path / 'depth.pth'), **SMALL).eval()
    with torch.no_grad():
        for key, value in model(x).items():
            assert torch.equal(loaded(x)[key], value)


def test_a_model_of_fewer_scales_takes_the_weights():
    model, x = with_statistics(build()), torch.randn(1, 3, 64, 64)
    finest = build(scales=(0,)).eval()
    finest.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(finest(x)['disp', 0], model(x)['disp', 0])
    with pytest.raises(ValueError, match='does not fit: .* are missing'):
        finest.load_state_dict({'unet.encoder.stem.conv.weight': model.unet.encoder.stem.conv.weight})


def test_compiles_as_one_graph():
    model, x = with_statistics(build()), torch.randn(2, 3, 45, 70)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.no_grad():
        for key, value in model(x).items():
            torch.testing.assert_close(compiled(x)[key], value)


def test_gradient_checkpointing_changes_no_gradient():
    x, gradients = torch.randn(2, 3, 64, 64), []
    for enable in (False, True):
        model = build().train()
        model.set_grad_checkpointing(enable)
        sum(output.square().mean() for output in model(x).values()).backward()
        gradients.append(model.unet.encoder.stem.conv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('call, message', [
    (lambda: build(scales=(0, 5)), r'from 0 .* to 4 .*got \(0, 5\)'),
    (lambda: build().eval()(torch.randn(1, 3, 31, 64)), 'at least 32 x 32, got 31 x 64'),
    (lambda: timm.create_model('rexdepth', num_classes=6), r'one channel and no classes, got num_classes 6: leave it'),
    (lambda: timm.create_model('rexdepth_1_0', features_only=True), 'rexdepth_1_0 has no features_only'),
    (lambda: disparity_to_depth(torch.zeros(1), 5, 5), r'0 < min_depth < max_depth, got 5 and 5: pass the nearest'),
    (lambda: MultiScaleDepthLoss(min_depth=0.), 'got 0.0 and 100.0'),
    (lambda: MultiScaleDepthLoss(smoothness=-1), 'smoothness must be at least 0, got -1'),
    (lambda: MultiScaleDepthLoss(weights='half'), "a sequence of numbers, got 'half'"),
    (lambda: scale_invariant_log(torch.ones(1, 2), torch.ones(1, 3)), r'one shape, got \(1, 2\) and \(1, 3\)'),
    (lambda: scale_invariant_log(torch.ones(1, 2), torch.ones(1, 2), variance_focus=2), 'from 0 to 1, got 2'),
    (lambda: edge_aware_smoothness(torch.ones(1, 1, 4, 4), torch.ones(1, 3, 8, 8)), 'one size, got .*shrink the image'),
    (lambda: DepthErrors().update(torch.ones(2), torch.ones(3)), r'one shape, got \(2,\) and \(3,\)'),
])
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Depth of a disparity.


def test_disparity_runs_linearly_in_inverse_depth():
    disparity = torch.tensor([0., 0.5, 1.])
    expected = torch.tensor([80., 2 / (1 / 80 + 1 / 2), 2.])
    torch.testing.assert_close(disparity_to_depth(disparity, 2., 80.), expected)


def test_valid_depth():
    depth = torch.tensor([0., -1., 0.05, 0.1, 50., 100., 101., math.nan, math.inf])
    assert valid_depth(depth).tolist() == [False, False, False, True, True, True, False, False, False]


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


def test_the_evaluator_enlarges_where_the_finest_scale_is_coarse():
    evaluator = DepthEvaluator(1., 50., MultiScaleDepthLoss(1., 50.).finest)
    evaluator.update({('disp', 1): torch.full((2, 1, 5, 4), 1.)}, torch.full((2, 9, 8), 1.))
    assert evaluator.compute() == pytest.approx(
        {'loss': 0, 'abs_rel': 0, 'rmse': 0, 'delta1': 100, 'delta2': 100, 'delta3': 100})


# The task.


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
