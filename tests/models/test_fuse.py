"""Networks with BatchNorm folded into their convolutions against themselves before."""
import copy
from collections.abc import Sequence

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from timm.layers import BatchNormAct2d, ConvNormAct, SEModule, SeparableConvNormAct, create_conv2d
from torch import nn
from torch.nn.utils import parametrizations, prune

import rexnet_timm

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and maps of the norms that are not those of a fresh network."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, NORMS):
            for tensor in (module.weight, module.running_var):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                if tensor is not None:
                    nn.init.normal_(tensor)
    return model


def norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def assert_fuses(model: nn.Module, x: torch.Tensor, left: Sequence[str] = ()) -> nn.Module:
    """`fuse` changes the copy and not the model, in float64 and float32, and leaves these norms; returns the copy."""
    for dtype, tolerance in ((torch.float, 1e-4), (torch.double, 1e-9)):
        model, x = randomise(model).to(dtype).train(), x.to(dtype)
        before = copy.deepcopy(model.state_dict())
        fused = rexnet_timm.fuse(model)
        assert model.training and not any(module.training for module in fused.modules())
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert {tensor.dtype for tensor in fused.parameters()} == {dtype}
        with torch.no_grad():
            expected = model.eval()(x)
            scale = max(tensor.abs().max().item() for tensor in tensors(expected))
            torch.testing.assert_close(fused(x), expected, rtol=tolerance, atol=tolerance * scale)
    assert norms(fused) == list(left)
    return fused


def tensors(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else list(
        output.values() if isinstance(output, dict) else output)


MODELS = {
    'backbone': (lambda: timm.create_model('rexnetv1_test', num_classes=3), []),
    'lite': (lambda: rexnet_timm.ReXNetV1Lite(width_mult=0.5, depth_mult=0.2, num_classes=3), []),
    'dilated': (lambda: timm.create_model('rexnetv1_test', num_classes=3, output_stride=8), []),
    'features': (lambda: timm.create_model('rexnetv1_test', features_only=True), []),
    'encoder': (lambda: rexnet_timm.create_encoder('rexnetv1_test'), []),
    'unet': (lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2), []),
    'unet decoder': (lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2, decoder_type='unet'), []),
    'depth': (lambda: rexnet_timm.ReXDepth(0.25, 0.2), []),
    'unet on resnet': (lambda: rexnet_timm.MultiScaleUnet('tu-test_resnet', classes=2), []),
    'unet without a skip': (
        lambda: rexnet_timm.MultiScaleUnet('tu-test_convnext', classes=2), []),
    'smp.Unet': (lambda: smp.Unet('resnet18', encoder_weights=None), []),
    'smp.DeepLabV3Plus': (lambda: smp.DeepLabV3Plus('rexnetv1_test', encoder_weights=None), []),
    'timm resnet': (lambda: timm.create_model('test_resnet', num_classes=3), []),
    'timm efficientnet': (lambda: timm.create_model('test_efficientnet', num_classes=3), []),
    'timm vit': (lambda: timm.create_model('test_vit', num_classes=3), []),
}
LONG = ('dilated', 'timm resnet', 'depth', 'unet decoder', 'unet without a skip', 'unet on resnet', 'smp.DeepLabV3Plus')


@pytest.mark.parametrize('create, left', [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] if name in LONG else []) for name, case in MODELS.items()])
def test_networks(create, left):
    model = create()
    size = 160 if 'VisionTransformer' in type(model).__name__ else 64
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert_fuses(model, x, left)


class Odd(nn.Module):
    """A module with one convolution and one norm, whose `forward` is given."""

    def __init__(self, forward, conv: nn.Module | None = None, norm: nn.Module | None = None):
        super().__init__()
        self.conv, self.norm = conv or nn.Conv2d(3, 4, 3), norm or nn.BatchNorm2d(4)
        self.other = nn.BatchNorm2d(4)
        self.steps = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps(self, x)


def direct(self, x: torch.Tensor) -> torch.Tensor:
    return self.norm(self.conv(x))


class ScaledConv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


