"""Local data sets of Hugging Face: Parquet files with columns of images, `save_to_disk` folders, and image folders with
a table of their files.

Read by the library `datasets`, of the extra stream, from the disk alone.
"""
import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ...plain_text import load_json
from ..description import DataDescription, DataSource, Layout, Sample
from ..labels import read_text
from .folders import divided

_MASK_COLUMNS = ('mask', 'label', 'annotation', 'segmentation', 'labels', 'masks', 'semantic_mask', 'segmentation_mask',
                 'conditioning_image')
_METADATA = ('metadata.csv', 'metadata.jsonl')


@dataclass(frozen=True, eq=False)
class Cell:
    """A picture in a row of a table, which is opened and named like a file.

    Attributes:
        table: The data set of the library `datasets`, of which the pictures are not decoded.
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
        value = self.table[self.row][self.column] or {}
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
    parts = _tables(root, is_saved)
    features = next(iter(parts.values())).features
    image, mask = _columns(root, features)
    parts = {name: _undecoded(table, (image, mask)) for name, table in parts.items()}
    samples = {name: _Rows(table, image, mask, name) for name, table in parts.items()}
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
    return (path for folder in (root, root / 'data') for path in sorted(folder.glob('*.parquet')))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "Parquet files and folders of save_to_disk are read by the library datasets: pip install "
            "'rexnet-timm[stream]'.") from error
    return datasets


def _tables(root: Path, is_saved: bool) -> dict[str, Any]:
    library = _library()
    if is_saved:
        loaded = library.load_from_disk(str(root))
        return dict(loaded) if isinstance(loaded, dict) else {'train': loaded}
    files: dict[str, list[str]] = {}
    for path in _parquet_files(root):
        files.setdefault(path.name.split('-')[0].removesuffix('.parquet'), []).append(str(path))
    return {name: library.Dataset.from_parquet(paths) for name, paths in files.items()}


def _columns(root: Path, features: Any) -> tuple[str, str]:
    """The columns of the images and of the masks."""
    pictures = [name for name, kind in features.items() if type(kind).__name__ == 'Image']
    image = next((name for name in ('image', 'pixel_values', 'img') if name in pictures), None)
    mask = next((name for name in _MASK_COLUMNS if name in pictures), None)
    if image is None and mask is not None:
        image = next((name for name in pictures if name != mask), None)
    if image is not None and mask is None and len(pictures) == 2:
        mask = next(name for name in pictures if name != image)
    if image is None or mask is None:
        raise DatasetError(
            f'A table must have a column of images and one of masks: {root} has the columns {", ".join(features)}, of '
            f'pictures {", ".join(pictures) or "none"}; call them image and mask.')
    return image, mask


def _undecoded(table: Any, columns: tuple[str, str]) -> Any:
    kind = _library().Image(decode=False)
    table = table.select_columns(list(columns))
    for name in columns:
        table = table.cast_column(name, kind)
    return table
