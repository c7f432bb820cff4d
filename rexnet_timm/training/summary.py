"""summary.csv and times.csv of a run: a row for each epoch, of metrics and of seconds, written whole."""
import csv
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..files import atomic_path

__all__ = ['SUMMARY', 'TIMES', 'EpochRows', 'Summary', 'read_rows', 'values_of']

SUMMARY, TIMES = 'summary.csv', 'times.csv'


def values_of(train: Mapping[str, float], evaluation: Mapping[str, float], lr: float) -> dict[str, float]:
    """The numbers of an epoch by name: train_..., eval_..., lr."""
    return {
        **{f'train_{name}': value for name, value in train.items()},
        **{f'eval_{name}': value for name, value in evaluation.items()}, 'lr': lr}


def read_rows(path: str | os.PathLike) -> tuple[list[dict[str, float]], int]:
    """What can be read of a file of `EpochRows`, which may be damaged or in the middle of a run.

    Returns:
        The numbers of each epoch by name, 'epoch' among them, in order, without fields that are empty; of an epoch that
        is there twice the later one. And how many rows are left out, since they are cut off or have no epoch.

    Raises:
        OSError: No such file, or it cannot be read.
        ValueError: No table.
    """
    rows: dict[int, dict[str, float]] = {}
    left_out = 0
    try:
        with open(path, newline='', encoding='utf-8', errors='replace') as file:
            reader = csv.reader(file)
            names = next(reader, [])
            for words in filter(None, reader):
                row = _row(names, words)
                if row is None:
                    left_out += 1
                else:
                    rows[int(row['epoch'])] = row
    except csv.Error as error:
        raise ValueError(f'{os.fspath(path)!r} must be a table of epochs: {error}; remove or replace it.') from error
    return [rows[epoch] for epoch in sorted(rows)], left_out


def _row(names: Sequence[str], words: Sequence[str]) -> dict[str, float] | None:
    """The numbers of a row by name; None where it is not whole, or has no epoch."""
    if len(words) != len(names):
        return None
    found = {}
    for name, word in zip(names, words, strict=True):
        with suppress(ValueError):
            found[name] = float(word)
    return found if found.get('epoch', -1) >= 0 and math.isfinite(found['epoch']) else None


class EpochRows:
    """The rows of a run in a file, the first column of which is the epoch.

    Args:
        path: The file; its rows from `start_epoch` on are left out, as those of a run that went on before.
        start_epoch: The epoch that the run goes on with.
    """

    def __init__(self, path: str | os.PathLike, start_epoch: int = 0) -> None:
        self.path = os.fspath(path)
        self._rows: list[list[str]] = []
        if os.path.exists(self.path):
            with open(self.path, newline='', encoding='utf-8') as file:
                rows = list(csv.reader(file))
            kept = [row for row in rows[1:] if row and row[0].isdecimal() and int(row[0]) < start_epoch]
            self._rows = rows[:1] + kept  # the names of the columns stay, so that the file is never without a line
            if len(kept) + 1 != len(rows):
                self._write()

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the row of an epoch."""
        row = {'epoch': epoch, **values}
        if len(self._rows) < 2:
            self._rows = [list(row)]
        self._rows.append([str(value) for value in row.values()])
        self._write()

    def _write(self) -> None:
        with atomic_path(self.path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows(self._rows)


class Summary(EpochRows):
    """The rows of a run, in the columns of timm's summary: epoch, train_..., eval_..., lr."""

    def add(
            self, epoch: int, train: Mapping[str, float], evaluation: Mapping[str, float], lr: float) -> None:
        """Write the row of an epoch."""
        super().add(epoch, values_of(train, evaluation, lr))
