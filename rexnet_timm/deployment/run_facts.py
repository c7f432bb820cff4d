"""What the folder of a run tells of it, finished or not: arguments, epochs, starts, checkpoint, state."""
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from ..plain_text import load_yaml
from ..training.record import FINISHED, RECORD, is_recorded_here, read_starts
from ..training.summary import SUMMARY, TIMES, read_rows
from .load import CHECKPOINTS

__all__ = ['ARGUMENTS', 'FINISHED', 'RUNNING', 'STOPPED', 'UNKNOWN', 'Row', 'RunFacts', 'read_run']

ARGUMENTS, LOCK = 'args.yaml', 'lock'
RUNNING, STOPPED, UNKNOWN = 'in progress', 'stopped', 'unknown'  # and FINISHED
MOST_NAMED = 6
DECREASING = ('loss', 'abs_rel', 'rmse')
DEFAULT_METRICS = {'segmentation': 'miou', 'depth': 'abs_rel', 'classification': 'top1'}
ENDING = '.pth.tar'

Row = Mapping[str, float]


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run.

    Attributes:
        folder: The folder.
        checkpoint: Of which the model is taken; None where there is none yet.
        arguments: Those of its training, plain values by name; empty where they cannot be read.
        rows: Numbers of each epoch by name, 'epoch' among them, in order; the names are those of summary.csv.
        times: Seconds of each epoch, likewise, of times.csv.
        starts: What `training.record` tells of each start.
        state: `FINISHED`, `RUNNING`, `STOPPED`, or `UNKNOWN` for a run without a record.
        notes: What could not be read.
    """
    folder: str
    checkpoint: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    times: Sequence[Row] = ()
    starts: Sequence[Mapping[str, Any]] = ()
    state: str = UNKNOWN
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What the run is called: its folder."""
        return os.path.basename(self.folder)

    @property
    def start(self) -> Mapping[str, Any]:
        """The latest start; empty where none was noted."""
        return self.starts[-1] if self.starts else {}

    @property
    def columns(self) -> list[str]:
        """Names of the numbers of the epochs."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def task(self) -> str | None:
        """'segmentation', 'depth' or 'classification', where the run tells."""
        task = self.start.get('task')
        if task in DEFAULT_METRICS:
            return task
        return next((task for task, metric in DEFAULT_METRICS.items() if f'eval_{metric}' in self.columns), None)

    @property
    def metric(self) -> str | None:
        """What ranks its checkpoints."""
        named = self.arguments.get('eval_metric')
        return named if isinstance(named, str) and named else DEFAULT_METRICS.get(self.task or '')

    @property
    def is_decreasing(self) -> bool:
        """Whether a lower metric is better."""
        said = self.start.get('decreasing')
        return said if isinstance(said, bool) else self.metric in DECREASING

    @property
    def epochs(self) -> int | None:
        """Epochs that the run is to have."""
        for value in (self.start.get('epochs'), self.arguments.get('epochs')):
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return None

    def points(self, column: str) -> list[tuple[float, float]]:
        """Epoch and value of a column, in the epochs that have it."""
        return [(row['epoch'], row[column]) for row in self.rows if column in row]

    @property
    def best(self) -> tuple[int, float] | None:
        """Epoch and value of the best metric so far; of equal ones the first."""
        points = [point for point in self.points(f'eval_{self.metric}') if math.isfinite(point[1])]
        if not points:
            return None
        epoch, value = (min if self.is_decreasing else max)(points, key=lambda point: point[1])
        return int(epoch), value

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of data, step and validation, of all epochs that are noted together."""
        return {name: sum(row.get(name, 0.) for row in self.times) for name in ('data', 'step', 'validation')
                if any(name in row for row in self.times)}


def read_run(source: str | os.PathLike) -> RunFacts:
    """What the folder of a run tells.

    Args:
        source: The folder, or a checkpoint in it, which then is the one that counts.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: A folder without a run; the text names the runs below it.
    """
    path = os.fspath(source)
    if not os.path.exists(path):
        raise FileNotFoundError(f'There is no run {path!r}: name the folder of one, as training told it at its end.')
    folder, checkpoint = os.path.abspath(path), None
    if os.path.isfile(path):
        folder, checkpoint = os.path.dirname(folder), os.path.abspath(path)
        if not path.endswith(ENDING):
            raise ValueError(f'A report is of a run, and {path!r} is a file that is no checkpoint of one: name its '
                             'folder.')
    if not _is_run(folder):
        raise ValueError(_no_run(path, folder))
    if checkpoint is None:
        found = [os.path.join(folder, name) for name in CHECKPOINTS]
        checkpoint = next(filter(os.path.isfile, found), None)
    notes: list[str] = []
    run = RunFacts(
        folder, checkpoint, _arguments(folder, notes), _rows(folder, SUMMARY, notes), _rows(folder, TIMES, notes),
        read_starts(folder), notes=notes)
    return replace(run, state=_state(run))


def _is_run(folder: str) -> bool:
    names = (ARGUMENTS, SUMMARY, RECORD, *CHECKPOINTS)
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def _no_run(name: str, folder: str) -> str:
    runs = []
    with suppress(OSError):
        runs = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and _is_run(entry.path))
    if not runs:
        return (f'A report is of a run of training, and {name!r} holds none: name a folder with {ARGUMENTS}, '
                f'{SUMMARY} or {CHECKPOINTS[0]} in it.')
    more = ', ...' if len(runs) > MOST_NAMED else ''
    named = ', '.join(os.path.join(name, run) for run in runs[:MOST_NAMED])
    return f'A report is of a run, and {name!r} holds several: name one of them, or more ({named}{more}).' \
        if len(runs) > 1 else f'A report is of a run, and {name!r} is not one but holds one: name {named}.'


def _arguments(folder: str, notes: list[str]) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, ARGUMENTS), encoding='utf-8') as file:
            content = load_yaml(file.read())
    except FileNotFoundError:
        notes.append(f'{ARGUMENTS} is missing, so that the options of the training are not known.')
        return {}
    except (OSError, ValueError, yaml.YAMLError):
        notes.append(f'{ARGUMENTS} cannot be read, so that the options of the training are not known.')
        return {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _rows(folder: str, name: str, notes: list[str]) -> list[Row]:
    """The rows of a table of epochs that can be read."""
    try:
        rows, left_out = read_rows(os.path.join(folder, name))
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        notes.append(f'{name} cannot be read.')
        return []
    if left_out:
        notes.append(f'{left_out} row{"s" * (left_out > 1)} of {name} cannot be read and '
                     f'{"are" if left_out > 1 else "is"} left out.')
    return rows


def _state(run: RunFacts) -> str:
    if _is_held(run.folder):
        return RUNNING
    if run.starts:
        return FINISHED if run.start.get('end') == FINISHED else STOPPED
    is_whole = bool(run.rows) and run.epochs is not None and run.rows[-1]['epoch'] + 1 >= run.epochs
    return FINISHED if is_whole else UNKNOWN


def _is_held(folder: str) -> bool:
    """Whether a process trains in the folder: it holds the lock, which no other process can then share."""
    if is_recorded_here(folder):
        return True  # a lock of this process would end if its file was opened again
    try:
        import fcntl
        with open(os.path.join(folder, LOCK), encoding='utf-8') as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except (BlockingIOError, PermissionError):
        return True
    except (ImportError, OSError):  # no lock, or none that can be asked
        return False
