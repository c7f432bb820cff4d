"""summary.csv of a run: a row of metrics for each epoch, written whole."""
import csv
import os
from collections.abc import Mapping

from ..files import atomic_path

__all__ = ['Summary', 'values_of']


def values_of(train: Mapping[str, float], evaluation: Mapping[str, float], lr: float) -> dict[str, float]:
    """The numbers of an epoch by name: train_..., eval_..., lr."""
    return {
        **{f'train_{name}': value for name, value in train.items()},
        **{f'eval_{name}': value for name, value in evaluation.items()}, 'lr': lr}


class Summary:
    """The rows of a run, in the columns of timm's summary: epoch, train_..., eval_..., lr.

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
            self._rows = rows[:1] + kept if kept else []
            if len(kept) + 1 != len(rows):
                self._write()

    def add(
            self, epoch: int, train: Mapping[str, float], evaluation: Mapping[str, float], lr: float) -> None:
        """Write the row of an epoch."""
        row = {'epoch': epoch, **values_of(train, evaluation, lr)}
        if not self._rows:
            self._rows.append(list(row))
        self._rows.append([str(value) for value in row.values()])
        self._write()

    def _write(self) -> None:
        with atomic_path(self.path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows(self._rows)
