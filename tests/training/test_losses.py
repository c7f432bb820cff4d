import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn

from rexnet_timm.training.losses import MultiScaleLoss, create_segmentation_loss
from rexnet_timm.training.targets import resize_target


def outputs_and_target(scales=(0, 1, 2), size=(24, 33), classes=4, batch=2):
    torch.manual_seed(0)
    target = torch.randint(classes, (batch, *size))
    outputs = [
        torch.randn(batch, classes, *(-(-length // 2 ** scale) for length in size), requires_grad=True)
        for scale in scales
    ]
    return outputs, target


def test_one_scale_is_the_plain_loss():
    (output,), target = outputs_and_target(scales=(0,))
    plain = nn.CrossEntropyLoss()(output, target)
    for given in (output, [output]):
        torch.testing.assert_close(MultiScaleLoss(nn.CrossEntropyLoss())(given, target), plain)


@pytest.mark.parametrize('weights, expected', [
    ('same', [1 / 3, 1 / 3, 1 / 3]), ('exp', [4 / 7, 2 / 7, 1 / 7]), ((3, 0, 1), [0.75, 0, 0.25]),
    ('two', [1 / 2, 1 / 4, 1 / 4]),
])
def test_the_sum_equals_its_parts(weights, expected):
    outputs, target = outputs_and_target()
    criterion = MultiScaleLoss(nn.CrossEntropyLoss(), weights)
    assert criterion.scale_weights([0, 1, 2]) == pytest.approx(expected)
    losses = criterion.forward_scales(outputs, target)
    parts = [nn.CrossEntropyLoss()(output, resize_target(target, output.shape[-2:])) for output in outputs]
    torch.testing.assert_close(losses['loss'], sum(w * part for w, part in zip(expected, parts, strict=True)))
    for scale, part in enumerate(parts):
        torch.testing.assert_close(losses[f'loss_scale_{scale}'], part.detach())
    torch.testing.assert_close(criterion(outputs, target), losses['loss'])


def test_weights_follow_the_scale_not_the_place():
    outputs, target = outputs_and_target(scales=(1, 3))
    losses = MultiScaleLoss(nn.CrossEntropyLoss(), 'exp').forward_scales(outputs, target)
    expected = (losses['loss_scale_1'] / 2 + losses['loss_scale_3'] / 8) / (1 / 2 + 1 / 8)
    torch.testing.assert_close(losses['loss'].detach(), expected)


TARGETS = ['nearest', 'majority', 'object', 'soft', 'upsample']


@pytest.mark.parametrize('mode', TARGETS)
def test_every_target_mode_is_the_plain_loss_at_one_scale(mode):
    (output,), target = outputs_and_target(scales=(0,))
    target[:, :5] = 255
    plain = nn.CrossEntropyLoss(ignore_index=255)
    torch.testing.assert_close(MultiScaleLoss(plain, target=mode)(output, target), plain(output, target))


@pytest.mark.parametrize('mode', ['majority', 'object', 'soft'])
def test_cells_of_one_label_make_every_mode_equal_to_nearest(mode):
    outputs, _ = outputs_and_target(scales=(0, 1, 2), size=(24, 32))
    cells = torch.randint(4, (2, 6, 8))
    cells[0, 0, :3] = 255
    target = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)
    plain = nn.CrossEntropyLoss(ignore_index=255)
    nearest = MultiScaleLoss(plain).forward_scales(outputs, target)
    other = MultiScaleLoss(plain, target=mode).forward_scales(outputs, target)
    for name, value in nearest.items():
        torch.testing.assert_close(other[name], value)


@pytest.mark.parametrize('name', ['ce', 'dice', 'ce+dice'])
def test_soft_targets_of_a_binary_mask_are_the_shares_of_class_1(name):
    loss = create_segmentation_loss(name, 1, 255)
    outputs = [torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 2, 2, requires_grad=True)]
    target = torch.tensor([[[1, 0, 1, 1], [0, 0, 1, 1], [255, 255, 0, 1], [255, 255, 0, 255]]])
    shares = torch.tensor([[[0.25, 1], [255, 1 / 3]]])
    parts = MultiScaleLoss(loss, target='soft', ignore_index=255).forward_scales(outputs, target)
    torch.testing.assert_close(parts['loss_scale_1'], loss(outputs[1], shares).detach())
    parts['loss'].backward()
    assert outputs[1].grad[0, 0, 1, 0] == 0 and outputs[1].grad.isfinite().all()


def test_enlarged_logits_meet_the_full_target():
    outputs, target = outputs_and_target(scales=(0, 2))
    losses = MultiScaleLoss(nn.CrossEntropyLoss(), target='upsample').forward_scales(outputs, target)
    large = nn.functional.interpolate(outputs[1], size=target.shape[-2:], mode='bilinear')
    torch.testing.assert_close(losses['loss_scale_2'], nn.CrossEntropyLoss()(large, target).detach())


def test_one_loss_for_each_output():
    outputs, target = outputs_and_target(scales=(0, 1))
    bases = [nn.CrossEntropyLoss(), smp.losses.DiceLoss('multiclass')]
    criterion = MultiScaleLoss(bases, 'same')
    expected = (bases[0](outputs[0], target) + bases[1](outputs[1], resize_target(target, (12, 17)))) / 2
    torch.testing.assert_close(criterion(outputs, target), expected)
    with pytest.raises(ValueError, match='one for each output, got 2 for 3 outputs'):
        criterion(*outputs_and_target())


def test_the_coarser_scales_fade_out():
    criterion = MultiScaleLoss(nn.CrossEntropyLoss(), 'same', fade_epochs=(10, 20))
    for epoch, auxiliary in ((0, 1), (10, 1), (15, 0.5), (20, 0), (30, 0)):
        criterion.set_epoch(epoch)
        whole = 1 + 2 * auxiliary
        assert criterion.scale_weights([0, 1, 2]) == pytest.approx([1 / whole, auxiliary / whole, auxiliary / whole])


def test_multi_label_masks():
    torch.manual_seed(0)
    target = torch.randint(2, (2, 3, 24, 32)).float()
    outputs = [torch.randn(2, 3, 24 // 2 ** s, 32 // 2 ** s, requires_grad=True) for s in (0, 1, 2)]
    for mode in TARGETS:
        for base in (nn.BCEWithLogitsLoss(), smp.losses.DiceLoss('multilabel')):
            loss = MultiScaleLoss(base, target=mode)(outputs, target)
            loss.backward()
            assert loss.isfinite()


def test_the_loss_of_the_finest_scale_is_that_of_an_evaluation_output():
    (output,), target = outputs_and_target(scales=(0,))
    criterion = MultiScaleLoss(nn.CrossEntropyLoss(), weights=(1, 1, 1))
    torch.testing.assert_close(criterion.finest(output, target), nn.CrossEntropyLoss()(output, target))


@pytest.mark.parametrize('mode', ['nearest', 'majority', 'object', 'soft'])
def test_ignored_pixels_do_not_count_at_any_scale(mode):
    outputs, target = outputs_and_target()
    target[:, :, 16:] = 255
    criterion = MultiScaleLoss(nn.CrossEntropyLoss(ignore_index=255), target=mode)
    assert criterion.ignore_index == 255
    criterion(outputs, target).backward()
    for output in outputs:
        ignored = resize_target(target, output.shape[-2:]) == 255
        assert ignored.any() and not ignored.all()
        assert output.grad.abs().sum(1)[ignored].max() == 0
        assert output.grad.abs().sum(1)[~ignored].min() > 0


@pytest.mark.parametrize('mode', TARGETS)
@pytest.mark.parametrize('name', ['ce', 'dice', 'focal', 'lovasz'])
def test_a_batch_with_no_label_has_a_finite_loss_of_zero(name, mode):
    if mode == 'soft' and name != 'ce':
        pytest.skip('takes no probabilities')
    outputs, target = outputs_and_target()
    base = create_segmentation_loss(name, 4, 255)
    loss = MultiScaleLoss(base, target=mode, ignore_index=255)(outputs, torch.full_like(target, 255))
    loss.backward()
    assert loss.item() == 0
    assert all(output.grad.abs().max() == 0 for output in outputs)


@pytest.mark.parametrize('name', ['ce', 'dice', 'focal', 'lovasz', 'ce+dice'])
@pytest.mark.parametrize('classes', [1, 4])
def test_losses_by_name_prefer_the_right_answer(name, classes):
    torch.manual_seed(0)
    target = torch.randint(max(2, classes), (2, 16, 16))
    target[0, :4] = 255
    criterion = MultiScaleLoss(create_segmentation_loss(name, classes, 255), 'same')
    labels = target.where(target != 255, 0)
    hot = labels[:, None] if classes == 1 else nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2)
    right, wrong = (20. * hot - 10).requires_grad_(), 10 - 20. * hot
    assert criterion(right, target) < 0.05 < criterion(wrong, target)
    criterion(right, target).backward()
    assert right.grad.isfinite().all()


def test_class_weights_are_those_of_the_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    target[0, :2] = 255
    weighted = create_segmentation_loss('ce', 3, 255, (0.5, 1, 4))(logits, target)
    labelled = target != 255
    losses = nn.functional.cross_entropy(logits, target.where(labelled, 0), reduction='none')[labelled]
    weights = torch.tensor([0.5, 1, 4])[target[labelled]]
    torch.testing.assert_close(weighted, (weights * losses).sum() / weights.sum())
    dice = create_segmentation_loss('dice', 3, 255)(logits, target)
    both = create_segmentation_loss('ce+dice', 3, 255, (0.5, 1, 4))(logits, target)
    torch.testing.assert_close(both, weighted + dice)


def test_class_weights_of_a_binary_loss_are_background_and_foreground():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    losses = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float(), reduction='none')
    weighted = create_segmentation_loss('ce', 1, 255, (2, 6))(logits, target)
    torch.testing.assert_close(weighted, (losses * torch.where(target == 1, 3., 1.)).mean())


def test_class_weights_count_for_soft_targets_as_for_labels():
    outputs, target = outputs_and_target(classes=3, size=(24, 32))
    # cells of one label each, or of none, for which nearest and soft targets say the same
    target = target[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
    target[:, :8] = 255
    soft, nearest = (
        MultiScaleLoss(create_segmentation_loss('ce', 3, 255, (0.5, 1, 4)), target=mode, ignore_index=255)
        for mode in ('soft', 'nearest'))
    torch.testing.assert_close(soft(outputs, target), nearest(outputs, target))
    assert soft(outputs, torch.full_like(target, 255)) == 0


def test_soft_targets_of_several_labels_count_pixels_without_any():
    outputs, _ = outputs_and_target(classes=3, size=(24, 32))
    masks = torch.zeros(2, 3, 24, 32)
    masks[:, 0, :8] = 1  # two thirds of the image have no class, and are a lesson too
    parts = MultiScaleLoss(nn.BCEWithLogitsLoss(), target='soft').forward_scales(outputs, masks)
    for scale, output in enumerate(outputs):
        expected = nn.functional.binary_cross_entropy_with_logits(
            output, nn.functional.avg_pool2d(masks, 2 ** scale)).detach()
        torch.testing.assert_close(parts[f'loss_scale_{scale}'], expected)


# every loss class of SMP, in every mode that it has, with the classes and the shape of the target that the mode takes
SMP_LOSSES = {
    f'{name}-{mode}': (mode, factory)
    for name, modes, factory in [
        ('jaccard', 'all', smp.losses.JaccardLoss), ('dice', 'all', smp.losses.DiceLoss),
        ('tversky', 'all', smp.losses.TverskyLoss), ('focal', 'all', smp.losses.FocalLoss),
        ('lovasz', 'all', smp.losses.LovaszLoss), ('mcc', ['binary'], lambda mode: smp.losses.MCCLoss()),
        ('soft_ce', ['multiclass'], lambda mode: smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1)),
        ('soft_bce', ['multilabel'], lambda mode: smp.losses.SoftBCEWithLogitsLoss(ignore_index=None)),
    ]
    for mode in (['binary', 'multiclass', 'multilabel'] if modes == 'all' else modes)
}


def test_no_loss_class_of_smp_is_forgotten():
    classes = {type(factory(mode)) for mode, factory in SMP_LOSSES.values()}
    public = (getattr(smp.losses, name) for name in smp.losses.__all__)
    assert classes == {loss for loss in public if isinstance(loss, type)}


@pytest.mark.parametrize('target_mode', ['nearest', 'majority', 'upsample'])
@pytest.mark.parametrize('name', SMP_LOSSES)
def test_every_loss_of_smp_serves_as_base(name, target_mode):
    mode, factory = SMP_LOSSES[name]
    classes = 1 if mode == 'binary' else 4
    outputs, target = outputs_and_target(classes=max(2, classes))
    outputs = [output[:, :classes].detach() for output in outputs]
    if name.startswith('mcc'):
        outputs = [output.sigmoid() for output in outputs]  # the only one that takes probabilities
    for output in outputs:
        output.requires_grad_()
    if mode == 'multilabel':
        target = torch.stack([target == label for label in range(classes)], 1).float()
    elif mode == 'binary':
        target = target.float().unsqueeze(1) if name.startswith('mcc') else target
    base = factory(mode)
    if name.startswith('mcc') and target_mode == 'majority':
        pytest.skip('MCCLoss takes masks of (N, 1, H, W), and majorities are of (N, H, W)')
    losses = MultiScaleLoss(base, target=target_mode).forward_scales(outputs, target)
    torch.testing.assert_close(losses['loss_scale_0'], base(outputs[0], target).detach())
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    for output in outputs:
        assert output.grad.isfinite().all() and output.grad.abs().sum() > 0


@pytest.mark.parametrize('call, message', [
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), 'half'),
     "'same', 'exp', 'two' or a sequence of numbers, got 'half'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, -1)), r'non-negative and not all 0, got \(1.0, -1.0\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), ()), r'non-negative and not all 0, got \(\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), target='area'), "target must be one of 'nearest', .*, got 'area'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), object_share=0),
     'object_share must be above 0 and at most 1, got 0'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), fade_epochs=(5, 5)), r'0 <= first < last, got \(5, 5\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, 2))(*outputs_and_target()),
     r'got 2 weights for the 3 scales \(0, 1, 2\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss())(torch.randn(1, 2, 10, 10), torch.zeros(1, 24, 24, dtype=torch.long)),
     'an output of 10 x 10 for a target of 24 x 24'),
    (lambda: MultiScaleLoss(create_segmentation_loss('ce+dice', 3, 255), target='soft'),
     "SMP's DiceLoss takes labels alone: take torch's cross entropy .'ce'., or another target"),
    (lambda: MultiScaleLoss([nn.CrossEntropyLoss(), smp.losses.SoftCrossEntropyLoss()], target='soft'),
     "SMP's SoftCrossEntropyLoss takes labels alone"),
    (lambda: create_segmentation_loss('dice', 3, 255, (1, 1, 2)),
     "belong to the cross entropy, got the loss 'dice': add it, 'ce.dice'"),
    (lambda: create_segmentation_loss('ce', 3, 255, (1, 2)), r'must be 3 class weights above 0, .* got 2: \(1, 2\)'),
    (lambda: create_segmentation_loss('ce', 2, 255, (1, 0)), r'must be 2 class weights above 0, .* got 2: \(1, 0\)'),
    (lambda: create_segmentation_loss('ce+hinge', 3, 255), "one of ce, dice, focal, lovasz, .* got 'ce.hinge'"),
])
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
