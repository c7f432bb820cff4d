"""The multi-scale U-Net on encoders that are not this package's."""
import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from rexnet_timm import MultiScaleUnet
from rexnet_timm.models.any_encoder import create_encoder, feature_grids, min_training_batch
from rexnet_timm.models.rexnetv1 import model_cfgs

# One of each family: patch-4 without a half-scale feature, VGG with a full-scale one, NHWC, fixed sizes, ...
TIMM_NAMES = [
    'convnext_atto', 'convnextv2_atto', 'cspdarknet53', 'davit_tiny', 'densenet121', 'dla34', 'edgenext_xx_small',
    'efficientformerv2_s0', 'efficientnet_b0', 'ese_vovnet19b_dw', 'fastvit_t8', 'ghostnet_100', 'hardcorenas_a',
    'hrnet_w18_small', 'lcnet_050', 'mambaout_femto', 'maxvit_tiny_tf_224', 'mobilenetv3_small_100',
    'mobilenetv4_conv_small', 'mobilevitv2_050', 'mvitv2_tiny', 'nextvit_small', 'poolformer_s12', 'pvt_v2_b0',
    'rdnet_tiny', 'regnety_002', 'repghostnet_050', 'repvgg_a0', 'resnet18d', 'rexnet_100', 'starnet_s1',
    'swiftformer_xs', 'swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256', 'tiny_vit_5m_224',
    'twins_svt_small', 'vgg11_bn', 'xception41',
]
FIXED_SIZE = {'efficientformerv2_s0', 'maxvit_tiny_tf_224', 'swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256'}
SMP_NAMES = [name for name in smp.encoders.get_encoder_names() if name not in model_cfgs]
# What is larger trains without numbers: memory and minutes would say nothing about the decoder.
LARGEST = 15_000_000


