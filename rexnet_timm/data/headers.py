"""What image files tell before their pixels are decoded, and how they are opened.

Pillow's mode does not tell how many bits and pages a file has or which way up it is shown, so the header is read too.
"""
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..errors import DatasetError, first_lines

__all__ = [
    'ARRAY_EXTENSION', 'COLOR_SPACES', 'TIFF_EXTENSIONS', 'Header', 'TooLargeError', 'array_of', 'check_pages',
    'first_tags', 'has_place', 'header_of', 'is_cut_by_windows', 'is_too_large', 'load_array', 'max_pixels',
    'num_pages', 'opened', 'orientation_of', 'read_header']

TIFF_EXTENSIONS = ('.tif', '.tiff')
ARRAY_EXTENSION = '.npy'
# Modes of Pillow other than those of 8-bit channels, and what such pictures are converted to
COLOR_SPACES = {'P': 'RGBA', 'PA': 'RGBA', 'CMYK': 'RGB', 'YCbCr': 'RGB', 'LAB': 'RGB', 'HSV': 'RGB', '1': 'L'}
_WITH_ALPHA = ('LA', 'La', 'RGBA', 'RGBa')
# The name of a file does not bind Pillow, which would hand an EPS file to the interpreter of PostScript
FORMATS = ('BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')

_BIT_DEPTH_OF_PNG, _COLOR_TYPE_OF_PNG = 24, 25  # the places of these bytes in every PNG file
_CHANNELS_OF_PNG = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type; of 4 and 6 the last is alpha
# Tags of TIFF, by their names in the specification.
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION = 254, 258, 262
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION = 256, 257, 274
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 277, 338, 339
_ROWS_PER_STRIP, _TILE_WIDTH = 278, 322
_LEAST_PIXELS, _MOST_ROWS = 2048 ** 2, 64  # from which windows pay, and of a strip with which they do
_UNSIGNED, _SIGNED = 1, 2  # sample formats
_OVERVIEW_OR_MASK = 0b101  # bits of NewSubfileType
_WHITE_IS_ZERO, _PALETTE = 0, 3
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_TURNING = (5, 6, 7, 8)  # orientations that exchange rows and columns
_PLACES_OF_PIXELS = (273, 279, 324, 325)  # offsets and bytes of strips and tiles
_BIGTIFF = (b'II+\0', b'MM\0+')
# Where on the earth a picture lies: the tags of GeoTIFF, and the text files beside it
_MODEL_PIXEL_SCALE, _MODEL_TIEPOINT, _MODEL_TRANSFORMATION, _GEO_KEY_DIRECTORY = 33550, 33922, 34264, 34735
_RPC_COEFFICIENTS = 50844
_PLACE_TAGS = (_MODEL_PIXEL_SCALE, _MODEL_TIEPOINT, _MODEL_TRANSFORMATION, _GEO_KEY_DIRECTORY, _RPC_COEFFICIENTS)
_WORLD_FILES = ('.tfw', '.tifw', '.tiffw', '.wld')


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its pixels are decoded.

    Attributes:
        format: Pillow's name of the file format; NPY for an array of NumPy.
        mode: Pillow's mode of the pixels; empty of what Pillow does not read.
        bits: Bits a channel in the file.
        channels: Channels in the file, of which Pillow may leave out some.
        size: Height and width as displayed.
        orientation: The EXIF orientation, 1 (as stored) to 8; 1 where a georeference goes before it.
        white_is_zero: Whether Pillow inverts the stored numbers.
        associated_alpha: Whether Pillow divides the stored colours by the last channel.
        signed: Whether the stored numbers have a sign, of which Pillow tells nothing at 8 bits; None where the format
            does not say.
        is_palette: Whether the one channel has numbers of colours.
        marked_alpha: Whether a TIFF, or a PNG of 16 bits, says that its last channel is alpha.
    """
    format: str
    mode: str
    bits: int
    channels: int
    size: tuple[int, int]
    orientation: int
    white_is_zero: bool
    associated_alpha: bool
    signed: bool | None
    is_palette: bool = False
    marked_alpha: bool = False

    @property
    def turned(self) -> bool:
        """Whether height and width are the other way round in the file."""
        return self.orientation in _TURNING

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is marked as alpha."""
        # of a TIFF, Pillow's mode has alpha for what is none too
        return self.marked_alpha or self.format != 'TIFF' and self.mode in _WITH_ALPHA

    @property
    def bands(self) -> int:
        """Bands, alpha included; those of the colours where the file has a palette, inks or another colour space."""
        if self.is_palette or self.mode in COLOR_SPACES and self.mode != '1':
            return 3
        return self.channels

    @property
    def is_whole(self) -> bool:
        """Whether Pillow reads all that is in the file."""
        if self.format == 'TIFF' and self.mode in _WITH_ALPHA and not self.marked_alpha:
            return False  # Pillow fills with opaque alpha what is no alpha
        own = _channels_of(self.mode) if self.mode else 0
        return self.channels == own and (self.bits <= 8 or own == 1)


