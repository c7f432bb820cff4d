"""`rexnet convert`, and the network that it finds from a file."""
import argparse
from pathlib import Path

import golden
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rexnet_timm.cli import convert as script
from rexnet_timm.models.rexnetv1 import ReXNetV1, ReXNetV1Lite, model_cfgs, timm_to_naver
from rexnet_timm.models.weights import model_of


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    # by bytes, for which NaN is NaN and -0. is not 0.
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape
        and a[key].numpy().tobytes() == b[key].numpy().tobytes() for key in a)


def convert(source: Path, target: Path, layout: str, *args: str) -> int:
    return script.main([str(source), str(target), '--to', layout, *args])


def refused(capsys: pytest.CaptureFixture, *args: object) -> str:
    """The one line that the script ends with."""
    assert script.main([*map(str, args)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('rexnet convert: error: ')
    return line


@pytest.mark.parametrize('layout', ['timm', pytest.param('naver', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', sorted(model_cfgs.keys() - {'rexnetv1_1_0'}))
def test_every_name_is_found_from_its_file(name, layout):
    model = timm.create_model(name, device='meta')
    state_dict = model.state_dict()
    if layout == 'naver':
        state_dict = timm_to_naver(state_dict, model)
    found = model_of(dict(reversed(state_dict.items())))  # in any order
    assert type(found) is model_cfgs[name][0]
    assert [(key, value.shape) for key, value in found.state_dict().items()] == [
        (key, value.shape) for key, value in model.state_dict().items()]


@pytest.mark.parametrize('model_cls, kwargs', [
    (ReXNetV1, dict(width_mult=1.17, depth_mult=1.3, num_classes=0)),
    (ReXNetV1, dict(width_mult=0.8125, depth_mult=2.2, in_chans=1, num_classes=3)),
    (ReXNetV1, dict(width_mult=0.35, depth_mult=0.2, ch_div=8)), (ReXNetV1, dict(width_mult=2.5, ch_div=16)),
    (ReXNetV1Lite, dict(width_mult=0.6, num_classes=5)), (ReXNetV1Lite, dict(width_mult=1.25, depth_mult=0.5))])
def test_other_widths_and_depths_are_found(model_cls, kwargs):
    state_dict = model_cls(**kwargs, device='meta').state_dict()
    found = model_of(state_dict)
    assert {key: value.shape for key, value in found.state_dict().items()} == {
        key: value.shape for key, value in state_dict.items()}


def test_a_given_width_is_held_against_the_shapes():
    state_dict = ReXNetV1(width_mult=0.123456, depth_mult=0.2, device='meta').state_dict()
    with pytest.raises(ValueError, match='of width_mult with few decimals has all of these shapes'):
        model_of({**state_dict, 'features.2.conv_dw.conv.weight': torch.empty(1, 1, 3, 3)})
    assert model_of(state_dict, width_mult=0.123456, depth_mult=0.2).features[-1].out_channels == 158
    with pytest.raises(ValueError, match=r'of width_mult 0.5 has all of these shapes. .* Build'):
        model_of(state_dict, width_mult=0.5)
    with pytest.raises(ValueError, match='does not fit: .* are missing'):
        model_of(state_dict, depth_mult=1.)


@pytest.mark.parametrize('model_cls, kwargs', [
    (ReXNetV1, dict(width_mult=0.4, num_classes=7)), (ReXNetV1, dict(width_mult=0.3, depth_mult=0.5, ch_div=8)),
    (ReXNetV1Lite, dict(width_mult=0.4, num_classes=7))], ids=['plain', 'rounded', 'lite'])
@pytest.mark.parametrize('suffixes', [('pth', 'safetensors'), ('safetensors', 'pth')])
def test_both_ways_bit_for_bit(model_cls, kwargs, suffixes, tmp_path, capsys):
    model = model_cls(**kwargs).half()  # another type than the default
    model.features[1].conv_dw.bn.running_mean[:2] = torch.tensor([float('nan'), -0.])
    ours = model.state_dict()
    first, second, third = (tmp_path / f'{n}.{s}' for n, s in zip('abc', (*suffixes, suffixes[0]), strict=True))
    save_file(ours, first) if suffixes[0] == 'safetensors' else torch.save(ours, first)
    assert convert(first, second, 'naver') == 0
    assert f"{second}: {len(ours)} entries in NAVER's layout" in capsys.readouterr().out
    naver = load_file(second) if suffixes[1] == 'safetensors' else torch.load(second, weights_only=True)
    assert same(naver, timm_to_naver(ours, model))
    assert convert(second, third, 'timm') == 0
    assert same(load_file(third) if suffixes[0] == 'safetensors' else torch.load(third, weights_only=True), ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in (first, second, third))


def test_navers_own_names_and_values(tmp_path):
    record = golden.record('rexnetv1 width_mult=1.0')
    theirs = golden.state_dict(record)
    torch.save({'state_dict': {f'module.{key}': value for key, value in theirs.items()}}, tmp_path / 'naver.pth')
    assert convert(tmp_path / 'naver.pth', tmp_path / 'ours.safetensors', 'timm') == 0
    timm.create_model('rexnet_100').load_state_dict(load_file(tmp_path / 'ours.safetensors'))  # timm's own network
    assert convert(tmp_path / 'ours.safetensors', tmp_path / 'back.pth', 'naver') == 0
    back = torch.load(tmp_path / 'back.pth', weights_only=True)
    assert same(back, theirs) and list(theirs) == [key for key, _ in record['state_dict']]


def test_a_training_checkpoint_gives_its_moving_average(tmp_path):
    model = timm.create_model('rexnetv1_test')
    state_dict = model.state_dict()
    average = {key: value + 1 for key, value in state_dict.items()}
    args = argparse.Namespace(model='rexnetv1_test')
    path = tmp_path / 'last.pth.tar'
    torch.save({'epoch': 3, 'state_dict': state_dict, 'state_dict_ema': average, 'args': args}, path)
    assert convert(path, tmp_path / 'out.pth', 'timm') == 0
    assert same(torch.load(tmp_path / 'out.pth', weights_only=True), average)


def test_a_file_can_be_converted_in_place(tmp_path):
    model = timm.create_model('rexnetv1_test')
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)
    assert convert(path, path, 'naver', '--overwrite') == 0
    assert same(torch.load(path, weights_only=True), timm_to_naver(model.state_dict(), model))


def test_foreign_files_are_refused(tmp_path, capsys):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    state_dict = timm.create_model('rexnetv1_test').state_dict()
    torch.save(timm.create_model('test_resnet').state_dict(), source)
    assert 'stem.conv.weight (timm) or features.0.weight (NAVER)' in refused(capsys, source, target, '--to', 'timm')
    torch.save({**state_dict, 'extra': torch.zeros(1)}, source)
    assert '1 are not its own (extra)' in refused(capsys, source, target, '--to', 'timm')
    torch.save({key: value for key, value in state_dict.items() if 'features.3' not in key}, source)
    assert 'No --depth-mult gives 5 blocks' in refused(capsys, source, target, '--to', 'timm')
    torch.save([1], source)
    assert 'must be a dict' in refused(capsys, source, target, '--to', 'timm')
    torch.save({'epoch': 3}, source)
    assert 'must be tensors by name, bare or under one of' in refused(capsys, source, target, '--to', 'timm')
    for name in ('c.pth', 'c.safetensors'):
        for content, text in ((b'', 'must not be empty'), (b'nothing of use', 'is text'), (b'PK\x03\x04', 'damaged')):
            (tmp_path / name).write_bytes(content)
            assert text in refused(capsys, tmp_path / name, target, '--to', 'timm')
        assert 'There is no' in refused(capsys, tmp_path / f'no{name}', target, '--to', 'timm')
    torch.save(state_dict, source)
    assert "must end in .safetensors, .pth, .pt, got 'b.bin'" in refused(capsys, source, 'b.bin', '--to', 'timm')
    assert 'There is no folder' in refused(capsys, source, tmp_path / 'no' / 'b.pth', '--to', 'timm')
    assert not target.exists()


def test_a_refusal_names_the_file_and_the_options(tmp_path, capsys):
    source, target = tmp_path / 'a.pth', tmp_path / 'b.pth'
    for content, more, text in (
            (timm.create_model('test_resnet'), (), 'stem.conv.weight (timm)'),
            (timm.create_model('rexnetv1_test'), ('--width-mult', '1.0'), 'No ReXNetV1 of --width-mult 1.0')):
        torch.save(content.state_dict(), source)
        error = refused(capsys, source, target, '--to', 'timm', *more)
        assert repr(str(source)) in error and text in error
