import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from networks import with_statistics

import rexnet_timm
from rexnet_timm.models.unet import unet_name

ENCODER = 'rexnetv1_test'
SCALES = (0, 1, 2, 3, 4)


def build(**kwargs) -> rexnet_timm.MultiScaleUnet:
    torch.manual_seed(0)
    return rexnet_timm.MultiScaleUnet(**{'encoder_name': ENCODER, 'classes': 3, **kwargs})


def sizes(height: int, width: int, scales=SCALES) -> list[tuple[int, int]]:
    return [(-(-height // 2 ** scale), -(-width // 2 ** scale)) for scale in scales]


@pytest.mark.parametrize('size', [(32, 32), (64, 96), (45, 70), (33, 127)])
def test_training_returns_every_scale_at_its_own_size(size):
    outputs = build().train()(torch.randn(2, 3, *size))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *s) for s in sizes(*size)]


@pytest.mark.parametrize('size', [(32, 32), (45, 70)])
@pytest.mark.parametrize('scales', [(0,), (1,), (0, 2), (2, 4), SCALES])
def test_evaluation_returns_one_tensor_of_the_size_of_the_input(size, scales):
    with torch.no_grad():
        output = build(scales=scales).eval()(torch.randn(1, 3, *size))
    assert output.shape == (1, 3, *size)


def test_one_scale_returns_one_tensor_in_training_too():
    x = torch.randn(2, 3, 64, 64)
    for scales in [(0,), (2,)]:
        assert build(scales=scales).train()(x).shape == (2, 3, 64, 64)


def test_scale_0_is_the_evaluation_output():
    model = with_statistics(build())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), model.forward_scales(x)[0])


def on_the_grid(x: torch.Tensor, scale: int, height: int, width: int) -> torch.Tensor:
    """Logits of a scale at the size of the input, by plain torch: enlarged by 2**scale, and cut."""
    if scale:
        x = F.interpolate(x, scale_factor=2 ** scale, mode='bilinear', align_corners=False)
    return x[..., :height, :width]


def test_the_finest_logits_come_from_two_stages():
    model = with_statistics(build())
    x = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        features = model.decoder(model.encoder(x), (50, 70))
        for scale in (0, 1):
            head = model.heads[str(scale)]
            half = head.conv(features[1]) + on_the_grid(head.conv_coarse(features[2]), 1, 25, 35)
            expected = on_the_grid(half, 1, 50, 70) if scale == 0 else half
            torch.testing.assert_close(model.forward_scales(x)[scale], expected)


def masks(number: int, height: int, width: int) -> torch.Tensor:
    """(number, height, width) int64: bars and discs of four classes."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    result = torch.zeros(number, height, width, dtype=torch.int64)
    for mask in result:
        for label in (1, 2, 3):
            row, column = torch.randint(height, ()), torch.randint(width, ())
            mask[(rows - row) ** 2 + (columns - column) ** 2 < (height // 5) ** 2] = label
            mask[:, int(column) // 2:int(column) // 2 + 9] = label
    return result


def mean_iou(predicted: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over four classes of their intersection over union, in percent."""
    return 25 * sum(
        float(((predicted == label) & (truth == label)).sum() / ((predicted == label) | (truth == label)).sum())
        for label in range(4))


@pytest.mark.parametrize('scale, size', [(4, (180, 240)), (3, (97, 97)), (4, (97, 131))])
@pytest.mark.parametrize('confident', [False, True])
def test_perfect_coarse_logits_are_enlarged_on_their_grid(scale, size, confident, monkeypatch):
    truth = masks(8, *size)
    # each coarse pixel has the share of the classes in its cell; the last ones reach beyond the image
    cell = 2 ** scale
    beyond = [-length % cell for length in size]
    shares = F.pad(F.one_hot(truth, 4).permute(0, 3, 1, 2).float(), (0, beyond[1], 0, beyond[0]), mode='replicate')
    ideal = 20 * F.avg_pool2d(shares, cell)
    model = build(classes=4).prune_to_scale(scale).drop_heads().eval()
    images = torch.zeros(8, 3, *size)
    with torch.no_grad():
        if confident:
            monkeypatch.setattr(model, '_logits', lambda *_: ideal[:1])
            truth, images = truth[:1], images[:1]
            output = model.forward_confident(images, 0.)[0]
        else:
            monkeypatch.setattr(model, 'forward_scales', lambda *_: {scale: ideal})
            output = model(images)
    stretched = F.interpolate(ideal[:len(truth)], size=size, mode='bilinear').argmax(1)
    assert mean_iou(output.argmax(1), truth) > mean_iou(stretched, truth) + 1
    torch.testing.assert_close(output, on_the_grid(ideal[:len(truth)], scale, *size))


