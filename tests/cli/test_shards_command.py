"""`rexnet shards`, and training and validation on what it wrote."""
import json
from pathlib import Path

import numpy as np
import pytest
import trees
from running import summary

from rexnet_timm.__main__ import main

TRAIN = ('--model rexnetv1_unet_test --img-size 32 --batch-size 2 --opt adamw --lr 5e-3 --warmup-epochs 0 --device cpu '
         '--workers 0 --epochs 2').split()


def run(*words: str | Path) -> int:
    return main(list(map(str, words)))


def test_a_run_on_shards_is_that_on_the_files(tmp_path, capsys):
    data, shards = trees.cityscapes(tmp_path / 'set'), tmp_path / 'shards'
    assert run('shards', data, shards, '--shard-size', 1) == 0
    assert capsys.readouterr().out == (
        f'train: 4 images in 1 shards, 0.0 MiB\nval: 3 images in 1 shards, 0.0 MiB\nShards in {shards}\n')
    assert run('shards', shards, '--verify') == 0
    assert f'4 files in {shards} are as they were written' in capsys.readouterr().out
    for name, folder in (('files', data), ('shards', shards)):
        assert run('train', folder, *TRAIN, '--output', tmp_path, '--experiment', name) == 0
        assert run('validate', folder, '--checkpoint', tmp_path / name, '--split', 'val', '--device', 'cpu') == 0
    runs = [summary(tmp_path / name) for name in ('files', 'shards')]
    assert str(runs[0]) == str(runs[1]) and len(runs[0]) == 2  # to the last digit; NaN of classes that are not there
    first, second = (json.loads((tmp_path / name / 'validate-val' / 'results.json').read_text())
                     for name in ('files', 'shards'))
    assert first['confusion'] == second['confusion'] and first['images'] == second['images'] == 3
    # a model of files is measured on shards, and the other way round
    common = ['--split', 'val', '--device', 'cpu', '--results-dir']
    assert run('validate', shards, '--checkpoint', tmp_path / 'files', *common, tmp_path / 'a') == 0
    assert run('validate', data, '--checkpoint', tmp_path / 'shards', *common, tmp_path / 'b') == 0
    assert json.loads((tmp_path / 'a' / 'results.json').read_text())['confusion'] == first['confusion']


def test_depth_in_shards_trains(tmp_path):
    root = trees.depth(tmp_path / 'set', 'rgb/{split}/{name}.jpg', 'truth/{split}/{name}.npy', np.save)
    words = ['--task', 'depth', '--image-dir', 'rgb/{split}', '--depth-dir', 'truth/{split}', '--depth-scale', '0.5']
    assert run('shards', root, tmp_path / 'out', *words) == 0
    depth = '--model rexdepth --rex-width-mult 0.25 --rex-depth-mult 0.2 --batch-size 3 --max-depth 200'.split()
    assert run('train', tmp_path / 'out', *TRAIN, *depth, '--output', tmp_path, '--experiment', 'run') == 0
    assert float(summary(tmp_path / 'run')[-1]['eval_rmse']) < 200


@pytest.mark.parametrize('words, message', [
    (['set'], 'OUT is needed, the folder of the shards.'),
    (['set', 'out', '--verify'], "--verify reads the shards in 'set' and writes none: leave 'out' out."),
    (['set', '--verify'], 'A folder of shards must have its manifest: there is no set'),
    (['nothing', 'out'], 'nothing does not exist or is no folder'),
    (['set', 'full'], "exists: pass --overwrite to replace the shards in full, or another folder."),
    (['set', 'out', '--task', 'depth'], 'No folders of images and depth maps'),
    (['set', 'out', '--shard-size', '0'], '--shard-size must be at least 1, got 0.'),
])
def test_mistakes_end_with_one_line(words, message, tmp_path, capsys, monkeypatch):
    trees.beside(tmp_path / 'set', '{split}/images/{name}.jpg', '{split}/masks/{name}.png')
    monkeypatch.chdir(tmp_path)
    if 'full' in words:
        assert run('shards', 'set', 'full') == 0
        assert run('shards', 'set', 'full', '--overwrite') == 0
    assert run('shards', *words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert len(error) == 1 and message in error[0]
