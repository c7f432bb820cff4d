"""The SMP encoder contract over every backbone, and SMP's architectures on it."""
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from networks import image

from rexnet_timm.models.any_encoder import create_encoder
from rexnet_timm.models.encoder import ReXNetV1Encoder, ReXNetV1LiteEncoder, register_encoders
from rexnet_timm.models.rexnetv1 import model_cfgs, timm_to_naver

SMALL = 'rexnetv1_test'
KINDS = ('rexnetv1_1_0', 'rexnetv1r_3_0', 'rexnetv1_lite_1_0')  # the other names are wider or narrower


def as_encoded(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """The last feature filled up with zero channels to a multiple of 4, as the encoder promises."""
    last = features[-1]
    zeros = last.new_zeros(last.shape[0], -last.shape[1] % 4, *last.shape[2:])
    return [*features[:-1], torch.cat([last, zeros], dim=1)]


def assert_all_equal(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    """To rounding: convolutions take BatchNorm in where nothing records the network, and features are of any size."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * b.std().item())


def assert_contract(encoder: torch.nn.Module, in_channels: int, depth: int, output_stride: int = 32) -> None:
    x = image(2, in_channels, 64, 96).to(encoder.stem.conv.weight.device)
    features = encoder(x)
    assert features[0] is x
    assert len(features) == len(encoder.out_channels) == depth + 1
    assert encoder.out_channels[0] == in_channels
    assert encoder.output_stride == min(output_stride, 2 ** depth)
    for index, (feature, chs) in enumerate(zip(features, encoder.out_channels, strict=True)):
        reduction = min(2 ** index, output_stride)
        assert feature.shape == (2, chs, 64 // reduction, 96 // reduction)
    sum(feature.mean() for feature in features[1:]).backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize('name', model_cfgs)
def test_every_name_is_an_encoder(name):
    with torch.device('meta'):  # shapes and the graph without values
        encoder = smp.encoders.get_encoder(name, in_channels=3, depth=5, weights=None)
        backbone = timm.create_model(name)
    assert isinstance(encoder, ReXNetV1LiteEncoder if 'lite' in name else ReXNetV1Encoder)
    assert_contract(encoder, in_channels=3, depth=5)
    chs = [info['num_chs'] for info in backbone.feature_info]
    assert encoder.out_channels[1:] == [*chs[:-1], chs[-1] + -chs[-1] % 4]
    assert str(encoder.load_state_dict(backbone.state_dict())) == '<All keys matched successfully>'


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('depth, output_stride', [(3, 8), (4, 16), (5, 8)])
def test_contract_of_every_kind(name, depth, output_stride):
    with torch.device('meta'):
        encoder = smp.encoders.get_encoder(name, 3, depth, None, output_stride)
        reference = timm.create_model(name, output_stride=output_stride)
    assert_contract(encoder, 3, depth, output_stride)
    # dilated once, as timm dilates
    convs = [(block.conv_dw.conv, twin.conv_dw.conv)
             for block, twin in zip(encoder.features, reference.features, strict=False)]
    assert len(convs) == len(encoder.features) > 2
    for conv, twin in convs:
        assert (conv.stride, conv.dilation, conv.padding) == (twin.stride, twin.dilation, twin.padding)
    assert depth < 5 or convs[-1][0].dilation > (1, 1)


@pytest.mark.parametrize('name', KINDS)
def test_channels_of_every_kind(name):
    for in_channels in (1, 4):
        encoder = smp.encoders.get_encoder(name, in_channels, 3, None).eval()
        with torch.no_grad():
            features = encoder(image(1, in_channels, 32, 32))
        assert [f.shape[1] for f in features] == encoder.out_channels and encoder.out_channels[0] == in_channels


@pytest.mark.parametrize('depth', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('in_channels', [1, 3, 4])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_contract(depth, in_channels, output_stride):
    encoder = smp.encoders.get_encoder(SMALL, in_channels, depth, None, output_stride)
    assert_contract(encoder, in_channels, depth, output_stride)
    assert sorted(encoder.get_stages()) == [2 ** (i + 1) for i in range(depth)]
    staged = {id(p) for modules in encoder.get_stages().values() for m in modules for p in m.parameters()}
    assert staged == {id(p) for p in encoder.parameters()}


@pytest.mark.parametrize('size', [(33, 47), (32, 32), (50, 70)])
def test_any_size(size):
    features = create_encoder(SMALL).eval()(image(1, 3, *size))
    assert [f.shape[2:] for f in features] == [tuple(-(-s // 2 ** i) for s in size) for i in range(6)]


@pytest.mark.parametrize('name', [SMALL, 'rexnetv1_lite_1_0'])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_dilated_values_are_those_of_timm(name, output_stride):
    backbone = timm.create_model(name).eval()
    reference = timm.create_model(name, output_stride=output_stride).eval()
    reference.load_state_dict(backbone.state_dict())
    x = image(1, 3, 96, 64)
    expected = as_encoded(reference.forward_intermediates(x, intermediates_only=True))

    encoder = create_encoder(name, output_stride=output_stride).eval()
    encoder.load_state_dict(backbone.state_dict())
    assert_all_equal(encoder(x)[1:], expected)
    encoder.make_dilated(output_stride)  # once more changes nothing
    assert_all_equal(encoder(x)[1:], expected)
    for other in (8, 32, 16, output_stride):  # and neither does a way round
        encoder.make_dilated(other)
    assert_all_equal(encoder(x)[1:], expected)
    assert [info['reduction'] for info in encoder.feature_info] == [f['reduction'] for f in reference.feature_info]


@pytest.mark.parametrize('layout', ['timm', 'naver'])
@pytest.mark.parametrize('depth', [3, 5])
def test_files_of_the_whole_network_load(layout, depth):
    backbone = timm.create_model(SMALL, num_classes=11).eval()
    ours = backbone.state_dict()
    state_dict = ours if layout == 'timm' else timm_to_naver(ours, backbone)
    count = len(state_dict)
    encoder = create_encoder(SMALL, depth=depth).eval()
    assert encoder.state_dict().keys() < ours.keys()
    assert str(encoder.load_state_dict(state_dict)) == '<All keys matched successfully>'
    assert len(state_dict) == count
    x = image(1, 3, 64, 64)
    expected = backbone.forward_intermediates(x, intermediates_only=True)[:depth]
    assert_all_equal(encoder(x)[1:], as_encoded(expected))
    create_encoder(SMALL, depth=depth).load_state_dict(encoder.state_dict())


def test_foreign_state_dicts_are_refused():
    encoder = create_encoder(SMALL, depth=3)
    with pytest.raises(ValueError, match=r'does not fit: .*ReXNetV1Encoder needs are missing \(stem.conv.weight, '):
        encoder.load_state_dict(timm.create_model('test_resnet').state_dict())
    with pytest.raises(ValueError, match=r'width_mult=0.5'):
        encoder.load_state_dict(timm.create_model(SMALL, width_mult=0.5).state_dict())
    incomplete = encoder.state_dict()
    del incomplete['features.1.conv_pwl.conv.weight']
    with pytest.raises(ValueError, match=r'1 of .* missing \(features.1.conv_pwl.conv.weight\)'):
        encoder.load_state_dict(incomplete)


def test_weights_of_three_channels_are_adapted():
    encoder = create_encoder(SMALL)
    weight = encoder.stem.conv.weight.detach().clone()
    encoder.set_in_channels(1)
    torch.testing.assert_close(encoder.stem.conv.weight, weight.sum(1, keepdim=True))
    assert encoder.out_channels[0] == encoder.in_chans == 1
    encoder.set_in_channels(1)
    assert_contract(encoder, in_channels=1, depth=5)
    with pytest.raises(ValueError, match='Only an encoder of 3 channels can be changed, this one has 1, asked for 4'):
        encoder.set_in_channels(4)


def test_grad_checkpointing():
    encoder, x = create_encoder(SMALL).eval(), image(2, 3, 64, 64)
    sum(f.sum() for f in encoder(x)).backward()
    expected = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    encoder.set_grad_checkpointing(True)
    calls = []
    encoder.features[2].register_forward_pre_hook(lambda *_: calls.append(1))
    sum(f.sum() for f in encoder(x)).backward()
    assert len(calls) == 2  # forward, and again in backward
    for name, p in encoder.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, depth, output_stride', [(SMALL, 5, 32), (SMALL, 3, 8), ('rexnetv1_lite_1_0', 4, 16)])
def test_script_trace_export_compile(name, depth, output_stride):
    encoder = create_encoder(name, depth=depth, output_stride=output_stride, width_mult=0.25, depth_mult=0.2).eval()
    x = image(2, 3, 64, 64)
    expected = encoder(x)
    assert_all_equal(torch.jit.script(encoder)(x), expected)
    assert_all_equal(list(torch.jit.trace(encoder, x, strict=False)(x)), expected)
    assert_all_equal(torch.export.export(encoder, (x,)).module()(x), expected)
    assert_all_equal(torch.compile(encoder, fullgraph=True, backend='eager')(x), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', KINDS)
def test_script_trace_export_compile_at_full_width(name):
    """The other names differ from these in width, and the one for tests in depth."""
    torch.compiler.reset()  # each name is another network, and recompiling has a limit
    encoder = smp.encoders.get_encoder(name, 3, 5, None).eval()
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(x)
        assert_all_equal(torch.jit.script(encoder)(x), expected)
        assert_all_equal(list(torch.jit.trace(encoder, x, strict=False)(x)), expected)
        assert_all_equal(torch.export.export(encoder, (x,)).module()(x), expected)
        assert_all_equal(torch.compile(encoder, fullgraph=True, dynamic=True, backend='eager')(x), expected)


@pytest.mark.parametrize('arch', ['Unet', 'FPN', 'DeepLabV3Plus'])
def test_frozen_encoders_of_smp_stay_frozen(arch):
    model = smp.create_model(arch, SMALL, encoder_weights=None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.freeze_encoder()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()(image(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith('encoder.') for key in changed)
    model.unfreeze_encoder()
    model.train()(image(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def architectures() -> list[tuple]:
    # architecture, encoder depth, arguments; what SMP itself excludes is left out
    cases = []
    for depth in (3, 4, 5):
        channels = dict(decoder_channels=(64, 48, 32, 24, 16)[:depth])
        cases += [(arch, depth, channels) for arch in ('Unet', 'UnetPlusPlus', 'MAnet')]
        cases += [(arch, depth, {}) for arch in ('Linknet', 'UPerNet', 'Segformer')]
        cases += [('PSPNet', depth, dict(upsampling=2 ** depth)), ('FPN', depth, dict(upsampling=2 ** (depth - 3)))]
        cases += [('DeepLabV3', depth, dict(encoder_output_stride=stride)) for stride in (8, 16)]
        cases += [('DeepLabV3Plus', depth, dict(encoder_output_stride=stride)) for stride in (8, 16)]
        cases += [('PAN', depth, dict(encoder_output_stride=stride)) for stride in (16, 32)]
    return cases


@pytest.mark.parametrize('arch, depth, kwargs', architectures())
def test_architectures_train(arch, depth, kwargs):
    in_channels = {3: 1, 4: 4, 5: 3}[depth]
    model = smp.create_model(
        arch, 'rexnetv1', encoder_weights=None, encoder_depth=depth, in_channels=in_channels, classes=2, **kwargs)
    model, x = model.to('meta'), image(2, in_channels, 256, 256).to('meta')  # shapes and the graph without values
    logits = model(x)
    assert logits.shape == (2, 2, 256, 256)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('arch', ['Unet', 'PSPNet', 'DeepLabV3Plus'])
def test_architectures_learn(arch):
    torch.manual_seed(0)
    model = smp.create_model(arch, SMALL, encoder_weights=None)
    x = torch.nn.functional.interpolate(image(4, 3, 4, 4), size=64)  # blocks of 16 x 16
    target = (x[:, :1] > 0).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_architectures_take_the_other_families():
    for name in ('rexnetv1_lite_1_0', 'rexnetv1r_1_0', 'tu-rexnetv1_test'):
        assert smp.create_model('unet', name, encoder_weights=None).eval()(image(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_registration():
    before = dict(smp.encoders.encoders)
    register_encoders()
    assert smp.encoders.encoders == before and model_cfgs.keys() < before.keys()
    settings = {name: smp.encoders.encoders[name]['pretrained_settings'] for name in model_cfgs}
    assert settings['rexnetv1'] == {'imagenet': {'repo_id': 'timm/rexnet_100.nav_in1k', 'revision': 'main'}}
    assert settings['rexnetv1_3_0']['imagenet']['repo_id'] == 'timm/rexnet_300.nav_in1k'
    assert {tag: s['repo_id'] for tag, s in settings['rexnetv1r_2_0'].items()} == {
        'imagenet': 'timm/rexnetr_200.sw_in12k_ft_in1k', 'sw_in12k': 'timm/rexnetr_200.sw_in12k'}
    assert settings['rexnetv1_0_9'] == settings['rexnetv1_lite_1_0'] == settings[SMALL] == {}


def test_create_encoder_honours_arguments():
    encoder = create_encoder('rexnetv1', in_channels=4, depth=3, output_stride=8, width_mult=0.5, depth_mult=0.2)
    backbone = timm.create_model('rexnetv1', width_mult=0.5, depth_mult=0.2, features_only=True)
    chs = backbone.feature_info.channels()
    assert encoder.out_channels == [4, *chs[:2], chs[2] + -chs[2] % 4]
    assert_contract(encoder, in_channels=4, depth=3, output_stride=8)
    assert create_encoder('tu-rexnetv1', width_mult=0.5, depth_mult=0.2, depth=3).out_channels == [3, *chs[:3]]
    assert create_encoder('resnet18', in_channels=1, depth=3).out_channels == [1, 64, 64, 128]


@pytest.mark.parametrize('kwargs, text', [
    (dict(name='rexnetv1_10'), "Unknown encoder name 'rexnetv1_10'. Did you mean rexnetv1_1_0"),
    (dict(name='tu-rexnet100'), "Unknown encoder name 'tu-rexnet100'. Did you mean tu-rexnet_100"),
    (dict(name='qqq'), r"Unknown encoder name 'qqq'. Take one of .*get_encoder_names\(\)"),
    (dict(name='timm-regnet_nothing'), "Unknown encoder name 'timm-regnet_nothing'"),
    (dict(name='resnet18', width_mult=2), "Encoder 'resnet18' takes no further arguments, got width_mult. Leave them"),
    (dict(name='rexnetv1_0_9', weights='imagenet'),
     "Encoder 'rexnetv1_0_9' has no pretrained weights, got 'imagenet'. Use encoder_weights=None"),
    (dict(name='rexnetv1', weights='ssl'),
     "Encoder 'rexnetv1' has the weights imagenet, got 'ssl'. Use one of these or encoder_weights=None"),
    (dict(name='tu-rexnetr_100', weights=True), "timm has no pretrained weights for 'rexnetr_100', got True"),
    (dict(name=SMALL, in_channels=0), 'in_channels must be at least 1, got 0'),
    (dict(name=SMALL, depth=6), 'depth must be 1 to 5, got 6. Use 5'),
    (dict(name=SMALL, output_stride=4), 'output_stride must be 8, 16 or 32, got 4'),
    (dict(name=SMALL, width_mult=-1), 'width_mult must be a positive number, got -1'),
])
def test_refusals(kwargs, text):
    with pytest.raises(ValueError, match=text):
        create_encoder(**kwargs)


def test_published_weights_come_through_the_hub_code(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    backbone = timm.create_model('rexnetv1_1_0').eval()
    save_file(backbone.state_dict(), tmp_path / 'model.safetensors')
    asked = []

    def download(repo_id: str, filename: str, revision: str) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(smp.encoders, 'hf_hub_download', download)
    x = image(1, 3, 64, 64)
    expected = as_encoded(backbone.forward_intermediates(x, intermediates_only=True))
    for kwargs in ({}, {'drop_path_rate': 0.1}):
        assert_all_equal(create_encoder('rexnetv1', weights='imagenet', **kwargs).eval()(x)[1:], expected)
    assert set(asked) == {('timm/rexnet_100.nav_in1k', name, 'main') for name in ('config.json', 'model.safetensors')}
    with pytest.raises(ValueError, match='another shape'):
        create_encoder('rexnetv1', weights='imagenet', width_mult=1.3)
