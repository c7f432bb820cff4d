"""Faults of the machine in a run: one line with the cause and what is safe, and the checkpoint before is whole."""
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from test_stopping import WORDS, at_update
from trees import picture, save

from rexnet_timm.__main__ import main
from rexnet_timm.files import load_checkpoint_file

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='limits and signals are those of POSIX')
SAFE = "last.pth.tar' is whole: the same command with --resume auto goes on."


def train(folder: Path, *words: str) -> int:
    return main(['train', *WORDS, '--output', str(folder), '--experiment', 'a', *words])


def told(capfd) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith('rexnet train: ')]
    return line


@pytest.fixture
def no_room():
    """A function after which no checkpoint can be written whole, since a limit on files stands for a full disk."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def raises(error: BaseException):
    def act() -> None:
        raise error

    return act


def lost_worker() -> None:
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()


@pytest.mark.parametrize('name, message, words', [
    ('disk', 'File too large', ()),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('memory of torch', 'The memory is exhausted (', ()),
        ('memory of Python', 'The memory is exhausted: lower --batch-size or --workers.', ()),
        ('disk without a name', 'is full, or a limit on files is reached: free space there.', ()),
        ('worker', 'A loading process has died (DataLoader worker (pid', ('--workers', '1')),
        ('device', 'Input/output error', ()))),
])
def test_a_fault_in_the_second_epoch(name, message, words, tmp_path, monkeypatch, capfd, no_room):
    act = {
        'memory of Python': raises(MemoryError()), 'memory of torch': lambda: torch.empty(2 ** 60, dtype=torch.uint8),
        'disk without a name': raises(OSError(28, 'No space left on device')), 'worker': lost_worker,
        'device': raises(OSError(5, 'Input/output error'))}.get(name, no_room)
    with at_update(monkeypatch, 6, act):
        status = train(tmp_path, *words)
    line = told(capfd)
    assert message in line and line.endswith(SAFE)
    assert status == (2 if name == 'disk' else 1)
    assert load_checkpoint_file(tmp_path / 'a' / 'last.pth.tar')['epoch'] == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    assert train(tmp_path, '--resume', 'auto') == 0
    assert load_checkpoint_file(tmp_path / 'a' / 'last.pth.tar')['epoch'] == 1


def folder_of_masks(root: Path) -> Path:
    for split in ('train', 'validation'):
        for index in range(8):
            image, mask = picture(index)
            save(root / split / 'images' / f'{index}.png', image)
            save(root / split / 'masks' / f'{index}.png', mask)
    return root


DATA = (
    '--model rexnetv1_unet_test --num-classes 3 --img-size 32 --batch-size 4 --epochs 2 --warmup-epochs 0 --device cpu '
    '--experiment a --output runs').split()


@pytest.mark.parametrize('workers', ['0', pytest.param('1', marks=pytest.mark.slow)])
def test_a_file_that_goes_or_shrinks_while_a_run_reads_it(workers, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for change in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:60])):
        data = folder_of_masks(tmp_path / 'data')
        paths = list(data.glob('train/images/[0-3].png'))
        with at_update(monkeypatch, 2, partial(list, map(change, paths))):
            assert main(['train', str(data), *DATA, '--workers', workers, '--overwrite']) == 2
        line = told(capfd)
        assert 'Every image must be readable: ' in line and 'train/images/' in line and line.endswith(SAFE)
        assert load_checkpoint_file(Path('runs/a/last.pth.tar'))['epoch'] == 0


def test_a_run_that_fails_at_its_start_leaves_no_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    data = folder_of_masks(tmp_path / 'data')
    for path in data.glob('train/images/*.png'):
        path.write_bytes(path.read_bytes()[:100])
    assert main(['train', str(data), *DATA, '--workers', '0']) == 2
    assert told(capfd).endswith('No checkpoint had been saved yet.')
    assert not Path('runs/a').exists()
    Path('runs/a').mkdir()
    Path('runs/a/notes.txt').write_text('mine')
    assert main(['train', str(data), *DATA, '--workers', '0']) == 2
    assert [path.name for path in Path('runs/a').iterdir()] == ['notes.txt']


def test_places_that_cannot_be_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('mine')
    Path('runs').mkdir()
    Path('runs/a').write_text('mine')
    for output, message in (
            ('file', 'Not a directory'), ('runs', 'File exists'), ('/proc/none', 'No such file'),
            ('/dev/null', 'Not a directory')):
        assert train(Path(output)) == 2
        assert message in told(capfd)
    assert Path('file').read_text() == Path('runs/a').read_text() == 'mine'


@pytest.mark.slow
def test_a_folder_that_goes_while_a_run_writes(tmp_path, monkeypatch, capfd):
    with at_update(monkeypatch, 6, lambda: shutil.rmtree(tmp_path / 'a')):
        assert train(tmp_path) == 2
    assert "There is no folder" in told(capfd)
    with at_update(monkeypatch, 6, lambda: (shutil.rmtree(tmp_path / 'a'), (tmp_path / 'a').write_text('mine'))):
        assert train(tmp_path) == 2
    assert "There is no folder" in told(capfd) and (tmp_path / 'a').read_text() == 'mine'


@pytest.mark.slow
def test_faults_of_our_own_are_raised(tmp_path, monkeypatch):
    for error in (RuntimeError('a tensor of another size'), TypeError('x')):
        with at_update(monkeypatch, 6, raises(error)), pytest.raises(type(error)):
            train(tmp_path, '--overwrite')
