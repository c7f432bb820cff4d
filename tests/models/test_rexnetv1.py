"""ReXNetV1 against NAVER's reference values, timm's RexNet, and its own promises."""
import argparse

import golden
import pytest
import timm
import torch
from safetensors.torch import save_file

from rexnet_timm.models.rexnetv1 import (
    ReXNetV1,
    ReXNetV1Lite,
    checkpoint_filter_fn,
    default_cfgs,
    model_cfgs,
    naver_to_timm,
    timm_to_naver,
)

TIMM_TWINS = {
    'rexnetv1': 'rexnet_100', 'rexnetv1_1_0': 'rexnet_100', 'rexnetv1_1_3': 'rexnet_130', 'rexnetv1_1_5': 'rexnet_150',
    'rexnetv1_2_0': 'rexnet_200', 'rexnetv1_3_0': 'rexnet_300', 'rexnetv1r_1_0': 'rexnetr_100',
    'rexnetv1r_1_3': 'rexnetr_130', 'rexnetv1r_1_5': 'rexnetr_150', 'rexnetv1r_2_0': 'rexnetr_200',
    'rexnetv1r_3_0': 'rexnetr_300'}
PARAMS = {  # of the published networks, 1000 classes
    'rexnetv1': 4796873, 'rexnetv1_1_3': 7557091, 'rexnetv1_2_0': 16366620, 'rexnetv1_lite_1_0': 4740056}


def from_record(record: dict) -> ReXNetV1:
    width_mult = record['config'].get('width_mult') or record['config']['multiplier']
    return (ReXNetV1Lite if 'lite' in record['name'] else ReXNetV1)(width_mult=width_mult).eval()


def small(**kwargs) -> ReXNetV1:
    return timm.create_model('rexnetv1_test', **kwargs).eval()


def meta_keys(name: str, **kwargs) -> dict:
    with torch.device('meta'):
        return {key: value.shape for key, value in timm.create_model(name, **kwargs).state_dict().items()}


@pytest.mark.parametrize('name', golden.NAMES)
def test_reference_values(name):
    record = golden.record(name)
    model = from_record(record)
    assert sum(p.numel() for p in model.parameters()) == record['params']
    shapes = [[key, list(value.shape)] for key, value in timm_to_naver(model.state_dict(), model).items()]
    assert shapes == record['state_dict']  # NAVER's keys, order and shapes

    model.load_state_dict(golden.state_dict(record))
    with torch.no_grad():
        final, features = model.forward_intermediates(golden.image(record))
        logits = model.forward_head(final)
    expected = torch.tensor(record['logits'])
    assert (logits[:, :expected.shape[1]] - expected).abs().max() < 1e-5 * record['logits_std']
    assert logits.std().item() == pytest.approx(record['logits_std'], rel=1e-5)
    assert len(features) == len(record['features']) == 5
    for feature, reference in zip(features, record['features'].values(), strict=True):
        assert list(feature.shape) == reference['shape']
        flat, tolerance = feature.flatten(), 1e-5 * reference['std']
        assert (flat[:8] - torch.tensor(reference['first'])).abs().max() < tolerance
        assert (flat[-4:] - torch.tensor(reference['last'])).abs().max() < tolerance
        assert abs(flat.double().mean().item() - reference['mean']) < tolerance
        assert abs(flat.double().std().item() - reference['std']) < tolerance


@pytest.mark.parametrize('name', model_cfgs)
def test_every_name_is_a_timm_model(name):
    assert timm.is_model(name) and name in timm.list_models(module='rexnetv1')
    with torch.device('meta'):  # shapes without values
        model = timm.create_model(name, num_classes=7).eval()
        assert model(torch.empty(1, 3, 64, 64)).shape == (1, 7)
    assert model.default_cfg['architecture'] == name
    assert model_cfgs.keys() == default_cfgs.keys()


