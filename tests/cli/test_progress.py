"""How far a command is: a bar on a terminal, and no more than some lines in the file of a log."""
from collections.abc import Callable
from pathlib import Path

import pytest
import tqdm
from test_check_command import SMALL, numbered
from trained import trained_run

from rexnet_timm.__main__ import main
from rexnet_timm.cli import progress
from rexnet_timm.cli.progress import Progress, progress_bar


@pytest.fixture
def wait(monkeypatch) -> Callable[[float], None]:
    """A clock that goes on when it is told to."""
    now = [0.]
    monkeypatch.setattr(tqdm.std, 'time', lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_log_has_a_line_for_each_tenth(wait, capsys):
    for _ in progress_bar(iter(range(1000)), 1000):
        wait(1)
    output, lines = capsys.readouterr()
    lines = lines.splitlines(keepends=True)
    assert not output and lines[:2] == [
        '10 of 1000 samples, 00:10, 16:30 left\n', '100 of 1000 samples, 01:40, 15:00 left\n']
    assert len(lines) == 11 and lines[-1] == '1000 of 1000 samples, 16:40, 00:00 left\n'


def test_a_log_has_nothing_of_what_is_short(wait, capsys):
    for _ in progress_bar(range(9), 9):
        wait(1)
    with Progress(range(9), unit='image', leave=True) as bar:
        for _ in bar:
            wait(1)
            bar.write('a line of its own')
    assert capsys.readouterr() == ('a line of its own\n' * 9, '')


def test_without_a_total_lines_become_rare(wait, capsys):
    with Progress(unit='file') as bar:
        for _ in range(1000):
            wait(1)
            bar.update()
    assert capsys.readouterr().err.splitlines() == [
        '10 files, 00:10', '20 files, 00:20', '40 files, 00:40', '80 files, 01:20', '160 files, 02:40',
        '320 files, 05:20', '640 files, 10:40']


def test_each_part_has_its_own_lines(wait, capsys):
    with Progress(unit='image') as bar:
        for name, seconds in (('train', 10), ('val', 20)):
            bar.begin(name, 2)
            for _ in range(2):
                wait(seconds)
                bar.update()
    assert capsys.readouterr().err.splitlines() == [
        'train: 1 of 2 images, 00:10, 00:10 left', 'train: 2 of 2 images, 00:20, 00:00 left',
        'val: 1 of 2 images, 00:20, 00:20 left', 'val: 2 of 2 images, 00:40, 00:00 left']


def test_a_terminal_has_a_bar(wait, capsys, monkeypatch):
    monkeypatch.setattr(progress, 'is_shown_live', lambda: True)
    for _ in progress_bar(range(9), 9):
        wait(1)
    error = capsys.readouterr().err
    assert error.count('\r') > 9 and '| 5/9 [00:05<00:04' in error and '\n' not in error


def test_commands_write_no_bars_into_a_log(tmp_path, monkeypatch, capsys):
    data = numbered(tmp_path / 'set')
    monkeypatch.chdir(tmp_path)
    run = trained_run('segmentation')
    capsys.readouterr()
    for words in (
            ['check', 'set', *SMALL], ['shards', 'set', 'shards'], ['shards', 'shards', '--verify'],
            ['predict', str(data / 'val' / 'images'), '--checkpoint', str(run), '--device', 'cpu']):
        assert main(words) == 0
        assert capsys.readouterr().err == '', words
    assert Path('output/predict').is_dir()
    words = '--num-classes 3 --img-size 32 --batch-size 2 --workers 0 --epochs 1 --warmup-epochs 0 --progress'.split()
    assert main(['train', 'set', *SMALL, *words]) == 0
    error = capsys.readouterr().err
    assert 'Train 0 [' in error and '\r' not in error and '%|' not in error
