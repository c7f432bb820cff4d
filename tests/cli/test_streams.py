"""Parquet and tar files of others: trained on and validated as the files in them, and gone on with in an epoch."""
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import trees
from killing import assert_same_runs
from PIL import Image
from running import summary

from rexnet_timm.__main__ import main
from rexnet_timm.training.updates import Updates

TRAIN = ('--model rexnetv1_unet_test --num-classes 3 --img-size 32 --batch-size 2 --opt adamw --lr 5e-3 '
         '--warmup-epochs 0 --device cpu --epochs 2 --recovery-interval 1 --resume auto').split()


def run(*words: str | Path) -> int:
    return main(list(map(str, words)))


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'PNG')
    return buffer.getvalue()


SPLITS = (('train', range(8)), ('val', range(100, 103)))


def files(root: Path) -> Path:
    for split, indices in SPLITS:
        for index in indices:
            for kind, pixels in zip(('images', 'masks'), trees.picture(index), strict=True):
                trees.save(root / split / kind / f'{index:03}.png', pixels)
    return root


def parquet(root: Path) -> Path:
    pa = pytest.importorskip('pyarrow', reason='needs the extra stream')
    import pyarrow.parquet
    root.mkdir()
    for split, indices in SPLITS:
        parts = [[encoded(part) for part in trees.picture(index)] for index in indices]
        table = pa.table(dict(zip(('image', 'mask'), map(list, zip(*parts, strict=True)), strict=True)))
        pyarrow.parquet.write_table(table, root / f'{split}.parquet', row_group_size=3)
    return root


def tars(root: Path) -> Path:
    root.mkdir()
    for split, indices in SPLITS:
        for number, index in enumerate(indices):
            with tarfile.open(root / f'{split}-{number // 3:04}.tar', 'a') as tar:
                for ending, pixels in zip(('image.png', 'mask.png'), trees.picture(index), strict=True):
                    head, content = tarfile.TarInfo(f'{index:03}.{ending}'), encoded(pixels)
                    head.size = len(content)
                    tar.addfile(head, io.BytesIO(content))
    return root


class Stopped(BaseException):
    """Ends a run in the middle of its epoch."""


def stopped_at(number: int):
    step, calls = Updates.step, []

    def stopping(self: Updates) -> bool:
        calls.append(self)
        if len(calls) == number:
            raise Stopped
        return step(self)

    return stopping


@pytest.mark.slow
@pytest.mark.parametrize('write', [parquet, tars])
def test_a_run_goes_on_bit_for_bit_and_validates_as_on_files(write, tmp_path, monkeypatch):
    data = write(tmp_path / 'data')
    commands = [('train', data, *TRAIN, '--output', tmp_path, '--experiment', name) for name in ('alone', 'stopped')]
    assert run(*commands[0], '--workers', 0) == 0
    for number in (2, 5):  # in the first epoch, and in the second one
        with monkeypatch.context() as patched:
            patched.setattr(Updates, 'step', stopped_at(number))
            with pytest.raises(Stopped):
                run(*commands[1], '--workers', 1)
    assert run(*commands[1], '--workers', 2) == 0
    assert_same_runs(tmp_path / 'alone', tmp_path / 'stopped', without=['experiment', 'workers'])
    results = []
    for folder in (data, files(tmp_path / 'files')):
        assert run('validate', folder, '--checkpoint', tmp_path / 'alone', '--split', 'val', '--device', 'cpu',
                   '--workers', 0, '--results-dir', tmp_path / f'{folder.name}-results') == 0
        results.append(json.loads((tmp_path / f'{folder.name}-results' / 'results.json').read_text()))
    assert results[0]['confusion'] == results[1]['confusion'] and results[0]['images'] == 3
    assert len(summary(tmp_path / 'alone')) == 2
    if write is tars:  # in the order of the files, a run on tar files is that on files
        words = ('train', tmp_path / 'files', *TRAIN, '--output', tmp_path, '--experiment', 'of_files')
        assert run(*words, '--workers', 0) == 0
        assert str(summary(tmp_path / 'of_files')) == str(summary(tmp_path / 'alone'))


@pytest.mark.parametrize('words, text', [
    (['{root}/train-{{0000..0009}}.tar'], 'of {root}/train-{{0000..0009}}.tar 7 of 10 are not, such as '),
    (['{root}', '--image-suffix', '.png', '--mask-suffix', '.seg.png'],
     'correct --image-suffix and --mask-suffix, or the file.'),
    (['{root}', '--data-format', 'huggingface'], 'Data of the format huggingface must have Parquet files')])
def test_mistakes_end_with_one_line(words, text, tmp_path, capsys):
    root = tars(tmp_path / 'data')
    words = [word.format(root=root) for word in words]
    assert run('train', *words, *TRAIN, '--output', tmp_path, '--experiment', 'run') == 2
    error = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert len(error) == 1 and text.format(root=root) in error[0], error


def test_a_pattern_is_divided_and_checked(tmp_path, capsys):
    root = tars(tmp_path / 'data')
    assert run('check', f'{root}/train-{{0000..0002}}.tar', '--num-classes', 3, '--results-dir', tmp_path / 'out') == 1
    assert '8' in capsys.readouterr().out and (tmp_path / 'out' / 'check.json').is_file()
    assert run('shards', root, tmp_path / 'shards') == 0
    assert 'train: 8 images in 1 shards' in capsys.readouterr().out


def test_without_pyarrow_the_extra_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / 'train.parquet').write_bytes(b'PAR1')
    for name in ('pyarrow', 'pyarrow.parquet'):
        monkeypatch.setitem(sys.modules, name, None)
    assert run('train', tmp_path, *TRAIN, '--output', tmp_path, '--experiment', 'run') == 2
    assert "Parquet files are read by pyarrow: pip install 'rexnet-timm[stream]'." in capsys.readouterr().err