def _channels_of(mode: str) -> int:
    return 1 if mode.startswith('I;') else Image.getmodebands(mode)


class TooLargeError(DatasetError):
    """An image of more pixels than are decoded."""


def max_pixels() -> int | None:
    """Pixels of the largest picture that is decoded, Pillow's MAX_IMAGE_PIXELS; None where that is switched off."""
    return Image.MAX_IMAGE_PIXELS


def is_too_large(path: Any) -> bool:
    """Whether a file is a TIFF of more pixels than Pillow decodes, by its tags."""
    if not isinstance(path, Path) or path.suffix.lower() not in TIFF_EXTENSIONS or max_pixels() is None:
        return False
    tags = first_tags(path)
    sides = [tags.get(tag) for tag in (_IMAGE_LENGTH, _IMAGE_WIDTH)]
    return all(isinstance(side, int) for side in sides) and sides[0] * sides[1] > max_pixels()


def is_cut_by_windows(image: Any, mask: Any) -> bool:
    """Whether crops of a pair are better read by windows: both are TIFFs of many pixels in parts, with rasterio there.

    Decoding such a pair whole for each crop takes many times what the crop takes.
    """
    for path in (image, mask):
        if not isinstance(path, Path) or path.suffix.lower() not in TIFF_EXTENSIONS:
            return False
        tags = first_tags(path)
        sides = [tags.get(tag) for tag in (_IMAGE_LENGTH, _IMAGE_WIDTH)]
        is_in_parts = _TILE_WIDTH in tags or tags.get(_ROWS_PER_STRIP, 2 ** 32) <= _MOST_ROWS
        if not is_in_parts or tags.get(_ORIENTATION, 1) != 1 or not (
                all(isinstance(side, int) for side in sides) and sides[0] * sides[1] > _LEAST_PIXELS):
            return False
    return find_spec('rasterio') is not None


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """The file with its header read. Only Pillow's calls belong inside: all that they raise names the file."""
    try:
        # opened here: a plain grey TIFF with an orientation, which Pillow opens by its name, it maps with its rows and
        # columns exchanged; and what stands for a file in a larger one opens itself
        with path.open('rb') as file:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', Image.DecompressionBombWarning)
                image = Image.open(file, formats=FORMATS)
            with image:
                limit = max_pixels()
                # Pillow only warns up to twice its limit, and 20 kB of a blank mask can be 170 million pixels; that the
                # warning is an error cannot be relied on, since all threads share the filters of warnings
                if limit is not None and image.width * image.height > limit:
                    raise Image.DecompressionBombError
                yield image
    except Image.DecompressionBombError as error:
        raise TooLargeError(
            f'Every {kind} must have at most {max_pixels()} pixels: {path} has more; cut the image and '
            'its mask into smaller tiles, such as 2048 x 2048.') from error
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, ...
        remedy = 'replace or remove the file.'
        if isinstance(error, UnidentifiedImageError):
            remedy = f'save it as 8-bit PNG where another program can read it, or {remedy}'
        raise DatasetError(
            f'Every {kind} must be readable: {path} is not ({type(error).__name__}: {error}); {remedy}') from error


def has_place(path: Any, tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF of these tags has a georeference, in it or in a world file beside it."""
    if any(tag in tags for tag in _PLACE_TAGS):
        return True
    return isinstance(path, Path) and any(
        path.with_suffix(case).is_file() for ending in _WORLD_FILES for case in (ending, ending.upper()))


def orientation_of(image: Image.Image, path: Any, decoded: bool = False) -> int:
    """The EXIF orientation by which a picture is shown, 1 to 8; 1 is as stored.

    It does not count in a TIFF that has a georeference, which is that of the pixels as they are stored.
    """
    if image.format == 'TIFF' and not decoded and has_place(path, image.tag_v2):
        return 1
    if image.format == 'PNG' and not decoded and 'exif' not in image.info:
        return 1  # Pillow would decode the pixels to look behind them
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF part raises as damaged pixels do, and programs show such photos as stored
        return 1


def num_pages(image: Image.Image) -> int:
    """Number of pictures in a file, without the overviews and masks of a GeoTIFF and the extras of a phone's photo."""
    pages = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
    if image.format != 'TIFF' or pages == 1:
        return pages
    kinds = []
    for page in range(pages):
        image.seek(page)
        kinds.append(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _OVERVIEW_OR_MASK)
    image.seek(0)
    # an overview in the first place, where the picture is looked for, is one page too many
    return pages if kinds[0] else kinds.count(0)


def header_of(image: Image.Image, path: Path) -> Header:
    tags = image.tag_v2 if image.format == 'TIFF' else {}
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,))) if tags else {'1': 1, 'I': 32, 'F': 32}.get(image.mode, 8)
    channels, facts = tags.get(_SAMPLES_PER_PIXEL, len(image.getbands())), _facts(tags)
    if image.format == 'PNG':
        with path.open('rb') as file:
            head = file.read(_COLOR_TYPE_OF_PNG + 1)
        bits, color_type = head[_BIT_DEPTH_OF_PNG], head[_COLOR_TYPE_OF_PNG]
        if bits > 8:  # of which the mode does not always tell
            channels, facts['marked_alpha'] = _CHANNELS_OF_PNG[color_type], color_type in (4, 6)
    orientation = orientation_of(image, path)
    width, height = image.size
    # Pillow tells the size of a TIFF as displayed, whether it has a georeference or not
    turned_by_pillow = tags.get(_ORIENTATION, 1) if tags else 1
    if (orientation in _TURNING) != (turned_by_pillow in _TURNING):
        width, height = height, width
    return Header(
        image.format, image.mode, bits, channels, (height, width), orientation, **facts,
        is_palette=image.mode in ('P', 'PA'))


