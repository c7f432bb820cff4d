"""Scenes: GeoTIFFs, and TIFFs beyond Pillow's limit of pixels, read by windows with rasterio.

Pillow decodes pictures as a whole, and knows neither where on the earth they lie nor bands beyond the fourth. A scene
is never in memory as a whole: GDAL, which rasterio calls, decodes the tiles or strips below a window. Smaller TIFFs,
and PNGs, with bands or bits that Pillow would leave out are read whole (`read_whole`).
"""
import errno
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import DatasetError, first_lines
from .bands import EIGHT_BITS, Bands, Scale, as_channels, check_bits, pick_bands, scaled, turned
from .headers import TIFF_EXTENSIONS, Header, TooLargeError, first_tags, has_place, max_pixels

_logger = logging.getLogger(__name__)

__all__ = [
    'TIFF_EXTENSIONS', 'Scene', 'Window', 'check_blocks', 'check_upright', 'is_scene', 'levels_of', 'open_checked',
    'open_tiff', 'read_parts', 'read_whole', 'require_rasterio', 'unreadable']

CACHE = 2 ** 28  # bytes of decoded blocks that GDAL keeps, for all files; by itself it would take 5 % of the machine
MAX_BLOCK = 2 ** 26  # bytes of a tile or strip that is decoded at once

# Tags of TIFF, by their names in the specifications of TIFF and GeoTIFF
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION, _EXTRA_SAMPLES = 256, 257, 274, 338
_ASSOCIATED_ALPHA = 1


class Window(NamedTuple):
    """A part of a scene.

    Attributes:
        pixels: (in_chans, rows, columns), uint8 or float32 as `bands.scaled` gives them.
        known: bool (rows, columns), False where the file says that there is no data; None where there is data
            everywhere.
    """
    pixels: torch.Tensor
    known: np.ndarray | None


def is_scene(path: str | os.PathLike) -> bool:
    """Whether a file is a TIFF with a georeference, in it or in a world file, or of more pixels than Pillow takes.

    Only its header is read, without rasterio. False for everything else, damaged files included.
    """
    path = Path(path)
    if path.suffix.lower() not in TIFF_EXTENSIONS:
        return False
    tags = first_tags(path)
    limit, sides = max_pixels(), [tags.get(_IMAGE_WIDTH), tags.get(_IMAGE_LENGTH)]
    if not all(isinstance(side, int) for side in sides):
        return False
    return (limit is not None and sides[0] * sides[1] > limit) or has_place(path, tags)


def require_rasterio(path: str | os.PathLike) -> None:
    """Raise ValueError unless rasterio, the extra [geo], can be imported; `path` is the file that needs it."""
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ValueError(
            'GeoTIFFs, and TIFFs and PNGs of more pixels, bands or bits than Pillow takes, are read by rasterio, which '
            f"cannot be imported here: {str(path)!r} is one; pip install 'rexnet-timm[geo]'") from error


