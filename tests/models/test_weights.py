"""Weights from files, by every way in; files that carry code; how images are prepared for a name."""
import argparse
import contextlib
import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

import rexnet_timm
from rexnet_timm.cli import build
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.files import load_checkpoint_file, load_weights_file
from rexnet_timm.models.any_encoder import create_encoder
from rexnet_timm.models.rexnetv1 import default_cfgs, model_cfgs, timm_to_naver
from rexnet_timm.models.unet import unet_name

ROOT = Path(__file__).parents[2]
ENCODER = 'rexnetv1_test'


class Trap:
    """An object whose unpickling writes a file, as a malicious one would run anything."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.write_text, (self.witness, 'ran')


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert_from(build.create_model(args))
    args = arguments('--model', ENCODER, '--pretrained-path', str(file), '--num-classes', '1000')
    assert_from(build.create_model(args), HEAD)  # a new classifier even of as many classes, as timm's flag says
    args = arguments('--model', ENCODER, '--pretrained-path', str(file), '--num-classes', '7', '--in-chans', '4')
    model = build.create_model(args)
    assert model.head.fc.out_features == 7 and model.stem.conv.in_channels == 4
    assert torch.equal(model.features[1].conv_dw.conv.weight, backbone().features[1].conv_dw.conv.weight)
    for architecture in ('unet', 'multiscaleunet'):
        args = arguments('--model', architecture, '--encoder-name', ENCODER, '--pretrained-path', str(file))
        assert_from(build.create_model(args).encoder)
    args = arguments('--model', unet_name(ENCODER), '--pretrained-path', str(file), '--num-classes', '7')
    assert_from(build.create_model(args).encoder)


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
    with pytest.raises(ValueError, match="rexnet.pth' must hold the entries of ResNetEncoder, by their names"):
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
        build.create_model(arguments(*args))


def test_a_file_of_an_encoder_is_no_checkpoint_of_a_unet(tmp_path):
    torch.save(backbone().state_dict(), tmp_path / 'weights.pth')
    args = arguments('--model', unet_name(ENCODER), '--initial-checkpoint', str(tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match='does not fit the model: .*--pretrained-path takes the weights of an encoder'):
        build.create_model(args)


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
    status = load_script('train').main([
        '--dataset', 'synthetic', '--synthetic-images', '8', '--batch-size', '4', '--img-size', '64', '--workers', '0',
        '--device', 'cpu', '--output', str(tmp_path), '--model', *model, flag, str(path)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert status == 2 and line.startswith('train.py: error: ')
    assert not witness.exists()


def test_code_in_a_checkpoint_is_not_converted(trap, capsys, tmp_path):
    path, witness = trap
    target = tmp_path / 'out.pth'
    assert load_script('convert_checkpoint').main([str(path), str(target), '--to', 'naver']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'does not: it holds code, or is damaged, and nothing of it has run' in line
    assert not witness.exists() and not target.exists()


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
