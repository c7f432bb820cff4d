"""run.json and times.csv: what a run notes of its starts, its ends and its time."""
import json
import math
import os
import shutil
import subprocess

import pytest
import torch

from rexnet_timm.training.engine import fit
from rexnet_timm.training.record import (
    FINISHED,
    RECORD,
    RunRecord,
    git,
    is_recorded_here,
    machine,
    read_starts,
    versions,
)
from rexnet_timm.training.summary import EpochRows, read_rows

CPU = torch.device('cpu')


def test_starts_and_ends_are_noted(tmp_path):
    with RunRecord(tmp_path, {'command': 'first'}, CPU):
        assert is_recorded_here(tmp_path) and 'end' not in read_starts(tmp_path)[0], 'as a killed process leaves it'
    with pytest.raises(ValueError, match='broken'), RunRecord(tmp_path, {'command': 'second'}, CPU, goes_on=True):
        raise ValueError('broken\nand more')
    with pytest.raises(KeyboardInterrupt), RunRecord(tmp_path, {'command': 'third'}, CPU, goes_on=True):
        raise KeyboardInterrupt
    starts = read_starts(tmp_path)
    assert not is_recorded_here(tmp_path)
    assert [(start['command'], start['end']) for start in starts] == [
        ('first', FINISHED), ('second', 'broken'), ('third', 'KeyboardInterrupt')]
    assert all(start['time'] <= start['ended'] for start in starts)
    assert starts[0]['versions'] == versions() and starts[0]['versions']['torch'] in torch.__version__
    assert starts[0]['machine'] == machine(CPU) and starts[0]['machine']['cores'] <= os.cpu_count()
    with RunRecord(tmp_path, {'command': 'anew'}, CPU):
        pass
    assert [start['command'] for start in read_starts(tmp_path)] == ['anew']


def test_of_many_starts_the_first_and_the_latest_stay(tmp_path):
    many = [{'command': str(number)} for number in range(100)]
    (tmp_path / RECORD).write_text(json.dumps({'starts': many}))
    with RunRecord(tmp_path, {'command': 'last'}, CPU, goes_on=True):
        pass
    kept = [start['command'] for start in read_starts(tmp_path)]
    assert len(kept) == 50 and kept[:2] == ['0', '52'] and kept[-2:] == ['99', 'last']


@pytest.mark.parametrize('content', [
    b'', b'{', b'[1]', b'{"starts": 3}', b'{"starts": [1, null]}', b'\xff', b'[' * 9999])
def test_a_record_that_cannot_be_read_is_none(content, tmp_path):
    assert read_starts(tmp_path) == []
    (tmp_path / RECORD).write_bytes(content)
    assert read_starts(tmp_path) == []


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
def test_the_state_of_the_code(tmp_path, monkeypatch):
    def run(*words: str) -> str:
        return subprocess.run(
            ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, capture_output=True, text=True,
            env={**os.environ, 'GIT_CONFIG_GLOBAL': os.devnull}).stdout.strip()

    (tmp_path / 'sub').mkdir()
    monkeypatch.chdir(tmp_path / 'sub')
    assert 'folder' not in git()
    run('init', '-b', 'work', '..')
    (tmp_path / 'a').write_text('1')
    run('add', '-A', '..')
    run('commit', '-m', 'x')
    state = {'commit': run('rev-parse', 'HEAD'), 'branch': 'work', 'changed': 0}
    assert git()['folder'] == state
    monitor = tmp_path / 'monitor'
    monitor.write_text(f'#!/bin/sh\ntouch {tmp_path / "has-run"}\n')
    monitor.chmod(0o755)
    run('config', 'core.fsmonitor', str(monitor))
    (tmp_path / 'a').write_text('2')
    assert git()['folder'] == {**state, 'changed': 1} and not (tmp_path / 'has-run').exists()
    run('status')
    assert (tmp_path / 'has-run').exists(), 'git itself would run it'
    monkeypatch.setenv('PATH', '')
    assert git() == {}


def test_rows_of_epochs_go_on_where_the_run_does(tmp_path):
    rows = EpochRows(tmp_path / 'times.csv')
    for epoch in range(3):
        rows.add(epoch, {'data': epoch / 2, 'step': 2})
    EpochRows(tmp_path / 'times.csv', 2).add(2, {'data': 9, 'step': 9})
    assert (tmp_path / 'times.csv').read_text().split() == ['epoch,data,step', '0,0.0,2', '1,0.5,2', '2,9,9']
    again = EpochRows(tmp_path / 'times.csv', 0)  # a run that goes on in its first epoch
    assert (tmp_path / 'times.csv').read_text() == 'epoch,data,step\n'
    again.add(0, {'data': 1})
    assert (tmp_path / 'times.csv').read_text().split() == ['epoch,data', '0,1']


def test_rows_are_read_as_far_as_they_can_be(tmp_path):
    path = tmp_path / 'summary.csv'
    path.write_text('epoch,train_loss,eval_miou\n2,1,\n0,3,10\n\n0,2.5,20\n1,x,nan\n-1,0,0\nnan,0,0\n3,0.5\n')
    rows, left_out = read_rows(path)
    assert [row['epoch'] for row in rows] == [0, 1, 2] and left_out == 3
    assert rows[0] == {'epoch': 0, 'train_loss': 2.5, 'eval_miou': 20}  # the later of two
    assert 'train_loss' not in rows[1] and math.isnan(rows[1]['eval_miou']) and 'eval_miou' not in rows[2]
    for content in (b'', b'epoch\n', b'loss\n1\n', b'\xff\xfe'):
        path.write_bytes(content)
        assert read_rows(path)[0] == []
    path.write_bytes(b'epoch\n"' + b'1' * 2 ** 18)
    with pytest.raises(ValueError, match='summary.csv.* must be a table of epochs: field larger than'):
        read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / 'gone.csv')


def test_seconds_of_each_epoch(tmp_path):
    import time

    from timm.task import ClassificationTask

    class Slow(list):
        def __iter__(self):
            for item in super().__iter__():
                time.sleep(0.05)
                yield item

    batch = torch.zeros(2, 3), torch.tensor([0, 1])
    task = ClassificationTask(torch.nn.Linear(3, 2), torch.nn.CrossEntropyLoss(), device=CPU, verbose=False)
    optimizer = torch.optim.SGD(task.parameters(), 0.1)
    fit(task, Slow([batch] * 4), Slow([batch] * 2), optimizer, 2, eval_metric='top1', output_dir=str(tmp_path))
    names, *rows = [line.split(',') for line in (tmp_path / 'times.csv').read_text().split()]
    assert names == ['epoch', 'batches', 'data', 'step', 'validation', 'memory'] and len(rows) == 2
    for row in rows:
        epoch = dict(zip(names, map(float, row), strict=True))
        assert epoch['batches'] == 4 and epoch['data'] >= 0.2 and epoch['validation'] >= 0.1 and epoch['memory'] > 1e6
