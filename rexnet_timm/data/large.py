"""Images of more pixels than are decoded at once, with their masks: parts of them as samples, and where classes are.

Image and mask are TIFFs that are read by windows, see `geo`.
"""
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..errors import DatasetError
from .crops import Span, draw_rarer_class
from .geo import Scene, check_blocks, check_upright, levels_of, open_checked, unreadable
from .headers import TIFF_EXTENSIONS, Header, TooLargeError, first_tags, max_pixels, read_header
from .labels import ColorTable
from .masks import ColoredMaskError

__all__ = [
    'TILE', 'ClassPlaces', 'LabelWindow', 'LargeMask', 'SceneWindow', 'bands_of', 'blocks_of', 'check_large',
    'color_parts', 'label_parts', 'tiles_of']

TILE = 1024  # longest side of a part that is validated
BLOCK = 1024  # side of the blocks in which classes are counted
_GRID = 32  # sides of tiles are multiples of it, as far as the image allows
_PHOTOMETRIC_INTERPRETATION, _WHITE_IS_ZERO = 262, 0  # of TIFF


class LargeMask:
    """A mask in a TIFF, read by windows. A context, at whose end it is closed.

    Args:
        path: The file.
        size: Height and width that it must have; None for any.
        colors: Of a mask in colours, the table of these.

    Attributes:
        size: Height and width.

    Raises:
        DatasetError: Not readable as TIFF, neither whole numbers nor colours, of another size, or stored in blocks that
            are too large for windows.
        ValueError: rasterio cannot be imported.
    """

    def __init__(self, path: Any, size: Sequence[int] | None = None, colors: ColorTable | None = None) -> None:
        if not isinstance(path, Path) or path.suffix.lower() not in TIFF_EXTENSIONS:
            raise TooLargeError(
                f'The mask of an image of more than {max_pixels()} pixels, which is read by windows, must be a TIFF: '
                f'{path} is none; save it as TIFF in tiles, or cut image and mask into smaller ones.')
        self.path, self.colors = path, colors
        with ExitStack() as stack:
            self._dataset = open_checked(path, stack)
            check_upright(self._dataset, path)
            check_blocks(self._dataset, path)
            self.size = self._dataset.height, self._dataset.width
            self._check(size)
            self._palette = levels_of(self._dataset) if self._dataset.count == 1 else None
            self._stack = stack.pop_all()

    def _check(self, size: Sequence[int] | None) -> None:
        source = self._dataset
        kinds = {np.dtype(kind) for kind in source.dtypes}
        in_colors = source.count in (3, 4) and kinds == {np.dtype(np.uint8)}
        if not in_colors and (source.count != 1 or next(iter(kinds)).kind not in 'iu'):
            raise DatasetError(
                f'The mask of an image that is read by windows must have one band of whole numbers, or colours of 8 '
                f'bits: {self.path} has {source.count} of {source.dtypes[0]}; save it so.')
        if self.colors is None and first_tags(self.path).get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
            raise DatasetError(
                f'A mask must say plainly which number a pixel has: {self.path} is a TIFF with inverted grey '
                '(WhiteIsZero); save it with black as zero.')
        if size is not None and self.size != tuple(size):
            raise DatasetError(
                f'Image and mask must have the same size: {self.path} is {self.size[1]} x {self.size[0]} (width x '
                f'height) and its image {size[1]} x {size[0]}; export it again at the size of the image.')

    def __enter__(self) -> 'LargeMask':
        return self

    def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def read(self, rows: Span, columns: Span) -> np.ndarray:
        """The numbers of a part as `masks.stored_labels` gives them, (rows, columns).

        Raises:
            DatasetError: The file is damaged there, or has colours without a table.
        """
        values = self._values(rows, columns)
        if self.colors is not None:
            return self._of_colors(values)
        if len(values) > 1 and (values[1:3] != values[0]).any():
            raise ColoredMaskError(
                f'A mask must hold class indices, or a colour table must say what its colours are: {self.path} has '
                'colours; pass as color_map a text file with a line for each class, such as "road,128,64,128".')
        return values[0].astype(bool) if self._is_bits() else values[0]

    def read_colors(self, rows: Span, columns: Span) -> np.ndarray:
        """The colours of a part, uint8 (rows, columns, 3). DatasetError where the file is damaged."""
        return self._rgb(self._values(rows, columns))

    def _values(self, rows: Span, columns: Span) -> np.ndarray:
        import rasterio

        try:
            return self._dataset.read(window=rasterio.windows.Window.from_slices(rows, columns))
        except rasterio.errors.RasterioError as error:
            raise unreadable(self.path, error.__cause__ or error, 'replace or remove the file.') from error

    def _is_bits(self) -> bool:
        return self._dataset.tags(1, ns='IMAGE_STRUCTURE').get('NBITS') == '1'

    def _rgb(self, values: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            pixels = self._palette[values[0]]
            return pixels if pixels.shape[-1] == 3 else pixels.repeat(3, -1)
        return np.moveaxis(values[:3] if len(values) > 1 else values.repeat(3, 0), 0, -1)

    def _of_colors(self, values: np.ndarray) -> np.ndarray:
        labels = self.colors(self._rgb(values))
        if len(values) == 1 and self._palette is None and (labels == self.colors.unlisted).any():
            raise DatasetError(
                f'A mask with a colour table must have colours: {self.path} is grey and has numbers that the table '
                'does not have; if these are labels, leave out color_map.')
        return labels


class LabelWindow:
    """A part of a large mask, as what draws its labels.

    Args:
        path: The TIFF.
        whole: Height and width that it must have.
        rows: First row, and the one after the last.
        columns: Likewise.
        colors: Of a mask in colours, the table of these.
    """

    def __init__(
            self,
            path: Any,
            whole: tuple[int, int],
            rows: Span,
            columns: Span,
            colors: ColorTable | None = None,
    ) -> None:
        self.path, self.whole, self.rows, self.columns, self.colors = path, whole, rows, columns, colors

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the part."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def __str__(self) -> str:
        return _name_of(self)

    def labels(self) -> np.ndarray:
        """The numbers as `masks.stored_labels` gives them, (rows, columns). DatasetError as of `LargeMask`."""
        with LargeMask(self.path, self.whole, self.colors) as mask:
            return mask.read(self.rows, self.columns)


class SceneWindow:
    """A part of a large image, as what stands for a file of its own.

    Args:
        path: The TIFF.
        rows: First row, and the one after the last.
        columns: Likewise.
    """
    suffix = ''

    def __init__(self, path: Path, rows: Span, columns: Span) -> None:
        self.path, self.rows, self.columns = path, rows, columns

    def __str__(self) -> str:
        return _name_of(self)

    def __fspath__(self) -> str:
        return str(self)

    def header(self) -> Header:
        """The header of the image, at the size of the part."""
        size = self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]
        return replace(read_header(self.path, 'image'), size=size)

    def pixels(self, **reading: Any) -> torch.Tensor:
        """What `images.read_image` returns, of the part."""
        with Scene(self.path, **reading) as scene:
            return scene.read(self.rows, self.columns).pixels


