"""Scenes: GeoTIFFs, and TIFFs beyond Pillow's limit of pixels, read by windows with rasterio.

Pillow decodes pictures as a whole, and knows neither where on the earth they lie nor bands beyond the fourth. A scene
is never in memory as a whole: GDAL, which rasterio calls, decodes the tiles or strips below a window.
"""
import errno
import logging
import os
import shlex
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError, first_lines
from .images import convert, max_pixels

_logger = logging.getLogger(__name__)

__all__ = ['TIFF_EXTENSIONS', 'Scene', 'Window', 'is_scene', 'open_tiff', 'require_rasterio']

TIFF_EXTENSIONS = ('.tif', '.tiff')
CACHE = 2 ** 28  # bytes of decoded blocks that GDAL keeps, for all files; by itself it would take 5 % of the machine
MAX_BLOCK = 2 ** 26  # bytes of a tile or strip that is decoded at once

# Tags of TIFF, by their names in the specifications of TIFF and GeoTIFF
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION, _EXTRA_SAMPLES = 256, 257, 274, 338
_ASSOCIATED_ALPHA = 1
_MODEL_PIXEL_SCALE, _MODEL_TIEPOINT, _MODEL_TRANSFORMATION, _GEO_KEY_DIRECTORY = 33550, 33922, 34264, 34735
_RPC_COEFFICIENTS = 50844
_PLACE_TAGS = (_MODEL_PIXEL_SCALE, _MODEL_TIEPOINT, _MODEL_TRANSFORMATION, _GEO_KEY_DIRECTORY, _RPC_COEFFICIENTS)
_TAGS = (_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION, _EXTRA_SAMPLES, *_PLACE_TAGS)
_WORLD_FILES = ('.tfw', '.tifw', '.tiffw', '.wld')  # text files that hold the place of the picture beside them
_BIGTIFF = (b'II+\0', b'MM\0+')


class Window(NamedTuple):
    """A part of a scene.

    Attributes:
        pixels: uint8 (in_chans, rows, columns).
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
    tags = _first_tags(path)
    limit, sides = max_pixels(), [tags.get(_IMAGE_WIDTH), tags.get(_IMAGE_LENGTH)]
    if not all(isinstance(side, int) for side in sides):
        return False
    return (limit is not None and sides[0] * sides[1] > limit) or _has_place(path, tags)


def _has_place(path: Path, tags: Mapping[int, Any]) -> bool:
    world_files = [path.with_suffix(case) for ending in _WORLD_FILES for case in (ending, ending.upper())]
    return any(tag in tags for tag in _PLACE_TAGS) or any(file.is_file() for file in world_files)


def _first_tags(path: Path) -> Mapping[int, Any]:
    """Those tags of a TIFF's first picture that are asked for here; none of what is no TIFF, or damaged there."""
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of damaged tags
            head = file.read(8)
            head += file.read(8) if head[:4] in _BIGTIFF else b''
            tags = ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            return {tag: tags[tag] for tag in _TAGS if tag in tags}
    except Exception:  # as decoders of damaged files raise; whoever reads the pixels says it
        return {}


def require_rasterio(path: str | os.PathLike) -> None:
    """Raise ValueError unless rasterio, the extra [geo], can be imported; `path` is the scene that needs it."""
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ValueError(
            'GeoTIFFs, and TIFFs too large for Pillow, are read and written by rasterio, which cannot be imported '
            f"here: {os.fspath(path)!r} is one; pip install 'rexnet-timm[geo]'") from error