def _facts(tags: Mapping[int, Any]) -> dict[str, Any]:
    """What the tags of a TIFF tell, by attributes of a header; without tags what holds of other formats."""
    extra = tags.get(_EXTRA_SAMPLES, ())
    return {
        'white_is_zero': tags.get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO,
        'associated_alpha': _ASSOCIATED_ALPHA in extra,
        'signed': _SIGNED in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)) if tags else None,
        'marked_alpha': bool(extra) and extra[-1] in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)}


def first_tags(path: Path) -> Mapping[int, Any]:
    """The tags of a TIFF's first picture, as Pillow gives them, but for the long lists of where its pixels are.

    None of what is no TIFF, or damaged there.
    """
    try:
        with path.open('rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of damaged tags
            head = file.read(8)
            head += file.read(8) if head[:4] in _BIGTIFF else b''
            tags = ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            return {tag: tags[tag] for tag in tags if tag not in _PLACES_OF_PIXELS}
    except Exception:  # as decoders of damaged files raise; whoever reads the pixels says it
        return {}


def _header_of_tags(path: Path) -> Header | None:
    """The header of a TIFF of a kind that Pillow does not know; None for what is no TIFF."""
    tags = first_tags(path) if path.suffix.lower() in TIFF_EXTENSIONS else {}
    sides = [tags.get(_IMAGE_LENGTH), tags.get(_IMAGE_WIDTH)]
    if not all(isinstance(side, int) for side in sides):
        return None
    orientation = 1 if has_place(path, tags) else tags.get(_ORIENTATION, 1)
    return Header(
        'TIFF', '', max(tags.get(_BITS_PER_SAMPLE, (1,))), tags.get(_SAMPLES_PER_PIXEL, 1),
        tuple(sides[::-1] if orientation in _TURNING else sides), orientation, **_facts(tags),
        is_palette=tags.get(_PHOTOMETRIC_INTERPRETATION) == _PALETTE)


def load_array(path: Any, kind: str) -> np.ndarray:
    """The array of a .npy file; that of a file of its own is mapped, and read when it is used.

    So a header that tells a shape that no memory holds does not fit its file, and fails.

    Args:
        path: The file, or what opens like one.
        kind: 'image', 'mask' or 'depth map', for messages.

    Raises:
        DatasetError: Not readable.
    """
    try:
        if isinstance(path, Path):
            return np.lib.format.open_memmap(path, mode='r')
        with path.open('rb') as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise DatasetError(
            f'Every {kind} must be readable: {path} is not ({type(error).__name__}: {first_lines(error, 1)}); replace '
            'or remove the file.') from error


def array_of(path: Any) -> np.ndarray:
    """The array of an image, as rows, columns and bands."""
    values = load_array(path, 'image')
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DatasetError(
            f'An image must be an array (H, W) or (H, W, bands): {path} has the shape {values.shape}; save it so.')
    return values[..., None] if values.ndim == 2 else values


def check_pages(pages: int, path: Path, kind: str) -> None:
    if pages > 1:
        raise DatasetError(
            f'Every {kind} must be one picture: {path} has {pages} pages or frames, of which only the first would be '
            'read; save each as a file of its own, with its partner, or keep only the one that is meant.')


def read_header(path: Path, kind: str) -> Header:
    """Read what a file tells before its pixels.

    Args:
        path: The file, or what stands for one and opens like it, or has a method `header()`.
        kind: 'image' or 'mask', for messages. Of a TIFF image Pillow need not know the kind, nor take the pixels.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one page.
    """
    if hasattr(path, 'header'):
        return path.header()
    if path.suffix.lower() == ARRAY_EXTENSION:
        values = array_of(path)
        return Header(
            'NPY', '', values.dtype.itemsize * 8, values.shape[-1], values.shape[:2], 1, False, False,
            values.dtype.kind != 'u')
    try:
        with opened(path, kind) as image:
            pages, header = num_pages(image), header_of(image, path)
    except DatasetError as error:
        is_other = isinstance(error, TooLargeError) or isinstance(error.__cause__, UnidentifiedImageError)
        found = _header_of_tags(path) if is_other else None
        if kind != 'image' or found is None:
            raise
        return found
    check_pages(pages, path, kind)
    return header