def check_training(encoder_name: str, size: int, **kwargs) -> None:
    """One step; every scale has its size and every parameter that is to be trained its gradient."""
    def build() -> MultiScaleUnet:
        return MultiScaleUnet(encoder_name, classes=2, **kwargs).train()

    torch.manual_seed(0)
    try:
        with torch.device('meta'):  # some have 800 million parameters
            model = build()
    except RuntimeError:  # MiT reads numbers from tensors while it is built
        model = build().to('meta')
    device = 'cpu' if sum(parameter.numel() for parameter in model.parameters()) <= LARGEST else 'meta'
    if device == 'cpu':
        model = build()
    outputs = model(torch.randn(2, 3, size, size, device=device))
    assert [tuple(output.shape) for output in outputs] == [(2, 2, size >> s, size >> s) for s in model.scales]
    sum(output.mean() for output in outputs).backward()
    missing = [n for n, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert missing == []
    assert device == 'meta' or all(output.isfinite().all() for output in outputs)
    trained = sum(parameter.numel() for parameter in model.encoder.parameters() if parameter.requires_grad)
    assert trained > 0.7 * sum(parameter.numel() for parameter in model.encoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('encoder_name', SMP_NAMES)
def test_every_encoder_of_smp(encoder_name):
    check_training(encoder_name, 64)


@pytest.mark.slow
@pytest.mark.parametrize('name', TIMM_NAMES)
def test_encoders_of_timm(name):
    check_training(f'tu-{name}', 64, **({'img_size': 64} if name in FIXED_SIZE else {}))


@pytest.mark.parametrize('encoder_name', ['resnet18', 'mit_b0', 'timm-efficientnet-b0', 'vgg11'])
@pytest.mark.parametrize('depth', [4, 5])
def test_nothing_is_left_without_a_gradient(encoder_name, depth):
    model = MultiScaleUnet(encoder_name, encoder_depth=depth, classes=2, scales=(0, 2)).train()
    sum(output.mean() for output in model(torch.randn(2, 3, 64, 64))).backward()
    missing = [n for n, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert missing == []
    # frozen is what reaches no feature, and nothing else
    frozen = {name.split('.')[1] for name, parameter in model.named_parameters() if not parameter.requires_grad}
    classifier = {'conv_head', 'bn2'} if encoder_name == 'timm-efficientnet-b0' else set()
    assert frozen >= classifier
    assert depth == 4 or frozen == classifier


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_a_network_is_built_where_nothing_is_differentiated(mode):
    def frozen() -> list[str]:
        encoder = create_encoder('resnet18', depth=4)
        return [name for name, parameter in encoder.named_parameters() if not parameter.requires_grad]

    with mode():
        assert frozen() and all(name.startswith('layer4') for name in frozen())
    assert frozen() and all(name.startswith('layer4') for name in frozen())


@pytest.mark.parametrize('encoder_name', ['tu-convnext_atto', 'tu-vgg11_bn', 'tu-mobilenetv3_small_100'])
@pytest.mark.parametrize('size', [(45, 70), (64, 64)])
def test_any_size(encoder_name, size):
    model = MultiScaleUnet(encoder_name, classes=2).train()
    outputs = model(torch.randn(2, 3, *size))
    assert [tuple(o.shape[-2:]) for o in outputs] == [tuple(-(-side // 2 ** s) for side in size) for s in range(5)]


def test_fixed_sizes_are_told():
    model = MultiScaleUnet('tu-swin_tiny_patch4_window7_224', classes=2, img_size=64).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 2, 64, 64)
    with pytest.raises(ValueError, match=r'images of 64 x 64 only, got 96 x 64: resize them, build it with img_size'):
        model(torch.randn(1, 3, 96, 64))


def test_sizes_that_timm_calls_fixed_and_are_not():
    model = MultiScaleUnet('tu-swiftformer_xs', classes=2).eval()  # 224 x 224, timm says
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize('name, reason', [
    ('vit_tiny_patch16_224', 'Unsupported model downsampling pattern'),
    ('nest_tiny', 'list index out of range'),
])
def test_what_has_no_pyramid_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=f"Encoder 'tu-{name}' cannot be built.*{reason}.*features that halve in size"):
        MultiScaleUnet(f'tu-{name}', classes=2)


@pytest.mark.parametrize('build', [
    lambda: MultiScaleUnet('rexnetv1_test'),
    lambda: MultiScaleUnet('rexnetv1_lite_1_0'),
    lambda: MultiScaleUnet('resnet18'),
    lambda: smp.DeepLabV3Plus('resnet18', encoder_weights=None),
    lambda: smp.PSPNet('resnet18', encoder_weights=None),
    lambda: timm.create_model('rexnetv1_test', drop_rate=0.2, drop_path_rate=0.1),
    lambda: timm.create_model('rexnet_100'),
    lambda: timm.create_model('resnet18'),
], ids=['unet', 'lite', 'resnet18', 'deeplab', 'pspnet', 'classifier', 'rexnet_100', 'resnet18 classifier'])
@pytest.mark.parametrize('size', [(64, 64), (32, 32)])
def test_the_least_training_batch_is_what_training_says(build, size):
    model = build().eval()
    before, random = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    number = min_training_batch(model, size)
    assert torch.equal(torch.get_rng_state(), random) and not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(value.is_meta for value in model.state_dict().values())
    model.train()
    try:
        model(torch.randn(1, 3, *size))
        assert number == 1
    except ValueError:
        assert number == 2
        model(torch.randn(2, 3, *size))


@pytest.mark.parametrize('name, number', [
    ('rexnetv1_test', 2), ('rexnetv1_lite_1_0', 1), ('resnet18', 1)])
def test_the_least_training_batch_by_name(name, number):
    assert min_training_batch(MultiScaleUnet(name, in_channels=5), (64, 96), 5) == number


def test_the_least_training_batch_of_a_size_that_is_refused():
    with pytest.raises(ValueError, match='at least 32 x 32, got 16 x 64'):
        min_training_batch(MultiScaleUnet('resnet18'), (16, 64))


@pytest.mark.parametrize('name, expected', [
    ('resnet18', [(0, False), (1, False), (2, False), (3, False), (4, False), (5, False)]),
    ('vgg11', [(0, False), (1, True), (2, True), (3, True), (4, True), (5, True)]),
    ('densenet121', [(0, False), (1, False), (2, False), (3, True), (4, True), (5, True)]),
    ('tu-starnet_s1', [(0, False), (1, True), (2, False), (3, False), (4, False), (5, False)]),
    ('tu-inception_v4', [(0, False), (-1, True), (-1, True), (-1, True), (-1, True), (-1, True)]),
])
def test_where_features_lie(name, expected):
    encoder = create_encoder(name)
    assert feature_grids(name, encoder) == expected
    with torch.no_grad():
        for size in (99, 110, 127):
            features = encoder.eval()(torch.randn(1, 3, size, size))
            for feature, (scale, short) in zip(features, expected, strict=True):
                assert scale < 0 or 0 <= -(-size // 2 ** scale) - feature.shape[-1] <= short
