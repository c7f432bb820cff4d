"""A trained model is rebuilt from what its run or its folder holds."""
import argparse
import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import rexnet_timm
from rexnet_timm.cli import train
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.load import describe, description_of, load_model
from rexnet_timm.files import load_checkpoint_file

SMALL = (
    '--img-size 64 --batch-size 4 --workers 0 --opt adamw --lr 1e-3 --warmup-epochs 0 --epochs 1 --device cpu').split()
SHAPES = ['--dataset', 'synthetic', '--synthetic-images', '8']
RUNS = {
    'unet': [*SHAPES, '--model', 'rexnetv1_unet_test', '--scales', '0', '2', '--mean', '0.5', '--std', '0.25'],
    'any encoder': [*SHAPES, '--model', 'multiscaleunet', '--encoder-name', 'resnet18'],
    'smp': [*SHAPES, '--model', 'fpn', '--encoder-name', 'rexnetv1_test'],
    'width': [*SHAPES, '--model', 'rexnetv1_unet', '--rex-width-mult', '0.3', '--model-kwargs', 'decoder_type=unet'],
    'average': [*SHAPES, '--model', 'rexnetv1_unet_test', '--model-ema', '--model-ema-decay', '0.5'],
    'depth': '--dataset synthetic-depth --synthetic-images 8 --model rexdepth --rex-width-mult 0.25'.split(),
}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The folder of a run, which is trained when it is first asked for."""
    root = tmp_path_factory.mktemp('runs')

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            assert train.main([*RUNS[name], *SMALL, '--output', str(root), '--experiment', name]) == 0
        return root / name
    return folder


def same(model: nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[key], weights[key]) for key in own)


@pytest.mark.parametrize('name', RUNS)
def test_every_kind_of_model_is_rebuilt(name, runs):
    folder = runs(name)
    model = load_model(folder)
    checkpoint = load_checkpoint_file(folder / 'model_best.pth.tar')
    assert not model.training
    assert same(model, checkpoint['state_dict_ema' if name == 'average' else 'state_dict'])
    description = model.description
    assert description.task == ('depth' if name == 'depth' else 'segmentation')
    assert description.input_size == (64, 64)
    if name == 'depth':
        assert (description.min_depth, description.max_depth) == (0.1, 100.)
    else:
        assert model.class_names == ['background', 'disc', 'square', 'triangle', 'ring', 'stripes']
        assert len(model.colors) == 6 and model.ignore_index is None


def test_what_the_run_was_told_of_its_images_is_kept(runs):
    expected = {
        'mean': [0.5] * 3, 'std': [0.25] * 3, 'value_range': [0., 1.], 'in_chans': 3, 'bands': [], 'image_scale': 255.}
    assert load_model(runs('unet')).preprocessing == expected


def test_a_checkpoint_is_named_by_itself(runs):
    model = load_model(runs('unet') / 'last.pth.tar')
    assert same(model, load_checkpoint_file(runs('unet') / 'last.pth.tar')['state_dict'])


@pytest.mark.parametrize('name', ['unet', 'smp'])
def test_a_saved_folder_keeps_the_description(name, runs, tmp_path):
    model = load_model(runs(name))
    model.save_pretrained(tmp_path / 'saved')
    again = load_model(tmp_path / 'saved')
    assert again.description == model.description and not again.training
    assert same(again, model.state_dict())


def test_a_saved_folder_of_smp_without_description(tmp_path):
    smp.Unet('resnet18', encoder_weights=None, classes=3, in_channels=1).save_pretrained(tmp_path)
    description = load_model(tmp_path).description
    assert (description.task, description.in_chans, description.class_names) == ('segmentation', 1, ())


def test_a_folder_that_timm_saved(tmp_path):
    model = timm.create_model('rexnetv1_test', num_classes=2)
    timm.models.save_for_hf(model, tmp_path, model_config={'label_names': ['cat', 'dog']}, safe_serialization=True)
    again = load_model(tmp_path)
    assert isinstance(again, rexnet_timm.ReXNetV1) and same(again, model.state_dict())
    assert again.description.task == 'classification'
    assert again.preprocessing['mean'] == pytest.approx(model.pretrained_cfg['mean'])


def older(folder: Path, path: Path, **without) -> Path:
    """The checkpoint as releases without a description wrote it."""
    content = load_checkpoint_file(folder / 'last.pth.tar')
    arguments = {key: value for key, value in vars(content['args']).items() if key not in ('network', 'description')}
    content['args'] = argparse.Namespace(**arguments)
    torch.save(content, path)
    return path


@pytest.mark.parametrize('name', ['unet', 'smp', 'width', 'depth'])
def test_an_older_checkpoint_loads_and_says_what_is_missing(name, runs, tmp_path, caplog):
    model = load_model(older(runs(name), tmp_path / 'older.pth'))
    assert same(model, load_checkpoint_file(runs(name) / 'last.pth.tar')['state_dict'])
    assert 'names of classes, colours, mean and std of its images are missing' in caplog.text


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint '.*gone.pth'"):
        load_model(tmp_path / 'gone.pth')
    with pytest.raises(ValueError, match="model_best.pth.tar or last.pth.tar, or .* config.json; '.*' has neither"):
        load_model(tmp_path)
    (tmp_path / 'runs' / 'night').mkdir(parents=True)
    (tmp_path / 'runs' / 'night' / 'last.pth.tar').touch()
    with pytest.raises(ValueError, match="has neither, but holds runs: take '.*night'"):
        load_model(tmp_path / 'runs')
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match="weights.pth' holds weights and does not say of which network"):
        load_model(tmp_path / 'weights.pth')
    (tmp_path / 'config.json').write_text(json.dumps({'nothing': 1}))
    with pytest.raises(ValueError, match='cannot be loaded by its config.json: it names no model'):
        load_model(tmp_path)


@pytest.mark.parametrize('network, message', [
    ({'library': 'timm', 'name': 'no_such_net', 'arguments': {}}, "'no_such_net' of 'timm' is not known here"),
    ({'library': 'os', 'name': 'system', 'arguments': {}}, "of 'os' is not known"),
    ({'library': 'timm', 'name': 'hf-hub:a/b', 'arguments': {}}, 'is not known'),
    ('text', 'is described by library, name and arguments'),
    ({'library': 'timm', 'name': 'rexnetv1_test', 'arguments': {'colour': 3}}, 'a network that can be built'),
])
def test_a_network_that_cannot_be_built_is_told(network, message, tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'args': argparse.Namespace(network=network)}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / 'x.pth')


def test_weights_named_in_a_checkpoint_are_not_fetched(tmp_path):
    network = {'library': 'timm', 'name': 'rexnetv1_test', 'arguments': {
        'num_classes': 2, 'checkpoint_path': str(tmp_path / 'gone.pth'), 'pretrained': True}}
    model = timm.create_model('rexnetv1_test', num_classes=2)
    torch.save({'state_dict': model.state_dict(), 'args': argparse.Namespace(network=network)}, tmp_path / 'x.pth')
    assert same(load_model(tmp_path / 'x.pth'), model.state_dict())


def test_a_description_survives_json():
    description = DataDescription(
        class_names=('a', 'b'), colors=((0, 0, 0), (255, 0, 0)), ignore_index=0, in_chans=1, input_size=(32, 64))
    assert DataDescription.from_dict(json.loads(json.dumps(description.to_dict()))) == description
    assert len(description.mean) == 1 and description.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)
    assert description.palette(2).tolist() == [[0, 0, 0], [255, 0, 0]]


@pytest.mark.parametrize('values, message', [
    (dict(task=''), "task must be one of segmentation, depth, classification, or the name of another, got ''"),
    (dict(class_names=('a',), colors=((0, 0, 0), (1, 1, 1))), 'one entry for each of the 1 class names, got 2'),
])
def test_a_description_is_checked(values, message):
    with pytest.raises(ValueError, match=message):
        DataDescription(**values)


def test_a_model_without_description_gets_that_of_its_configuration():
    model = timm.create_model('rexnetv1_test', in_chans=1)
    assert description_of(model).in_chans == 1
    described = describe(model, DataDescription(task='classification', class_names=('x', 'y')))
    assert described is model and description_of(model).class_names == ('x', 'y')
