import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn

from rexnet_timm.training.base_losses import create_segmentation_loss
from rexnet_timm.training.losses import MultiScaleLoss
from rexnet_timm.training.targets import resize_target, soft_target


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


def test_enlarged_logits_lie_on_the_grid_of_their_scale():
    outputs, target = outputs_and_target(scales=(0, 2))  # 24 x 33, of which scale 2 has 6 x 9
    losses = MultiScaleLoss(nn.CrossEntropyLoss(), target='upsample').forward_scales(outputs, target)
    large = nn.functional.interpolate(outputs[1], size=(24, 36), mode='bilinear')[..., :33]
    torch.testing.assert_close(losses['loss_scale_2'], nn.CrossEntropyLoss()(large, target).detach())


def test_scales_are_told_apart_where_sizes_are_not():
    outputs, target = outputs_and_target(scales=(0, 1, 2, 3, 4), size=(8, 6))  # scales 3 and 4 have 1 x 1
    criterion = MultiScaleLoss(nn.CrossEntropyLoss())
    names = ['loss', *(f'loss_scale_{scale}' for scale in range(5))]
    assert list(criterion.forward_scales(outputs, target)) == names
    assert list(criterion.forward_scales(outputs[-1], target, scales=[4])) == ['loss', 'loss_scale_4']
    with pytest.raises(ValueError, match=r'scales \(0, 2\) must have the sizes .* got'):
        criterion.forward_scales(outputs[:2], target, scales=[0, 2])


def test_no_part_of_two_outputs_of_one_scale_is_lost():
    outputs, target = outputs_and_target(scales=(0, 0, 1))
    losses = MultiScaleLoss(nn.CrossEntropyLoss(), 'same').forward_scales(outputs, target)
    assert list(losses) == ['loss', 'loss_scale_0', 'loss_scale_0_2', 'loss_scale_1']
    torch.testing.assert_close(losses['loss_scale_0_2'], nn.CrossEntropyLoss()(outputs[1], target).detach())
    torch.testing.assert_close(losses['loss'].detach(), sum(list(losses.values())[1:]) / 3)


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


# What each loss by name is, of the labelled pixels only: logits (P, C) and labels (P,).


def cross_entropy(logits, labels):
    logits = torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
    chosen = logits[torch.arange(len(labels)), labels]
    return (logits.exp().sum(1).log() - chosen).mean()


def classes_of(logits, labels, softmax=True):
    """For each channel its (P,) scores and whether a pixel is of that class."""
    if logits.shape[1] == 1:
        return [(logits[:, 0].sigmoid() if softmax else logits[:, 0], labels == 1)]
    scores = logits.softmax(1) if softmax else logits
    return [(scores[:, label], labels == label) for label in range(logits.shape[1])]


def dice(logits, labels):
    classes = classes_of(logits, labels)
    # a class without a pixel has no overlap, and counts as 0
    losses = [1 - 2 * p[true].sum() / (p.sum() + true.sum()) for p, true in classes if true.any()]
    return sum(losses) / len(classes)


def focal(logits, labels):
    losses = []
    for z, true in classes_of(logits, labels, softmax=False):
        right = torch.where(true, z.sigmoid(), 1 - z.sigmoid())
        losses.append((-(1 - right) ** 2 * right.log()).mean())
    return sum(losses) / len(losses)


def lovasz(logits, labels):
    """The extension of the Jaccard loss |wrong| / |true or wrong| from sets of wrong pixels to errors."""
    losses = []
    for score, true in classes_of(logits, labels, softmax=logits.shape[1] > 1):
        if logits.shape[1] == 1:
            errors = (1 - torch.where(true, score, -score)).relu()
        elif true.any():
            errors = (true.to(score) - score).abs()
        else:
            continue
        loss, before = 0., 0.
        for count, index in enumerate(order := errors.argsort(descending=True), 1):
            jaccard = count / (true.sum().item() + (~true[order[:count]]).sum().item())
            loss, before = loss + errors[index] * (jaccard - before), jaccard
        losses.append(loss)
    return sum(losses) / len(losses)


BY_HAND = {
    'ce': cross_entropy, 'dice': dice, 'focal': focal, 'lovasz': lovasz,
    'ce+dice+dice': lambda *pixels: cross_entropy(*pixels) + 2 * dice(*pixels),
}
IGNORED = [0, 2, 255, -100, None]


