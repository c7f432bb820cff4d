"""Image files, read as checked tensors.

Pillow's mode does not tell how many bits and pages a file has or which way up it is shown, and Pillow itself cuts
16-bit colour to 8 bits, takes the first page and keeps a photo as stored. So the header is read too.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError

IMAGE_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}

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

_BIT_DEPTH_OF_PNG = 24  # the place of this byte in every PNG file
# Tags of TIFF, by their names in the specification.
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC_INTERPRETATION = 254, 258, 262
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 277, 338, 339
_UNSIGNED, _SIGNED = 1, 2  # sample formats
_OVERVIEW_OR_MASK = 0b101  # bits of NewSubfileType
_WHITE_IS_ZERO = 0
_ASSOCIATED_ALPHA = 1


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its pixels are decoded.

    Attributes:
        format: Pillow's name of the file format.
        mode: Pillow's mode of the pixels.
        bits: Bits a channel in the file.
        channels: Channels in the file, of which Pillow may leave out some.
        size: Height and width as displayed.
        turned: Whether height and width are the other way round in the file (EXIF orientations 5 to 8).
        white_is_zero: Whether Pillow inverts the stored numbers.
        associated_alpha: Whether Pillow divides the stored colours by the fourth channel.
        signed: Whether the stored numbers have a sign, of which Pillow tells nothing at 8 bits; None where the format
            does not say.
    """
    format: str
    mode: str
    bits: int
    channels: int
    size: tuple[int, int]
    turned: bool
    white_is_zero: bool
    associated_alpha: bool
    signed: bool | None


class TooLargeError(DatasetError):
    """An image of more pixels than Pillow takes."""


def max_pixels() -> int | None:
    """Pixels of the largest picture that Pillow decodes; None where its limit is switched off."""
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


@contextmanager
def _open(path: Path, kind: str) -> Iterator[Image.Image]:
    """The file with its header read. Only Pillow's calls belong inside: all that they raise names the file."""
    try:
        # what stands for a file in a larger one opens itself
        with Image.open(path if isinstance(path, Path) else path.open('rb')) as image:
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
    if image.format == 'PNG':
        with path.open('rb') as file:
            bits = file.read(_BIT_DEPTH_OF_PNG + 1)[-1]
    turned = _orientation(image, decoded=False) in (5, 6, 7, 8)
    width, height = image.size
    if turned and image.format != 'TIFF':  # of which Pillow has taken care
        width, height = height, width
    return Header(
        image.format, image.mode, bits, tags.get(_SAMPLES_PER_PIXEL, len(image.getbands())), (height, width), turned,
        tags.get(_PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO,
        _ASSOCIATED_ALPHA in tags.get(_EXTRA_SAMPLES, ()),
        _SIGNED in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)) if tags else None)


def _check_pages(pages: int, path: Path, kind: str) -> None:
    if pages > 1:
        raise DatasetError(
            f'Every {kind} must be one picture: {path} has {pages} pages or frames, of which only the first would be '
            'read; save each as a file of its own, with its partner, or keep only the one that is meant.')


def read_header(path: Path, kind: str) -> Header:
    """Read what a file tells before its pixels.

    Args:
        path: The file.
        kind: 'image' or 'mask', for messages.

    Raises:
        DatasetError: Not readable, too many pixels, or more than one page.
    """
    with _open(path, kind) as image:
        pages, header = _num_pages(image), _header(image, path)
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


def check_image_header(path: Path, header: Header, in_chans: int) -> None:
    """Raise DatasetError for an image of which something would be lost or changed."""
    if header.bits > 8 or header.mode in ('I', 'F'):
        raise DatasetError(
            f'Images must have 8 bits a channel: {path} has {header.bits} (mode {header.mode}); convert it to 8 bits '
            'by the range of its values, since cutting it off here would lose that range unseen.')
    if in_chans == 4 and header.mode != 'RGBA':
        raise DatasetError(
            f'in_chans 4 needs RGBA images: {path} has mode {header.mode}; store the fourth channel as alpha, or pass '
            'in_chans=3 to train a model for such images.')
    if in_chans == 4 and header.associated_alpha:
        raise DatasetError(
            f'in_chans 4 needs four independent channels: the colours in {path} are stored multiplied by the fourth '
            '(associated alpha); store the fourth channel as unassociated alpha, or pass in_chans=3 to train a model '
            'without it.')


def convert(image: Image.Image, in_chans: int) -> Image.Image:
    """A picture of 8 bits a channel with 1 (grey), 3 (RGB) or 4 (RGBA) channels. ValueError where Pillow cannot."""
    if image.mode == IMAGE_MODES[in_chans]:
        return image  # of which Pillow would make a copy
    # Pillow converts LAB only to RGB, and would warn of a palette's transparency that is left out.
    between = {'LAB': 'RGB', 'P': 'RGBA'}.get(image.mode)
    image = image.convert(between) if between else image
    return image.convert(IMAGE_MODES[in_chans])


def read_image(path: Path, in_chans: int) -> tv_tensors.Image:
    """Read an image file as displayed, its EXIF orientation applied.

    Grey, palette, CMYK, YCbCr and LAB images are converted. Channels of a file beyond those asked for are left out,
    alpha included; the colours below transparent pixels stay as they are stored.

    Args:
        path: The file.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored).

    Returns:
        uint8 (in_chans, H, W).

    Raises:
        DatasetError: Not readable, too many pixels, more than one page, or more than 8 bits a channel; with 4 channels
            also any image that does not hold them.
    """
    image, header = decode(path, 'image')
    check_image_header(path, header, in_chans)
    try:
        image = convert(image, in_chans)
    except ValueError as error:
        raise DatasetError(
            f'Images must be grey or in colour: {path} has mode {header.mode}, which Pillow cannot convert ({error}); '
            'save it as 8-bit RGB or grey.') from error
    return tv_tensors.Image(F.pil_to_tensor(image))
