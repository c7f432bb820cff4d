"""Weights from files, by every way in; files that carry code; how images are prepared for a name."""
import argparse
import contextlib
import functools
import io
import json
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file

import rexnet_timm
from rexnet_timm.cli import build, convert, train
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.files import (
    PRETRAINED_DOOR,
    WeightsError,
    atomic_path,
    build_with_file,
    load_checkpoint_file,
    load_weights_file,
    save_weights,
    unwrap,
    without_prefix,
)
from rexnet_timm.models.any_encoder import create_encoder
from rexnet_timm.models.rexnetv1 import default_cfgs, model_cfgs, timm_to_naver
from rexnet_timm.models.unet import unet_name
from rexnet_timm.models.weights import load_weights

ROOT = Path(__file__).parents[2]
ENCODER = 'rexnetv1_test'


class Trap:
    """An object whose unpickling writes a file, as a malicious one would run anything."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.write_text, (self.witness, 'ran')


def create(args: argparse.Namespace) -> torch.nn.Module:
    return build.create_model(args, args.num_classes)


def with_noise(model: torch.nn.Module) -> torch.nn.Module:
    """A model of which no entry is that of a new one, biases and statistics included."""
    for value in model.state_dict().values():
        value.add_(torch.rand_like(value) if value.is_floating_point() else 1)
    return model


def backbone(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return with_noise(timm.create_model(ENCODER, **kwargs))


FILES = {
    'timm.safetensors': lambda model: dict(model.state_dict()),
    'timm.pth': lambda model: model.state_dict(),
    'naver.pth': lambda model: timm_to_naver(model.state_dict(), model),
    'naver-module.pth': lambda model: {
        'state_dict': {f'module.{key}': value for key, value in timm_to_naver(model.state_dict(), model).items()}},
    'naver-model.pth': lambda model: {'model': timm_to_naver(model.state_dict(), model), 'epoch': 3},
    'ours.pth.tar': lambda model: {
        'epoch': 3, 'arch': ENCODER, 'state_dict': {k: torch.zeros_like(v) for k, v in model.state_dict().items()},
        'state_dict_ema': model.state_dict(), 'args': argparse.Namespace(model=ENCODER), 'optimizer': {'state': {}}},
}


@pytest.fixture(params=FILES)
def file(request, tmp_path) -> Path:
    """The weights of `backbone()` in one of the forms that people have."""
    path, content = tmp_path / request.param, FILES[request.param](backbone())
    save_file(content, path) if path.suffix == '.safetensors' else torch.save(content, path)
    return path


def arguments(*args: str) -> argparse.Namespace:
    return parse_train_args(['--dataset', 'synthetic', '--device', 'cpu', *args])


def assert_from(module: torch.nn.Module, adapted: tuple[str, ...] = ()) -> None:
    """Every entry of a module is that of `backbone()`, but for the adapted ones."""
    expected, own = backbone().state_dict(), module.state_dict()
    assert {key for key, value in own.items() if not torch.equal(value, expected[key])} == set(adapted)
    assert len(own) > 100


HEAD, STEM = ('head.fc.weight', 'head.fc.bias'), ('stem.conv.weight',)


def test_every_file_by_every_way_into_timm(file):
    assert_from(timm.create_model(ENCODER, checkpoint_path=str(file)))
    overlay = dict(file=str(file))
    assert_from(timm.create_model(ENCODER, pretrained=True, pretrained_cfg_overlay=overlay))
    adapted = timm.create_model(ENCODER, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1)
    assert adapted.head.fc.weight.shape[0] == 3
    expected = backbone().state_dict()
    own = adapted.state_dict()
    assert {k for k in own if own[k].shape != expected[k].shape or not torch.equal(own[k], expected[k])} == {
        *HEAD, *STEM}
    torch.testing.assert_close(own['stem.conv.weight'], expected['stem.conv.weight'].sum(1, keepdim=True))


def test_every_file_by_the_flags_of_training(file):
    args = arguments('--model', ENCODER, '--initial-checkpoint', str(file), '--num-classes', '1000')
    assert_from(create(args))
    args = arguments('--model', ENCODER, '--pretrained-path', str(file), '--num-classes', '1000')
    assert_from(create(args), HEAD)  # a new classifier even of as many classes, as timm's flag says
    args = arguments('--model', ENCODER, '--pretrained-path', str(file), '--num-classes', '7', '--in-chans', '4')
    model = create(args)
    assert model.head.fc.out_features == 7 and model.stem.conv.in_channels == 4
    assert torch.equal(model.features[1].conv_dw.conv.weight, backbone().features[1].conv_dw.conv.weight)
    for architecture in ('unet', 'multiscaleunet'):
        args = arguments('--model', architecture, '--encoder-name', ENCODER, '--pretrained-path', str(file))
        assert_from(create(args).encoder)
    args = arguments('--model', unet_name(ENCODER), '--pretrained-path', str(file), '--num-classes', '7')
    assert_from(create(args).encoder)


def test_every_file_into_an_encoder(file):
    encoder = create_encoder(ENCODER)
    assert rexnet_timm.load_encoder_weights(encoder, file) is encoder
    assert_from(encoder)
    gray = rexnet_timm.load_encoder_weights(smp.Unet(ENCODER, encoder_weights=None, in_channels=1).encoder, str(file))
    torch.testing.assert_close(gray.stem.conv.weight, backbone().stem.conv.weight.sum(1, keepdim=True))
    assert_from(rexnet_timm.load_encoder_weights(create_encoder(ENCODER, depth=4, output_stride=8), file))


def test_checkpoints_of_whole_unets(tmp_path):
    model = timm.create_model(unet_name(ENCODER), num_classes=5)
    path = tmp_path / 'last.pth.tar'
    torch.save({'epoch': 1, 'state_dict': model.state_dict()}, path)
    again = timm.create_model(unet_name(ENCODER), num_classes=5, checkpoint_path=str(path))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    encoder = rexnet_timm.load_encoder_weights(create_encoder(ENCODER), path)
    assert torch.equal(encoder.stem.conv.weight, model.encoder.stem.conv.weight)
    # other classes and channels, as from published weights: all but the heads and the adapted conv
    with pytest.warns(UserWarning, match='Mismatched keys'):
        other = timm.create_model(
            unet_name(ENCODER), pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), num_classes=2, in_chans=1)
    own, expected = other.state_dict(), model.state_dict()
    changed = {k for k in own if own[k].shape != expected[k].shape or not torch.equal(own[k], expected[k])}
    assert changed == {'encoder.stem.conv.weight', *(key for key in own if key.startswith('heads.'))}
    with pytest.raises(ValueError, match='entries have another shape than ReXNetV1Encoder needs'):
        timm.create_model(
            'rexnetv1_unet', width_mult=0.5, depth_mult=0.2, pretrained=True,
            pretrained_cfg_overlay=dict(file=str(path)))


def test_encoders_of_others_take_their_own_entries(tmp_path):
    model = smp.Unet('resnet18', encoder_weights=None)
    torch.save(model.state_dict(), tmp_path / 'unet.pth')
    encoder = rexnet_timm.load_encoder_weights(create_encoder('resnet18'), tmp_path / 'unet.pth')
    assert torch.equal(encoder.conv1.weight, model.encoder.conv1.weight)
    torch.save(backbone().state_dict(), tmp_path / 'rexnet.pth')
    with pytest.raises(ValueError, match="rexnet.pth': The state dict does not fit: 100 of the 100 .* ResNetEncoder"):
        rexnet_timm.load_encoder_weights(encoder, tmp_path / 'rexnet.pth')
    with pytest.raises(FileNotFoundError, match="no file 'rexnetv1'. Published weights of ResNetEncoder come by"):
        rexnet_timm.load_encoder_weights(encoder, 'rexnetv1')


def test_refusals_of_load_encoder_weights(tmp_path):
    encoder = create_encoder(ENCODER)
    with pytest.raises(FileNotFoundError, match="no file and no model 'rexnetv1_10'. Did you mean rexnetv1_1_0"):
        rexnet_timm.load_encoder_weights(encoder, 'rexnetv1_10')
    with pytest.raises(ValueError, match="no published weights for 'rexnetv1_0_9'. Take a file, or one of timm"):
        rexnet_timm.load_encoder_weights(encoder, 'rexnetv1_0_9')
    with pytest.raises(ValueError, match=r"Invalid pretrained tag \(nothing\) for rexnetv1_1_0. Tags of"):
        rexnet_timm.load_encoder_weights(encoder, 'rexnetv1_1_0.nothing')
    torch.save(timm.create_model('rexnetv1', width_mult=0.5, depth_mult=0.2).state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(ValueError, match='another shape .* suggests width_mult=0.5'):
        rexnet_timm.load_encoder_weights(encoder, tmp_path / 'wide.pth')
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'foreign.pth')
    with pytest.raises(ValueError, match='does not fit'):
        rexnet_timm.load_encoder_weights(encoder, tmp_path / 'foreign.pth')


@pytest.mark.parametrize('args, text', [
    (['--model', 'rexnetv1_0_9', '--pretrained'], 'No pretrained weights exist for rexnetv1_0_9. Use'),
    (['--model', 'rexnetv1_unet_0_9', '--pretrained', '--num-classes', '2'], 'No pretrained weights exist'),
    (['--model', 'unet', '--encoder-name', 'rexnetv1_0_9', '--encoder-weights', 'imagenet'],
     r"has no pretrained weights, got 'imagenet'. Use encoder_weights=None; rexnet_timm.load_encoder_weights\("),
    (['--model', 'unet', '--encoder-name', 'rexnetv1', '--pretrained'], 'does not see --pretrained: name the weights'),
])
def test_names_without_weights_say_so_in_training(args, text):
    with pytest.raises(ValueError, match=text):
        create(arguments(*args))


def test_a_file_of_an_encoder_is_no_checkpoint_of_a_unet(tmp_path):
    torch.save(backbone().state_dict(), tmp_path / 'weights.pth')
    args = arguments('--model', unet_name(ENCODER), '--initial-checkpoint', str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match="weights.pth': .* does not fit: .* take .*encoder, path.*. The file fits"):
        create(args)


@pytest.fixture(params=['zip', 'legacy', 'bare'])
def trap(request, tmp_path) -> tuple[Path, Path]:
    """A checkpoint that carries code besides true weights, and the file that the code would write."""
    path, witness = tmp_path / 'trap.pth', tmp_path / 'ran'
    content = {'epoch': 0, 'state_dict': backbone().state_dict(), 'extra': Trap(witness)}
    if request.param == 'bare':
        path.write_bytes(pickle.dumps(content['extra'], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=request.param == 'zip')
    return path, witness


def test_the_trap_works(trap):
    path, witness = trap
    with contextlib.suppress(RuntimeError):  # the bare one is no checkpoint, which shows when it has run
        torch.load(path, weights_only=False)
    assert witness.read_text() == 'ran'


WAYS = {
    'load_checkpoint_file': load_checkpoint_file,
    'load_weights_file': load_weights_file,
    'load_encoder_weights': lambda path: rexnet_timm.load_encoder_weights(create_encoder(ENCODER), path),
    'checkpoint_path': lambda path: timm.create_model(ENCODER, checkpoint_path=str(path)),
    'overlay': lambda path: timm.create_model(
        ENCODER, pretrained=True, pretrained_cfg_overlay=dict(file=str(path))),
    'U-Net overlay': lambda path: timm.create_model(
        unet_name(ENCODER), pretrained=True, pretrained_cfg_overlay=dict(file=str(path))),
}


@pytest.mark.parametrize('way', WAYS)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(way, trap):
    path, witness = trap
    with pytest.raises((ValueError, RuntimeError), match='weights_only|plain values'):
        WAYS[way](path)
    assert not witness.exists()


@pytest.mark.parametrize('flag', ['--initial-checkpoint', '--pretrained-path', '--resume'])
@pytest.mark.parametrize('model', [['rexnetv1_unet_test'], ['unet', '--encoder-name', ENCODER]], ids=['timm', 'smp'])
def test_code_in_a_checkpoint_ends_training_with_one_line(flag, model, trap, capsys, tmp_path):
    path, witness = trap
    status = train.main([
        '--dataset', 'synthetic', '--synthetic-images', '8', '--batch-size', '4', '--img-size', '64', '--workers', '0',
        '--device', 'cpu', '--output', str(tmp_path), '--model', *model, flag, str(path)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert status == 2 and line.startswith('rexnet train: error: ')
    assert not witness.exists()


def test_code_in_a_checkpoint_is_not_converted(trap, capsys, tmp_path):
    path, witness = trap
    target = tmp_path / 'out.pth'
    assert convert.main([str(path), str(target), '--to', 'naver']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'does not: it holds code' in line and 'or is damaged, and nothing of it has run. Where' in line
    assert not witness.exists() and not target.exists()


def write_tar(path: Path) -> None:
    with tarfile.open(path, 'w') as archive:
        for name in ('sys_info', 'pickle', 'tensors', 'storages'):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())


def write_part(path: Path, share: float, **kwargs) -> None:
    torch.save(dict(backbone().state_dict()), path, **kwargs)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])


def write_broken_safetensors(path: Path) -> None:
    save_file(dict(backbone().state_dict()), path)
    path.write_bytes(path.read_bytes()[:-100])


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights.csv', '1, 2')


def write_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch would rather export, but people still have these files
        torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(path)


def write_itself(path: Path) -> None:
    checkpoint = {'epoch': 1}
    checkpoint['model'] = checkpoint
    torch.save(checkpoint, path)


def write_nan(path: Path) -> None:
    state_dict = backbone().state_dict()
    state_dict['features.1.conv_dw.bn.running_var'][0] = float('nan')
    state_dict['stem.conv.weight'][:] = float('-inf')
    torch.save(state_dict, path)


LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
UNREADABLE = {
    'missing': ('x.pth', lambda path: path.with_name('y.pth').touch(), 'There is no checkpoint {}. Did you mean y.pth'),
    'folder': ('x', lambda path: (path.mkdir(), (path / 'last.pth').touch()), '{} is a folder: .* (last.pth).'),
    'empty': ('x.pth', Path.touch, 'must not be empty, and {} is. The copy or download broke off: get the file again.'),
    'empty safetensors': ('x.safetensors', Path.touch, 'must not be empty, and {} is.'),
    'cut safetensors': ('x.safetensors', write_broken_safetensors, '{} is no safetensors file, or is damaged (.*'),
    'cut zip': ('x.pth', functools.partial(write_part, share=0.5), '{} is damaged: its end is missing after'),
    'cut legacy': ('x.pth', functools.partial(write_part, share=0.5, _use_new_zipfile_serialization=False),
                   '{} is no file of weights, or is damaged. The copy or download broke off: get the file again.'),
    'code': ('x.pth', lambda path: torch.save({'a': Trap(path)}, path),
             '{} must hold .* it holds code (.*), or is damaged, and nothing of it has run. Where .* save only'),
    'tar': ('x.pth', write_tar, '{} is a tar archive, .* unpack it'),
    'zip': ('x.pth', write_zip, '{} is a zip archive that torch.save did not write (weights.csv): name'),
    'script': ('x.pth', write_script,
               '{} is a TorchScript program, and no file of weights. Where it was written, save only'),
    'text': ('x.pth', lambda path: path.write_text('nothing of use\n'), '{} is text and no file of weights: pass'),
    'text safetensors': ('x.safetensors', lambda path: path.write_text('nothing'), '{} is text and no file of weights'),
    'page': ('x.pth', lambda path: path.write_text('\n<!DOCTYPE html>'), '{} is a web page .*: download the file'),
    'pointer': ('x.safetensors', lambda path: path.write_bytes(LFS), '{} is a pointer that Git LFS .*`git lfs pull`'),
    'zeros': ('x.pth', lambda path: path.write_bytes(bytes(20000)), '{} is no file of weights, or is damaged'),
    'list': ('x.pth', lambda path: torch.save([1], path), 'must be a dict, and {} holds one value of the type list.'),
    'no weights': ('x.pth', lambda path: torch.save({'epoch': 3, 'state_dict': {}}, path),
                   '{}: Weights must be tensors by name, bare or under one of .*; got a dict of epoch, state_dict wi'),
    'itself': ('x.pth', write_itself, '{}: Weights must be tensors by name'),
}
UNFIT = {
    'NaN': (write_nan, '{}: Weights must be finite numbers, and 2 of .* (stem.conv.weight, features.1.conv_dw.bn.run'),
    'another network': (lambda path: torch.save(timm.create_model('test_resnet').state_dict(), path),
                        '{}: The state dict does not fit: .* entries that .* needs are missing (.*, .* its own (conv1'),
    'another width': (
        lambda path: torch.save(
            timm.create_model('rexnetv1', width_mult=0.7, depth_mult=0.2, num_classes=10).state_dict(), path),
        '{}: .* another shape .* The file fits ReXNetV1(width_mult=0.7, depth_mult=0.2, in_chans=3, num_classes=10).'),
    'another depth': (
        lambda path: torch.save(timm.create_model('rexnetv1', width_mult=0.25, depth_mult=0.6).state_dict(), path),
        '{}: The state dict does not fit: .* The file fits ReXNetV1(width_mult=0.25, depth_mult=0.6, in_chans=3, num_'),
}


def flag(name: str, *model: str):
    return lambda path: create(arguments('--num-classes', '1000', name, str(path), '--model', *model))


def overlay(name: str):
    return lambda path: timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


READERS = {
    'load_weights': lambda path: load_weights(backbone(), path),
    'load_weights of timm': lambda path: load_weights(timm.create_model('test_resnet'), str(path)),
    'load_encoder_weights': lambda path: rexnet_timm.load_encoder_weights(create_encoder(ENCODER), path),
    'overlay': overlay(ENCODER),
    'overlay of a U-Net': overlay(unet_name(ENCODER)),
    '--initial-checkpoint': flag('--initial-checkpoint', ENCODER),
    '--pretrained-path': flag('--pretrained-path', ENCODER),
    '--pretrained-path of timm': flag('--pretrained-path', 'test_resnet'),
    '--pretrained-path of SMP': flag('--pretrained-path', 'unet', '--encoder-name', ENCODER),
}


def assert_refused(call, path: Path, text: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call(path)
    message = str(caught.value)
    expected = '.*'.join(map(re.escape, text.format(repr(str(path))).split('.*')))
    assert re.search(expected, message) and len(message.splitlines()) == 1, message
    assert 'weights_only' not in message


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('kind', UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_by_name(kind, reader, tmp_path):
    name, write, text = UNREADABLE[kind]
    write(tmp_path / name)
    if kind in ('missing', 'folder') and reader.startswith('--'):
        text = 'There is no checkpoint {}.'  # the command line looks first
    elif kind == 'missing' and reader == 'load_encoder_weights':
        text = 'There is no file and no model {}.'
    assert_refused(READERS[reader], tmp_path / name, text)


@pytest.mark.parametrize('form', ['safetensors', 'zip', 'legacy'])
def test_damage_of_any_kind_is_told_on_one_line(form, tmp_path):
    path, state_dict = tmp_path / 'x.pth', {'a.weight': torch.arange(100.), 'a.bias': torch.ones(3)}
    if form == 'safetensors':
        save_file(state_dict, path)
    else:
        torch.save({'state_dict': state_dict}, path, _use_new_zipfile_serialization=form == 'zip')
    whole, refused = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(whole[:rng.integers(1, len(whole) + 1)] if rng.random() < 0.5 else whole)
        for position in rng.integers(0, min(len(content), 400), rng.integers(0, 5)):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            load_weights_file(path)  # damage of the numbers is not seen
        except WeightsError as error:
            refused += 1
            text = str(error)
            assert text.startswith(repr(str(path))) or 'must be a dict' in text
            assert text.isprintable() and 'weights_only' not in text
    assert refused > 50


def test_names_in_a_file_reach_no_terminal_as_they_are(tmp_path):
    path = tmp_path / 'x.pth'
    for content in ({'\x1b[31m\n': torch.zeros(1), 'a' * 5000: torch.zeros(1)}, {'\x1b[31m\n': 1}):
        torch.save(content, path)
        with pytest.raises(WeightsError) as caught:
            load_weights(backbone(), path)
        assert str(caught.value).isprintable() and '\\x1b[31m\\n' in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize('reader', ['load_weights', 'load_encoder_weights', '--initial-checkpoint'])
@pytest.mark.parametrize('kind', UNFIT)
def test_weights_that_do_not_fit_are_refused_by_name(kind, reader, tmp_path):
    write, text = UNFIT[kind]
    write(tmp_path / 'x.pth')
    assert_refused(READERS[reader], tmp_path / 'x.pth', text)


@pytest.mark.parametrize('reader', ['--pretrained-path', '--pretrained-path of timm', '--pretrained-path of SMP'])
def test_pretrained_weights_that_are_no_numbers_are_refused_by_name(reader, tmp_path):
    state_dict = timm.create_model('test_resnet' if 'timm' in reader else ENCODER).state_dict()
    list(state_dict.values())[0][:] = float('nan')
    torch.save({'state_dict': state_dict}, tmp_path / 'x.pth')
    assert_refused(READERS[reader], tmp_path / 'x.pth', '{}: Weights must be finite numbers, and 1 of')


@pytest.mark.parametrize('kind', UNFIT)
def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing(kind, tmp_path):
    write, text = UNFIT[kind]
    write(tmp_path / 'x.pth')
    model, text = backbone(), text.removeprefix('{}: ').partition(' .* The file fits')[0]
    for strict in (True, False) if kind in ('NaN', 'another network', 'another width') else (True,):
        with pytest.raises(WeightsError, match='.*'.join(map(re.escape, text.split('.*')))):
            model.load_state_dict(torch.load(tmp_path / 'x.pth'), strict=strict)
    assert_from(model)


@pytest.mark.parametrize('kind', ['NaN', 'another network'])
def test_networks_of_others_are_refused_by_name(kind, tmp_path):
    peer = smp.Unet('resnet18', encoder_weights=None)
    state_dict = peer.state_dict()
    state_dict['encoder.conv1.weight'][0] = float('inf')
    torch.save(state_dict if kind == 'NaN' else backbone().state_dict(), tmp_path / 'x.pth')
    text = {'NaN': '{}: Weights must be finite numbers, and 1 of .* (encoder.conv1.weight)',
            'another network': '{}: The state dict does not fit: 152 of the 152 entries that Unet needs are missing '
                               '(encoder.conv1.weight, .* take load_encoder_weights(encoder, path). The file fits ReX'}
    assert_refused(functools.partial(load_weights, peer), tmp_path / 'x.pth', text[kind])
    torch.save(smp.Unet('resnet18', encoder_weights=None, classes=4).state_dict(), tmp_path / 'x.pth')
    assert_refused(functools.partial(load_weights, peer), tmp_path / 'x.pth', (
        '{}: 2 of .* another shape than Unet needs: segmentation_head.0.weight, .*network with 4 classes.'))
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'x.pth')
    build = functools.partial(build_with_file, timm.create_model, 'test_vit', pretrained=True)
    assert_refused(lambda path: build(pretrained_cfg_overlay=dict(file=path)), tmp_path / 'x.pth', (
        '{}: Error(s) in loading state_dict for VisionTransformer: Missing key(s) in state_dict: "cls_token", .* ...'))


def test_other_classes_are_refused_with_a_remedy_that_works(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(backbone(num_classes=10).state_dict(), path)
    with pytest.raises(WeightsError, match='Its classifier has 10 classes. Build .* To load all but these, create it '
                                           'with ' + re.escape(PRETRAINED_DOOR)):
        load_weights(backbone(), path)
    expected = backbone(num_classes=10).state_dict()
    door = eval(f'dict({PRETRAINED_DOOR.replace(" and ", ", ")})', {'path': str(path)})
    own = timm.create_model(ENCODER, **door).state_dict()
    assert {key for key in own if not torch.equal(own[key], expected[key])} == set(HEAD)
    with pytest.raises(ValueError, match='--initial-checkpoint .* create it with ' + re.escape(PRETRAINED_DOOR)):
        flag('--initial-checkpoint', ENCODER)(path)
    with pytest.raises(WeightsError, match=r'heads.*segmentation network with 5 classes'):
        torch.save(timm.create_model(unet_name(ENCODER), num_classes=5).state_dict(), path)
        load_weights(timm.create_model(unet_name(ENCODER), num_classes=2), path)


def test_code_of_the_hub_form_is_refused_without_torchs_hint(tmp_path):
    model = rexnet_timm.MultiScaleUnet(ENCODER)
    model.save_pretrained(tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(b'\x10')
    for load in (rexnet_timm.MultiScaleUnet.from_pretrained, smp.from_pretrained):
        assert_refused(load, tmp_path, 'The weights in {} do not load: Error while deserializing header')
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, 'classes': -1}))
    with pytest.raises(ValueError, match='^classes must be a whole number'):  # no matter of weights
        smp.from_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps(config))
    save_file(dict(backbone().state_dict()), tmp_path / 'model.safetensors')
    assert_refused(rexnet_timm.MultiScaleUnet.from_pretrained, tmp_path, 'The weights in {} do not load: .* not fit')


AVERAGE, RAW = {'weight': torch.ones(1)}, {'weight': torch.zeros(1)}


@pytest.mark.parametrize('checkpoint, with_average, without', [
    (RAW, RAW, RAW),
    ({'state_dict': RAW, 'state_dict_ema': AVERAGE, 'optimizer': {'state': {0: torch.ones(1)}}}, AVERAGE, RAW),
    ({'model': RAW, 'model_ema': AVERAGE}, AVERAGE, RAW),
    ({'model_state_dict': RAW, 'ema': {}, 'epoch': 3}, RAW, RAW),
    ({'state_dict': RAW, 'state_dict_ema': None}, RAW, RAW),
    ({'checkpoint': 1, 'model': {'state_dict': RAW, 'ema_state_dict': {'state_dict': AVERAGE}}}, AVERAGE, RAW),
    ({'ema': AVERAGE}, AVERAGE, None),
    ({'model': torch.ones(1), 'weight': torch.ones(1)}, ..., ...),  # an entry that is called so
])
def test_one_rule_about_the_moving_average(checkpoint, with_average, without):
    keys = list(checkpoint)
    for use_ema, expected in ((True, with_average), (False, without)):
        if expected is None:
            with pytest.raises(WeightsError, match='got a dict of ema without any'):
                unwrap(checkpoint, use_ema)
        else:
            assert unwrap(checkpoint, use_ema) is (checkpoint if expected is ... else expected)
    assert list(checkpoint) == keys


@pytest.mark.parametrize('value', [{}, {'epoch': 3}, {'state_dict': {}}, {1: torch.ones(1)}, [1], None])
def test_what_holds_no_weights_is_refused(value):
    models = (backbone(), rexnet_timm.MultiScaleUnet(ENCODER), create_encoder(ENCODER), timm.create_model(
        'rexdepth', width_mult=0.25, depth_mult=0.2))
    for model in models:
        for strict in (True, False):
            with pytest.raises(WeightsError, match='must be tensors by name|A state dict maps names to tensors'):
                model.load_state_dict(value, strict=strict)


NETWORKS = {
    'backbone': backbone,
    'naver': backbone,
    'encoder': lambda: with_noise(create_encoder(ENCODER)),
    'U-Net': lambda: with_noise(rexnet_timm.MultiScaleUnet(ENCODER, classes=3)),
    'depth': lambda: with_noise(rexnet_timm.ReXDepth(0.25, 0.2)),
    'smp.Unet': lambda: with_noise(smp.Unet('resnet18', encoder_weights=None)),
    'timm': lambda: with_noise(timm.create_model('test_resnet')),
}
WRAPPED = {
    'bare': lambda own: own,
    'DistributedDataParallel': lambda own: {'state_dict': {f'module.{key}': value for key, value in own.items()}},
    'compile': lambda own: {f'_orig_mod.{key}': value for key, value in own.items()},
    'both': lambda own: {f'_orig_mod.module.{key}': value for key, value in own.items()},
    'average': lambda own: {'n_averaged': torch.tensor(1), **{f'module.{key}': value for key, value in own.items()}},
    'Lightning': lambda own: {'epoch': 1, 'state_dict': {
        'mean': torch.zeros(3), **{f'model.{key}': value for key, value in own.items()}, 'loss.weight': torch.ones(5)}},
    'timm': lambda own: {'epoch': 1, 'state_dict': {key: torch.zeros_like(value) for key, value in own.items()},
                         'state_dict_ema': own},
}


@pytest.mark.parametrize('wrapper', WRAPPED)
@pytest.mark.parametrize('network', NETWORKS)
def test_wrapped_weights_load(network, wrapper, tmp_path):
    source, model = NETWORKS[network](), NETWORKS[network]()
    own = dict(source.state_dict())
    checkpoint = WRAPPED[wrapper](timm_to_naver(own, source) if network == 'naver' else own)
    torch.save(checkpoint, tmp_path / 'x.pth')
    calls = [lambda: load_weights(model, tmp_path / 'x.pth')]
    if network not in ('smp.Unet', 'timm'):
        calls += [lambda: model.load_state_dict(checkpoint), lambda: model.load_state_dict(checkpoint, assign=True)]
    keys = list(checkpoint)
    for call in calls:
        for value in model.state_dict().values():
            value.zero_()
        result = call()
        assert result.missing_keys == result.unexpected_keys == []
        assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())
    if len(calls) > 1:
        assert all(value.data_ptr() == own[key].data_ptr() for key, value in model.state_dict().items())  # assigned
    assert list(checkpoint) == keys


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('network', ['backbone', 'encoder', 'U-Net', 'depth'])
def test_every_network_of_ours_refuses_weights_that_are_no_numbers(network, value):
    model = NETWORKS[network]()
    state_dict = {key: entry.clone().half() for key, entry in model.state_dict().items()}
    *_, name = (key for key in state_dict if key.endswith('running_var'))
    state_dict[name][-1] = value
    with pytest.raises(WeightsError, match=rf'finite numbers, and 1 of \d+ .* \({name.removeprefix("unet.")}\): the'):
        model.load_state_dict(state_dict, strict=False)
    state_dict[name][-1] = 1.
    model.load_state_dict(state_dict, strict=False)


def test_the_average_can_be_left(tmp_path):
    raw, average = backbone(), with_noise(backbone())
    torch.save({'state_dict': raw.state_dict(), 'state_dict_ema': average.state_dict()}, tmp_path / 'x.pth')
    model = backbone()
    load_weights(model, tmp_path / 'x.pth')
    assert torch.equal(model.stem.conv.weight, average.stem.conv.weight)
    load_weights(model, tmp_path / 'x.pth', use_ema=False)
    assert torch.equal(model.stem.conv.weight, raw.stem.conv.weight)


def test_a_prefix_goes_only_where_nothing_is_guessed():
    names = ['a.weight', 'b.weight']
    both = {f'{part}.{name}': 1 for part in ('student', 'teacher') for name in names}
    assert without_prefix(both, names) == both
    lacking = {'net.a.weight': 1, 'other': 2}
    assert without_prefix(lacking, names) == lacking
    assert without_prefix({**lacking, 'net.b.weight': 3}, names) == {'a.weight': 1, 'b.weight': 3}
    assert without_prefix({'net.a.weight': 1}, names) == {'a.weight': 1}
    assert without_prefix({'net.c': 1, 'net.d': 2}, ['a'], ['c', 'd']) == {'c': 1, 'd': 2}
    assert without_prefix({'a.weight': 1, 'net.a.weight': 2}, names) == {'a.weight': 1, 'net.a.weight': 2}
    depth = NETWORKS['depth']()
    mixed = {**depth.unet.state_dict(), 'unet.encoder.stem.conv.weight': torch.zeros(1)}
    with pytest.raises(WeightsError, match=r'1 are not its own \(unet.encoder.stem.conv.weight\)'):
        depth.load_state_dict(mixed)


def test_encoders_out_of_larger_networks(tmp_path):
    for network in ('U-Net', 'depth'):
        source = NETWORKS[network]()
        torch.save(WRAPPED['Lightning'](source.state_dict()), tmp_path / 'x.pth')
        encoder = rexnet_timm.load_encoder_weights(create_encoder(ENCODER), tmp_path / 'x.pth')
        expected = getattr(source, 'unet', source).encoder.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in encoder.state_dict().items())


def test_not_strict_keeps_torchs_result():
    own = rexnet_timm.MultiScaleUnet(ENCODER).state_dict()
    encoder = {key: value for key, value in own.items() if key.startswith('encoder.')}
    for model, prefix in ((rexnet_timm.MultiScaleUnet(ENCODER), ''), (NETWORKS['depth'](), 'unet.')):
        result = model.load_state_dict({**encoder, 'extra': torch.zeros(1)}, strict=False)
        assert result.unexpected_keys == ['extra'] and len(result.missing_keys) > 50
        assert set(result.missing_keys) <= {f'{prefix}{key}' for key in own.keys() - encoder.keys()}
        with pytest.raises(WeightsError, match='does not fit: .* 1 are not its own'):
            model.load_state_dict({'extra': torch.zeros(1)}, strict=False)


@pytest.mark.parametrize('name', [ENCODER, unet_name(ENCODER)])
def test_timms_own_loader_takes_every_layout_by_the_same_rule(name, tmp_path):
    source = with_noise(timm.create_model(name))
    torch.save(WRAPPED['timm'](dict(source.state_dict())), tmp_path / 'x.pth')
    model = timm.create_model(name, checkpoint_path=str(tmp_path / 'x.pth'))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_file_of_pretrained_weights_leaves_nothing_in_the_configuration(tmp_path):
    torch.save(backbone().state_dict(), tmp_path / 'x.pth')
    for kwargs in ({}, dict(features_only=True), dict(features_only=True, feature_cls='getter')):
        model = timm.create_model(
            ENCODER, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'x.pth')), **kwargs)
        assert all('state_dict' not in getattr(module, 'pretrained_cfg', {}) for module in model.modules())
        assert model.pretrained_cfg['file'] == str(tmp_path / 'x.pth')
    unread = dict(file=str(tmp_path / 'none.pth'))
    build_with_file(timm.create_model, ENCODER, pretrained=False, pretrained_cfg_overlay=unread)
    with pytest.raises(ValueError, match='^width_mult must be a positive number'):  # is not of the weights
        build_with_file(
            timm.create_model, 'rexnetv1', pretrained=True, width_mult=-1,
            pretrained_cfg_overlay=dict(file=str(tmp_path / 'x.pth')))


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_weights_are_written_whole_or_not_at_all(suffix, tmp_path, monkeypatch):
    path = tmp_path / f'weights{suffix}'
    shared = torch.arange(6.)
    save_weights(path, {'a': shared, 'b': shared[:2], 'c': shared.view(2, 3).t()})
    read = load_file(path) if suffix == '.safetensors' else torch.load(path)
    assert torch.equal(read['a'], shared) and torch.equal(read['b'], shared[:2]) and read['c'].shape == (3, 2)
    assert read['b'].untyped_storage().nbytes() == 8
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match='stop'), atomic_path(path) as part:
        Path(part).write_text('half')
        assert Path(part).suffix == suffix and Path(part).parent == tmp_path
        raise RuntimeError('stop')
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    synced = []
    monkeypatch.setattr(os, 'fsync', lambda fd: synced.append(os.fstat(fd).st_ino))
    save_weights(path, {'a': shared})
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]  # before it got its name, and the name
    link = tmp_path / f'link{suffix}'
    link.symlink_to(path)
    save_weights(link, {'d': shared})
    assert link.is_symlink() and list(load_weights_file(path)) == ['d']


def test_refusals_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder '.*none' to write 'x.pth' in: create it first"):
        save_weights(tmp_path / 'none' / 'x.pth', {})
    with pytest.raises(ValueError, match='must end in .safetensors, .pth, .pt, got .*x.bin'):
        save_weights(tmp_path / 'x.bin', {})
    (tmp_path / 'y.pt').mkdir()
    with pytest.raises(ValueError, match='is a folder: name a file in it'):
        save_weights(tmp_path / 'y.pt', {})


NAMES = [*model_cfgs, *map(unet_name, model_cfgs)]


@pytest.mark.parametrize('name', [*NAMES, *(f'tu-{name}' for name in model_cfgs), 'rexnetr_200.sw_in12k'])
def test_preprocessing_of_every_name(name):
    params = rexnet_timm.get_preprocessing_params(name)
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(name.removeprefix('tu-')).to_dict())
    for key in ('mean', 'std', 'input_size'):
        assert tuple(params[key]) == tuple(config[key])
    assert (params['crop_pct'], params['interpolation']) == (config['crop_pct'], config['interpolation'])
    assert params['input_range'] == [0, 1] and params['input_space'] == 'RGB'


def test_preprocessing_of_tags():
    params = rexnet_timm.get_preprocessing_params('rexnetv1r_3_0.sw_in12k')
    assert (params['crop_pct'], params['input_size']) == (0.95, (3, 224, 224))
    assert rexnet_timm.get_preprocessing_params('rexnetv1r_unet_3_0.sw_in12k') == params
    assert rexnet_timm.get_preprocessing_params(ENCODER)['input_size'] == (3, 160, 160)
    assert all('mean' in rexnet_timm.get_preprocessing_params(f'{name}.{tag}')
               for name, cfgs in default_cfgs.items() for tag in cfgs.tags)


def test_preprocessing_is_what_smp_applies():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    params = rexnet_timm.get_preprocessing_params('rexnetv1')
    applied = smp.encoders.preprocess_input(pixels, **params)
    np.testing.assert_allclose(applied, (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])


@pytest.mark.parametrize('name, text', [
    ('rexnetv1_10', "Unknown model name 'rexnetv1_10'. Did you mean rexnetv1_1_0"),
    ('resnet34-nothing', "Unknown model name 'resnet34-nothing'"),
    ('mobileone_s0x', "Unknown model name 'mobileone_s0x'"),
    ('timm-efficientnet-b0', "'timm-efficientnet-b0' is an encoder of SMP's own: take segmentation_models_pytorch.enc"),
    ('rexnetv1_1_0.nothing', r"Invalid pretrained tag \(nothing\) for rexnetv1_1_0"),
])
def test_preprocessing_of_unknown_names(name, text):
    with pytest.raises(ValueError, match=text):
        rexnet_timm.get_preprocessing_params(name)
