"""Pictures in Parquet files, read in place by the number of their row: nothing is copied, and no file is read whole.

Parquet gives rows only together, in row groups. Those that were read last are kept, up to a number of bytes, and
training goes through the groups one after the other (`sampling`), so that each is read about once an epoch and process.
"""
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError, first_lines
from .pairs import Groups

__all__ = ['LARGEST_GROUP', 'ParquetTable', 'no_stream', 'picture_columns', 'read_schema']

LARGEST_GROUP = 2 ** 27  # bytes of the pictures of a row group that is read in place
_KEPT = 2 ** 28  # bytes of row groups that a process keeps


def no_stream(data: Any) -> str:
    """What is told of data that have no number of samples, as the streams of the library `datasets`."""
    return (
        'Samples must be read by their number, so that each is counted once on any number of processes, and a run goes '
        f'on where it stopped: {type(data).__name__} has no length. Name the folder of its files: Parquet is read in '
        "place, without a copy; of a stream data.to_parquet('DATA/train.parquet', batch_size=100) writes some.")


def _library() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet files are read by pyarrow: pip install 'rexnet-timm[stream]'.") from error
    return pyarrow.parquet


def _read(path: Path, call: Any) -> Any:
    """What a call returns; DatasetError with the name of the file where pyarrow cannot read it."""
    import pyarrow

    try:
        return call(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(
            f'Every Parquet file must be readable: {path} is not ({type(error).__name__}: {first_lines(error, 1)}); '
            'replace or remove the file.') from error


def read_schema(path: Path) -> Any:
    """The columns of a Parquet file, as pyarrow has them.

    Raises:
        DatasetError: Not readable.
        ValueError: pyarrow cannot be imported.
    """
    return _read(path, _library().read_schema)


def picture_columns(schema: Any) -> list[str]:
    """Names of the columns that may hold pictures: their bytes, or those and a path as Hugging Face's have them."""
    import pyarrow.types as types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    return [field.name for field in schema if is_bytes(field.type) or types.is_struct(field.type) and any(
        part.name == 'bytes' and is_bytes(part.type) for part in field.type)]


class ParquetTable:
    """The rows of several Parquet files, of which some columns hold pictures.

    Args:
        files: The files, in the order of their rows.
        columns: Names of the columns that are read.

    Attributes:
        largest: Bytes of the largest row group, of these columns.

    Raises:
        DatasetError: A file that cannot be read, or without one of the columns.
        ValueError: pyarrow cannot be imported.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str]) -> None:
        self.files, self.columns = tuple(files), tuple(columns)
        self._metadata: dict[int, Any] = {}
        rows, sizes, files_of, groups_of = [], [], [], []
        for number, path in enumerate(self.files):
            metadata = self._metadata_of(number)
            missing = [name for name in self.columns if name not in metadata.schema.to_arrow_schema().names]
            if missing:
                raise DatasetError(
                    f'All files of a table must have its columns: {path} has no {", ".join(missing)}; take it out, or '
                    'write it anew.')
            for group in range(metadata.num_row_groups):
                part = metadata.row_group(group)
                parts = (part.column(index) for index in range(part.num_columns))
                sizes.append(sum(
                    column.total_uncompressed_size for column in parts
                    if column.path_in_schema.split('.')[0] in self.columns))
                rows.append(part.num_rows)
                files_of.append(number)
                groups_of.append(group)
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._bytes = np.array(sizes, np.int64)
        self._places = np.array([files_of, groups_of], np.int32)
        self.largest = max(sizes, default=0)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ('_kept', '_lock')} | {
            '_metadata': {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def groups(self) -> Groups:
        """Which rows lie in which row group."""
        counts = np.diff(self._ends, prepend=0)
        return Groups(np.repeat(np.arange(len(counts)), counts), self._bytes)

    def picture(self, row: int, column: str) -> dict[str, Any]:
        """What a row has in a column: its 'bytes' and its 'path', where they are there.

        Raises:
            DatasetError: The file is damaged there.
        """
        group = int(np.searchsorted(self._ends, row, side='right'))
        first = int(self._ends[group - 1]) if group else 0
        with self._lock:
            columns = self._columns_of(group)
        value = columns[column][row - first].as_py()
        return value if isinstance(value, dict) else {'bytes': value}

    def _columns_of(self, group: int) -> dict[str, Any]:
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        file, number = self._places[:, group].tolist()

        def read(path: Path) -> Any:
            with _library().ParquetFile(path, metadata=self._metadata_of(file)) as opened:
                return opened.read_row_group(number, list(self.columns), use_threads=False)

        table = _read(self.files[file], read)
        self._kept[group] = {name: table.column(name) for name in self.columns}
        while len(self._kept) > 1 and self._bytes[list(self._kept)].sum() > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[group]

    def _metadata_of(self, file: int) -> Any:
        if file not in self._metadata:
            self._metadata[file] = _read(self.files[file], _library().read_metadata)
        return self._metadata[file]
