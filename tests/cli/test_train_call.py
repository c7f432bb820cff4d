"""`rexnet_timm.train`, the command as a call, for notebooks."""
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from running import ROOT

import rexnet_timm
from rexnet_timm.cli import resume
from rexnet_timm.cli import train as command
from rexnet_timm.files import load_checkpoint_file

SMALL = dict(
    dataset='synthetic', synthetic_images=8, model='rexnetv1_unet_test', img_size=64, batch_size=4, workers=0,
    warmup_epochs=0, epochs=1, device='cpu')


def words(options: dict) -> list[str]:
    return [word for name, value in options.items() for word in (f'--{name.replace("_", "-")}', str(value))]


def test_the_call_is_the_command(tmp_path):
    folder = rexnet_timm.train(
        **SMALL, lr=1e-3, scales=(0, 2), amp=False, opt_args={'nesterov': True}, mean=0.5, clip_grad=None,
        output=tmp_path, experiment='call')
    assert folder == str(tmp_path / 'call')
    assert command.main([
        *words(SMALL), '--lr', '1e-3', '--scales', '0', '2', '--opt-args', 'nesterov=true', '--mean', '0.5', '--output',
        str(tmp_path), '--experiment', 'command']) == 0
    arguments = [yaml.safe_load((tmp_path / name / 'args.yaml').read_text()) for name in ('call', 'command')]
    assert {**arguments[0], 'experiment': ''} == {**arguments[1], 'experiment': ''}
    ours, theirs = (
        load_checkpoint_file(tmp_path / name / 'last.pth.tar')['state_dict'] for name in ('call', 'command'))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    model = rexnet_timm.load_model(folder)
    assert model.scales == (0, 2) and model.class_names[1] == 'disc'


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Frozen(resume.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(resume, 'datetime', Frozen)
    folders = [Path(rexnet_timm.train(**SMALL, output=tmp_path)).name for _ in range(2)]
    assert folders == ['20260102-030405-rexnetv1_unet_test', '20260102-030405-rexnetv1_unet_test-2']


@pytest.mark.parametrize('data, options, message', [
    (None, dict(epoch=3), r'There is no option epoch\. Did you mean .*epochs'),
    (None, dict(learning_rate=1), r'There is no option learning_rate\. Did you mean lr\?'),
    (None, dict(epochs=0), 'epochs must be at least 1, got 0'),
    (None, dict(epochs='many'), "epochs must be a whole number of at least 1, got 'many'"),
    (None, dict(epochs=2.5), "epochs must be a whole number of at least 1, got '2.5'"),
    (None, dict(epochs=True), 'epochs must be a whole number of at least 1, got True'),
    (None, dict(amp='yes'), "amp must be True or False, got 'yes'"),
    (None, dict(input_size=(3, 64)), r'input_size must be 3 values, got \(3, 64\)'),
    (None, dict(lr=[1, 2]), r'lr must be one value, got \[1, 2\]'),
    (None, dict(mean=[]), r'mean must be at least one value, got \[\]'),
    (None, dict(opt_args=['a=1']), 'opt_args must be a dict of arguments by name'),
    (None, dict(opt='adamv'), r"opt must be one of timm's optimizers .*got 'adamv'\. Did you mean"),
    (None, dict(), r'^A folder of data is needed \(the first word, or data_dir\), or dataset synthetic'),
    (None, dict(dataset='synthetic', scales=(9,), model='rexnetv1_unet_test'), '^scales must be different whole numb'),
    (None, dict(dataset='synthetic', model='rexdepth'),
     'got dataset synthetic: give a folder of images and depth, dataset synthetic-depth'),
    ('nowhere', dict(model='rexnetv1_unet_test', num_classes=2), "folder of the data must exist, 'nowhere' does not"),
    (Path('.'), dict(model='rexnetv1_unet_test'), '^No folders of images and masks for split "train": . has no'),
])
def test_a_mistake_is_an_error_in_the_words_of_python(data, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        rexnet_timm.train(data, **options)
    assert '--' not in str(error.value) and '\n' not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_the_log_is_shown_where_nothing_else_does(tmp_path, capsys):
    root = logging.getLogger()
    root.handlers[:] = []
    rexnet_timm.train(**SMALL, output=tmp_path, experiment='shown', model_ema=True, ignore_index=3)
    error = capsys.readouterr().err
    assert 'ignore_index has no effect with a built-in dataset.' in error and 'Best miou' in error
    assert 'add model_ema_warmup, or lower model_ema_decay from' in error
    assert not logging.getLogger('rexnet_timm').handlers and not root.handlers


@pytest.mark.slow
def test_importing_the_package_leaves_the_command_line_out():
    code = 'import sys, rexnet_timm; print([name for name in sys.modules if name.startswith("rexnet_timm.cli")])'
    result = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    assert result.stdout == '[]\n', result.stderr
