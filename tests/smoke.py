#!/usr/bin/env python3
"""What an installed package has to do in an environment of its own: `make test-wheel`, `make test-oldest`.

smoke.py TREE. It is run by the Python of that environment, in an empty folder; TREE is the clone that the package was
built from, of which only the names of the files are read.
"""
import io
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image

import rexnet_timm
from rexnet_timm.__main__ import COMMANDS
from rexnet_timm.__main__ import main as rexnet

TINY = (
    '--synthetic-images 8 --img-size 64 --batch-size 4 --workers 0 --epochs 1 --warmup-epochs 0 --device cpu '
    '--output . --experiment').split()


def check_files(tree: Path) -> None:
    """Every file of the package is installed, and the installed one is what was imported."""
    package = Path(rexnet_timm.__file__).parent
    assert tree.resolve() not in package.resolve().parents or '.venv' in str(package), f'{package} is the clone'
    there = {path.relative_to(package) for path in package.rglob('*')}
    asked = {path.relative_to(tree / 'rexnet_timm') for path in (tree / 'rexnet_timm').rglob('*')
             if path.is_file() and '__pycache__' not in path.parts}
    assert asked and not asked - there, f'missing: {sorted(map(str, asked - there))}'
    assert (package / 'py.typed').is_file()
    assert metadata.version('rexnet-timm') == rexnet_timm.__version__


def check_models() -> None:
    """A network of each kind is made and run."""
    images = torch.randn(2, 3, 64, 96)
    sizes = {
        'rexnetv1_1_0': (2, 7), 'rexnetv1r_1_0': (2, 7), 'rexnetv1_lite_1_0': (2, 7),
        'rexnetv1_unet_1_0': (2, 7, 64, 96)}
    with torch.inference_mode():
        for name, size in sizes.items():
            output = timm.create_model(name, num_classes=7).eval()(images)
            assert tuple(output.shape) == size, f'{name}: {tuple(output.shape)}'
        disparity = timm.create_model('rexdepth_1_0').eval()(images)[('disp', 0)]
        assert tuple(disparity.shape) == (2, 1, 64, 96)
        for model in (
                smp.Unet('rexnetv1', encoder_weights=None, classes=7),
                rexnet_timm.MultiScaleUnet('resnet18', encoder_weights=None, classes=7)):
            assert tuple(model.eval()(images).shape) == (2, 7, 64, 96)


def script(*words: str) -> str:
    """Standard output of the command that pip has installed, which has to succeed."""
    path = Path(sys.executable).with_name('rexnet')
    result = subprocess.run([str(path), *words], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f'rexnet {" ".join(words)}: {result.returncode}: {result.stderr}'
    return result.stdout


def command(*words: str) -> str:
    """Standard output of the same command in this process, which is there sooner."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        try:
            status = rexnet(words)
        except SystemExit as end:  # of --help
            status = end.code
    assert not status, f'rexnet {" ".join(words)}: {status}'
    return printed.getvalue()


def check_commands() -> None:
    """Each command tells its options, and the recipes are there."""
    listed = script('--help')
    assert all(name in listed for name in COMMANDS)
    for name in COMMANDS:
        assert f'rexnet {name}' in command(name, '--help')
    recipes = [file.name for file in (resources.files('rexnet_timm') / 'configs').iterdir()]
    assert 'rexnetv1_unet_camvid.yaml' in recipes


def check_the_way() -> None:
    """One tiny epoch of each kind on built-in images, and what follows on it."""
    script('train', '--dataset', 'synthetic', '--model', 'rexnetv1_unet_test', *TINY, 'masks')
    command('train', '--dataset', 'synthetic-depth', '--model', 'rexdepth', '--rex-width-mult', '0.3',
            '--rex-depth-mult', '0.3', *TINY, 'depth')
    command('validate', '--dataset', 'synthetic', '--synthetic-images', '8', '--checkpoint', 'masks')
    Image.fromarray(np.full((70, 90, 3), 99, np.uint8)).save('photo.png')
    command('predict', 'photo.png', '--checkpoint', 'masks', '--output', 'predicted')
    command('predict', 'photo.png', '--checkpoint', 'depth', '--output', 'predicted-depth')
    for folder in ('predicted', 'predicted-depth'):
        (picture,) = Path(folder).rglob('*.png')
        assert Image.open(picture).size == (90, 70)
    model = rexnet_timm.load_model('masks')
    assert rexnet_timm.predict(model, 'photo.png').mask.shape == (70, 90)
    rexnet_timm.export(model, 'model.pt2')
    assert tuple(rexnet_timm.load_model('model.pt2')(torch.zeros(1, 3, 64, 96)).shape) == (1, 6, 64, 96)


def main(tree: Path) -> None:
    check_files(tree)
    check_models()
    check_commands()
    check_the_way()
    versions = ', '.join(f'{name} {metadata.version(name)}' for name in (
        'rexnet-timm', 'torch', 'torchvision', 'timm', 'segmentation-models-pytorch', 'numpy'))
    print(f'The installed package works: {versions}, Python {sys.version.split()[0]}')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
