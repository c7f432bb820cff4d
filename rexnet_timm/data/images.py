"""Image files, read as checked tensors."""
from pathlib import Path

from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError

IMAGE_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


def decode(path: Path, kind: str) -> Image.Image:
    """Decode a whole file now, so that a truncated one fails here, where its name is known."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, ...
        raise DatasetError(
            f'Every {kind} must be readable: {path} is not ({type(error).__name__}: {error}); '
            'replace or remove the file.') from error


def read_image(path: Path, in_chans: int) -> tv_tensors.Image:
    image = decode(path, 'image')
    if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
        raise DatasetError(
            f'Images must have 8 bits a channel: {path} has mode {image.mode}; convert it to 8 bits, '
            'since cutting it off here would lose its range unseen.')
    if in_chans == 4 and image.mode != 'RGBA':
        raise DatasetError(
            f'in_chans 4 needs RGBA images: {path} has mode {image.mode}; pass --in-chans 3, '
            'or store the fourth channel as alpha.')
    return tv_tensors.Image(F.pil_to_tensor(image.convert(IMAGE_MODES[in_chans])))