def without_pooling(model: torch.nn.Module) -> torch.nn.Module:
    """A model whose outputs depend on their neighbourhood and on no mean over the image."""
    for module in model.modules():
        if hasattr(module, 'se'):
            module.se = None
    return model


@pytest.mark.parametrize('encoder_name', [
    ENCODER, 'resnet18', pytest.param('vgg11', marks=pytest.mark.slow), 'tu-convnext_atto'])
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear'])
def test_cutting_the_lower_right_edge_moves_nothing_else(encoder_name, interpolation):
    """What a network says far from the border does not depend on where the image ends."""
    model = without_pooling(build(encoder_name=encoder_name, decoder_interpolation=interpolation, encoder_depth=3,
                                  scales=(0, 1, 2))).eval()
    x = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        for scale in model.scales:
            pruned = copy.deepcopy(model).prune_to_scale(scale)
            whole = pruned(x)
            for size in [(249, 255), (250, 243), (241, 254)]:
                cut = pruned(x[..., :size[0], :size[1]])
                torch.testing.assert_close(cut[..., :64, :64], whole[..., :64, :64], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [(64, 96), (50, 70), (33, 47)])
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear'])
def test_a_stage_enlarges_by_two_and_cuts(size, interpolation):
    model = with_statistics(build(decoder_interpolation=interpolation))
    mode = dict(mode=interpolation, **({'align_corners': False} if interpolation == 'bilinear' else {}))
    with torch.no_grad():
        features = model.encoder(torch.randn(1, 3, *size))
        x = features[-1]
        for scale, output in model.decoder(features, size).items():
            stage = model.decoder.stages[str(scale)]
            height, width = features[scale].shape[-2:]
            x = F.interpolate(stage.reduce(x), scale_factor=2, **mode)[..., :height, :width]
            x = stage.act_sum(x + stage.reduce_skip(features[scale]))
            x = stage.act(x + stage.refine(x))
            torch.testing.assert_close(output, x)


def test_an_encoder_that_rounds_down_has_its_edge_repeated():
    model = with_statistics(build(encoder_name='vgg11'))
    size = (65, 97)
    with torch.no_grad():
        features = model.encoder(torch.randn(1, 3, *size))
        assert features[4].shape[-2:] == (4, 6) and features[5].shape[-2:] == (2, 3)
        stage = model.decoder.stages['4']
        rows = [0, 0, 1, 1, 1]  # the third coarse row is missing, and repeats the second
        columns = [0, 0, 1, 1, 2, 2, 2]
        x = stage.reduce(features[5])[..., rows, :][..., columns]
        skip = stage.reduce_skip(features[4])[..., [0, 1, 2, 3, 3], :][..., [0, 1, 2, 3, 4, 5, 5]]
        x = stage.act_sum(x + skip)
        expected = stage.act(x + stage.refine(x))
        torch.testing.assert_close(model.decoder(features, size, finest=4)[4], expected)


@pytest.mark.parametrize('decoder_type', ['light', 'dense', 'unet'])
@pytest.mark.parametrize('encoder_name, kwargs', [
    (ENCODER, dict(output_stride=8)), (ENCODER, dict(output_stride=16)), ('resnet18', dict(output_stride=16))])
def test_dilated_encoders_keep_the_sizes_of_the_scales(decoder_type, encoder_name, kwargs):
    model = build(encoder_name=encoder_name, decoder_type=decoder_type, **kwargs).eval()
    with torch.no_grad():
        for size in [(64, 96), (65, 97)]:
            outputs = model.forward_scales(torch.randn(1, 3, *size))
            assert [tuple(output.shape[-2:]) for output in outputs.values()] == sizes(*size)


