"""run.json: how a run was started, each time, by what versions on what machine, and how it ended."""
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ..errors import first_lines
from ..files import atomic_path
from ..plain_text import load_json
from ..version import __version__

__all__ = ['FINISHED', 'RECORD', 'RunRecord', 'is_recorded_here', 'read_starts']

RECORD = 'run.json'
FINISHED = 'finished'
PACKAGES = ('torch', 'torchvision', 'timm', 'segmentation-models-pytorch', 'numpy')
KEPT = 50  # starts: the first, and the latest
LARGEST = 2 ** 24  # bytes of a record that is read

_here: set[str] = set()  # folders whose runs this process records now


class RunRecord:
    """Notes a start of a run in its folder, and its end when the block ends; on the primary process.

    A process that is killed leaves a start without an end. What is written has no say in what the run computes.

    Args:
        folder: Of the run; it exists.
        facts: Plain values that the caller knows of this start, such as 'command'.
        device: Of the model.
        goes_on: Whether this goes on with the run in the folder, whose earlier starts are kept.

    Raises:
        OSError: The file cannot be written at the start.
    """

    def __init__(
            self, folder: str | os.PathLike, facts: Mapping[str, Any], device: torch.device, goes_on: bool = False,
    ) -> None:
        self.path = os.path.join(folder, RECORD)
        self.start = {
            'time': _now(), **facts, 'versions': versions(), 'machine': machine(device), 'git': git()}
        earlier = read_starts(folder) if goes_on else []
        self._starts = [*earlier[:1], *earlier[1:][-(KEPT - 2):], self.start]

    def __enter__(self) -> 'RunRecord':
        self._write()
        _here.add(os.path.realpath(os.path.dirname(self.path)))
        return self

    def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
    ) -> None:
        _here.discard(os.path.realpath(os.path.dirname(self.path)))
        end = FINISHED if error is None else first_lines(error, 1)[:400] or type(error).__name__
        self.start |= {'ended': _now(), 'end': end}
        with suppress(OSError):  # the run is worth more, and has its own error
            self._write()

    def _write(self) -> None:
        with atomic_path(self.path) as part, open(part, 'w', encoding='utf-8') as file:
            json.dump({'starts': self._starts}, file, indent=1, default=str)


def read_starts(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """The starts that the record in a folder tells, the first one first; none where there is no record to be read."""
    path = os.path.join(folder, RECORD)
    try:
        if os.path.getsize(path) > LARGEST:
            return []
        with open(path, encoding='utf-8') as file:
            content = load_json(file.read())
    except (OSError, ValueError):
        return []
    starts = content.get('starts') if isinstance(content, dict) else None
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def is_recorded_here(folder: str | os.PathLike) -> bool:
    """Whether a run in the folder goes on in this process."""
    return os.path.realpath(folder) in _here


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec='seconds')


def versions() -> dict[str, str]:
    """Release of this package, of Python, and of the packages that decide what a run computes."""
    found = {'rexnet_timm': __version__, 'python': platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    if torch.version.cuda:
        found['cuda'] = torch.version.cuda
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What the run computes on: 'host', 'system', 'processor', 'cores' that this process may use, 'threads' of torch,
    'memory' in bytes, 'device', and of CUDA its 'accelerator' and 'accelerator_memory' in bytes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = {
        'host': platform.node(), 'system': f'{platform.system()} {platform.release()}', 'processor': _processor(),
        'cores': cores, 'threads': torch.get_num_threads(), 'device': str(device)}
    with suppress(AttributeError, ValueError, OSError):  # Windows
        found['memory'] = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        found |= {'accelerator': properties.name, 'accelerator_memory': properties.total_memory}
    return found


def _processor() -> str:
    with suppress(OSError), open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
        if match := re.search(r'^model name\s*:\s*(.+)$', file.read(2 ** 16), re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()


def git() -> dict[str, dict[str, Any]]:
    """State of the code: of this package where it lies in a clone, and of the current folder's repository.

    Returns:
        {'rexnet_timm' and 'folder': {'commit', 'branch', 'changed': number of tracked files that differ}}, without
        what there is not.
    """
    package = Path(__file__).resolve().parents[2]
    roots = {'rexnet_timm': package if (package / '.git').exists() else None}
    here = Path.cwd()
    roots['folder'] = next((folder for folder in (here, *here.parents) if (folder / '.git').exists()), None)
    if roots['folder'] == roots['rexnet_timm']:
        del roots['folder']
    found = {name: _git_state(root) for name, root in roots.items() if root is not None}
    return {name: state for name, state in found.items() if state}


def _git_state(root: Path) -> dict[str, Any] | None:
    def answer(*words: str) -> str:
        # a repository may name a program as its monitor, which is not run
        settings = ('-c', 'core.fsmonitor=false', '-c', 'diff.ignoreSubmodules=all')
        return subprocess.run(
            ['git', '-C', str(root), *settings, *words], env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=True, encoding='utf-8', errors='replace',
        ).stdout

    try:
        commit, (branch, *changed) = answer('rev-parse', 'HEAD').strip(), answer('status', '-sbuno').splitlines()
    except (OSError, subprocess.SubprocessError):  # no git, another's folder, no commit, a slow disk
        return None
    return {'commit': commit, 'branch': branch.removeprefix('## ').partition('...')[0], 'changed': len(changed)}
