"""Image files, read as checked tensors.

Pillow cuts 16-bit colour to 8 bits, takes the first page, leaves out bands and keeps a photo as stored: what it would
not give whole, as the header tells, is read by rasterio.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError
from .bands import EIGHT_BITS, Bands, Scale, as_channels, check_bits, pick_bands, scaled
from .headers import (
    ARRAY_EXTENSION,
    COLOR_SPACES,
    Header,
    array_of,
    check_pages,
    header_of,
    num_pages,
    opened,
    orientation_of,
    read_header,
)

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
_BACK = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
_ORIENTATION = 274  # tag of TIFF


def upright(image: Image.Image, path: Any = None) -> Image.Image:
    """A picture as displayed, its EXIF orientation applied, or with a georeference as stored; decodes it.

    Args:
        image: As it was opened.
        path: Its file, beside which a world file may lie.
    """
    stored = 1
    if image.format == 'TIFF' and orientation_of(image, path) == 1:
        stored = image.tag_v2.get(_ORIENTATION, 1)  # by which Pillow turns it, and takes the tag away
    image.load()
    method = _UPRIGHT.get(orientation_of(image, path, decoded=True)) if stored == 1 else _BACK.get(stored)
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
    with opened(path, kind) as image:
        pages, header = num_pages(image), header_of(image, path)
        shown = upright(image, path)
    check_pages(pages, path, kind)
    return shown, header


def open_as(path: Path, mode: str) -> Image.Image:
    """Decode a file as it is stored, its EXIF orientation left out, in one of Pillow's modes.

    Raises:
        DatasetError: Not readable, too many pixels, or of a mode that Pillow cannot convert.
    """
    with opened(path, 'image') as image:
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
    if hasattr(path, 'pixels'):  # a part of a larger image
        return tv_tensors.Image(path.pixels(in_chans=in_chans, bands=bands, scale=scale))
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
        with opened(path, 'image') as image:
            pages, header = num_pages(image), header_of(image, path)
            shown = upright(image, path) if header.is_whole else None
    except DatasetError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        return None, read_header(path, 'image')  # which raises the same, but for a TIFF that Pillow does not know
    check_pages(pages, path, 'image')
    return shown, header


def _all_bands(path: Path, picture: Image.Image | None, header: Header) -> Bands:
    if header.format == 'NPY':
        return Bands(np.ascontiguousarray(np.moveaxis(array_of(path), -1, 0)))
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
    between = COLOR_SPACES.get(picture.mode)
    picture = picture.convert(between) if between else picture
    picture = picture.convert('RGB') if between == 'RGBA' else picture  # a palette's transparency
    values = np.array(picture)
    if header.mode == 'I' and header.bits == 32 and header.signed is False:
        values = values.view(np.uint32)
    return values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