@pytest.mark.parametrize('name', TIMM_TWINS)
def test_entries_are_those_of_timm(name):
    ours, theirs = meta_keys(name), meta_keys(TIMM_TWINS[name])
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize('name', PARAMS)
def test_parameter_count(name):
    with torch.device('meta'):
        assert sum(p.numel() for p in timm.create_model(name).parameters()) == PARAMS[name]


@pytest.mark.parametrize('twin', ['rexnet_100', 'rexnetr_100'])
def test_values_are_those_of_timm(twin):
    name = next(name for name, other in TIMM_TWINS.items() if other == twin)
    theirs, ours = timm.create_model(twin).eval(), timm.create_model(name).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize('depth_mult, blocks', [
    (0.2, 6), (0.5, 1 + 1 + 1 + 2 + 2 + 3), (1.0, 16), (1.1, 2 + 3 + 3 + 4 + 4 + 6)])
def test_depth_mult_rounds_up_each_stage(depth_mult, blocks):
    model = ReXNetV1(width_mult=0.3, depth_mult=depth_mult)
    assert len(model.features) == blocks + 1  # and the final conv


@pytest.mark.parametrize('width_mult', [0.77, 1.17])
def test_final_conv_is_truncated_as_in_naver(width_mult):
    model = ReXNetV1(width_mult=width_mult, num_classes=3).eval()
    assert model.features[-1].out_channels == model.num_features == model.head_hidden_size == int(1280 * width_mult)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    model.reset_classifier(5)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)


def test_lite_narrows_no_final_conv():
    assert ReXNetV1Lite(width_mult=0.5, num_classes=0).num_features == 1280


