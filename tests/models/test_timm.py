"""The backbones in what timm offers around its models: saved folders, the Hub, its own training script."""
import itertools
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import conformance
import hub_cache
import pytest
import timm
import torch
from running import ROOT, summary, write_class_folder
from timm.models import save_for_hf

import rexnet_timm  # noqa: F401 - registers the models

BACKBONES = [
    ('rexnetv1_test', {}), ('rexnetv1', dict(width_mult=0.3, depth_mult=0.5, num_classes=7)),
    ('rexnetv1', dict(width_mult=0.3, depth_mult=0.2, in_chans=1, act_layer='relu')), ('rexnetv1_lite_1_0', {})]


def fresh_process(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
    # what is set in the environment counts when a library is imported
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, args)], env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
        capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize('name, kwargs', BACKBONES)
@pytest.mark.parametrize('safe', [True, False], ids=['safetensors', 'pth'])
def test_a_saved_folder_builds_the_same_model(name, kwargs, safe, tmp_path):
    model = timm.create_model(name, **kwargs).eval()
    save_for_hf(model, tmp_path, safe_serialization=safe)
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.randn(1, kwargs.get('in_chans', 3), 64, 64)
    assert type(again) is type(model) and torch.equal(again(x), model(x))
    features = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, features_only=True).eval()(x)
    assert torch.equal(features[-1], model.forward_intermediates(x, intermediates_only=True)[-1])
    assert timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=5)(
        torch.cat([x, x])).shape == (2, 5)


def test_the_hub_builds_the_same_model():
    name, kwargs = BACKBONES[1]
    model, x = timm.create_model(name, **kwargs).eval(), torch.randn(1, 3, 64, 64)
    hub_cache.publish('someone/rexnet', model)
    again = timm.create_model('hf-hub:someone/rexnet', pretrained=True).eval()
    assert type(again) is type(model) and torch.equal(again(x), model(x))


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_features_only_at_all_indices(output_stride, tmp_path):
    model, x = timm.create_model('rexnetv1_test', output_stride=output_stride).eval(), torch.randn(1, 3, 64, 96)
    expected = model.forward_intermediates(x, intermediates_only=True)
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    weights = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'weights.pth')))
    for length in range(1, 6):
        for indices in itertools.combinations(range(5), length):
            extractor = timm.create_model(
                'rexnetv1_test', features_only=True, out_indices=indices, output_stride=output_stride,
                **weights).eval()
            assert extractor.feature_info.reduction() == [min(2 ** (i + 1), output_stride) for i in indices]
            for index, feature in zip(indices, extractor(x), strict=True):
                assert torch.equal(feature, expected[index])


def test_the_calls_of_timms_training_script():
    # --device-modules imports a name; these are the arguments of the one call that builds the model
    code = (
        'import importlib, argparse, timm\n'
        'from timm.utils import ParseKwargs\n'
        "importlib.import_module('rexnet_timm')\n"
        'parser = argparse.ArgumentParser()\n'
        "parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)\n"
        "args = parser.parse_args(['--model-kwargs', 'width_mult=0.5', 'depth_mult=0.2'])\n"
        'model = timm.create_model(\n'
        "    'rexnetv1', pretrained=False, in_chans=3, num_classes=None, drop_rate=0., drop_path_rate=None,\n"
        '    drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None, scriptable=False,\n'
        "    checkpoint_path='', **args.model_kwargs)\n"
        'print(model.num_features, len(model.features), model.num_classes)\n')
    result = fresh_process(code)
    assert result.stdout.split() == ['640', '7', '1000'], result.stderr


@pytest.fixture(scope='module')
def training_script() -> Path:
    """timm's train.py of the installed release: neither the wheel nor the source distribution has it."""
    if 'TIMM_TRAIN' in os.environ:
        return Path(os.environ['TIMM_TRAIN'])
    path = conformance.CACHE / f'timm-{timm.__version__}-train.py'
    if not path.is_file():
        url = f'https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{timm.__version__}/train.py'
        try:
            with urlopen(url, timeout=20) as response:
                content = response.read()
        except OSError as error:
            pytest.skip(f"timm's train.py is not to be had from {url} ({error}); TIMM_TRAIN names a copy of it")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return path


@pytest.mark.slow
def test_timms_own_script_trains(training_script, tmp_path):
    data = write_class_folder(tmp_path / 'data')
    subprocess.run(
        [sys.executable, str(training_script), str(data), '--device-modules', 'rexnet_timm', '--model', 'rexnetv1',
         '--model-kwargs', 'width_mult=1.0', '--num-classes', '2', '--img-size', '32', '--batch-size', '4',
         '--workers', '0', '--epochs', '1', '--warmup-epochs', '0', '--lr', '0.01', '--device', 'cpu',
         '--output', str(tmp_path), '--experiment', 'run'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, cwd=tmp_path, check=True, timeout=300)
    (row,) = summary(tmp_path / 'run')
    assert 0 <= float(row['eval_top1']) <= 100
    saved = timm.create_model(
        'rexnetv1', num_classes=2, checkpoint_path=str(tmp_path / 'run' / 'model_best.pth.tar'))
    assert saved.num_features == 1280


@pytest.mark.slow
def test_timms_own_model_tests():
    # a name of each class and rounding; "make conformance" runs all of them
    names = ['rexnetv1_1_0', 'rexnetv1r_1_0', 'rexnetv1_lite_1_0']
    try:
        conformance.fetch_tests()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    result = subprocess.run(
        [sys.executable, str(Path(conformance.__file__)), *names], env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    for name in (conformance.REFERENCE, *names):
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(name + ' ')]
        assert int(line.split()[1]) >= 15


def test_a_missed_test_is_told():
    plugin = conformance.Conformance(['ours', 'other'])
    plugin.outcomes = {
        'test_both': {'rexnet_100': 'passed', 'ours': 'passed', 'other': 'passed'},
        'test_ours_fails': {'rexnet_100': 'passed', 'ours': 'failed', 'other': 'passed'},
        'test_ours_is_skipped': {'rexnet_100': 'passed', 'ours': 'skipped'},
        'test_without_the_hub': {'rexnet_100': 'failed', 'ours': 'failed', 'other': 'failed'},
        'test_load_pretrained': {'rexnet_100': 'passed', 'ours': 'passed'}}
    assert plugin.misses() == [
        ('test_ours_fails', 'ours'), ('test_ours_is_skipped', 'ours'), ('test_ours_is_skipped', 'other')]
    assert 'Not asked of ours, rexnet_100 has failed: test_without_the_hub' in plugin.table()
