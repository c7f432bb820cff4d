"""What a validation leaves behind: results.json, per_image.csv, its pictures, and rows as timm's."""
import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..files import atomic_path
from .pictures import confusion_picture

__all__ = ['EXAMPLE', 'FILES', 'RESULTS', 'summary_row', 'write_results', 'write_rows']

RESULTS, EXAMPLE = 'results.json', 'example.png'
FILES = (RESULTS, 'per_image.csv', 'confusion.png', 'worst.png', EXAMPLE)  # of which a task has some

_NOT_IN_A_ROW = ('per_image', 'classes', 'confusion', 'scales', 'class_names')


def write_results(
        folder: str | os.PathLike, results: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> None:
    """Write the results of `evaluate` into a folder, which is made; files of the same names are replaced.

    Args:
        folder: Where to write.
        results: What `evaluate` returns.
        pictures: By the names of their files; that of the confusion of classes is drawn here.

    Raises:
        OSError: A file cannot be written; those before it are.
    """
    os.makedirs(folder, exist_ok=True)
    rest = {key: value for key, value in results.items() if key != 'per_image'}
    _write_text(os.path.join(folder, RESULTS), json.dumps(_plain(rest), indent=2) + '\n')
    write_rows(os.path.join(folder, 'per_image.csv'), results['per_image'])
    pictures = dict(pictures)
    if 'confusion' in results:
        pictures['confusion.png'] = confusion_picture(np.array(results['confusion']), results['class_names'])
    for name, picture in pictures.items():
        with atomic_path(os.path.join(folder, name)) as part:
            picture.save(part)


def write_rows(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], form: str | None = None) -> None:
    """Write rows of plain values as CSV or JSON; None is the form that the ending of the name tells, CSV for others.

    A value that is not a number is empty in CSV and null in JSON.
    """
    form = form or ('json' if os.fspath(path).lower().endswith('.json') else 'csv')
    rows = [_plain(row) for row in rows]
    if form == 'json':
        return _write_text(path, json.dumps(rows, indent=4) + '\n')
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return _write_text(path, text.getvalue())


def summary_row(results: Mapping[str, Any]) -> dict[str, Any]:
    """The single numbers of results, for a line of a table."""
    return {key: value for key, value in results.items() if key not in _NOT_IN_A_ROW}


def _write_text(path: str | os.PathLike, text: str) -> None:
    with atomic_path(path) as part, open(part, 'w', encoding='utf-8', newline='') as file:
        file.write(text)


def _plain(value: Any) -> Any:
    """What strict JSON can hold: NaN becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
