"""The checkpoints of a run as files: the last, the best, the best few, and those in the middle of an epoch.

Names and form are those of timm's `CheckpointSaver`, whose readers load them. What differs: at no moment is a file
half written or gone that was there, wherever a process is killed. And what follows from a checkpoint, its name among
the best few and the best, is done anew when a run goes on, so that nothing stays half done.
"""
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..files import WeightsError, link_file, load_checkpoint_file, remove_parts, save_checkpoint_file

__all__ = ['LAST', 'Saver', 'load_newest', 'plain_history', 'position_of', 'remove_rest']

_logger = logging.getLogger(__name__)

ENDING = '.pth.tar'
LAST, BEST = f'last{ENDING}', f'model_best{ENDING}'
_CHECKPOINT = re.compile(r'checkpoint-(\d+)\.pth\.tar')
_RECOVERY = re.compile(r'recovery-(\d+)-(\d+)\.pth\.tar')
KEPT_RECOVERIES = 2  # one before the newest, should that be damaged

Position = tuple[int, int]  # epoch, and batches of it that are done


class Saver:
    """Writes the checkpoints of a run and remembers which are the best; on one process of it.

    Attributes:
        best_metric: Of the best epoch so far, None before one has been ranked.
        best_epoch: That epoch.
        newest: Path of the newest checkpoint that has been written or gone on from; None before there is one.

    Args:
        folder: Where the files are; it exists.
        decreasing: Whether a lower metric is better.
        max_history: How many of the best epochs are kept, at least 1; the last one is kept beside them.
    """

    def __init__(self, folder: str | os.PathLike, decreasing: bool = False, max_history: int = 10) -> None:
        self.folder = os.fspath(folder)
        self.decreasing = decreasing
        self.max_history = max_history
        self.best_metric: float | None = None
        self.best_epoch: int | None = None
        self.newest: str | None = None
        self._ranked: list[tuple[str, float | None]] = []  # name and metric, the best first

    def save_checkpoint(
            self, content: Mapping[str, Any], epoch: int, metric: float | None,
    ) -> tuple[float | None, int | None]:
        """Write the state after an epoch as the last, and as one of the best where it is one.

        Args:
            content: The state, see `RunState.capture`.
            epoch: Number of the epoch, from 0.
            metric: What ranks it; None, NaN and infinity rank nothing.

        Returns:
            The best metric and its epoch, both None where none has been ranked.

        Raises:
            OSError: A file cannot be written; those that were there are whole.
        """
        metric = _finite(metric)
        content = {**content, 'metric': metric, 'saver': self.state_dict(epoch, metric)}
        if metric is None:
            del content['metric']
        self.newest = self._write(LAST, content)
        self._follow(epoch, metric, self.newest)
        return self.best_metric, self.best_epoch

    def save_recovery(self, content: Mapping[str, Any], epoch: int, batch: int) -> str:
        """Write the state in the middle of an epoch; returns the path. The one before it is kept.

        Args:
            content: The state, see `RunState.capture`.
            epoch: Number of the epoch, from 0.
            batch: Batches of the epoch that are done.
        """
        content = {**content, 'saver': self.state_dict(None, None)}
        self.newest = self._write(f'recovery-{epoch}-{batch}{ENDING}', content)
        older = [name for position, name in self._recoveries() if position <= (epoch, batch)]
        for name in older[:-KEPT_RECOVERIES]:
            self._remove(name)
        return self.newest

    def state_dict(self, epoch: int | None, metric: float | None) -> dict[str, Any]:
        """What is ranked, in timm's form; epoch and metric of the checkpoint that carries it are not ranked yet."""
        return {
            'checkpoint_files': list(self._ranked), 'best_epoch': self.best_epoch, 'best_metric': self.best_metric,
            'pending': (epoch, metric)}

    def load_state_dict(self, history: Mapping[str, Any], path: str | os.PathLike) -> None:
        """Go on as `state_dict` said, and finish what follows from the checkpoint that it is from.

        Files that are gone are left out.

        Args:
            history: What a checkpoint in the saver's folder holds under 'saver', by `plain_history`.
            path: That checkpoint.
        """
        self.newest = os.fspath(path)
        self._ranked = [
            entry for entry in history.get('checkpoint_files', ()) if os.path.exists(self._path(entry[0]))]
        self.best_metric, self.best_epoch = history.get('best_metric'), history.get('best_epoch')
        epoch, metric = history.get('pending', (None, None))
        if epoch is not None:
            link_file(path, self._path(LAST))  # which may be damaged
            self.newest = self._path(LAST)
            self._follow(epoch, metric, self.newest)
        best = f'checkpoint-{self.best_epoch}{ENDING}'
        if any(name == best for name, _ in self._ranked):
            link_file(self._path(best), self._path(BEST))

    def _follow(self, epoch: int, metric: float | None, path: str | os.PathLike) -> None:
        """What follows from a checkpoint after an epoch, once or again: its place among the best, and what leaves."""
        name = f'checkpoint-{epoch}{ENDING}'
        others = [entry for entry in self._ranked if entry[0] != name]
        ranked = sorted([*others, (name, metric)], key=self._rank)  # of equal ones the earlier stays ahead
        kept, left = ranked[:self.max_history], ranked[self.max_history:]
        if (name, metric) in kept:
            link_file(path, self._path(name))
        if metric is not None and self._is_better(metric):
            self.best_metric, self.best_epoch = metric, epoch
            link_file(path, self._path(BEST))
        self._ranked = kept
        for leaving, _ in left:
            self._remove(leaving)
        for (of_epoch, _), recovery in self._recoveries():
            if of_epoch <= epoch:
                self._remove(recovery)

    def _rank(self, entry: tuple[str, float | None]) -> tuple[int, float]:
        name, metric = entry
        if metric is None:  # after those that are ranked, the latest first
            return 1, -int(_CHECKPOINT.fullmatch(name)[1])
        return 0, metric if self.decreasing else -metric

    def _is_better(self, metric: float) -> bool:
        if self.best_metric is None:
            return True
        return metric < self.best_metric if self.decreasing else metric > self.best_metric

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _write(self, name: str, content: Mapping[str, Any]) -> str:
        save_checkpoint_file(self._path(name), content)
        return self._path(name)

    def _remove(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:  # the run is worth more than the space
            _logger.warning('%s cannot be removed: %s', self._path(name), error.strerror)

    def _recoveries(self) -> list[tuple[Position, str]]:
        """Position and name of the checkpoints in the middle of an epoch, the newest last."""
        found = filter(None, map(_RECOVERY.fullmatch, os.listdir(self.folder)))
        return sorted(((int(match[1]), int(match[2])), match[0]) for match in found)


def _finite(metric: Any) -> float | None:
    return metric if isinstance(metric, (int, float)) and math.isfinite(metric) else None


def plain_history(history: Any) -> dict[str, Any]:
    """What a file says of the checkpoints of a run, for `Saver.load_state_dict`; what is no history is left out.

    Names are those that a saver gives: none leads out of its folder, or to a file that is not the run's.
    """
    if not isinstance(history, Mapping):
        return {}

    def is_plain(entry: Any) -> bool:
        return (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], str)
                and bool(_CHECKPOINT.fullmatch(entry[0])))

    def is_epoch(value: Any) -> bool:
        return isinstance(value, int) and value >= 0

    files, pending = history.get('checkpoint_files'), history.get('pending')
    files = files if isinstance(files, (list, tuple)) else ()
    pending = pending if isinstance(pending, (list, tuple)) and len(pending) == 2 else (None, None)
    best = history.get('best_epoch')
    return {
        'checkpoint_files': [(name, _finite(metric)) for name, metric in filter(is_plain, files)],
        'best_epoch': best if is_epoch(best) else None, 'best_metric': _finite(history.get('best_metric')),
        'pending': (pending[0], _finite(pending[1])) if is_epoch(pending[0]) else (None, None)}


