"""What users get wrong with the commands after training: one line each, and nothing of theirs is changed."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT, write_class_folder
from trained import trained_run

import rexnet_timm
from rexnet_timm.__main__ import main

CPU = ('--device', 'cpu')
MASKS, DEPTH, SORTS = (('--checkpoint', name) for name in ('masks', 'depth', 'sorts'))
MEASURE = (*CPU, '--workers', '0', '--results-dir', 'results')


def noise(*shape: int, highest: int = 255, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, highest + 1, shape, dtype=dtype)


def write_masks(root: Path, image: np.ndarray | bytes) -> None:
    """A test split of two images with masks, of which the second image is the given one."""
    for kind in ('images', 'masks'):
        (root / 'test' / kind).mkdir(parents=True)
    for name in 'ab':
        Image.fromarray(noise(40, 48, highest=5)).save(root / 'test' / 'masks' / f'{name}.png')
    Image.fromarray(noise(40, 48, 3)).save(root / 'test' / 'images' / 'a.png')
    path = root / 'test' / 'images' / 'b.png'
    path.write_bytes(image) if isinstance(image, bytes) else Image.fromarray(image).save(path)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory) -> Path:
    """Folders of images, models and files, of which most are not what a command takes."""
    root = tmp_path_factory.mktemp('bad')
    write_masks(root / 'good', noise(40, 48, 3))
    write_masks(root / 'sixteen', noise(40, 48, dtype=np.uint16, highest=60000))
    write_masks(root / 'broken', b'no image')
    whole = (root / 'good' / 'test' / 'images' / 'b.png').read_bytes()
    write_masks(root / 'cut', whole[:len(whole) // 2])
    write_class_folder(root / 'classes')
    (root / 'empty').mkdir()
    for kind in ('images', 'masks'):
        (root / 'hollow' / 'test' / kind).mkdir(parents=True)
    rexnet_timm.MultiScaleUnet('rexnetv1_test', in_channels=4, classes=6).save_pretrained(root / 'four')
    torch.save(rexnet_timm.ReXNetV1(width_mult=0.3, depth_mult=0.2).state_dict(), root / 'weights.pth')
    (root / 'mine').mkdir()
    for name in ('a.png', 'b.png', 'results.json', 'model.ts', 'weights.pth', 'README.md'):
        (root / 'mine' / name).write_text('mine')
    for task, name in (('segmentation', 'masks'), ('depth', 'depth'), ('classification', 'sorts')):
        (root / name).symlink_to(trained_run(task))
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob('*') if path.is_file() and not path.is_symlink()}


@pytest.mark.parametrize('words, message', [
    # a checkpoint of another task
    (('validate', 'good', *DEPTH, *MEASURE), 'No folders of images and depth maps for split'),
    (('validate', 'good', *SORTS, *MEASURE), 'tells classes of images, and good has images with masks'),
    (('validate', 'classes', *MASKS, '--split', 'validation', *MEASURE),
     'No folders of images and masks for split "validation": classes has the folders train, validation.'),
    (('validate', '--dataset', 'synthetic', *SORTS, *MEASURE), 'is for segmentation, and the model of'),
    (('predict', '--dataset', 'synthetic-depth', *MASKS, *CPU), 'is for depth, and the model of'),
    (('predict', 'good/test/images', *SORTS, '--tile', '64', *CPU), '--tile is for masks and depth'),
    (('export', *DEPTH, 'out.ts', '--argmax'), '--argmax chooses a class, and a depth network has none'),
    (('export', *SORTS, 'out.ts', '--scale', '1'), '--scale cuts the multi-scale U-Net, and ReXNetV1'),
    (('convert', 'masks/model_best.pth.tar', 'out.pth', '--to', 'naver'), 'holds a network of masks or depth'),
    (('convert', 'depth/model_best.pth.tar', 'out.pth', '--to', 'timm'), 'holds a network of masks or depth'),
    (('share', 'out', *MASKS, '--results', 'depth-results'), 'of segmentation, and'),
    # no checkpoint at all
    (('validate', 'good', '--checkpoint', 'weights.pth', *MEASURE), 'holds weights and does not say of which network'),
    (('predict', 'good/test/images', '--checkpoint', 'empty', *CPU), 'A model is loaded from the folder of a run'),
    (('export', '--checkpoint', 'empty', 'out.ts'), 'A model is loaded from the folder of a run'),
    (('export', '--checkpoint', 'good/test/images/a.png', 'out.ts'), 'must hold tensors and plain values only'),
    (('share', 'out', '--checkpoint', 'weights.pth'), 'holds weights and does not say of which network'),
    # images with other bands
    (('validate', 'good', '--checkpoint', 'four', *MEASURE), 'channels, 4: good/test/images/a.png has 3; take images'),
    (('validate', 'sixteen', *MASKS, *MEASURE), 'sixteen/test/images/b.png has 16 bits, values from'),
    # unreadable ones
    (('validate', 'broken', *MASKS, *MEASURE), 'must be readable: broken/test/images/b.png is not'),
    (('validate', 'cut', *MASKS, *MEASURE), 'must be readable: cut/test/images/b.png is not'),
    # empty folders
    (('validate', 'empty', *MASKS, *MEASURE), 'empty has no folders'),
    (('validate', 'empty', *SORTS, *MEASURE), "There is no part 'test' in empty"),
    (('validate', 'hollow', *MASKS, *MEASURE), 'The folder of images is empty: hollow/test/images'),
    (('predict', 'empty', *MASKS, *CPU), "INPUT must have images, and 'empty' has none that end in"),
    (('convert', 'empty', 'out.pth', '--to', 'timm'), "Weights are read from a file, and 'empty' is a folder"),
    # outputs that exist
    (('validate', 'good', *MASKS, *CPU, '--workers', '0', '--results-dir', 'mine'),
     "'mine/results.json' exists: pass --overwrite to replace it, or another --results-dir"),
    (('validate', 'good', *MASKS, *MEASURE, '--results-file', 'mine/results.json'),
     "'mine/results.json' exists: pass --overwrite to replace it, or another --results-file"),
    (('validate', 'good', *MASKS, *CPU, '--results-dir', 'weights.pth'), "'weights.pth' is a file"),
    (('predict', 'good/test/images', *MASKS, *CPU, '--output', 'mine'), '2 of 2 results exist'),
    (('export', *MASKS, 'mine/model.ts'), "'mine/model.ts' exists: name another OUTPUT"),
    (('convert', 'weights.pth', 'mine/weights.pth', '--to', 'naver'), "'mine/weights.pth' exists: name another OUTPUT"),
    (('share', 'mine', *MASKS), "'mine/README.md' exists: pass --overwrite to replace it"),
    (('share', 'weights.pth', *MASKS), "A folder is to be written, and 'weights.pth' is a file"),
    # words in another place
    (('predict', '--input', 'good', *MASKS), 'INPUT is given by itself, as in "rexnet predict INPUT"'),
    (('export', '--output', 'out.ts', *MASKS), 'OUTPUT is given by itself, as in "rexnet export OUTPUT"'),
    (('validate', '--data', 'good', *MASKS), 'DIR is given by itself, as in "rexnet validate DIR"'),
])
def test_a_mistake_is_one_line_and_nothing_is_lost(words, message, prepared, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    if 'depth-results' in words:
        Path('depth-results').mkdir()
        Path('depth-results/results.json').write_text(json.dumps({'task': 'depth', 'split': 'test', 'images': 2}))
    before = content(prepared)
    assert main(list(words)) == 2
    output, error = capsys.readouterr()
    assert message in error and error.count('\n') == 1 and error.startswith(f'rexnet {words[0]}: error: ')
    assert not output and content(prepared) == before


@pytest.mark.parametrize('folder, checkpoint, message', [
    ('broken', 'masks', 'must be readable: broken/test/images/b.png is not'),
    ('cut', 'masks', 'must be readable: cut/test/images/b.png is not'),
    ('sixteen', 'masks', 'sixteen/test/images/b.png has 16 bits, values from'),
    ('good', 'four', 'good/test/images/b.png has 3; take images with 4 bands')])
def test_predict_tells_each_image_and_goes_on(folder, checkpoint, message, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    words = ['predict', f'{folder}/test/images', '--checkpoint', checkpoint, '--output', str(tmp_path / 'out'), *CPU]
    assert main(words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if 'rexnet predict: ' in line]
    good = [] if checkpoint == 'four' else ['a.png']
    assert len(lines) == 2 - len(good) and message in lines[-1]
    assert sorted(os.listdir(tmp_path / 'out') if good else []) == good


def test_classes_without_names_have_numbers(prepared, tmp_path, monkeypatch, capsys):
    """Neither the model nor the folder names the classes: every command works."""
    monkeypatch.chdir(prepared)
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=6).eval()
    model.save_pretrained(tmp_path / 'model')
    start = ('--checkpoint', str(tmp_path / 'model'))
    assert main(['validate', 'good', *start, *CPU, '--workers', '0', '--results-dir', str(tmp_path / 'results')]) == 0
    assert main(['predict', 'good/test/images', *start, *CPU, '--output', str(tmp_path / 'out')]) == 0
    assert main(['share', str(tmp_path / 'shared'), *start, '--results', str(tmp_path / 'results')]) == 0
    assert 'class 5 ' in capsys.readouterr().out
    assert '| 5 | class 5 |' in (tmp_path / 'shared' / 'README.md').read_text()
    assert json.loads((tmp_path / 'results' / 'results.json').read_text())['class_names'][0] == 'class 0'


FULL = """
import contextlib, io, json, resource, signal, sys
import torch
from rexnet_timm.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
told = []
for words in json.loads(sys.argv[1]):
    output, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        status = main(words)
    told.append((status, output.getvalue(), error.getvalue()))
