"""Image files, read as checked tensors.

Pillow's mode does not tell how many bits and pages a file has or which way up it is shown, and Pillow itself cuts
16-bit colour to 8 bits, takes the first page, leaves out bands and keeps a photo as stored. So the header is read too,
and what Pillow would not give whole is read by rasterio.
"""
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError, first_lines
from .bands import EIGHT_BITS, Bands, Scale, as_channels, check_bits, pick_bands, scaled

TIFF_EXTENSIONS = ('.tif', '.tiff')
ARRAY_EXTENSION = '.npy'
IMAGE_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
# Modes of Pillow other than those of 8-bit channels, and what such pictures are converted to
_COLOR_SPACES = {'P': 'RGBA', 'PA': 'RGBA', 'CMYK': 'RGB', 'YCbCr': 'RGB', 'LAB': 'RGB', 'HSV': 'RGB', '1': 'L'}
_WITH_ALPHA = ('LA', 'La', 'RGBA', 'RGBa')
# The name of a file does not bind Pillow, which would hand an EPS file to the interpreter of PostScript
FORMATS = ('BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')

# What brings a picture of an EXIF orientation upright. Pillow's exif_transpose does the same, and writes the EXIF part
# anew, which fails where that is damaged elsewhere.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BIT_DEPTH_OF_PNG, _COLOR_TYPE_OF_PNG = 24, 25  # the places of these bytes in every PNG file
_CHANNELS_OF_PNG = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type; of 4 and 6 the last is alpha
# Tags of TIFF, by their names in the specification.
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION = 254, 258, 262
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION = 256, 257, 274
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 277, 338, 339
_UNSIGNED, _SIGNED = 1, 2  # sample formats
_OVERVIEW_OR_MASK = 0b101  # bits of NewSubfileType
_WHITE_IS_ZERO, _PALETTE = 0, 3
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_PLACES_OF_PIXELS = (273, 279, 324, 325)  # offsets and bytes of strips and tiles
_BIGTIFF = (b'II+\0', b'MM\0+')


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its pixels are decoded.

    Attributes:
        format: Pillow's name of the file format; NPY for an array of NumPy.
        mode: Pillow's mode of the pixels; empty of what Pillow does not read.
        bits: Bits a channel in the file.
        channels: Channels in the file, of which Pillow may leave out some.
        size: Height and width as displayed.
        orientation: The EXIF orientation, 1 (as stored) to 8.
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
        return self.orientation in (5, 6, 7, 8)

    @property
    def has_alpha(self) -> bool:
        """Whether the last band is marked as alpha."""
        # of a TIFF, Pillow's mode has alpha for what is none too
        return self.marked_alpha or self.format != 'TIFF' and self.mode in _WITH_ALPHA

    @property
    def bands(self) -> int:
        """Bands, alpha included; those of the colours where the file has a palette, inks or another colour space."""
        if self.is_palette or self.mode in _COLOR_SPACES and self.mode != '1':
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


@contextmanager
def _open(path: Path, kind: str) -> Iterator[Image.Image]:
    """The file with its header read. Only Pillow's calls belong inside: all that they raise names the file."""
    try:
        # what stands for a file in a larger one opens itself
        with warnings.catch_warnings():
            # Pillow only warns up to twice its limit, and 20 kB of a blank mask can be 170 million pixels
            warnings.simplefilter('error', Image.DecompressionBombWarning)
            opened = Image.open(path if isinstance(path, Path) else path.open('rb'), formats=FORMATS)
        with opened as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(
            f'Every {kind} must have at most {max_pixels()} pixels: {path} has more; cut the image and '
            'its mask into smaller tiles, such as 2048 x 2048.') from error
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, ...
        remedy = 'replace or remove the file.'
        if isinstance(error, UnidentifiedImageError):
            remedy = f'save it as 8-bit PNG where another program can read it, or {remedy}'
        raise DatasetError(
            f'Every {kind} must be readable: {path} is not ({type(error).__name__}: {error}); {remedy}') from error


def _orientation(image: Image.Image, decoded: bool) -> int:
    """The EXIF orientation, 1 to 8; 1 is as stored."""
    if image.format == 'PNG' and not decoded and 'exif' not in image.info:
        return 1  # Pillow would decode the pixels to look behind them
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF part raises as damaged pixels do, and programs show such photos as stored
        return 1


def _num_pages(image: Image.Image) -> int:
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