def open_tiff(path: str | os.PathLike, mode: str = 'r', driver: str = 'GTiff', **options: Any) -> Any:
    """`rasterio.open` for TIFF files, or those of another driver, without a warning of a missing georeference."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        # one driver, and an absolute path: what is named .tif cannot lead GDAL to other files or addresses
        return rasterio.open(os.path.abspath(path), mode, driver=driver, **options)


class Scene:
    """A TIFF file that is read by windows, as the channels that a model takes. A context, at whose end it is closed.

    Its bands become channels as in :func:`read_image`. An alpha band beyond them tells where there is data. It is read
    in any thread, in one at a time.

    Args:
        path: The file. It needs no georeference.
        in_chans: Channels that are asked for.
        bands: Which bands they are, counted from 1; empty for all.
        scale: What values become 0 and 1, see `bands.Scale`.

    Attributes:
        size: Height and width.
        has_gaps: Whether there may be pixels without data: by a nodata value, a mask or an alpha band.

    Raises:
        DatasetError: Not readable as TIFF, other bands, values of another kind than the scale is for, more than one
            picture, or stored in blocks that are too large for windows.
        FileNotFoundError: No such file.
        ValueError: rasterio cannot be imported.
    """

    def __init__(
            self, path: str | os.PathLike, in_chans: int, bands: Sequence[int] = (), scale: Scale = EIGHT_BITS) -> None:
        require_rasterio(path)
        import rasterio

        if not os.path.isfile(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        self.path, self.in_chans, self._scale = Path(path), in_chans, scale
        with ExitStack() as stack:
            self._dataset = open_checked(self.path, stack)
            check_upright(self._dataset, self.path)
            check_blocks(self._dataset, self.path)
            self._bands = self._find_bands(bands)
            self.size = self._dataset.height, self._dataset.width
            gaps = rasterio.enums.MaskFlags.all_valid
            self.has_gaps = not self._alpha_is_channel and any(
                gaps not in flags for flags in self._dataset.mask_flag_enums)
            self._stack = stack.pop_all()

    def __enter__(self) -> 'Scene':
        return self

    def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def place(self) -> dict[str, Any]:
        """Where the scene lies, as keywords of `rasterio.open`; empty without a georeference."""
        points, crs = self._dataset.gcps
        place = {'gcps': points, 'crs': crs} if points else {
            'crs': self._dataset.crs, 'transform': self._dataset.transform}
        if self._dataset.rpcs is not None:
            place['rpcs'] = self._dataset.rpcs
        if not points and self._dataset.transform.is_identity:
            del place['transform']
        return {name: value for name, value in place.items() if value is not None}

    def read(self, rows: tuple[int, int], columns: tuple[int, int]) -> Window:
        """The part from the first to before the second of `rows` and `columns`.

        Raises:
            DatasetError: The file is damaged there.
        """
        import rasterio

        window = rasterio.windows.Window.from_slices(rows, columns)
        try:
            values = self._dataset.read(self._bands, window=window)
            known = self._dataset.dataset_mask(window=window) > 0 if self.has_gaps else None
        except rasterio.errors.RasterioError as error:
            cause = error.__cause__ or error  # GDAL's own words
            raise unreadable(self.path, cause, 'replace or remove the file.') from error
        values = _in_colors(values, self._levels)
        if self._palette_bands:
            values = values[[number - 1 for number in self._palette_bands]]
        return Window(scaled(as_channels(values, self.in_chans), self._scale, self.path), known)

    def _find_bands(self, chosen: Sequence[int]) -> list[int]:
        """Numbers of the bands that are read. DatasetError where they are not those that the model takes."""
        source = self._dataset
        has_alpha = _has_alpha(source)
        self._levels = levels_of(source) if source.count - has_alpha == 1 else None
        colors = 1 if self._levels is None else self._levels.shape[-1]
        count = source.count if colors == 1 else colors + has_alpha
        picked = pick_bands(count, has_alpha, self.in_chans, chosen, self.path)
        check_bits(max(np.dtype(kind).itemsize * 8 for kind in source.dtypes), self._scale, self.path)
        self._alpha_is_channel = has_alpha and count in picked
        if has_alpha and not self._alpha_is_channel:
            _logger.info('%s: band %d is marked as alpha: where it is 0, there is no data.', self.path, source.count)
        self._palette_bands = picked if colors == 3 else ()
        return [1] if self._palette_bands else picked


def read_parts(path: Path, number: int = 16, side: int = 64) -> Bands:
    """Some squares of a TIFF that is too large to be read whole, side by side, the same at every call."""
    import rasterio

    rng = np.random.default_rng(0)
    with ExitStack() as stack:
        source = open_checked(path, stack)
        check_blocks(source, path)
        height, width = min(side, source.height), min(side, source.width)
        try:
            parts = [source.read(window=rasterio.windows.Window(
                rng.integers(source.width - width + 1), rng.integers(source.height - height + 1), width, height))
                for _ in range(number)]
        except rasterio.errors.RasterioError as error:
            raise unreadable(path, error.__cause__ or error, 'replace or remove the file.') from error
        return Bands(_with_colors(np.concatenate(parts, axis=-1), source), _has_alpha(source))


def read_whole(path: Any, header: Header) -> Bands:
    """All bands of a TIFF or PNG as displayed, a palette as its colours.

    Args:
        path: The file, or what stands for one in a larger file.
        header: What is known of it.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one picture.
        ValueError: rasterio cannot be imported.
    """
    require_rasterio(path)
    import rasterio

    limit = max_pixels()
    if limit is not None and header.size[0] * header.size[1] > limit:
        raise TooLargeError(
            f'An image in memory has at most {limit} pixels: {path} has more; cut the image and its mask into smaller '
            'tiles, such as 2048 x 2048.')
    with ExitStack() as stack:
        source = open_checked(path, stack, 'GTiff' if header.format == 'TIFF' else 'PNG')
        has_alpha = _has_alpha(source)
        try:
            values = source.read()
        except rasterio.errors.RasterioError as error:
            raise unreadable(path, error.__cause__ or error, 'replace or remove the file.') from error
        values = _with_colors(values, source)
    return Bands(turned(values, header.orientation), has_alpha)


def open_checked(path: Any, stack: ExitStack, driver: str = 'GTiff') -> Any:
    """A file that is open as long as the stack. DatasetError for one of which something would be lost."""
    import rasterio

    stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
    try:
        if isinstance(path, Path):
            source = open_tiff(path, driver=driver)
        else:
            with path.open('rb') as file:
                source = open_tiff(stack.enter_context(rasterio.MemoryFile(file.read())).name, driver=driver)
        stack.enter_context(source)
    except rasterio.errors.RasterioError as error:
        raise unreadable(path, error, 'name a TIFF file.') from error
    if len(source.subdatasets) > 1:
        raise DatasetError(
            f'Every image must be one picture: {path} has {len(source.subdatasets)} pages; save each as a file of '
            'its own.')
    if isinstance(path, Path) and _ASSOCIATED_ALPHA in first_tags(path).get(_EXTRA_SAMPLES, ()):
        raise DatasetError(
            f'Bands must be independent: the colours in {path} are stored multiplied by the last (associated '
            'alpha); save it with unassociated alpha, or without.')
    return source


def check_upright(source: Any, path: Path) -> None:
    """Raise DatasetError for a file without a georeference that is shown otherwise than it is stored."""
    tags = first_tags(path)
    if tags.get(_ORIENTATION, 1) != 1 and not has_place(path, tags):
        raise DatasetError(
            f'An image without a georeference that is read by windows must be stored upright: {path} has the '
            f'orientation {tags[_ORIENTATION]}; turn its pixels, and take that tag away.')


def check_blocks(source: Any, path: Path) -> None:
    """Raise DatasetError for a file whose tiles or strips are too large for windows."""
    rows, columns = source.block_shapes[0]
    together = source.count if source.profile.get('interleave') == 'pixel' else 1
    if rows * columns * together * np.dtype(source.dtypes[0]).itemsize > MAX_BLOCK:
        raise DatasetError(
            f'An image that is read by windows must be stored in small tiles or strips: {path} has one of '
            f'{rows} x {columns} pixels, which is decoded at once; store it in tiles, as gdal_translate -co '
            "TILED=YES does, or in Python rasterio.shutil.copy(path, 'tiled.tif', TILED=True).")


def _has_alpha(source: Any) -> bool:
    from rasterio.enums import ColorInterp

    return source.count > 1 and source.colorinterp[-1] == ColorInterp.alpha


def _in_colors(values: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    """One band of a palette, or of fewer bits, as what its numbers mean (bands, rows, columns)."""
    return values if levels is None else np.moveaxis(levels[values[0]], -1, 0)


def _with_colors(values: np.ndarray, source: Any) -> np.ndarray:
    """All bands (bands, rows, columns) of a file, a palette as its colours."""
    levels = levels_of(source) if source.count - _has_alpha(source) == 1 else None
    return values if levels is None else np.concatenate([_in_colors(values[:1], levels), values[1:]])


def unreadable(path: Any, error: BaseException, remedy: str) -> DatasetError:
    """The error for a file that cannot be read."""
    return DatasetError(
        f'Every image must be readable: {path} is not ({type(error).__name__}: {first_lines(error, 1)}); '
        f'{remedy}')


def levels_of(source: Any) -> np.ndarray | None:
    """uint8 (256, 1 or 3): what the values of a single band mean, None where they are what they say."""
    from rasterio.enums import ColorInterp

    if source.dtypes[0] != 'uint8':
        return None
    if source.colorinterp[0] == ColorInterp.palette:  # as GDAL gives grey too in which white is zero
        colors = np.zeros((256, 3), np.uint8)
        for value, color in source.colormap(1).items():
            colors[value] = color[:3]
        return colors
    bits = int(source.tags(1, ns='IMAGE_STRUCTURE').get('NBITS', 8))
    return None if bits == 8 else (np.arange(256) % 2 ** bits * 255 // (2 ** bits - 1)).astype(np.uint8)[:, None]