def open_tiff(path: str | os.PathLike, mode: str = 'r', **options: Any) -> Any:
    """`rasterio.open` for TIFF files, without a warning where they have no georeference."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        # one driver, and an absolute path: what is named .tif cannot lead GDAL to other files or addresses
        return rasterio.open(os.path.abspath(path), mode, driver='GTiff', **options)


class Scene:
    """A TIFF file that is read by windows, as the channels that a model takes. A context, at whose end it is closed.

    A file has as many bands as the model has channels; grey becomes RGB and the other way round, and a palette becomes
    its colours, as in :func:`read_image`. An alpha band beyond them tells where there is data. It is read in any
    thread, in one at a time.

    Args:
        path: The file, of 8 bits a band. It needs no georeference.
        in_chans: Channels that are asked for.

    Attributes:
        size: Height and width.
        has_gaps: Whether there may be pixels without data: by a nodata value, a mask or an alpha band.

    Raises:
        DatasetError: Not readable as TIFF, other bands, more than 8 bits, more than one picture, or stored in blocks
            that are too large for windows.
        FileNotFoundError: No such file.
        ValueError: rasterio cannot be imported.
    """

    def __init__(self, path: str | os.PathLike, in_chans: int) -> None:
        require_rasterio(path)
        import rasterio

        if not os.path.isfile(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        self.path, self.in_chans = Path(path), in_chans
        with ExitStack() as stack:
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
            try:
                opened = open_tiff(path)
            except rasterio.errors.RasterioError as error:
                raise self._unreadable(error, 'name a TIFF file.') from error
            self._dataset = stack.enter_context(opened)
            self._check_file()
            self._bands = self._find_bands()
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
            raise self._unreadable(cause, 'replace or remove the file.') from error
        return Window(self._channels(values), known)

    def _channels(self, values: np.ndarray) -> torch.Tensor:
        """The bands of a window, uint8 (bands, rows, columns), as channels."""
        if self._levels is not None:  # of a palette, or of fewer bits
            values = np.moveaxis(self._levels[values], -1, 1).reshape(-1, *values.shape[1:])
        pixels = torch.from_numpy(values)
        if len(pixels) == self.in_chans:
            return pixels
        return F.pil_to_tensor(convert(F.to_pil_image(pixels), self.in_chans))

    def _check_file(self) -> None:
        """Raise DatasetError for a file of which something would be lost, or that cannot be read by windows."""
        source, path = self._dataset, self.path
        bits = [np.dtype(kind).itemsize * 8 for kind in source.dtypes]
        if any(kind != 'uint8' for kind in source.dtypes):
            raise DatasetError(
                f'Images must have 8 bits a channel: {path} has {max(bits)} ({source.dtypes[0]}); convert it to 8 bits '
                'by the range of its values, as it was done for the images of the training.')
        if len(source.subdatasets) > 1:
            raise DatasetError(
                f'Every image must be one picture: {path} has {len(source.subdatasets)} pages; save each as a file of '
                'its own.')
        tags = _first_tags(path)
        if _ASSOCIATED_ALPHA in tags.get(_EXTRA_SAMPLES, ()):
            raise DatasetError(
                f'Bands must be independent: the colours in {path} are stored multiplied by the last (associated '
                'alpha); save it with unassociated alpha, or without.')
        if tags.get(_ORIENTATION, 1) != 1 and not _has_place(path, tags):
            raise DatasetError(
                f'An image without a georeference that is read by windows must be stored upright: {path} has the '
                f'orientation {tags[_ORIENTATION]}; turn its pixels, and take that tag away.')
        rows, columns = source.block_shapes[0]
        together = source.count if source.profile.get('interleave') == 'pixel' else 1
        if rows * columns * together > MAX_BLOCK:
            raise DatasetError(
                f'An image that is read by windows must be stored in small tiles or strips: {path} has one of '
                f'{rows} x {columns} pixels, which is decoded at once; store it in tiles, as gdal_translate -co '
                "TILED=YES does, or in Python rasterio.shutil.copy(path, 'tiled.tif', TILED=True).")

    def _find_bands(self) -> list[int]:
        """Numbers of the bands that are read. DatasetError where they are not those that the model takes."""
        from rasterio.enums import ColorInterp

        source, kinds = self._dataset, self._dataset.colorinterp
        bands = list(source.indexes)
        has_alpha = len(bands) > 1 and kinds[-1] == ColorInterp.alpha
        self._alpha_is_channel = has_alpha and len(bands) == self.in_chans
        if has_alpha and not self._alpha_is_channel:
            number = bands.pop()
            _logger.info('%s: band %d is marked as alpha: where it is 0, there is no data.', self.path, number)
        self._levels = _levels(source) if len(bands) == 1 else None
        colors = len(bands) if self._levels is None else self._levels.shape[-1]
        if colors == self.in_chans or {colors, self.in_chans} <= {1, 3}:
            return bands
        remedy = 'name a file that has them.'
        if len(bands) > self.in_chans:
            numbers = ','.join(map(str, bands[:self.in_chans]))
            remedy = (
                'write those into a file of their own, in the order of the training, as rio stack '
                f'{shlex.quote(str(self.path))} -b {numbers} -o bands.tif does.')
        raise DatasetError(
            f'An image must have the {self.in_chans} bands that the model was trained on: {self.path} has '
            f'{source.count}{" with alpha" if has_alpha else ""}; {remedy}')

    def _unreadable(self, error: BaseException, remedy: str) -> DatasetError:
        return DatasetError(
            f'Every image must be readable: {self.path} is not ({type(error).__name__}: {first_lines(error, 1)}); '
            f'{remedy}')


def _levels(source: Any) -> np.ndarray | None:
    """uint8 (256, 1 or 3): what the values of a single band mean, None where they are what they say."""
    from rasterio.enums import ColorInterp

    if source.colorinterp[0] == ColorInterp.palette:  # as GDAL gives grey too in which white is zero
        colors = np.zeros((256, 3), np.uint8)
        for value, color in source.colormap(1).items():
            colors[value] = color[:3]
        return colors
    bits = int(source.tags(1, ns='IMAGE_STRUCTURE').get('NBITS', 8))
    return None if bits == 8 else (np.arange(256) % 2 ** bits * 255 // (2 ** bits - 1)).astype(np.uint8)[:, None]