def _header(image: Image.Image, path: Path) -> Header:
    tags = image.tag_v2 if image.format == 'TIFF' else {}
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,))) if tags else {'1': 1, 'I': 32, 'F': 32}.get(image.mode, 8)
    channels, facts = tags.get(_SAMPLES_PER_PIXEL, len(image.getbands())), _facts(tags)
    if image.format == 'PNG':
        with path.open('rb') as file:
            head = file.read(_COLOR_TYPE_OF_PNG + 1)
        bits, color_type = head[_BIT_DEPTH_OF_PNG], head[_COLOR_TYPE_OF_PNG]
        if bits > 8:  # of which the mode does not always tell
            channels, facts['marked_alpha'] = _CHANNELS_OF_PNG[color_type], color_type in (4, 6)
    orientation = _orientation(image, decoded=False)
    width, height = image.size
    if orientation in (5, 6, 7, 8) and image.format != 'TIFF':  # of which Pillow has taken care
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
    orientation = tags.get(_ORIENTATION, 1)
    return Header(
        'TIFF', '', max(tags.get(_BITS_PER_SAMPLE, (1,))), tags.get(_SAMPLES_PER_PIXEL, 1),
        tuple(sides[::-1] if orientation in (5, 6, 7, 8) else sides), orientation, **_facts(tags),
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


def _array(path: Any) -> np.ndarray:
    """The array of an image, as rows, columns and bands."""
    values = load_array(path, 'image')
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DatasetError(
            f'An image must be an array (H, W) or (H, W, bands): {path} has the shape {values.shape}; save it so.')
    return values[..., None] if values.ndim == 2 else values


def _check_pages(pages: int, path: Path, kind: str) -> None:
    if pages > 1:
        raise DatasetError(
            f'Every {kind} must be one picture: {path} has {pages} pages or frames, of which only the first would be '
            'read; save each as a file of its own, with its partner, or keep only the one that is meant.')


def read_header(path: Path, kind: str) -> Header:
    """Read what a file tells before its pixels.

    Args:
        path: The file.
        kind: 'image' or 'mask', for messages. Of a TIFF image Pillow need not know the kind, nor take the pixels.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one page.
    """
    if path.suffix.lower() == ARRAY_EXTENSION:
        values = _array(path)
        return Header(
            'NPY', '', values.dtype.itemsize * 8, values.shape[-1], values.shape[:2], 1, False, False,
            values.dtype.kind != 'u')
    try:
        with _open(path, kind) as image:
            pages, header = _num_pages(image), _header(image, path)
    except DatasetError as error:
        is_other = isinstance(error, TooLargeError) or isinstance(error.__cause__, UnidentifiedImageError)
        found = _header_of_tags(path) if is_other else None
        if kind != 'image' or found is None:
            raise
        return found
    _check_pages(pages, path, kind)
    return header


def upright(image: Image.Image) -> Image.Image:
    """A picture as displayed, its EXIF orientation applied; decodes it."""
    image.load()
    method = _UPRIGHT.get(_orientation(image, decoded=True))  # of a TIFF, Pillow has done it and taken the tag away
    return image if method is None else image.transpose(method)


def decode(path: Path, kind: str) -> tuple[Image.Image, Header]:
    """Decode a whole file now, so that a truncated one fails here, where its name is known.

    Args:
        path: The file.
        kind: 'image' or 'mask', for messages.

    Returns:
        The picture as displayed, its EXIF orientation applied, and its header.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one page.
    """
    with _open(path, kind) as image:
        pages, header = _num_pages(image), _header(image, path)
        shown = upright(image)
    _check_pages(pages, path, kind)
    return shown, header


def open_as(path: Path, mode: str) -> Image.Image:
    """Decode a file as it is stored, its EXIF orientation left out, in one of Pillow's modes.

    Raises:
        DatasetError: Not readable, too many pixels, or of a mode that Pillow cannot convert.
    """
    with _open(path, 'image') as image:
        return image.convert(mode)


def check_image_header(
        path: Path, header: Header, in_chans: int, bands: Sequence[int] = (), scale: Scale = EIGHT_BITS) -> None:
    """Raise DatasetError for an image of which something would be lost or changed; the arguments are `read_image`'s."""
    picked = pick_bands(header.bands, header.has_alpha, in_chans, bands, path)
    if header.associated_alpha and header.bands in picked:
        raise DatasetError(
            f'Each band must be independent of the others: the colours in {path} are stored multiplied by the last one '
            '(associated alpha); store it as unassociated alpha, or pass in_chans=3 to train a model without it.')
    check_bits(header.bits, scale, path)
    if header.format in ('TIFF', 'PNG') and not header.is_whole:
        from .geo import require_rasterio
        require_rasterio(path)


def convert(image: Image.Image, in_chans: int) -> Image.Image:
    """A picture of 8 bits a channel with 1 (grey), 3 (RGB) or 4 (RGBA) channels. ValueError where Pillow cannot."""
    if image.mode == IMAGE_MODES[in_chans]:
        return image  # of which Pillow would make a copy
    # Pillow converts LAB only to RGB, and would warn of a palette's transparency that is left out.
    between = {'LAB': 'RGB', 'P': 'RGBA'}.get(image.mode)
    image = image.convert(between) if between else image
    return image.convert(IMAGE_MODES[in_chans])


def read_image(
        path: Path, in_chans: int, bands: Sequence[int] = (), scale: Scale = EIGHT_BITS) -> tv_tensors.Image:
    """Read an image file as displayed, its EXIF orientation applied.

    Palette, CMYK, YCbCr and LAB images become RGB; grey becomes RGB and the other way round where the channels ask for
    it. Alpha that is neither asked for nor counted on is left out; the colours below transparent pixels stay as they
    are stored. A NumPy array (.npy) is (H, W) or (H, W, bands).

    Args:
        path: The file.
        in_chans: Channels of the result.
        bands: Which bands of the file they are, counted from 1; empty for all.
        scale: What values become 0 and 1, see `bands.Scale`.

    Returns:
        (in_chans, H, W): uint8 of images of 8 bits with the scale of 255, and otherwise float32, 0 to 1 as far as the
        scale says.

    Raises:
        DatasetError: Not readable, too many pixels, more than one page, other bands, or values of another kind than the
            scale is for.
        ValueError: A TIFF that only rasterio, the extra [geo], reads whole, where it cannot be imported.
    """
    path = Path(path) if isinstance(path, str) else path
    picture = None
    header = read_header(path, 'image') if path.suffix.lower() == ARRAY_EXTENSION else None
    if header is None:
        picture, header = _decode_whole(path)
    check_image_header(path, header, in_chans, bands, scale)
    if picture is not None and header.bits <= 8 and not bands and scale == EIGHT_BITS \
            and in_chans in (1, 3) and header.mode != 'RGBX':
        try:
            return tv_tensors.Image(F.pil_to_tensor(convert(picture, in_chans)))
        except ValueError as error:
            raise DatasetError(
                f'Images must be grey or in colour: {path} has mode {header.mode}, which Pillow cannot convert '
                f'({error}); save it as 8-bit RGB or grey.') from error
    found = _all_bands(path, picture, header)
    numbers = pick_bands(len(found.values), found.has_alpha, in_chans, bands, path)
    values = as_channels(found.values[[number - 1 for number in numbers]], in_chans)
    return tv_tensors.Image(scaled(values, scale, path))


def read_bands(path: Path) -> Bands:
    """All that an image file holds, its values as they are stored; see `read_image` for the rest.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one page.
        ValueError: No rasterio, where only that reads the file whole.
    """
    if path.suffix.lower() == ARRAY_EXTENSION:
        return _all_bands(path, None, read_header(path, 'image'))
    return _all_bands(path, *_decode_whole(path))


def _decode_whole(path: Path) -> tuple[Image.Image | None, Header]:
    """The picture, or None where Pillow would not give all of it, and the header."""
    try:
        with _open(path, 'image') as image:
            pages, header = _num_pages(image), _header(image, path)
            shown = upright(image) if header.is_whole else None
    except DatasetError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        return None, read_header(path, 'image')  # which raises the same, but for a TIFF that Pillow does not know
    _check_pages(pages, path, 'image')
    return shown, header


def _all_bands(path: Path, picture: Image.Image | None, header: Header) -> Bands:
    if header.format == 'NPY':
        return Bands(np.ascontiguousarray(np.moveaxis(_array(path), -1, 0)))
    if picture is not None:
        return Bands(_values(picture, header), header.has_alpha)
    if header.format in ('TIFF', 'PNG'):
        from .geo import read_whole
        return read_whole(path, header)
    raise DatasetError(
        f'Images of more than 8 bits a channel must be PNG, TIFF or NumPy arrays: {path} is {header.format} of '
        f'{header.bits} bits; save it as one of them.')


def _values(picture: Image.Image, header: Header) -> np.ndarray:
    """The bands of a whole picture (bands, H, W)."""
    between = _COLOR_SPACES.get(picture.mode)
    picture = picture.convert(between) if between else picture
    picture = picture.convert('RGB') if between == 'RGBA' else picture  # a palette's transparency
    values = np.array(picture)
    if header.mode == 'I' and header.bits == 32 and header.signed is False:
        values = values.view(np.uint32)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
