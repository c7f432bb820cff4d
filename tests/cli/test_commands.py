"""The command `rexnet` as pip installs it."""
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT, summary

from rexnet_timm.__main__ import COMMANDS, main


def test_help_is_one_screen(capsys):
    for argument in ('--help', '-h'):
        assert main([argument]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_every_command_has_help(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit) as exit:
            main([name, '--help'])
        assert exit.value.code == 0
        assert f'usage: rexnet {name}' in capsys.readouterr().out


@pytest.mark.parametrize('argv, message', [
    ([], 'rexnet: error: a command is needed. "rexnet --help" lists them.\n'),
    (['trian'], "rexnet: error: there is no command 'trian'. Did you mean train? \"rexnet --help\" lists them.\n"),
    (['--config'], 'rexnet: error: there is no command \'--config\'.'),
])
def test_a_wrong_command_is_one_line(argv, message, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count('\n') == 1


TINY = (
    '--dataset synthetic --synthetic-images 4 --num-classes 6 --ignore-index 255 --model rexnetv1_unet_test --img-size '
    '32 --batch-size 2 --workers 0 --epochs 1 --warmup-epochs 0 --device cpu --experiment run --overwrite').split()


@pytest.mark.parametrize('has_own', [False, True])
def test_each_command_of_a_process_tells_its_lines_once(has_own, tmp_path, capsys):
    """As in a notebook, whose log may be shown already; and afterwards the log is as it was."""
    root, own = logging.getLogger(), logging.StreamHandler()
    if has_own:
        root.addHandler(own)
    before = list(root.handlers), root.level
    try:
        for _ in range(3):
            assert main(['train', *TINY, '--output', str(tmp_path)]) == 0
            lines = capsys.readouterr().err.splitlines()
            assert sum(line.startswith('Train 0 [') for line in lines) == 1
            assert (list(root.handlers), root.level) == before
    finally:
        root.removeHandler(own)


@pytest.fixture(scope='module')
def environment(tmp_path_factory) -> Path:
    """A new environment with this package's wheel in it, and the running one's packages besides it."""
    root = tmp_path_factory.mktemp('wheel')
    source, folder = root / 'source', root / 'environment'
    shutil.copytree(ROOT / 'rexnet_timm', source / 'rexnet_timm', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'setup.cfg', 'README.md', 'LICENSE', 'NOTICE'):
        shutil.copy(ROOT / name, source)

    def run(*command: str | Path) -> None:
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=root)
        assert result.returncode == 0, result.stdout + result.stderr

    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--wheel-dir', root, source)
    (wheel,) = root.glob('*.whl')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    run(sys.executable, '-m', 'pip', '--python', folder / 'bin' / 'python', 'install', '--no-deps', wheel)
    # a path entry does not bring the .pth files in it along, and so not the checkout that may be installed there
    (packages,) = folder.glob('lib/python*/site-packages')
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return folder


def call(environment: Path, cwd: Path, *command: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.run(
        [str(environment / 'bin' / command[0]), *command[1:]], cwd=cwd, capture_output=True, text=True, timeout=300,
        env=variables)


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='environments of Windows have another layout')
def test_the_wheel_trains_on_two_processes_without_the_clone(environment, tmp_path):
    where = call(environment, tmp_path, 'python', '-c', 'import rexnet_timm; print(rexnet_timm.__file__)')
    assert where.stdout.startswith(str(environment)), where.stderr
    has_report = find_spec('matplotlib') is not None  # of an extra
    small = (
        '--dataset synthetic --synthetic-images 16 --num-classes 6 --ignore-index 255 --model rexnetv1_unet_test '
        '--input-size 3 64 64 --batch-size 4 --epochs 1 --warmup-epochs 0 --device cpu --experiment run').split()
    result = call(
        environment, tmp_path, 'python', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m',
        'rexnet_timm', 'train', '--config', 'rexnetv1_unet_camvid', *small, *['--report'] * has_report)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'output' / 'train' / 'run' / 'report.html').exists() == has_report, result.stderr
    (row,) = summary(tmp_path / 'output' / 'train' / 'run')
    assert 0 <= float(row['eval_miou']) <= 100


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='environments of Windows have another layout')
def test_the_wheel_has_the_command(environment, tmp_path):
    assert 'train' in call(environment, tmp_path, 'rexnet', '--help').stdout
    import rexnet_timm
    torch.save(rexnet_timm.ReXNetV1(width_mult=0.3).state_dict(), tmp_path / 'weights.pth')
    result = call(environment, tmp_path, 'rexnet', 'convert', 'weights.pth', 'naver.safetensors', '--to', 'naver')
    assert result.returncode == 0 and 'entries in NAVER' in result.stdout, result.stderr
    wrong = call(environment, tmp_path, 'rexnet', 'convert', 'gone.pth', 'out.pth', '--to', 'timm')
    assert wrong.returncode == 2 and wrong.stderr.startswith('rexnet convert: error: ')
    assert wrong.stderr.count('\n') == 1 and 'gone.pth' in wrong.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='environments of Windows have another layout')
def test_the_whole_way_of_the_readme(environment, tmp_path):
    """The commands of the first screen, word for word but for a shorter training, from the wheel."""
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'jinja2', 'matplotlib'):
        pytest.importorskip(package, reason="an extra is not installed: pip install 'rexnet-timm[export,report]'")
    (block,) = re.findall(r'```bash\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    short = ('--epochs', '1', '--synthetic-images', '16', '--workers', '0', '--device', 'cpu')
    commands = block.replace('\\\n', ' ').splitlines()
    assert [command.split()[1] for command in commands] == ['train', 'validate', 'report', 'predict', 'export', 'app']
    of_onnx = 'rexnet predict --dataset synthetic --checkpoint output/train/shapes/model.onnx --output '
    for command in [*commands, f'{of_onnx}output/masks-of-onnx']:
        words = shlex.split(command)
        if words[1] == 'app':  # which would wait for visitors
            if 'app' not in COMMANDS:
                continue
            words = [*words[:2], '--help']
        result = call(environment, tmp_path, *words, *(short if words[1] == 'train' else ()))
        assert result.returncode == 0, result.stderr
    run, output = tmp_path / 'output' / 'train' / 'shapes', tmp_path / 'output'
    assert (run / 'report.html').is_file()
    assert json.loads((run / 'validate-test' / 'results.json').read_text())['images'] == 64
    names = {f'{index:03}.png' for index in range(64)}
    for folder in ('masks', 'masks-of-onnx'):
        assert {path.name for path in (output / folder).glob('*.png')} == names
        assert {path.name for path in (output / folder / 'images').iterdir()} == names
    masks = [np.stack([np.array(Image.open(output / folder / name)) for name in sorted(names)])
             for folder in ('masks', 'masks-of-onnx')]
    assert masks[0].shape == (64, 128, 128) and (masks[0] == masks[1]).mean() > 0.999