sys.stdout.buffer.write(json.dumps(told).encode())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='the limit that stands for a full disk is that of POSIX')
def test_a_full_disk_is_told_and_loses_nothing(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    commands = [
        ['validate', 'good', *MASKS, *CPU, '--workers', '0', '--results-dir', 'mine', '--overwrite'],
        ['predict', 'good/test/images', *MASKS, *CPU, '--output', 'mine', '--overwrite'],
        ['predict', 'good/test/images', *MASKS, *CPU, '--output', 'new', '--output-type', 'prob'],
        ['predict', 'good/test/images', *SORTS, *CPU, '--output', 'newer'],
        ['export', *MASKS, 'mine/model.ts', '--overwrite'],
        ['convert', 'weights.pth', 'mine/weights.pth', '--to', 'naver', '--overwrite'],
        ['convert', 'weights.pth', 'out.safetensors', '--to', 'naver'],
        ['share', 'mine', *MASKS, '--overwrite'],
        ['share', 'fresh', *SORTS]]
    before = content(prepared)
    result = subprocess.run(
        [sys.executable, '-c', FULL, json.dumps(commands)], env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE, stderr=None, timeout=300)
    assert result.returncode == 0
    told = json.loads(result.stdout)
    for words, (status, _, error) in zip(commands, told, strict=True):
        lines = [line for line in error.splitlines() if f'rexnet {words[0]}: ' in line]
        expected = 2 if words[0] == 'predict' and 'masks' in words else 1  # a line for each image
        assert status == (1 if expected == 2 else 2) and len(lines) == expected, (words, error)
        assert 'File too large' in error or 'not written whole' in error, (words, error)
    assert 'mIoU' in told[0][1]  # the work is not lost
    assert content(prepared) == before
