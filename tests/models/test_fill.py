"""Networks with filled channels against themselves before."""
import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from networks import image, with_statistics
from torch import nn

import rexnet_timm
from rexnet_timm.models.fill import fill_channels

MODELS = {
    'ours': lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2),
    'a classifier': lambda: timm.create_model('rexnetv1_test', num_classes=3),
    "timm's, in SMP's": lambda: smp.Unet('tu-rexnet_100', encoder_weights=None),
}


def depthwise(model: nn.Module) -> list[int]:
    """Channels of the depthwise convolutions of the blocks that expand."""
    return [module.conv_dw.conv.out_channels for module in model.modules()
            if getattr(module, 'conv_exp', None) is not None]


@pytest.mark.parametrize('create', MODELS.values(), ids=MODELS)
def test_the_outputs_stay(create):
    torch.manual_seed(0)
    model = rexnet_timm.fuse(with_statistics(create()))
    filled = fill_channels(copy.deepcopy(model))
    before = depthwise(model)
    assert any(number % 16 for number in before)
    assert depthwise(filled) == [-(-number // 16) * 16 for number in before]
    x = image(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(filled(x), model(x), rtol=1e-4, atol=1e-4)


def test_norms_that_are_not_folded_and_other_networks_stay():
    for model in (timm.create_model('rexnetv1_test', num_classes=3), timm.create_model('test_efficientnet')):
        before = copy.deepcopy(model.state_dict())
        fill_channels(model)
        assert {name: tensor.shape for name, tensor in before.items()} == {
            name: tensor.shape for name, tensor in model.state_dict().items()}