def test_coarse_logits_of_a_dilated_encoder_are_those_of_the_whole_image():
    model = build(decoder_type='unet', output_stride=8).eval()
    with torch.no_grad():
        features = model.decoder(model.encoder(x := torch.randn(1, 3, 64, 96)), (64, 96))[4]
        assert features.shape[-2:] == (8, 12)  # at a stride of 8; scale 4 has half of that
        torch.testing.assert_close(model.forward_scales(x, [4])[4], F.avg_pool2d(model.heads['4'](features), 2))


@pytest.mark.parametrize('encoder_name', [
    pytest.param('vgg11', marks=pytest.mark.slow), 'tu-convnext_atto', 'resnet18'])
def test_the_unet_decoder_stays_that_of_smp_at_any_size(encoder_name):
    peer = with_statistics(smp.Unet(encoder_name, encoder_weights=None, classes=3))
    model = build(encoder_name=encoder_name, decoder_type='unet', scales=(0,)).eval()
    model.load_state_dict(peer.state_dict())
    peer.requires_divisible_input_shape = False
    with torch.no_grad():
        for size in [(65, 97), (45, 70)]:
            x = torch.randn(1, 3, *size)
            assert torch.equal(model(x), peer(x))


def record_stages(model: rexnet_timm.MultiScaleUnet, ran: list[int]) -> None:
    for name, stage in model.decoder.stages.items():
        stage.register_forward_hook(lambda *_, name=name: ran.append(int(name)))


def test_scales_on_demand_equal_the_full_forward_and_run_no_finer_stage():
    model = with_statistics(build())
    x = torch.randn(1, 3, 50, 70)
    ran = []
    record_stages(model, ran)
    with torch.no_grad():
        full = model.forward_scales(x)
        assert list(full) == list(SCALES)
        for scale in SCALES:
            ran.clear()
            alone = model.forward_scales(x, [scale])
            assert list(alone) == [scale]
            torch.testing.assert_close(alone[scale], full[scale])
            assert min(ran) == max(1, scale)


def test_forward_scales_works_in_training_mode():
    outputs = build().train().forward_scales(torch.randn(2, 3, 64, 64), (3, 1))
    assert {scale: tuple(output.shape) for scale, output in outputs.items()} == {1: (2, 3, 32, 32), 3: (2, 3, 8, 8)}


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('decoder_type', ['light', 'dense', 'unet'])
def test_prune_to_scale_keeps_the_logits_and_drops_the_rest(scale, decoder_type):
    model = with_statistics(build(decoder_type=decoder_type))
    x = torch.randn(1, 3, 50, 70)
    pruned = copy.deepcopy(model).prune_to_scale(scale)
    with torch.no_grad():
        full = model.forward_scales(x)
        torch.testing.assert_close(pruned.forward_scales(x)[scale], full[scale])
        torch.testing.assert_close(pruned(x), on_the_grid(full[scale], scale, 50, 70))
    if scale > 0:
        assert count(pruned) < count(model)
    assert pruned.scales == SCALES[scale:]


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_drop_heads_leaves_the_output_alone():
    model = with_statistics(build())
    x = torch.randn(1, 3, 64, 64)
    shipped = copy.deepcopy(model).drop_heads()
    with torch.no_grad():
        assert torch.equal(shipped(x), model(x))
    assert list(shipped.heads) == ['0']
    assert shipped.train()(torch.randn(2, 3, 64, 64)).shape == (2, 3, 64, 64)


CHANGES = {
    'none': lambda model: model,
    'drop_heads': lambda model: model.drop_heads(),
    'prune_to_scale(3)': lambda model: model.prune_to_scale(3),
    'both': lambda model: model.prune_to_scale(3).drop_heads(),
}


@pytest.mark.parametrize('scales', [SCALES, (1, 3), (3,)])
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('decoder_type', ['light', 'dense', 'unet'])
def test_no_parameter_is_left_without_a_gradient(scales, change, decoder_type):
    model = CHANGES[change](build(scales=scales, decoder_type=decoder_type)).train()
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(output.mean() for output in (outputs if isinstance(outputs, list) else [outputs])).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_checkpoint_loads_with_other_heads(caplog):
    model = with_statistics(build())
    x = torch.randn(1, 3, 64, 64)
    lean = build(scales=(0,))
    lean.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(lean.eval()(x), model(x))
    assert not caplog.records

    again = build()
    again.load_state_dict(lean.state_dict())
    assert 'no heads for scales [1, 2, 3, 4]' in caplog.text
    with torch.no_grad():
        assert torch.equal(again.eval()(x), model(x))


