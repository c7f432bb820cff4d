"""The files of a run: whole at every moment, and found again."""
import math
import os
from pathlib import Path

import pytest
import torch
from killing import assert_same_runs, assert_whole, die_at, ends, fork
from test_goes_on import train

from rexnet_timm.files import WeightsError, load_checkpoint_file
from rexnet_timm.training.saver import Saver, load_newest, position_of

SETTINGS = {'recovery_interval': 3, 'ema': True}


def dies_at(number: int, folder: Path, alone: Path) -> bool:
    """Kill a run at a file operation, look at what it leaves, and let it go on; False where it has fewer of them."""
    written = folder.with_suffix('.written')

    def work() -> None:
        die_at(number, written)
        train(folder, **SETTINGS)

    (status,) = ends([fork(work, folder.with_suffix('.log'))])
    if status == 0:
        return False
    assert status == -9, folder.with_suffix('.log').read_text()
    assert_whole(folder, written.read_text().split() if written.exists() else [])
    train(folder, **SETTINGS)
    assert_same_runs(alone, folder)
    return True


@pytest.fixture(scope='module')
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('run') / 'alone'
    train(folder, **SETTINGS)
    return folder


@pytest.mark.parametrize('number', [2, 16, 23])
def test_a_run_that_is_killed_in_a_file_operation_loses_nothing(number, alone, tmp_path):
    assert dies_at(number, tmp_path / 'run', alone)


@pytest.mark.slow
def test_a_run_that_is_killed_in_any_file_operation_loses_nothing(alone, tmp_path):
    number = 1
    while dies_at(number, tmp_path / str(number), alone):
        number += 1
    assert number > 30


def content(epoch: int, batch: int = 0) -> dict:
    return {'state_dict': {'weight': torch.full((3,), float(epoch))}, 'epoch': epoch,
            'run': {'epoch': epoch + 1 - bool(batch), 'batch': batch}}


def files(folder: Path) -> set[str]:
    return {path.name.removesuffix('.pth.tar') for path in folder.iterdir()}


def test_the_best_and_the_last_are_kept(tmp_path):
    saver = Saver(tmp_path, max_history=2)
    for epoch, metric in enumerate((1., 3., 2., 3., 0.5)):
        best = saver.save_checkpoint(content(epoch), epoch, metric)
    assert best == (3., 1) and load_checkpoint_file(tmp_path / 'model_best.pth.tar')['epoch'] == 1
    assert files(tmp_path) == {'last', 'model_best', 'checkpoint-1', 'checkpoint-3'}
    assert os.path.samefile(tmp_path / 'model_best.pth.tar', tmp_path / 'checkpoint-1.pth.tar')


@pytest.mark.parametrize('metric', [math.nan, math.inf, None])
def test_a_metric_that_is_no_number_ranks_nothing(metric, tmp_path):
    saver = Saver(tmp_path)
    assert saver.save_checkpoint(content(0), 0, metric) == (None, None)
    assert 'model_best' not in files(tmp_path) and 'last' in files(tmp_path)
    assert saver.save_checkpoint(content(1), 1, -5.) == (-5., 1)
    assert saver.save_checkpoint(content(2), 2, metric) == (-5., 1)


def test_the_checkpoints_in_the_middle_of_an_epoch_go_when_it_ends(tmp_path):
    saver = Saver(tmp_path)
    for batch in (2, 10, 9):
        saver.save_recovery(content(0, batch), 0, batch)
    assert files(tmp_path) == {'recovery-0-2', 'recovery-0-9', 'recovery-0-10'}
    saver.save_recovery(content(0, 11), 0, 11)
    assert files(tmp_path) == {'recovery-0-10', 'recovery-0-11'}
    saver.save_checkpoint(content(0), 0, 1.)
    assert files(tmp_path) == {'last', 'model_best', 'checkpoint-0'}


def test_the_farthest_is_found_by_epoch_and_batch(tmp_path):
    assert load_newest(tmp_path) is None
    saver = Saver(tmp_path)
    saver.save_checkpoint(content(8), 8, 1.)
    saver.save_checkpoint(content(9), 9, 0.)
    assert load_newest(tmp_path)[0] == str(tmp_path / 'last.pth.tar')
    saver.save_recovery(content(10, 9), 10, 9)
    saver.save_recovery(content(10, 10), 10, 10)
    path, found = load_newest(tmp_path)
    assert path == str(tmp_path / 'recovery-10-10.pth.tar') and position_of(found) == (10, 10)


def flip(path: Path) -> None:
    """Change a bit of a weight."""
    data = bytearray(path.read_bytes())
    where = data.rindex(torch.full((3,), float(load_checkpoint_file(path)['epoch'])).numpy().tobytes())
    data[where + 1] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_is_told_and_the_one_before_is_taken(tmp_path, caplog):
    saver = Saver(tmp_path)
    saver.save_checkpoint(content(2), 2, 2.)
    saver.save_checkpoint(content(3), 3, 1.)
    saver.save_recovery(content(4, 5), 4, 5)
    flip(tmp_path / 'recovery-4-5.pth.tar')
    assert load_newest(tmp_path)[0].endswith('last.pth.tar')
    assert f"'{tmp_path}/recovery-4-5.pth.tar' is damaged: its content is not what was written" in caplog.text
    assert f'Going on from {tmp_path}/last.pth.tar instead, the newest that is whole' in caplog.text
    flip(tmp_path / 'last.pth.tar')
    path, found = load_newest(tmp_path)
    assert path.endswith('checkpoint-2.pth.tar')
    again = Saver(tmp_path)
    again.load_state_dict(found['saver'], path)
    assert load_checkpoint_file(tmp_path / 'last.pth.tar')['epoch'] == 2
    assert load_checkpoint_file(tmp_path / 'model_best.pth.tar')['epoch'] == 2


def test_where_every_checkpoint_is_damaged_nothing_begins(tmp_path):
    Saver(tmp_path).save_checkpoint(content(2), 2, 2.)
    flip(tmp_path / 'last.pth.tar')
    with pytest.raises(WeightsError, match=f"from a whole checkpoint, and none in '{tmp_path}' is: .* is damaged"):
        load_newest(tmp_path)
