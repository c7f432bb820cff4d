"""`rexnet train`, killed at any moment and started again by the same command, gives what it gives when left alone.

Each process is forked and dies by SIGKILL: a process of two takes the other one along, as a machine that stops does.
"""
import logging
import os
import random
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from killing import assert_same_runs, assert_whole, die_at, ends, fork
from running import write_class_folder

from rexnet_timm.cli import train

SHARED = (
    '--batch-size 4 --epochs 2 --warmup-epochs 1 --device cpu --recovery-interval 1 --log-interval 1 --drop-path 0.2 '
    '--experiment run --resume auto').split()
RUNS = {
    'segmentation':
        '--dataset synthetic --synthetic-images 12 --num-classes 6 --model rexnetv1_unet_test --img-size 64 '
        '--workers 0 --opt adamw --lr 1e-3',
    'segmentation, all at once':
        '--dataset synthetic --synthetic-images 32 --num-classes 6 --model rexnetv1_unet_test --img-size 64 '
        '--workers 2 --opt lamb --lr 1e-3 --model-ema --model-ema-warmup --amp --grad-accum-steps 2 --sched-on-updates '
        '--clip-grad 1 --checkpoint-hist 1 --fade-epochs 0 2',
    'depth':
        '--dataset synthetic-depth --synthetic-images 16 --model rexdepth --rex-width-mult 0.3 --rex-depth-mult 0.3 '
        '--img-size 64 --min-depth 0.5 --max-depth 80 --workers 1 --opt adamw --lr 1e-3 --sched plateau '
        '--patience-epochs 0',
    'classification':
        '--model rexnetv1_test --num-classes 2 --img-size 32 --workers 2 --opt sgd --lr 0.01 --mixup 0.2 --cutmix 1 '
        '--reprob 0.5 --aa rand-m9-mstd0.5 --model-ema --model-ema-warmup --drop 0.2',
}


@pytest.fixture(scope='module')
def classes(tmp_path_factory) -> Path:
    return write_class_folder(tmp_path_factory.mktemp('classes') / 'data')


class Command:
    """A command that is started again and again in one folder."""

    def __init__(self, name: str, processes: int, folder: Path, classes: Path) -> None:
        data = [str(classes)] if name == 'classification' else []
        self.words = [*data, *SHARED, *RUNS[name].split(), '--output', str(folder)]
        self.processes = processes
        self.run = folder / 'run'
        self.log = folder / 'log.txt'
        self.written = folder / 'written.txt'
        folder.mkdir()

    def start(self, after: float | None = None, operation: int | None = None) -> int:
        """Run it, killed after some seconds or at a file operation; returns the exit status, -9 where it was killed."""
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        statuses = ends([fork(lambda rank=rank: self._work(rank, port, operation), self.log)
                         for rank in range(self.processes)], after)
        if set(statuses) - {0, -9} and -9 not in statuses:  # a process may still tell that the other one is gone
            raise AssertionError(self.log.read_text())
        assert_whole(self.run, self.written.read_text().split() if self.written.exists() else [])
        return min(statuses)

    def _work(self, rank: int, port: int, operation: int | None) -> int:
        if self.processes > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(self.processes), MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port))
        logging.basicConfig(level=logging.INFO, format='%(message)s', force=True)
        if rank == 0:
            die_at(operation or 0, self.written)
        return train.main(self.words)

    def lines(self) -> dict[str, set[str]]:
        """What the log says of each batch and each epoch, without times."""
        said: dict[str, set[str]] = {}
        for line in self.log.read_text().splitlines():
            match = re.match(r'(Train \d+ \[.*?\]|Eval +\d+|Best)(.*)', line)
            if match:
                said.setdefault(match[1], set()).add(re.sub(r'\d+\.\d+ s/batch.*|; checkpoints in .*', '', match[2]))
        return said


def survives(name: str, processes: int, kills: int, folder: Path, classes: Path, seed: int = 0) -> None:
    """Kill a command so often, every third time inside file writing, and compare it with one that is left alone."""
    alone = Command(name, processes, folder / 'alone', classes)
    begun = time.monotonic()
    assert alone.start() == 0
    seconds = time.monotonic() - begun
    killed = Command(name, processes, folder / 'killed', classes)
    draw, done = random.Random(seed), 0
    for attempt in range(10 * kills):
        if done == kills:
            break
        operation = draw.randrange(3, 30) if attempt % 3 == 1 else None
        done += killed.start(None if operation else draw.uniform(0.3, 1) * seconds, operation) == -9
        if load_finished(killed.run):
            for path in killed.run.iterdir():  # begin again, so that there is something to kill
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            killed.written.unlink(missing_ok=True)
    assert done == kills
    assert killed.start() == 0
    assert killed.start() == 0  # a finished run has nothing left to do
    assert 'Nothing to train: 2 of 2 epochs are done' in killed.log.read_text()
    assert_same_runs(alone.run, killed.run, without=['output'])
    assert [path.name for path in sorted(killed.run.glob('predictions/*'))] == ['epoch-0.png', 'epoch-1.png']
    expected = alone.lines()
    assert killed.lines() == expected and all(len(said) == 1 for said in expected.values())


def load_finished(run: Path) -> bool:
    return (run / 'summary.csv').exists() and len((run / 'summary.csv').read_text().splitlines()) == 3


@pytest.mark.parametrize('name', ['segmentation'])
def test_three_kills(name, tmp_path, classes):
    survives(name, 1, 3, tmp_path, classes)


@pytest.mark.slow
@pytest.mark.parametrize('name, processes, kills', [
    ('depth', 1, 4), ('segmentation, all at once', 2, 4), ('classification', 2, 4), ('segmentation', 3, 2)])
def test_many_kills(name, processes, kills, tmp_path, classes):
    survives(name, processes, kills, tmp_path, classes, seed=processes)