@pytest.mark.parametrize('ignore_index', IGNORED)
@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('name', BY_HAND)
def test_losses_by_name_are_those_of_the_labelled_pixels(name, classes, ignore_index):
    torch.manual_seed(0)
    logits, target = torch.randn(2, classes, 6, 5, requires_grad=True), torch.randint(max(2, classes), (2, 6, 5))
    if ignore_index is not None:
        target[:, :2] = ignore_index
    labelled = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    expected = BY_HAND[name](logits.detach().movedim(1, -1)[labelled], target[labelled])
    loss = create_segmentation_loss(name, classes, ignore_index)(logits, target)
    assert loss.ndim == 0
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    gradient = logits.grad.abs().sum(1)
    assert (gradient[~labelled] == 0).all() and gradient[labelled].max() > 0


@pytest.mark.parametrize('mode', TARGETS)
@pytest.mark.parametrize('name', ['ce', 'dice', 'focal', 'lovasz', 'ce+dice', 'dice+lovasz+focal'])
def test_a_batch_with_no_label_has_a_loss_of_zero(name, mode):
    for classes in (1, 3):
        if mode == 'soft' and classes > 1 and name != 'ce':
            continue  # takes no probabilities
        for ignore_index in IGNORED[:-1]:
            outputs, target = outputs_and_target(classes=classes, size=(9, 12))
            base = create_segmentation_loss(name, classes, ignore_index)
            none = torch.full_like(target, ignore_index)
            loss = MultiScaleLoss(base, target=mode)(outputs, none)
            loss.backward()
            assert loss.ndim == 0 and loss.item() == 0
            assert all((output.grad == 0).all() for output in outputs)
            assert base(outputs[0], none).item() == 0


@pytest.mark.parametrize('ignore_index', IGNORED[:-1])
@pytest.mark.parametrize('factory', [
    lambda ignored: nn.CrossEntropyLoss(ignore_index=ignored),
    lambda ignored: nn.CrossEntropyLoss(torch.tensor([1., 2., 3.]), ignore_index=ignored, label_smoothing=0.1),
    *(lambda ignored, loss=loss: loss('multiclass', ignore_index=ignored) for loss in (
        smp.losses.DiceLoss, smp.losses.FocalLoss, smp.losses.LovaszLoss)),
    lambda ignored: lambda logits, target: nn.functional.cross_entropy(logits, target, ignore_index=ignored),
])
def test_losses_of_others_are_zero_where_there_is_no_label(factory, ignore_index):
    outputs, target = outputs_and_target(classes=3, size=(9, 12))
    loss = MultiScaleLoss(factory(ignore_index), ignore_index=ignore_index)(
        outputs, torch.full_like(target, ignore_index))
    loss.backward()
    assert loss.ndim == 0 and loss.item() == 0
    assert all((output.grad == 0).all() for output in outputs)


