"""What ends a run before its time: signals, lost processes and launchers, and a second run in its folder."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import ROOT, distributed, summary

from rexnet_timm.__main__ import main
from rexnet_timm.cli.lock import folder_lock
from rexnet_timm.cli.mistakes import UsageError
from rexnet_timm.files import load_checkpoint_file
from rexnet_timm.training.updates import Updates

WORDS = (
    '--dataset synthetic --synthetic-images 16 --num-classes 6 --model rexnetv1_unet_test --img-size 32 --batch-size 4 '
    '--workers 0 --epochs 2 --warmup-epochs 0 --device cpu').split()
pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='signals and locks are those of POSIX')


def train(folder: Path, name: str, *words: str) -> int:
    return main(['train', *WORDS, '--output', str(folder), '--experiment', name, *words])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint_file(folder / 'last.pth.tar')['state_dict']


@contextlib.contextmanager
def at_update(monkeypatch, number: int, act):
    """Do something in the middle of an update."""
    step, counted = Updates.step, []

    def counting(self):
        counted.append(1)
        if len(counted) == number:
            act()
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Updates, 'step', counting)
        yield


@pytest.mark.parametrize('name, update', [
    ('SIGTERM', 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (('SIGINT', 4), ('SIGTERM', 7)))])
def test_a_signal_stops_after_the_update_and_the_run_goes_on_bit_for_bit(name, update, tmp_path, monkeypatch, capfd):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with at_update(monkeypatch, update, lambda: os.kill(os.getpid(), number)):
        assert train(tmp_path, 'a') == 128 + number
    assert signal.getsignal(number) is before
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith('rexnet train: ')]
    epoch, batch = divmod(update, 4)
    assert line.startswith(f'rexnet train: {name}: stopped in epoch {epoch if batch else epoch - 1} after batch ')
    assert re.search(r"is '.*recovery-\d-\d.pth.tar'. The same command with --resume auto goes on.$", line)
    assert train(tmp_path, 'a', '--resume', 'auto') == 0
    assert train(tmp_path, 'b') == 0
    stopped = weights(tmp_path / 'a')
    for key, value in weights(tmp_path / 'b').items():
        assert torch.equal(value, stopped[key]), key
    assert (tmp_path / 'a' / 'summary.csv').read_text() == (tmp_path / 'b' / 'summary.csv').read_text()
    assert not (tmp_path / 'a' / 'lock').exists()


def test_a_folder_has_one_run_at_a_time(tmp_path, capsys):
    holder = subprocess.Popen(
        [sys.executable, '-c', 'import sys; from rexnet_timm.cli.lock import folder_lock\n'
         'with folder_lock(sys.argv[1]): print("held", flush=True); sys.stdin.read()', str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == 'held\n'
        with pytest.raises(UsageError, match=f'is in use by process {holder.pid} on .*: wait until that run ends'), \
                folder_lock(str(tmp_path)):
            pytest.fail('two hold it')
        (tmp_path / 'args.yaml').write_text('mine')
        assert train(tmp_path.parent, tmp_path.name, '--overwrite') == 2
        assert (tmp_path / 'args.yaml').read_text() == 'mine'
        capsys.readouterr()
        (tmp_path / 'last.pth.tar').write_text('is being replaced')  # its files are not read before
        assert train(tmp_path.parent, tmp_path.name, '--resume', 'auto') == 2
        assert f'is in use by process {holder.pid} on ' in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
    with folder_lock(str(tmp_path)):  # which a killed process leaves
        assert str(os.getpid()) in (tmp_path / 'lock').read_text()
    assert not (tmp_path / 'lock').exists()


# --- several processes ---

def started(folder: Path, *words: str) -> subprocess.Popen:
    """A long run on two processes."""
    command = ['bash', str(ROOT / 'scripts' / 'distributed_train.sh'), '2', *words]
    with open(folder / 'log', 'w') as log:
        return subprocess.Popen(
            command, cwd=folder, env={**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)}, stdout=log,
            stderr=log, start_new_session=True)


LONG = [*WORDS, *'--epochs 200 --log-interval 1 --recovery-interval 1 --experiment a --output .'.split()]


def wait_for(condition, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.1)
    return found


def ranks_of(launcher: int) -> dict[int, int]:
    """Processes of the run by rank."""
    found = {}
    for path in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError, IndexError):
            if int(re.findall(r'PPid:\s+(\d+)', (path / 'status').read_text())[0]) == launcher:
                words = dict(
                    word.split('=', 1) for word in (path / 'environ').read_text().split('\0') if '=' in word)
                if 'RANK' in words:
                    found[int(words['RANK'])] = int(path.name)
    return found


@pytest.fixture
def running(tmp_path):
    """Starts a run on two processes and waits until it trains; nothing of it is left."""
    launchers, processes = [], []

    def start(*words: str) -> tuple[subprocess.Popen, dict[int, int]]:
        launcher = started(tmp_path, *words)
        launchers.append(launcher)
        wait_for(lambda: 'Train 0 [   2' in (tmp_path / 'log').read_text() or launcher.poll() is not None)
        assert launcher.poll() is None, (tmp_path / 'log').read_text()
        ranks = ranks_of(launcher.pid)
        processes.extend(ranks.values())  # which the launcher starts in groups of their own
        return launcher, ranks

    yield start
    for process in (*(launcher.pid for launcher in launchers), *processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for launcher in launchers:
        launcher.wait()


only_linux = pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='finds processes in /proc')


@pytest.mark.slow
@only_linux
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_all_processes_stop_at_one_signal_to_one_of_them(name, running, tmp_path):
    launcher, ranks = running(*LONG)
    os.kill(ranks[1], signal.Signals[name])
    assert launcher.wait(180) == 128 + signal.Signals[name]
    log = (tmp_path / 'log').read_text()
    assert len(re.findall(f'rexnet train: {name}: stopped (in|after) epoch ', log)) == 1
    assert 'Traceback' not in log and 'Process' not in log.splitlines()[-1]
    assert list((tmp_path / 'a').glob('*.pth.tar'))


@pytest.mark.slow
@only_linux
def test_a_second_signal_ends_at_once(running, tmp_path):
    launcher, ranks = running(*LONG)
    os.kill(ranks[0], signal.SIGSTOP)  # so that the update cannot end
    os.kill(ranks[1], signal.SIGTERM)
    time.sleep(2)
    os.kill(ranks[1], signal.SIGTERM)
    wait_for(lambda: not Path(f'/proc/{ranks[1]}/cmdline').exists() or launcher.poll() is not None, 180)


@pytest.mark.slow
@only_linux
@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process_is_named_and_its_run_goes_on(rank, running, tmp_path):
    launcher, ranks = running(*LONG)
    os.kill(ranks[rank], signal.SIGKILL)
    assert launcher.wait(180) == 128 + signal.SIGKILL
    log = (tmp_path / 'log').read_text()
    assert f'Process {rank} was ended by SIGKILL, often by the system for lack of memory.' in log
    said = re.findall('rexnet train: (.*)', log)  # nothing, where the launcher ends it while it cleans up
    assert said in ([], [f'process {1 - rank} stops, since another process of the run has ended.'])
    assert 'Traceback' not in log and list((tmp_path / 'a').glob('*.pth.tar'))


@pytest.mark.slow
@only_linux
def test_a_killed_process_restarts_the_job(running, tmp_path):
    short = [*LONG, '--epochs', '6']
    launcher, ranks = running('--max-restarts', '1', '--', *short, '--resume', 'auto')
    os.kill(ranks[1], signal.SIGKILL)
    assert launcher.wait(200) == 0
    assert 'Resumed' in (tmp_path / 'log').read_text() and len(summary(tmp_path / 'a')) == 6
    assert distributed(2, *short, '--experiment', 'b', cwd=tmp_path).returncode == 0
    assert (tmp_path / 'a' / 'summary.csv').read_text() == (tmp_path / 'b' / 'summary.csv').read_text()


@pytest.mark.slow
@only_linux
def test_processes_end_with_their_launcher(running, tmp_path):
    launcher, ranks = running(*LONG)
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not any(Path(f'/proc/{process}/cmdline').exists() for process in ranks.values()), 120)
    assert re.search('SIGTERM: stopped (in|after) epoch', (tmp_path / 'log').read_text())


@pytest.mark.slow
@only_linux
def test_a_process_that_hangs_ends_the_run(running, tmp_path):
    launcher, ranks = running(*LONG, '--dist-timeout', '5')
    os.kill(ranks[1], signal.SIGSTOP)
    assert launcher.wait(180) != 0
    log = (tmp_path / 'log').read_text()
    assert 'rexnet train: process 0 stops, since it has waited for another one longer than --dist-timeout.' in log
    assert list((tmp_path / 'a').glob('*.pth.tar'))


def test_the_options_of_torchrun_come_first(tmp_path):
    """A python that prints its words stands for the launcher."""
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    script, launch = ROOT / 'scripts' / 'distributed_train.sh', f'{ROOT}/scripts/launch.py'
    train = f'{ROOT}/scripts/train.py DATA'
    for words, expected in (
            ('2 DATA --amp', f'--standalone --nproc-per-node 2 {train} --amp'),
            ('2 --max-restarts 3 -- DATA', f'--max-restarts 3 --standalone --nproc-per-node 2 {train}'),
            ('8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint h:1 -- DATA',
             f'--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h:1 --nproc-per-node 8 {train}')):
        result = subprocess.run(
            ['bash', str(script), *words.split()], env={**os.environ, 'PYTHON': str(python)}, capture_output=True,
            text=True)
        assert result.stdout == f'{launch} {expected}\n', result.stderr