def test_a_checkpoint_without_the_finest_head_is_refused():
    state_dict = {key: value for key, value in build().state_dict().items() if not key.startswith('heads.0')}
    with pytest.raises(ValueError, match='missing .heads.0.conv.weight'):
        build().load_state_dict(state_dict)


@pytest.mark.parametrize('encoder_name', [
    'rexnetv1_test', 'resnet18', pytest.param('vgg11', marks=pytest.mark.slow), 'tu-convnext_atto'])
def test_a_checkpoint_of_smp_unet_loads_into_the_unet_decoder(encoder_name, caplog):
    torch.manual_seed(1)
    peer = with_statistics(smp.Unet(encoder_name, encoder_weights=None, classes=3))
    model = build(encoder_name=encoder_name, decoder_type='unet').eval()
    model.load_state_dict(peer.state_dict())
    assert 'no heads for scales [1, 2, 3, 4]' in caplog.text
    for size in [(64, 64), (50, 70)]:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            assert torch.equal(model(x), peer(x))
            assert [tuple(o.shape[-2:]) for o in model.forward_scales(x).values()] == sizes(*size)


def test_a_checkpoint_of_smp_does_not_load_into_the_additive_decoder():
    peer = smp.Unet(ENCODER, encoder_weights=None, classes=3)
    with pytest.raises(ValueError, match="has a segmentation_head.*decoder_type='unet'"):
        build().load_state_dict(peer.state_dict())


def confidence(logits: torch.Tensor) -> float:
    return float(logits.softmax(1).max(1).values.mean())


def test_confident_images_stop_at_a_coarser_scale():
    model = with_statistics(build())
    ran = []
    record_stages(model, ran)
    x = torch.randn(3, 3, 50, 70) * torch.tensor([0.2, 1., 5.]).view(3, 1, 1, 1)
    with torch.no_grad():
        full = model.forward_scales(x)
        coarsest = [confidence(full[4][index:index + 1]) for index in range(3)]
        threshold = sorted(coarsest)[1]  # two of the three images reach it at once
        ran.clear()
        logits, used = model.forward_confident(x, threshold - 1e-6)
    assert logits.shape == (3, 3, 50, 70)
    assert (used == 4).tolist() == [value >= threshold for value in coarsest]
    last = int(used.min())
    # one image alone went on, and no further than it had to
    assert sorted(ran) == sorted([4, 4, 4, *range(3, max(last, 1) - 1, -1)])
    for index, scale in enumerate(used.tolist()):
        expected = on_the_grid(full[scale][index:index + 1], scale, 50, 70)
        torch.testing.assert_close(logits[index:index + 1], expected)


@pytest.mark.parametrize('threshold, scales, expected', [
    (0., None, 4), (1., None, 0), (0., (0, 2), 2), (1., (1, 3), 1),
])
def test_confidence_thresholds_at_the_ends(threshold, scales, expected):
    model = with_statistics(build())
    with torch.no_grad():
        logits, used = model.forward_confident(torch.randn(2, 3, 64, 64), threshold, scales)
    assert used.tolist() == [expected, expected]
    assert logits.shape == (2, 3, 64, 64)


def test_binary_confidence_is_that_of_the_likelier_side():
    model = with_statistics(build(classes=1))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        probability = model.forward_scales(x, [4])[4].sigmoid()
        reached = float(torch.maximum(probability, 1 - probability).mean())
        assert model.forward_confident(x, reached - 1e-4)[1].tolist() == [4]
        assert model.forward_confident(x, reached + 1e-4)[1].tolist() != [4]


@pytest.mark.slow
@pytest.mark.parametrize('decoder_type', ['light', 'dense', 'unet'])
@pytest.mark.parametrize('training', [True, False])
def test_compiles_without_a_graph_break(decoder_type, training):
    torch.compiler.reset()
    model = with_statistics(build(decoder_type=decoder_type)).train(training)
    compiled = torch.compile(copy.deepcopy(model), backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 3, 64, 64)
    expected, outputs = model(x), compiled(x)
    if training:
        assert len(outputs) == len(SCALES)
        sum(output.mean() for output in outputs).backward()
    else:
        expected, outputs = [expected], [outputs]
    for output, eager in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, eager, rtol=1e-4, atol=1e-4)


