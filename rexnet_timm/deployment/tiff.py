"""TIFF files that are written part by part, and read again before they count as written."""
import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import numpy as np

from ..data.geo import open_tiff
from ..errors import first_lines

__all__ = ['TiffWriter']

BLOCK = 256  # side of the tiles of a file
UNFINISHED = 'it could not be written whole: is there space for it?'


class TiffWriter:
    """A new TIFF file in tiles, with rasterio. A context, at whose end the file is whole.

    GDAL tells no error of what it writes when a file is closed, as where the disk is full. So the sum of every row is
    kept, and compared with that of the file.

    Args:
        path: The file; an existing one is replaced.
        name: The name that errors give to it.
        size: Height and width.
        count: Number of bands.
        dtype: Their type, as numpy names it. Whole numbers are compressed. Floats are not: they hardly shrink, and a
            tile that grows when its second half comes would leave a gap in the file.
        place: Where it lies, as keywords of `rasterio.open`.
        nodata: Value of pixels without data, None for no such value.
        colors: uint8 (n, 3) RGB of the values from 0 on, of a file of one band.
        names: Of the bands, or of the values of a file of one band, '' for a value that is none.

    Raises:
        OSError: The file cannot be written, or at the end of the context does not hold what was written.
    """

    def __init__(
            self,
            path: str,
            name: str,
            size: tuple[int, int],
            count: int,
            dtype: str,
            place: Mapping[str, Any],
            nodata: float | None = None,
            colors: np.ndarray | None = None,
            names: Sequence[str] = (),
    ) -> None:
        self.path, self.name, self.sums = path, name, np.zeros(size[0], np.uint64)
        options = {'interleave': 'band'}
        if np.issubdtype(dtype, np.integer):
            options = {'compress': 'deflate', 'interleave': 'pixel'}
        if count in (3, 4) and dtype == 'uint8':
            options.update(photometric='RGB', predictor=2, **({'alpha': 'non-premultiplied'} if count == 4 else {}))
        with self._errors():
            self._dataset = open_tiff(
                path, 'w', height=size[0], width=size[1], count=count, dtype=dtype, nodata=nodata,
                tiled=True, blockxsize=BLOCK, blockysize=BLOCK, bigtiff='if_safer', **options, **place)
        if colors is not None:
            palette = {value: (*map(int, color), 255) for value, color in enumerate(colors)}
            if nodata is not None:
                palette[int(nodata)] = (0, 0, 0, 0)
            self._dataset.write_colormap(1, palette)
        if count == 1:
            self._dataset.update_tags(1, **{f'class_{value}': name for value, name in enumerate(names) if name})
        elif names:
            self._dataset.descriptions = tuple(names)

    def write(self, top: int, left: int, values: np.ndarray) -> None:
        """Write (count, rows, columns), of which the first pixel belongs at `top` and `left`."""
        from rasterio.windows import Window

        rows, columns = values.shape[-2:]
        with self._errors():
            self._dataset.write(values, window=Window(left, top, columns, rows))
        self.sums[top:top + rows] += _sums_of_rows(values)

    def __enter__(self) -> 'TiffWriter':
        return self

    def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._errors() if error is None else suppress(Exception):
            self._dataset.close()
        if error is None and not self._is_whole():
            raise OSError(errno.EIO, UNFINISHED, self.name)

    def _is_whole(self) -> bool:
        import rasterio

        sums = np.zeros_like(self.sums)
        try:
            with open_tiff(self.path) as file:
                for band in file.indexes:
                    for top in range(0, file.height, BLOCK):
                        values = file.read([band], window=((top, min(top + BLOCK, file.height)), (0, file.width)))
                        sums[top:top + values.shape[1]] += _sums_of_rows(values)
        except rasterio.errors.RasterioError:
            return False
        return np.array_equal(sums, self.sums)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Tell errors of rasterio as those of a file that cannot be written."""
        import rasterio

        try:
            yield
        except rasterio.errors.RasterioError as error:
            reason = f'{UNFINISHED} ({first_lines(error.__cause__ or error, 1)})'
            raise OSError(errno.EIO, reason, self.name) from error


def _sums_of_rows(values: np.ndarray) -> np.ndarray:
    """uint64 (rows,): the sum of the bits of (count, rows, columns), taken as whole numbers."""
    return np.ascontiguousarray(values).view(f'u{values.itemsize}').sum(axis=(0, 2), dtype=np.uint64)
