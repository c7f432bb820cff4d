"""Local data sets of Hugging Face: Parquet files with columns of images, `save_to_disk` folders, and image folders with
a table of their files.

All are read by the number of the row, from the disk: Parquet by pyarrow in place, and what the library `datasets` has
saved by that library; both are of the extra stream.
"""
import csv
import io
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ...plain_text import load_json
from ..description import DataDescription, DataSource, Layout, Sample
from ..labels import read_text
from ..pairs import Groups
from ..parquet import LARGEST_GROUP, ParquetTable, picture_columns, read_schema
from .splits import divided, folders_with

_logger = logging.getLogger(__name__)

_MASK_COLUMNS = ('mask', 'label', 'annotation', 'segmentation', 'labels', 'masks', 'semantic_mask', 'segmentation_mask',
                 'conditioning_image')
_METADATA = ('metadata.csv', 'metadata.jsonl')


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture in a row of a table, which is opened and named like a file.

    Attributes:
        table: A table whose `picture(row, column)` gives the bytes of a picture, or its path.
        row: Number of the row.
        column: Name of the column.
        split: Name of the split, for messages.
    """
    table: Any
    row: int
    column: str
    split: str

    def __str__(self) -> str:
        return f'{self.split}-{self.row:06}-{self.column}'

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """What the picture is called."""
        return str(self)

    @property
    def suffix(self) -> str:
        """No ending: what the picture is, its first bytes tell."""
        return ''

    def open(self, mode: str = 'rb') -> io.BufferedIOBase:
        """The bytes of the picture, as a file."""
        value = self.table.picture(self.row, self.column)
        if value.get('bytes') is not None:
            return io.BytesIO(value['bytes'])
        if value.get('path'):
            return open(value['path'], mode)
        raise FileNotFoundError(f'row {self.row} has no picture in {self.column!r}')


@dataclass(frozen=True, eq=False)
class _Rows(Sequence[Sample]):
    """The rows of a table as samples, made when they are asked for: the table stays on the disk."""
    table: Any
    image: str
    mask: str
    split: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Sample:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return tuple(Cell(self.table, row, column, self.split) for column in (self.image, self.mask))

    def groups(self) -> Groups | None:
        """Which rows are read together."""
        return self.table.groups()


class _Saved:
    """A table of the library `datasets`, whose rows are read one by one from files that are mapped.

    Args:
        table: The table.
        columns: Names of the columns of pictures, which are not decoded.
    """

    def __init__(self, table: Any, columns: Sequence[str]) -> None:
        kind = _library().Image(decode=False)
        self.table = table.select_columns(list(columns))
        for name in columns:
            self.table = self.table.cast_column(name, kind)

    def __len__(self) -> int:
        return len(self.table)

    def picture(self, row: int, column: str) -> dict[str, Any]:
        """What a row has in a column: its 'bytes' and its 'path', where they are there."""
        return self.table[row][column] or {}

    def groups(self) -> None:
        """None: each row is read by itself."""


def hugging_face(root: Path, layout: Layout) -> DataDescription | None:
    """Parquet files, a folder of `save_to_disk`, or images with a metadata.csv or metadata.jsonl that names masks."""
    tables = [path for name in _METADATA for path in sorted((*root.glob(name), *root.glob(f'*/{name}')))]
    if tables:
        found = _image_folders(root, tables)
        if found is not None:
            return DataDescription(source=_source(root, found, layout))
    is_saved = (root / 'dataset_dict.json').is_file() or (root / 'state.json').is_file()
    if not is_saved and next(_parquet_files(root), None) is None:
        return None
    samples = {}
    for name, (table, columns) in (_saved(root) if is_saved else _parquet(root)).items():
        samples[name] = _Rows(table, *columns, name)
    return DataDescription(source=_source(root, samples, layout))


def _source(root: Path, samples: dict[str, Sequence[Sample]], layout: Layout) -> DataSource:
    if len(samples) == 1:
        (only,) = samples.values()
        return divided(root, 'huggingface', lambda: only, layout)

    def find(split: str) -> Sequence[Sample]:
        if split not in samples:
            raise source.no_split(split)
        return samples[split]

    source = DataSource('huggingface', root, tuple(samples), find)
    return source


def _image_folders(root: Path, tables: list[Path]) -> dict[str, list[Sample]] | None:
    """Pairs of the files that tables name in two columns; None where they name images only."""
    samples: dict[str, list[Sample]] = {}
    for path in tables:
        rows = list(csv.DictReader(read_text(path).splitlines())) if path.suffix == '.csv' else _rows_of_json(path)
        columns = {key.removesuffix('_file_name').removesuffix('file_name') or 'image': key for key in rows[0]
                   if key.endswith('file_name')} if rows else {}
        mask = next((columns[name] for name in _MASK_COLUMNS if name in columns), None)
        if mask is None or 'image' not in columns:
            return None
        for row in rows:
            files = tuple(path.parent / row[key] for key in (columns['image'], mask))
            missing = next((file for file in files if not file.is_file()), None)
            if missing is not None:
                raise DatasetError(f'Each file of a table must be there: {path} names {missing}; correct the table.')
            below = Path(os.path.relpath(files[0], root)).parts
            split = below[0] if len(below) > 1 and path.parent == root else path.parent.name
            samples.setdefault(split if path.parent != root or len(below) > 1 else 'train', []).append(files)
    return samples


def _rows_of_json(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = load_json(line) if line.strip() else None
            if row is not None and not isinstance(row, dict):
                raise ValueError(f'it is {type(row).__name__}')
        except ValueError as error:
            raise DatasetError(
                f'Each line of a table must be a JSON object: {path} has another in line {number} ({error}); correct '
                'the table.') from error
        rows += [] if row is None else [row]
    return rows


def _parquet_files(root: Path) -> Any:
    folders = (root, *folders_with(root, ('.parquet',)))
    return (path for folder in folders for path in sorted(folder.glob('*.parquet')))


def _split_of(path: Path) -> str:
    """The split of a file: `train-00000-of-00002.parquet`, `train.parquet`, or `train/0000.parquet`."""
    name = path.name.split('-')[0].removesuffix('.parquet')
    return path.parent.name if name.isdigit() else name


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "Folders of save_to_disk, and Parquet files of large row groups, are read by the library datasets: pip "
            "install 'rexnet-timm[stream]'.") from error
    return datasets


def _saved(root: Path) -> dict[str, tuple[_Saved, tuple[str, str]]]:
    """The tables that `save_to_disk` wrote, with the columns of images and masks."""
    loaded = _library().load_from_disk(str(root))
    parts = dict(loaded) if isinstance(loaded, dict) else {'train': loaded}
    features = next(iter(parts.values())).features
    columns = _columns(root, list(features), [
        name for name, kind in features.items() if type(kind).__name__ == 'Image'])
    return {name: (_Saved(table, columns), columns) for name, table in parts.items()}


def _parquet(root: Path) -> dict[str, tuple[Any, tuple[str, str]]]:
    """The Parquet files of each split, with the columns of images and masks."""
    files: dict[str, list[Path]] = {}
    for path in _parquet_files(root):
        files.setdefault(_split_of(path), []).append(path)
    schema = read_schema(next(iter(files.values()))[0])
    columns = _columns(root, schema.names, picture_columns(schema))
    tables = {name: ParquetTable(paths, columns) for name, paths in files.items()}
    return {name: (_mapped(table) if table.largest > LARGEST_GROUP else table, columns)
            for name, table in tables.items()}


def _mapped(table: ParquetTable) -> _Saved:
    """A table of which too much would be read for a row: the library `datasets` first copies it into its cache."""
    _logger.info(
        'The row groups of %s have up to %.0f MiB, too much to read for a row: the files are copied into the cache of '
        'the library datasets. Row groups of 100 rows are read in place.', table.files[0].name, table.largest / 2 ** 20)
    return _Saved(_library().Dataset.from_parquet(list(map(str, table.files)), columns=list(table.columns)),
                  table.columns)


def _columns(root: Path, names: Sequence[str], pictures: Sequence[str]) -> tuple[str, str]:
    """The columns of the images and of the masks."""
    image = next((name for name in ('image', 'pixel_values', 'img') if name in pictures), None)
    mask = next((name for name in _MASK_COLUMNS if name in pictures), None)
    if image is None and mask is not None:
        image = next((name for name in pictures if name != mask), None)
    if image is not None and mask is None and len(pictures) == 2:
        mask = next(name for name in pictures if name != image)
    if image is None or mask is None:
        raise DatasetError(
            f'A table must have a column of images and one of masks: {root} has the columns {", ".join(names)}, of '
            f'pictures {", ".join(pictures) or "none"}; call them image and mask.')
    return image, mask
