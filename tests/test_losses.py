import math

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn

from rexnet_timm.losses import MultiScaleLoss, create_segmentation_loss, resize_target


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


def test_ignored_pixels_do_not_count_at_any_scale():
    outputs, target = outputs_and_target()
    target[:, :, 16:] = 255
    criterion = MultiScaleLoss(nn.CrossEntropyLoss(ignore_index=255))
    assert criterion.ignore_index == 255
    criterion(outputs, target).backward()
    for output in outputs:
        ignored = resize_target(target, output.shape[-2:]) == 255
        assert ignored.any() and not ignored.all()
        assert output.grad.abs().sum(1)[ignored].max() == 0
        assert output.grad.abs().sum(1)[~ignored].min() > 0


def test_a_batch_with_no_label_has_a_finite_loss_of_zero():
    outputs, target = outputs_and_target()
    loss = MultiScaleLoss(nn.CrossEntropyLoss(ignore_index=255))(outputs, torch.full_like(target, 255))
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


def test_smp_losses_serve_as_base():
    outputs, target = outputs_and_target()
    for base in (smp.losses.DiceLoss('multiclass'), smp.losses.TverskyLoss('multiclass'),
                 smp.losses.FocalLoss('multiclass')):
        loss = MultiScaleLoss(base)(outputs, target)
        assert loss.ndim == 0 and loss.isfinite()


@pytest.mark.parametrize('call, message', [
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), 'half'), "'same', 'exp' or a sequence of numbers, got 'half'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, -1)), r'non-negative and not all 0, got \(1.0, -1.0\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), ()), r'non-negative and not all 0, got \(\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), target='area'), "target must be 'nearest', got 'area'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, 2))(*outputs_and_target()),
     r'got 2 weights for the 3 scales \(0, 1, 2\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss())(torch.randn(1, 2, 10, 10), torch.zeros(1, 24, 24, dtype=torch.long)),
     'an output of 10 x 10 for a target of 24 x 24'),
    (lambda: create_segmentation_loss('ce+hinge', 3, 255), "one of ce, dice, focal, lovasz, .* got 'ce.hinge'"),
])
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