@pytest.mark.parametrize('kwargs, text', [
    (dict(width_mult=0), 'width_mult must be a positive number, got 0. Use 1.0'),
    (dict(width_mult=float('nan')), 'width_mult must be a positive number, got nan'),
    (dict(depth_mult=-1.), 'depth_mult must be a positive number, got -1.0. Use 1.0'),
    (dict(output_stride=4), 'output_stride must be 8, 16 or 32, got 4. Use 32'),
])
def test_arguments_out_of_range(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ReXNetV1(**kwargs)
    with pytest.raises(ValueError, match=text):
        timm.create_model('rexnetv1', **kwargs)


@pytest.mark.parametrize('name', ['rexnetv1_test', 'rexnetv1_lite_1_0'])
@pytest.mark.parametrize('output_stride, reductions', [
    (8, [2, 4, 8, 8, 8]), (16, [2, 4, 8, 16, 16]), (32, [2, 4, 8, 16, 32])])
def test_features_only(name, output_stride, reductions):
    model = timm.create_model(name, features_only=True, output_stride=output_stride, in_chans=4).eval()
    assert model.feature_info.reduction() == reductions
    features = model(torch.randn(1, 4, 64, 96))
    assert [f.shape[1:] for f in features] == [
        (c, 64 // r, 96 // r) for c, r in zip(model.feature_info.channels(), reductions, strict=True)]


def test_features_only_out_indices():
    model = timm.create_model(
        'rexnetv1_1_0', features_only=True, out_indices=(1, 3), output_stride=16, in_chans=4).eval()
    assert [f.shape for f in model(torch.randn(1, 4, 64, 64))] == [(1, 38, 16, 16), (1, 128, 4, 4)]


@pytest.mark.parametrize('name', ['rexnetv1_test', 'rexnetv1_lite_1_0'])
def test_prune_and_reset(name):
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
    hidden = model.forward_head(model.forward_features(x), pre_logits=True)
    assert hidden.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert torch.equal(model(x), hidden)
    assert model.prune_intermediate_layers([1, 3]) == [1, 3]
    assert torch.equal(model(x), expected[-1])
    model.reset_classifier(2, 'avg')
    assert model(x).shape == (1, 2)


def test_lite_classifier_needs_pooling():
    with pytest.raises(ValueError, match="needs pooled features; got num_classes=2 with global_pool=''. Use"):
        timm.create_model('rexnetv1_lite_1_0').reset_classifier(2, '')


def test_grad_checkpointing_keeps_gradients():
    model, x = small(), torch.randn(2, 3, 64, 64)
    model(x).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


@pytest.mark.parametrize('model_cls, kwargs', [
    (ReXNetV1, dict(width_mult=0.37, depth_mult=1.3, num_classes=5)),
    (ReXNetV1, dict(width_mult=0.5, depth_mult=0.2, ch_div=8)),
    (ReXNetV1Lite, dict(width_mult=0.4, num_classes=5))], ids=['deep', 'rounded', 'lite'])
def test_layouts_round_trip(model_cls, kwargs):
    model, other = model_cls(**kwargs), model_cls(**kwargs)
    ours = model.state_dict()
    naver = timm_to_naver(ours, model)
    assert len(naver) == len(ours) and naver.keys().isdisjoint(ours)
    back = naver_to_timm(naver, model)
    assert list(back) == list(ours) and all(torch.equal(back[key], ours[key]) for key in ours)
    other.load_state_dict(naver)
    assert all(torch.equal(value, ours[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize('wrap', [
    lambda sd: sd, lambda sd: {'state_dict': sd}, lambda sd: {'model': sd, 'epoch': 3},
    lambda sd: {'module.' + key: value for key, value in sd.items()}], ids=['bare', 'state_dict', 'model', 'module'])
@pytest.mark.parametrize('layout', ['timm', 'naver'])
def test_wrapped_state_dicts_load_and_stay_as_they_are(wrap, layout):
    source, model = small(), small()
    inner = dict(source.state_dict() if layout == 'timm' else timm_to_naver(source.state_dict(), source))
    keys, state_dict = list(inner), wrap(inner)
    outer = list(state_dict)
    assert str(model.load_state_dict(state_dict)) == '<All keys matched successfully>'
    assert list(inner) == keys and list(state_dict) == outer
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(x), source(x))


def test_old_files_without_batch_counters_load():
    state_dict = {k: v for k, v in small().state_dict().items() if not k.endswith('num_batches_tracked')}
    assert str(small().load_state_dict(state_dict)) == '<All keys matched successfully>'


def test_refusals():
    model = small()
    ours = model.state_dict()
    naver = timm_to_naver(ours, model)
    keys = [key for key in ours if not key.endswith('num_batches_tracked')]
    count, backbone = len(keys), len(keys) - 2  # without the classifier, which timm adapts
    mixed = {**{key: ours[key] for key in keys[:10]}, **{key: naver[key] for key in list(naver)[20:]}}
    with pytest.raises(ValueError, match=r"mixes timm's layout and NAVER's: 17 of the \d+ entries that ReXNetV1 needs "
                                         r'are missing \(features.0.weight, .*not both'):
        model.load_state_dict(mixed, strict=False)
    foreign = timm.create_model('test_resnet').state_dict()
    for n, call in ((count, model.load_state_dict), (backbone, lambda sd: checkpoint_filter_fn(sd, model))):
        with pytest.raises(ValueError, match=rf'does not fit: {n} of the {n} entries .*'
                                             r'\(stem.conv.weight, .*not its own \(conv1.*same width_mult, depth_mult'):
            call(foreign)
    with pytest.raises(ValueError, match=r'does not fit: 1 of .*missing \(features.0.weight\)\. What'):
        model.load_state_dict({key: value for key, value in naver.items() if key != 'features.0.weight'})
    with pytest.raises(ValueError, match=r'does not fit: 1 are not its own \(extra\)'):
        model.load_state_dict({**ours, 'extra': torch.zeros(1)})
    with pytest.raises(ValueError, match=r'2 are not its own \(head.fc.weight, head.fc.bias\)'):
        small(num_classes=0).load_state_dict(ours)
    with pytest.raises(ValueError, match='maps names to tensors, got ReXNetV1. Pass what torch.load'):
        model.load_state_dict(model)
    with pytest.raises(ValueError, match=r'1 of 1 are not: conv1. Build the model'):
        naver_to_timm({'conv1': torch.zeros(1)}, model)


def test_another_width_is_refused_with_its_width():
    with pytest.raises(ValueError, match=r'entries have another shape .*Its final conv suggests width_mult=0.5. Build'):
        small().load_state_dict(ReXNetV1(width_mult=0.5, depth_mult=0.2).state_dict())


def test_not_strict_reports_as_torch():
    ours = small().state_dict()
    del ours['stem.conv.weight']
    result = small().load_state_dict({**ours, 'extra': torch.zeros(1)}, strict=False)
    assert result.missing_keys == ['stem.conv.weight'] and result.unexpected_keys == ['extra']


@pytest.mark.parametrize('layout', ['timm', 'naver'])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_files_load_through_timm(tmp_path, layout, suffix):
    source = small()
    state_dict = source.state_dict() if layout == 'timm' else timm_to_naver(source.state_dict(), source)
    path = tmp_path / f'weights.{suffix}'
    if suffix == 'pth':
        torch.save({'state_dict': state_dict, 'args': argparse.Namespace(model='rexnetv1_test')}, path)
    else:
        save_file({key: value.contiguous() for key, value in state_dict.items()}, path)
    x = torch.randn(1, 3, 64, 64)
    expected = source(x)
    assert torch.equal(small(checkpoint_path=path)(x), expected)
    overlay = dict(file=str(path))
    assert torch.equal(small(pretrained=True, pretrained_cfg_overlay=overlay)(x), expected)

    features = small(pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)(x)
    assert torch.equal(features[2], source.forward_intermediates(x, intermediates_only=True)[2])
    adapted = small(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    assert adapted(x[:, :1]).shape == (1, 3)
    torch.testing.assert_close(adapted.stem.conv.weight, source.stem.conv.weight.sum(1, keepdim=True))


def test_a_foreign_file_is_refused_by_timm(tmp_path):
    path = tmp_path / 'foreign.pth'
    torch.save(timm.create_model('test_resnet').state_dict(), path)
    with pytest.raises(ValueError, match='does not fit'):
        small(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), num_classes=3)


def test_published_weights():
    expected = {
        'rexnetv1': ['timm/rexnet_100.nav_in1k'], 'rexnetv1_1_0': ['timm/rexnet_100.nav_in1k'],
        'rexnetv1_1_3': ['timm/rexnet_130.nav_in1k'], 'rexnetv1_1_5': ['timm/rexnet_150.nav_in1k'],
        'rexnetv1_2_0': ['timm/rexnet_200.nav_in1k'], 'rexnetv1_3_0': ['timm/rexnet_300.nav_in1k'],
        'rexnetv1r_2_0': ['timm/rexnetr_200.sw_in12k_ft_in1k', 'timm/rexnetr_200.sw_in12k'],
        'rexnetv1r_3_0': ['timm/rexnetr_300.sw_in12k_ft_in1k', 'timm/rexnetr_300.sw_in12k']}
    for name in model_cfgs:
        ids = [default_cfgs[name].cfgs[tag].hf_hub_id for tag in default_cfgs[name].tags]
        assert [hub_id for hub_id in ids if hub_id] == expected.get(name, [])
        for tag in default_cfgs[name].tags:
            hub_id = default_cfgs[name].cfgs[tag].hf_hub_id
            ours = timm.get_pretrained_cfg(f'{name}.{tag}').to_dict()
            if hub_id:  # everything but the name is what timm says of these weights
                theirs = timm.get_pretrained_cfg(hub_id.removeprefix('timm/')).to_dict()
                assert ours.pop('architecture') == name and theirs.pop('architecture') in hub_id
                assert ours == theirs
