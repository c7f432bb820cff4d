"""The network of depth."""
import pytest
import timm
import torch
from networks import with_statistics

import rexnet_timm
from rexnet_timm.models.depth import ReXDepth

SMALL = dict(width_mult=0.25, depth_mult=0.2)


def build(**kwargs) -> ReXDepth:
    torch.manual_seed(0)
    return ReXDepth(**{**SMALL, **kwargs})


def sizes(height: int, width: int, scales) -> dict:
    return {('disp', scale): (2, 1, -(-height // 2 ** scale), -(-width // 2 ** scale)) for scale in scales}


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
    (lambda: build(classes=2), 'ReXDepth predicts disparity, .* no classes, got classes 2: leave it out'),
    (lambda: build(encoder_name='resnet18'), "is built on rexnetv1, got encoder_name 'resnet18': leave it out"),
    (lambda: build(in_chans=4), 'ReXDepth has no argument in_chans: it is called in_channels here'),
    (lambda: build(scalse=(0,)), 'ReXDepth has no argument scalse. Did you mean scales'),
    (lambda: timm.create_model('rexdepth', in_channels=4), 'no argument in_channels: it is called in_chans here'),
    (lambda: build().eval()(torch.randn(1, 3, 31, 64)), 'at least 32 x 32, got 31 x 64'),
    (lambda: timm.create_model('rexdepth', num_classes=6), r'one channel and no classes, got num_classes 6: leave it'),
    (lambda: timm.create_model('rexdepth_1_0', features_only=True), 'rexdepth_1_0 has no features_only'),
])
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