def test_mixed_precision_and_channels_last_train():
    model = build().train().to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(x)
        loss = rexnet_timm.MultiScaleLoss(torch.nn.CrossEntropyLoss())(outputs, torch.randint(3, (2, 64, 64)))
    loss.backward()
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_channels_last_changes_no_value():
    model = with_statistics(build())
    x = torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize('depth', [3, 4, 5])
def test_depths(depth):
    model = build(encoder_depth=depth, scales=range(depth)).train()
    assert [tuple(o.shape[-2:]) for o in model(torch.randn(2, 3, 64, 64))] == sizes(64, 64, range(depth))


def test_bilinear_decoder_differs():
    x = torch.randn(1, 3, 64, 64)
    nearest, bilinear = build().eval(), build(decoder_interpolation='bilinear').eval()
    with torch.no_grad():
        assert not torch.allclose(nearest(x), bilinear(x))


def test_activation_is_asked_for():
    with torch.no_grad():
        output = build(activation='sigmoid').eval()(torch.randn(1, 3, 64, 64))
    assert 0 <= output.min() and output.max() <= 1


def test_gradient_checkpointing_changes_no_gradient():
    x, gradients = torch.randn(2, 3, 64, 64), []
    for enable in (False, True):
        model = build().train()
        model.set_grad_checkpointing(enable)
        sum(output.square().mean() for output in model(x)).backward()
        gradients.append(model.encoder.stem.conv.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_frozen_encoder_stays_frozen():
    model = build()
    model.freeze_encoder()
    model.train()
    before = copy.deepcopy(model.encoder.state_dict())
    sum(output.mean() for output in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())


def test_save_and_load_after_pruning(tmp_path):
    model = with_statistics(build(classes=5)).prune_to_scale(1)
    model.save_pretrained(tmp_path)
    loaded = rexnet_timm.MultiScaleUnet.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_smp_builds_it_by_name():
    model = smp.create_model('multiscaleunet', encoder_name=ENCODER, encoder_weights=None, in_channels=1, classes=4)
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize('backbone, name', [
    ('rexnetv1', 'rexnetv1_unet'), ('rexnetv1_1_0', 'rexnetv1_unet_1_0'), ('rexnetv1r_3_0', 'rexnetv1r_unet_3_0'),
    ('rexnetv1_lite_1_5', 'rexnetv1_lite_unet_1_5'),
])
def test_names(backbone, name):
    assert unet_name(backbone) == name
    assert timm.is_model(name)


def test_timm_builds_it_by_name():
    model = timm.create_model('rexnetv1_unet_1_0', num_classes=11, in_chans=4, scales=(0, 2))
    outputs = model.train()(torch.randn(2, 4, 64, 64))
    assert [tuple(output.shape) for output in outputs] == [(2, 11, 64, 64), (2, 11, 16, 16)]
    assert model.num_classes == 11
    assert model.pretrained_cfg['first_conv'] == 'encoder.stem.conv'


def test_timm_builds_other_widths_by_name():
    narrow, wide = (timm.create_model('rexnetv1_unet', width_mult=width) for width in (1.0, 1.3))
    assert count(wide) > count(narrow)


def test_pretrained_takes_the_weights_of_the_backbone(tmp_path):
    backbone = timm.create_model('rexnetv1_1_0')
    torch.save(backbone.state_dict(), tmp_path / 'backbone.pth')
    overlay = {'file': str(tmp_path / 'backbone.pth')}
    model = timm.create_model('rexnetv1_unet_1_0', pretrained=True, pretrained_cfg_overlay=overlay, num_classes=11)
    expected = backbone.state_dict()
    assert len(model.encoder.state_dict()) > 300
    assert all(torch.equal(value, expected[key]) for key, value in model.encoder.state_dict().items())


def test_features_only_is_refused():
    with pytest.raises(ValueError, match='rexnetv1_unet_1_0 has no features_only'):
        timm.create_model('rexnetv1_unet_1_0', features_only=True)


@pytest.mark.parametrize('kwargs, message', [
    (dict(scales=(0, 5)), r'from 0 .* to 4 .*got \(0, 5\)'),
    (dict(scales=()), r'at least one, got \(\)'),
    (dict(scales=(0, 0)), r'different whole numbers .*got \(0, 0\)'),
    (dict(scales=(3,), encoder_depth=3), r'to 2 \(encoder_depth - 1\).*got \(3,\)'),
    (dict(encoder_depth=6), r'encoder_depth must be 3, 4 or 5, got 6'),
    (dict(classes=0), r'classes must be a whole number of at least 1, got 0'),
    (dict(decoder_channels=(64, 32)), r'encoder_depth - 1 = 4 entries, coarsest first, got 2'),
    (dict(decoder_channels=64), r'4 entries, coarsest first, got 1: \(64,\)'),
    (dict(decoder_channels=('64', 32, 16, 8)), r'whole number of at least 1'),
    (dict(scales=0.5), r'whole numbers from 0 .* got \(0.5,\)'),
    (dict(width_mult='abc'), r"width_mult must be a positive number, got 'abc'"),
    (dict(classes='3'), r"classes must be a whole number of at least 1, got '3'"),
    (dict(decoder_type='unet', decoder_channels=(64, 32)), r'encoder_depth = 5 entries, coarsest first, got 2'),
    (dict(decoder_type='fpn'), "decoder_type must be one of light, dense, unet, or one that a package .* got 'fpn'"),
    (dict(decoder_type='unet', decoder_act_layer='gelu'), r"always 'relu', got 'gelu'"),
    (dict(decoder_interpolation='cubic'), r"'nearest' or 'bilinear', got 'cubic'"),
    (dict(encoder_name='rexnetv1_1_O'), r"Unknown encoder name 'rexnetv1_1_O'.*rexnetv1_1_0"),
    (dict(encoder_name='resnet18', width_mult=1.3), r"'resnet18' takes no further arguments, got width_mult"),
    (dict(encoder_name='resnet18', decodertype='unet'), 'no argument decodertype. Did you mean decoder_type'),
    (dict(num_classes=5), 'rexnetv1_test has no argument num_classes: it is called classes here'),
    (dict(encoder_name='tu-resnet18', num_classes=5), 'num_classes: it is called classes here'),
    (dict(in_chans=4), 'no argument in_chans: it is called in_channels here'),
    (dict(widht_mult=1.1), 'no argument widht_mult. Did you mean width_mult'),
    (dict(decoder_chanels=(8, 8, 8, 8)), 'no argument decoder_chanels. Did you mean decoder_channels'),
    (dict(encoder_name='tu-resnet18', foo=1), "cannot be built .*'foo': 1.*unexpected keyword argument 'foo'"),
])
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize('kwargs, message', [
    (dict(classes=5), 'rexnetv1_unet has no argument classes: it is called num_classes here'),
    (dict(in_channels=5), 'no argument in_channels: it is called in_chans here'),
    (dict(encoder_name='resnet18'), 'is the U-Net on rexnetv1, got encoder_name .resnet18.: leave it out'),
    (dict(scale=(0,)), 'no argument scale. Did you mean scales'),
])
def test_wrong_arguments_of_timm_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model('rexnetv1_unet', **kwargs)


def test_wrong_calls_are_refused():
    model = build(scales=(0, 2)).eval()
    with pytest.raises(ValueError, match=r'some of \(0, 2\), the scales with a head, got \(1,\)'):
        model.forward_scales(torch.randn(1, 3, 64, 64), [1])
    with pytest.raises(ValueError, match=r'one of \(0, 2\), the scales with a head, got 1'):
        model.prune_to_scale(1)
    with pytest.raises(ValueError, match=r'threshold must be from 0 to 1, .* got 1.5'):
        model.forward_confident(torch.randn(1, 3, 64, 64), 1.5)
    with pytest.raises(ValueError, match='build the model without an activation'):
        build(activation='sigmoid').forward_confident(torch.randn(1, 3, 64, 64), 0.5)
    with pytest.raises(ValueError, match='at least 32 x 32, got 31 x 64'):
        model(torch.randn(1, 3, 31, 64))