@pytest.mark.parametrize('mode', ['nearest', 'majority', 'object'])
@pytest.mark.parametrize('ignore_index', IGNORED[:-1])
def test_no_loss_moves_an_ignored_cell(ignore_index, mode):
    for classes in (1, 3):
        for name in ('ce', 'dice', 'focal', 'lovasz'):
            outputs, target = outputs_and_target(classes=max(2, classes), size=(9, 12))
            outputs = [output[:, :classes].detach().requires_grad_() for output in outputs]
            target[:, :, 8:] = ignore_index
            criterion = MultiScaleLoss(create_segmentation_loss(name, classes, ignore_index), 'same', target=mode)
            criterion(outputs, target).backward()
            for scale, output in enumerate(outputs):
                gradient = output.grad.abs().sum(1)
                assert (gradient[:, :, 8 // 2 ** scale:] == 0).all() and gradient.max() > 0


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
    weights = torch.where(target == 1, 6., 2.)
    torch.testing.assert_close(weighted, (losses * weights).sum() / weights.sum())


@pytest.mark.parametrize('ignore_index', IGNORED)
@pytest.mark.parametrize('class_weights', [None, (2., 6.)])
def test_a_binary_cross_entropy_is_that_of_two_classes(class_weights, ignore_index):
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    if ignore_index is not None:
        target[:, 2:] = ignore_index
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch_loss = nn.CrossEntropyLoss(
        None if class_weights is None else torch.tensor(class_weights),
        ignore_index=-100 if ignore_index is None else ignore_index)
    expected = torch_loss(two, target)
    for classes, given in ((1, logits), (2, two)):
        loss = create_segmentation_loss('ce', classes, ignore_index, class_weights)
        torch.testing.assert_close(loss(given, target), expected)
        torch.testing.assert_close(loss(given.double(), target), expected.double())


def test_the_weight_of_an_ignored_class_has_no_effect():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    expected = create_segmentation_loss('ce', 3, 0, (1, 1, 4))(logits, target)
    for weight in (0., float('inf')):
        torch.testing.assert_close(create_segmentation_loss('ce', 3, 0, (weight, 1, 4))(logits, target), expected)


@pytest.mark.parametrize('weight', [None, (0.5, 1., 4.)])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_label_smoothing_of_soft_targets_is_that_of_labels(weight, reduction):
    outputs, target = outputs_and_target(classes=3, size=(24, 32))
    target = target[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)  # cells of one label
    target[:, :8] = 255
    base = nn.CrossEntropyLoss(
        None if weight is None else torch.tensor(weight), ignore_index=255, label_smoothing=0.1, reduction=reduction)
    soft, nearest = (MultiScaleLoss(base, target=mode)(outputs, target) for mode in ('soft', 'nearest'))
    torch.testing.assert_close(soft, nearest)
    soft.backward()
    for scale, output in enumerate(outputs):
        assert (output.grad[:, :, :8 // 2 ** scale] == 0).all()
        assert (output.grad[:, :, 8 // 2 ** scale:] != 0).all()


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


def test_a_loss_of_your_own_meets_the_shares_of_labelled_cells_only():
    outputs, target = outputs_and_target(classes=3, size=(24, 32))
    target[:, :8] = 255

    def distance(logits, target):
        probabilities = target if target.ndim == 4 else nn.functional.one_hot(target.clamp(max=2), 3).movedim(-1, 1)
        return (logits.softmax(1) - probabilities).square().mean()

    parts = MultiScaleLoss(distance, target='soft', ignore_index=255).forward_scales(outputs, target)
    shares = soft_target(target[:, 8:], 2, 3)
    torch.testing.assert_close(parts['loss_scale_2'], distance(outputs[2][:, :, 2:], shares).detach())
    nothing = MultiScaleLoss(distance, (0, 0, 1), target='soft', ignore_index=255)
    assert nothing(outputs, torch.full_like(target, 255)) == 0


# Mixed precision.


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('name', [*BY_HAND, 'ce+dice+focal+lovasz'])
def test_losses_by_name_under_autocast(name, dtype):
    for classes in (1, 3):
        for mode in ('object', 'upsample'):
            torch.manual_seed(0)
            layer, images = nn.Conv2d(3, classes, 1), torch.randn(2, 3, 16, 16)
            target = torch.randint(max(2, classes), (2, 16, 16))
            target[0, :4] = 255
            criterion = MultiScaleLoss(create_segmentation_loss(name, classes, 255), target=mode)
            expected = criterion([layer(images), layer(images[..., ::2, ::2])], target)
            expected_gradient, = torch.autograd.grad(expected, layer.weight)
            with torch.autocast('cpu', dtype):
                outputs = [layer(images), layer(images[..., ::2, ::2])]
                assert outputs[0].dtype == dtype
                loss = criterion(outputs, target)
                assert create_segmentation_loss(name, classes, 255)(outputs[0], target).dtype == torch.float32
            torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
            gradient, = torch.autograd.grad(loss, layer.weight)
            torch.testing.assert_close(gradient, expected_gradient, rtol=0.1, atol=0.1 * expected_gradient.abs().max())


def test_base_losses_of_others_compute_in_float32_under_autocast():
    outputs, target = outputs_and_target(classes=3)
    for base in (smp.losses.LovaszLoss('multiclass'), smp.losses.JaccardLoss('multiclass')):
        criterion = MultiScaleLoss(base)
        with torch.autocast('cpu', torch.bfloat16):
            loss = criterion([output.bfloat16() for output in outputs], target)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, criterion(outputs, target), rtol=0.02, atol=0)


def test_a_mean_over_many_pixels_does_not_overflow_in_16_bits():
    logits = torch.full((1, 1, 400, 400), 6., dtype=torch.float16)
    target = torch.zeros(1, 400, 400, dtype=torch.long)
    for name in ('ce', 'dice', 'focal', 'lovasz'):
        loss = create_segmentation_loss(name, 1, 255)
        torch.testing.assert_close(loss(logits, target), loss(logits.float(), target))


# Targets of other forms.


@pytest.mark.parametrize('mode', TARGETS)
@pytest.mark.parametrize('classes', [1, 3])
def test_labels_with_a_channel_count_as_labels(classes, mode):
    outputs, target = outputs_and_target(classes=max(2, classes))
    outputs = [output[:, :classes] for output in outputs]
    target[:, :5] = 255
    bases = [create_segmentation_loss('ce', classes, 255)]
    if classes > 1:
        bases.append(nn.CrossEntropyLoss(ignore_index=255))
    if mode != 'soft':
        for loss in (smp.losses.DiceLoss, smp.losses.FocalLoss):
            bases.append(loss('binary' if classes == 1 else 'multiclass', ignore_index=255))
    for base in bases:
        criterion = MultiScaleLoss(base, target=mode)
        torch.testing.assert_close(criterion(outputs, target[:, None]), criterion(outputs, target))


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.int32, torch.float32, torch.float64])
def test_labels_of_any_dtype(dtype):
    for classes in (1, 2):
        outputs, target = outputs_and_target(classes=2)
        outputs = [output[:, :classes] for output in outputs]
        bases = [create_segmentation_loss('ce+dice+focal+lovasz', classes, 255)]
        bases.append(smp.losses.LovaszLoss('binary' if classes == 1 else 'multiclass'))
        bases.append(nn.BCEWithLogitsLoss() if classes == 1 else nn.CrossEntropyLoss())
        for base in bases:
            criterion = MultiScaleLoss(base, target='majority')
            torch.testing.assert_close(criterion(outputs, target.to(dtype)), criterion(outputs, target))


@pytest.mark.parametrize('mode', TARGETS)
def test_ignored_entries_of_masks_of_several_labels(mode):
    outputs, _ = outputs_and_target(classes=3, size=(24, 32))
    torch.manual_seed(1)
    masks = torch.randint(2, (2, 3, 24, 32)).float()
    masks[0, 1, :8] = 255  # one class of one image is not labelled there
    masks[1, :, :, 24:] = 255
    for base in (nn.BCEWithLogitsLoss(), smp.losses.DiceLoss('multilabel', ignore_index=255)):
        for output in outputs:
            output.grad = None
        criterion = MultiScaleLoss(base, 'same', target=mode, ignore_index=255)
        loss = criterion(outputs, masks)
        assert 0 < loss < 2
        loss.backward()
        if mode != 'upsample':
            for scale, output in enumerate(outputs):
                assert (output.grad[0, 1, :8 // 2 ** scale] == 0).all()
                assert (output.grad[1, :, :, 24 // 2 ** scale:] == 0).all()
                assert (output.grad[0, 0, :8 // 2 ** scale] != 0).any()
        assert criterion(outputs, torch.full_like(masks, 255)) == 0
    first = MultiScaleLoss(nn.BCEWithLogitsLoss(), target=mode, ignore_index=255)(outputs[0], masks)
    labelled = masks != 255
    torch.testing.assert_close(
        first, nn.functional.binary_cross_entropy_with_logits(outputs[0][labelled], masks[labelled]))


def test_torchs_binary_cross_entropy_of_labels():
    outputs, target = outputs_and_target(classes=2)
    outputs = [output[:, :1] for output in outputs]
    target[:, :7] = 255
    ours = MultiScaleLoss(create_segmentation_loss('ce', 1, 255))
    torch.testing.assert_close(MultiScaleLoss(nn.BCEWithLogitsLoss(), ignore_index=255)(outputs, target),
                               ours(outputs, target))


def test_one_hot_masks_with_ignored_pixels_and_the_cross_entropy():
    (output,), target = outputs_and_target(classes=3, scales=(0,))
    target[:, :5] = 255
    masks = nn.functional.one_hot(target.where(target != 255, 0), 3).movedim(-1, 1).float()
    masks[:, :, :5] = 255
    base = nn.CrossEntropyLoss(ignore_index=255)
    torch.testing.assert_close(MultiScaleLoss(base)(output, masks), base(output, target))


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('ignore_index', [0, 255])
def test_losses_of_torch_and_smp_ignore_what_they_are_told(classes, ignore_index):
    outputs, target = outputs_and_target(classes=max(2, classes))
    outputs = [output[:, :classes] for output in outputs]
    target[:, :5] = ignore_index
    mode = 'binary' if classes == 1 else 'multiclass'
    for loss in (smp.losses.DiceLoss, smp.losses.FocalLoss, smp.losses.LovaszLoss, smp.losses.JaccardLoss):
        right = MultiScaleLoss(loss(mode, ignore_index=ignore_index))(outputs, target)
        given = loss(mode)
        torch.testing.assert_close(MultiScaleLoss(given, ignore_index=ignore_index)(outputs, target), right)
        assert given.ignore_index is None  # the user's own object stays as it is
    by_name = create_segmentation_loss('ce', classes, ignore_index)
    right = MultiScaleLoss(by_name)(outputs, target)
    for base in (create_segmentation_loss('ce', classes), *([nn.CrossEntropyLoss()] if classes > 1 else [])):
        torch.testing.assert_close(MultiScaleLoss(base, ignore_index=ignore_index)(outputs, target), right)


def test_each_loss_keeps_the_label_that_it_was_told_to_ignore():
    outputs, target = outputs_and_target(classes=3, scales=(0, 1))
    bases = [nn.CrossEntropyLoss(), smp.losses.DiceLoss('multiclass', ignore_index=0)]
    losses = MultiScaleLoss(bases).forward_scales(outputs, target.where(target != 0, 1))
    assert losses['loss_scale_0'] > 0
    losses = MultiScaleLoss(bases, ignore_index=2).forward_scales(outputs, target)
    torch.testing.assert_close(losses['loss_scale_1'], bases[1](outputs[1], resize_target(target, (12, 17))).detach())
    torch.testing.assert_close(
        losses['loss_scale_0'], nn.CrossEntropyLoss(ignore_index=2)(outputs[0], target).detach())


def test_mcc_is_over_the_labelled_pixels():
    torch.manual_seed(0)
    output, target = torch.rand(2, 1, 8, 8), torch.randint(2, (2, 8, 8))
    target[:, :, 5:] = 255
    criterion = MultiScaleLoss(smp.losses.MCCLoss(), ignore_index=255)
    expected = smp.losses.MCCLoss()(output[..., :5], target[..., :5])
    torch.testing.assert_close(criterion(output, target), expected)
    torch.testing.assert_close(criterion(output, target[:, None]), expected)
    assert criterion(output, torch.full_like(target, 255)) == 0


def test_a_loss_of_your_own_gets_the_target_as_it_is():
    # it ignores 255 without saying so, or needs the channel
    outputs, target = outputs_and_target(classes=3)
    target[:, :5] = 255
    right = MultiScaleLoss(nn.CrossEntropyLoss(ignore_index=255))(outputs, target)
    own = MultiScaleLoss(lambda logits, labels: nn.functional.cross_entropy(logits, labels, ignore_index=255))
    torch.testing.assert_close(own(outputs, target), right)
    shapes = []

    def remember(logits, labels):
        shapes.append(tuple(labels.shape))
        return logits.mean()

    for mode in ('nearest', 'majority'):
        MultiScaleLoss(remember, target=mode, ignore_index=255)(outputs[:2], target[:, None])
    assert shapes == [(2, 1, 24, 33), (2, 1, 12, 17)] * 2


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
    losses = MultiScaleLoss(base, target=target_mode).forward_scales(outputs, target)
    torch.testing.assert_close(losses['loss_scale_0'], base(outputs[0], target).detach())
    losses['loss'].backward()
    assert losses['loss'].isfinite()
    for output in outputs:
        assert output.grad.isfinite().all() and output.grad.abs().sum() > 0


def batch(classes: int, label: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, classes, 4, 4), torch.full((1, 4, 4), label)


@pytest.mark.parametrize('call, message', [
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), 'half'),
     "'same', 'exp', 'two' or a sequence of numbers, got 'half'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, -1)), r'non-negative and not all 0, got \(1.0, -1.0\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (1, float('nan'))), r'non-negative and not all 0, got \(1.0, nan\)'),
    (lambda: create_segmentation_loss('ce', 0), 'num_classes must be 1, for binary masks, or more, got 0'),
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
     "SMP's DiceLoss takes labels only: take torch's cross entropy .'ce'., or another target"),
    (lambda: MultiScaleLoss([nn.CrossEntropyLoss(), smp.losses.SoftCrossEntropyLoss()], target='soft'),
     "SMP's SoftCrossEntropyLoss takes labels only"),
    (lambda: create_segmentation_loss('dice', 3, 255, (1, 1, 2)),
     "belong to the cross entropy, got the loss 'dice': add it, 'ce.dice'"),
    (lambda: create_segmentation_loss('ce', 3, 255, (1, 2)), r'must be 3 class weights above 0, .* got 2: \(1, 2\)'),
    (lambda: create_segmentation_loss('ce', 2, 255, (1, 0)), r'must be 2 class weights above 0, .* got 2: \(1, 0\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(), (0, 1), fade_epochs=(0, 2)),
     r'its weight must be above 0, got \(0.0, 1.0\)'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss(reduction='none'))(*batch(3, 0)),
     r"must return a scalar, got a loss of shape \(1, 4, 4\): give it reduction='mean'"),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss())(torch.randn(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)),
     r'masks .N, C, H, W. of 1 channel or of 3, as many as the output has, got \(1, 2, 4, 4\)'),
    (lambda: create_segmentation_loss('dice', 3, 255)(*batch(3, 3)),
     'target must be in 0..2 or the ignore_index 255, got values from 3 to 3: correct the labels'),
    (lambda: create_segmentation_loss('ce', 1)(*batch(1, 255)), 'target must be in 0..1, got .* pass as ignore_index'),
    (lambda: create_segmentation_loss('ce', 1, 255)(*batch(1, 128.)), 'Masks must hold 0 to 1, .* got 128'),
    (lambda: create_segmentation_loss('ce', 3, 255)(*batch(3, 0.5)), 'must hold whole numbers, .*not probabilities'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss())(*batch(3, 0.5)), 'must hold whole numbers'),
    (lambda: MultiScaleLoss(nn.CrossEntropyLoss())(*batch(3, 255)), 'target must be in 0..2.*, got .* as ignore_index'),
    (lambda: MultiScaleLoss(smp.losses.FocalLoss('multiclass', ignore_index=0))(*batch(3, 255)),
     'target must be in 0..2 or the ignore_index 0, got values from 255 to 255'),
    (lambda: MultiScaleLoss(smp.losses.DiceLoss('binary'))(*batch(1, 255)), 'Masks must hold 0 to 1, .* got 255'),
    *((lambda loss=loss: MultiScaleLoss(loss)(torch.randn(1, 3, 4, 4), torch.full((1, 3, 4, 4), 255)),
       'Masks must hold 0 to 1, .* got 255: .* as ignore_index the value of unlabelled entries')
      for loss in (nn.BCEWithLogitsLoss(), smp.losses.DiceLoss('multilabel'), smp.losses.SoftBCEWithLogitsLoss())),
    (lambda: create_segmentation_loss('ce', 2)(*batch(3, 0)), 'one of num_classes 2, got logits of 3 channels'),
    (lambda: create_segmentation_loss('dice', 3)(torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)),
     r"labels .N, H, W., .* for 'dice': pass the labels of one-hot masks, target.argmax"),
    (lambda: MultiScaleLoss(smp.losses.DiceLoss('multiclass'))(torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)),
     "DiceLoss of several classes takes labels .* mode 'multilabel'"),
    (lambda: MultiScaleLoss(nn.BCEWithLogitsLoss(), target='soft')(
        [torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2)], torch.full((1, 3, 4, 4), 7)),
     'Masks must hold 0 to 1, .* got 7: pass the numbers of classes as .N, H, W. labels'),
    (lambda: MultiScaleLoss(smp.losses.FocalLoss('multilabel'), ignore_index=255)(
        torch.randn(1, 3, 4, 4), torch.full((1, 3, 4, 4), 255)), 'FocalLoss .* cannot ignore entries of masks'),
    (lambda: create_segmentation_loss('ce', 2, 255, (1, float('nan'))), 'must be 2 class weights above 0'),
    (lambda: create_segmentation_loss('ce+hinge', 3, 255), "one of ce, dice, focal, lovasz, .* got 'ce.hinge'"),
])
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
