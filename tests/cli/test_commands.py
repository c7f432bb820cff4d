"""The command `rexnet` as pip installs it."""
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
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
    small = (
        '--dataset synthetic --synthetic-images 16 --num-classes 6 --ignore-index 255 --model rexnetv1_unet_test '
        '--input-size 3 64 64 --batch-size 4 --epochs 1 --warmup-epochs 0 --device cpu --experiment run').split()
    result = call(
        environment, tmp_path, 'python', '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m',
        'rexnet_timm', 'train', '--config', 'rexnetv1_unet_camvid', *small)
    assert result.returncode == 0, result.stderr
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