def position_of(checkpoint: Mapping[str, Any]) -> Position:
    """Where the run of a checkpoint goes on: the epoch, and the batches of it that are done."""
    run = checkpoint.get('run')
    if isinstance(run, Mapping) and isinstance(run.get('epoch'), int) and isinstance(run.get('batch'), int):
        return run['epoch'], run['batch']
    epoch = checkpoint.get('epoch')
    return (epoch + 1, 0) if isinstance(epoch, int) else (0, 0)  # timm writes it at the end of its epoch


def load_newest(folder: str | os.PathLike) -> tuple[str, dict[str, Any]] | None:
    """The checkpoint of a run's folder that is the farthest on, with its path; None where there is none.

    One that is damaged is told in a warning, and the one before it is taken.

    Raises:
        WeightsError: All of them are damaged.
    """
    found, damaged = False, []
    for path, content in _newest_first(os.fspath(folder)):
        found = True
        if not isinstance(content, WeightsError):
            if damaged:
                _logger.warning('Going on from %s instead, the newest that is whole.', path)
            return path, content
        if str(content) not in damaged:
            _logger.warning('%s', content)
            damaged.append(str(content))
    if found:
        raise WeightsError(
            f'A run goes on from a whole checkpoint, and none in {os.fspath(folder)!r} is: {damaged[-1]}')
    return None


def _newest_first(folder: str) -> Iterator[tuple[str, dict[str, Any] | WeightsError]]:
    """The checkpoints of a folder, read when asked for."""
    names = {}
    for name in os.listdir(folder):
        if match := _RECOVERY.fullmatch(name):
            names[name] = (int(match[1]), int(match[2]))
        elif match := _CHECKPOINT.fullmatch(name):
            names[name] = (int(match[1]) + 1, 0)
    read = {}
    if os.path.exists(os.path.join(folder, LAST)):  # whose name does not tell its place
        read[LAST] = _read(os.path.join(folder, LAST))
        names[LAST] = (-1, 0) if isinstance(read[LAST], WeightsError) else position_of(read[LAST])
        if names[LAST] == (-1, 0):
            yield os.path.join(folder, LAST), read[LAST]
            del names[LAST]
    for name in sorted(names, key=lambda name: (names[name], name == LAST), reverse=True):
        path = os.path.join(folder, name)
        yield path, read[name] if name in read else _read(path)
    if os.path.exists(os.path.join(folder, BEST)):
        yield os.path.join(folder, BEST), _read(os.path.join(folder, BEST))


def _read(path: str) -> dict[str, Any] | WeightsError:
    try:
        return load_checkpoint_file(path)
    except WeightsError as error:
        return error


def remove_rest(folder: str | os.PathLike) -> None:
    """Remove what a killed run was writing in its folder."""
    remove_parts(folder, r'args\.yaml|run\.json|summary\.csv|times\.csv|.*\.pth\.tar')
