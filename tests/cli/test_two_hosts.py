"""Two hosts, as two namespaces of the network: a link that is lost for seconds, a host that is lost for good."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ROOT
from test_stopping import LONG, wait_for

from rexnet_timm.files import load_checkpoint_file

HOSTS = ('first', 'second')


def ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Names of two namespaces with a cable between them, of which each one sees only its own end."""
    if not shutil.which('ip') or os.name != 'posix' or os.geteuid() != 0:
        pytest.skip('namespaces of the network need ip and root')
    names = [f'rexnet-{os.getpid()}-{host}' for host in HOSTS]
    try:
        for name in names:
            ip('netns', 'add', name)
        ip('link', 'add', 'cable', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'cable', 'netns', names[1])
        for number, name in enumerate(names, 1):
            ip('-n', name, 'addr', 'add', f'10.77.0.{number}/24', 'dev', 'cable')
            for device in ('cable', 'lo'):
                ip('-n', name, 'link', 'set', device, 'up')
    except subprocess.CalledProcessError as error:
        pytest.skip(f'no namespaces of the network here: {error.stderr.strip()}')
    finally_kill: list[subprocess.Popen] = []
    yield names, finally_kill
    for name in names:
        found = subprocess.run(['ip', 'netns', 'pids', name], capture_output=True, text=True).stdout.split()
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        with contextlib.suppress(subprocess.CalledProcessError):
            ip('netns', 'del', name)
    for launcher in finally_kill:
        launcher.wait()


def start(folder: Path, names: list[str], *words: str) -> list[subprocess.Popen]:
    """One process on each host, in one folder, as on a shared disk."""
    launchers = []
    torchrun = (
        '--nnodes 2 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29577 --rdzv-id run --max-restarts 1 '
        '--rdzv-conf join_timeout=20,timeout=20,read_timeout=20,is_host=').split()
    for number, name in enumerate(names, 1):
        environment = {
            **os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT), 'GLOO_SOCKET_IFNAME': 'cable'}
        with open(folder / HOSTS[number - 1], 'w') as log:
            launchers.append(subprocess.Popen(
                ['ip', 'netns', 'exec', name, 'bash', str(ROOT / 'scripts' / 'distributed_train.sh'), '1',
                 '--local-addr', f'10.77.0.{number}', *torchrun[:-1], torchrun[-1] + str(number == 1).lower(), '--',
                 *LONG, *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True))
    return launchers


def logs(folder: Path) -> str:
    return ''.join((folder / host).read_text() for host in HOSTS)


@pytest.mark.slow
def test_a_link_that_is_lost_for_seconds(hosts, tmp_path):
    names, launchers = hosts
    launchers += start(tmp_path, names, '--epochs', '15', '--resume', 'auto')
    wait_for(lambda: 'Train 0 [   2' in logs(tmp_path) or any(host.poll() is not None for host in launchers))
    ip('-n', names[0], 'link', 'set', 'cable', 'down')
    time.sleep(4)
    ip('-n', names[0], 'link', 'set', 'cable', 'up')
    assert [launcher.wait(300) for launcher in launchers] == [0, 0], logs(tmp_path)
    assert load_checkpoint_file(tmp_path / 'a' / 'last.pth.tar')['epoch'] == 14


@pytest.mark.slow
def test_a_host_that_is_lost_for_good(hosts, tmp_path):
    names, launchers = hosts
    launchers += start(tmp_path, names, '--resume', 'auto', '--dist-timeout', '8')
    wait_for(lambda: 'Train 0 [   2' in logs(tmp_path) or any(host.poll() is not None for host in launchers))
    ip('-n', names[0], 'link', 'set', 'cable', 'down')  # so that no goodbye arrives
    lost = subprocess.run(['ip', 'netns', 'pids', names[1]], capture_output=True, text=True).stdout.split()
    for process in lost:
        os.kill(int(process), signal.SIGKILL)
    assert launchers[0].wait(240) != 0
    log = (tmp_path / HOSTS[0]).read_text()
    assert 'stops, since it has waited for another one longer than --dist-timeout' in log or 'has ended' in log
    assert 'Traceback' not in log, log
    assert load_checkpoint_file(max((tmp_path / 'a').glob('*.pth.tar'), key=os.path.getmtime))['state_dict']