def _name_of(part: LabelWindow | SceneWindow) -> str:
    (top, bottom), (left, right) = part.rows, part.columns
    return f'{part.path}, rows {top} to {bottom}, columns {left} to {right}'


def blocks_of(size: Sequence[int]) -> list[tuple[Span, Span]]:
    """Rows and columns of the blocks of `BLOCK` pixels in an image of a height and width, row after row."""
    rows, columns = ([(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)] for length in size)
    return [(row, column) for row in rows for column in columns]


def bands_of(size: Sequence[int]) -> list[Span]:
    """Rows of the bands over the whole width of an image of a height and width, each of the pixels of a block or so."""
    step = max(1, BLOCK ** 2 // size[1])
    return [(begin, min(begin + step, size[0])) for begin in range(0, size[0], step)]


def _tile_spans(length: int) -> list[Span]:
    """As few as do, of about one length, on a grid that networks with strides see too."""
    step = -(-length // -(-length // TILE) // _GRID) * _GRID
    return [(begin, min(begin + step, length)) for begin in range(0, length, step)]


def tiles_of(image: Path, mask: Any, colors: ColorTable | None = None) -> list[tuple[SceneWindow, LabelWindow]]:
    """A large image and its mask as pairs of parts that cover every pixel once, each at most `TILE` high and wide."""
    size = read_header(image, 'image').size
    rows, columns = map(_tile_spans, size)
    return [(SceneWindow(image, row, column), LabelWindow(mask, size, row, column, colors))
            for row in rows for column in columns]


def check_large(image: Path, mask: Any, reading: dict[str, Any], colors: ColorTable | None = None) -> None:
    """Raise DatasetError for a large image and a mask that cannot be read by windows, as far as headers tell."""
    with Scene(image, **reading) as scene, LargeMask(mask, scene.size, colors):
        pass


def label_parts(path: Path, colors: ColorTable | None = None, most: int | None = None) -> Iterator[np.ndarray]:
    """The numbers of a large mask, block by block; at most `most` blocks in a fixed random order, or all in theirs."""
    with LargeMask(path, None, colors) as mask:
        blocks = blocks_of(mask.size)
        if most is not None and most < len(blocks):
            blocks = random.Random(0).sample(blocks, most)
        for block in blocks:
            yield mask.read(*block)


def color_parts(path: Path) -> Iterator[np.ndarray]:
    """The colours of a large mask, block by block, uint8 (rows, columns, 3)."""
    with LargeMask(path) as mask:
        for block in blocks_of(mask.size):
            yield mask.read_colors(*block)


class ClassPlaces:
    """Where the classes of a large mask are: the pixels of each class in each of its blocks.

    Args:
        mask: The mask.
        classes: From stored numbers to classes, int64 (H, W).
        num_classes: Number of classes; what is not below it is ignored.
    """

    def __init__(self, mask: LargeMask, classes: Callable[[np.ndarray], np.ndarray], num_classes: int) -> None:
        self.size, self.num_classes = mask.size, num_classes
        self.counts = np.stack(list(self._counted(mask, classes)))

    def _counted(self, mask: LargeMask, classes: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks_of(self.size):
            found = classes(mask.read(*block)).ravel()
            yield np.bincount(found[found < self.num_classes], minlength=self.num_classes)

    def draw(self, ignore_label: int, read: Callable[[Span, Span], np.ndarray]) -> tuple[int, int] | None:
        """Row and column of a pixel of a class that is not the image's commonest one, as `crops` draws it of a mask in
        memory; None where there is no such class.

        Args:
            ignore_label: Class that does not count.
            read: The classes of a part.
        """
        drawn = draw_rarer_class(torch.from_numpy(self.counts.sum(0)), ignore_label)
        if drawn is None:
            return None
        label, number = drawn
        until = self.counts[:, label].cumsum()
        block = int(np.searchsorted(until, number, side='right'))
        rows, columns = blocks_of(self.size)[block]
        number -= int(until[block] - self.counts[block, label])
        row, column = np.argwhere(read(rows, columns) == label)[number].tolist()
        return rows[0] + row, columns[0] + column