OTHER = ['norm', 'other']
ODD = {
    'direct': (lambda: Odd(direct), ['other']),
    'with bias and groups': (lambda: Odd(direct, nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), ['other']),
    'without bias': (lambda: Odd(direct, nn.Conv2d(3, 4, 3, 2, 1, 2, bias=False)), ['other']),
    'reflected': (lambda: Odd(direct, nn.Conv2d(3, 4, 3, padding=1, padding_mode='reflect')), ['other']),
    'same': (lambda: Odd(direct, create_conv2d(3, 4, 3, stride=2, padding='same')), ['other']),
    'without affine': (lambda: Odd(direct, norm=nn.BatchNorm2d(4, affine=False)), ['other']),
    'with activation': (lambda: Odd(direct, norm=BatchNormAct2d(4, act_layer='silu')), ['other']),
    'with drop layer': (lambda: Odd(
        direct, norm=BatchNormAct2d(4, act_layer='silu', drop_layer=lambda: nn.AvgPool2d(2))), ['other']),
    'synchronised': (lambda: Odd(direct, norm=nn.SyncBatchNorm(4)), ['other']),
    'without statistics': (lambda: Odd(direct, norm=nn.BatchNorm2d(4, track_running_stats=False)), OTHER),
    'derived convolution': (lambda: Odd(direct, ScaledConv2d(3, 4, 3)), OTHER),
    'derived norm': (lambda: Odd(direct, norm=ScaledNorm(4)), OTHER),
    'weight norm': (lambda: Odd(direct, parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), OTHER),
    'transposed': (lambda: Odd(direct, nn.ConvTranspose2d(3, 4, 3)), OTHER),
    'after a sum': (lambda: Odd(lambda m, x: m.norm(m.conv(x) + 1)), OTHER),
    'used beside': (lambda: Odd(lambda m, x: (lambda y: m.norm(y) + y)(m.conv(x))), OTHER),
    'two norms': (lambda: Odd(lambda m, x: (lambda y: m.norm(y) + m.other(y))(m.conv(x))), OTHER),
    'one after another': (lambda: Odd(lambda m, x: m.norm(m.conv(x)) + m.other(m.conv(x))), OTHER),
    'one norm twice': (lambda: Odd(lambda m, x: m.norm(m.norm(m.conv(x)))), OTHER),
    'the norm before': (lambda: Odd(lambda m, x: m.conv(m.norm(x)), nn.Conv2d(4, 4, 1)), OTHER),
    'both called twice': (lambda: Odd(lambda m, x: m.norm(m.conv(x)) - m.norm(m.conv(2 * x))), ['other']),
    'weight used by itself': (lambda: Odd(lambda m, x: m.norm(m.conv(x)) * m.conv.weight.mean()), OTHER),
    'a branch on values': (lambda: Odd(lambda m, x: direct(m, x) if x.sum() > 0 else x), OTHER),
    'sequential': (lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(
        nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), []),
    'built in passing': (lambda: Odd(lambda m, x: nn.Sequential(m.conv, m.norm)(x)), ['other']),
    'a list that cannot be recorded': (lambda: Odd(
        lambda m, x: m.conv(x) if x.sum() > 0 else x, nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))), OTHER),
    'timm layers': (lambda: nn.Sequential(
        ConvNormAct(3, 8, 3, stride=2, act_layer='silu'), SEModule(8, rd_channels=4, norm_layer=nn.BatchNorm2d),
        SeparableConvNormAct(8, 4, 3, dilation=2), ConvNormAct(4, 4, apply_norm=False)), []),
}


@pytest.mark.parametrize('create, left', ODD.values(), ids=ODD)
def test_only_what_follows_directly_is_folded(create, left):
    channels = 4 if create is ODD['the norm before'][0] else 3
    assert_fuses(create(), torch.rand(2, channels, 12, 12, generator=torch.Generator().manual_seed(1)), left)


@pytest.mark.parametrize('dims', [1, 3])
def test_other_dimensions(dims):
    conv, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
    assert_fuses(nn.Sequential(conv(3, 4, 3), norm(4)), torch.randn(2, 3, *[8] * dims))


def test_in_place():
    model = randomise(timm.create_model('rexnetv1_test', num_classes=3)).train()
    x = torch.randn(2, 3, 64, 64)
    expected = rexnet_timm.fuse(model)(x)
    assert rexnet_timm.fuse(model, inplace=True) is model and not model.training and not norms(model)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    again = rexnet_timm.fuse(model)
    torch.testing.assert_close(again(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_folded_in_float32(dtype):
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).to(dtype)
    x = torch.randn(2, 3, 12, 12, dtype=dtype)
    with torch.no_grad():
        expected = copy.deepcopy(model).double().eval()(x.double())
        fused = rexnet_timm.fuse(model)
        assert {tensor.dtype for tensor in fused.state_dict().values()} == {dtype}
        error = (fused(x).double() - expected).abs().max()
    assert error < 8 * torch.finfo(dtype).eps * expected.abs().max()


def test_a_shared_norm_with_its_convolution():
    block = ConvNormAct(3, 3, 3, act_layer='silu')
    fused = assert_fuses(nn.Sequential(block, nn.ReLU(), block), torch.randn(2, 3, 12, 12))
    assert fused[0] is fused[2]


def test_weights_that_a_hook_prepares_stay():
    conv = prune.l1_unstructured(nn.Conv2d(3, 4, 3), 'weight', amount=0.5)
    model, x = randomise(nn.Sequential(conv, nn.BatchNorm2d(4))).eval(), torch.randn(2, 3, 8, 8)
    expected = model(x)
    torch.testing.assert_close(rexnet_timm.fuse(model, inplace=True)(x), expected)
    assert norms(model) == ['1']


def test_hooks_see_the_normalised_output():
    model = randomise(timm.create_model('rexnetv1_test', num_classes=3)).double().eval()
    fused = rexnet_timm.fuse(model)
    seen = []
    model.stem.bn.drop.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    fused.stem.conv.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    model(x)
    fused(x)
    torch.testing.assert_close(seen[1], seen[0])


def test_weights_of_a_fused_network_load_into_another():
    models = [rexnet_timm.fuse(randomise(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2))) for _ in range(2)]
    for parameter in models[1].parameters():
        nn.init.zeros_(parameter)
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(models[1](x), models[0](x), rtol=0, atol=0)


@pytest.mark.parametrize('create', [MODELS['backbone'][0], MODELS['unet'][0]], ids=['backbone', 'unet'])
def test_fused_networks_export(create):
    model = rexnet_timm.fuse(randomise(create()))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))
