"""Picture files that Pillow cannot write, byte by byte, and folders of one sample."""
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError


def one_sample(root: Path, image: str = 'a.png', mask: str = 'a.png') -> tuple[Path, Path]:
    """Paths of an image and a mask in CamVid's layout, with their folders made."""
    for folder in ('train', 'trainannot'):
        (root / folder).mkdir(exist_ok=True)
    return root / 'train' / image, root / 'trainannot' / mask


def save(path: Path, pixels: np.ndarray, **options) -> None:
    Image.fromarray(pixels).save(path, **options)


def write_png(path: Path, pixels: np.ndarray, bits: int, color_type: int, size: tuple[int, int] | None = None) -> None:
    """PNG of `bits` a channel; colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA.

    Args:
        pixels: (H, W) or (H, W, channels) numbers below 2**bits; with fewer than 8 bits W fills whole bytes.
        size: Width and height to claim instead of the true ones.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    if bits < 8:
        planes = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        data = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1)
    else:
        data = rows.astype('>u2' if bits == 16 else 'u1').view(np.uint8).reshape(height, -1)
    header = struct.pack('>IIBBBBB', *(size or (width, height)), bits, color_type, 0, 0, 0)
    lines = b''.join(b'\0' + row.tobytes() for row in data)
    content = b'\x89PNG\r\n\x1a\n'
    for kind, part in ((b'IHDR', header), (b'IDAT', zlib.compress(lines)), (b'IEND', b'')):
        content += struct.pack('>I', len(part)) + kind + part + struct.pack('>I', zlib.crc32(kind + part))
    path.write_bytes(content)


def is_known(path: Path) -> bool:
    """Whether the installed release of Pillow, which before 13 knows fewer kinds of TIFF, opens a file."""
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        return False
    return True


def write_tiff(
        path: Path,
        pixels: np.ndarray,
        bits: int,
        photometric: int = 1,
        extra_samples: tuple[int, ...] = (),
) -> None:
    """Uncompressed TIFF of (H, W, channels) whole numbers; photometric: 0 white is zero, 1 black is zero, 2 RGB."""
    height, width, bands = pixels.shape
    if bits < 8:
        planes = (pixels.reshape(height, -1)[..., None] >> np.arange(bits)[::-1]) & 1
        data = np.packbits(planes.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    else:
        data = pixels.astype('<u2' if bits == 16 else 'u1').tobytes()
    entries = {256: (4, (width,)), 257: (4, (height,)), 258: (3, (bits,) * bands), 259: (3, (1,)),
               262: (3, (photometric,)), 273: (4, (0,)), 277: (3, (bands,)), 278: (4, (height,)),
               279: (4, (len(data),)), 284: (3, (1,))}
    if extra_samples:
        entries[338] = (3, extra_samples)
    end = 8 + 2 + 12 * len(entries) + 4
    far, table = b'', b''
    strip = end + sum(2 * len(values) for kind, values in entries.values() if kind == 3 and len(values) > 2)
    entries[273] = (4, (strip,))
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f'<{len(values)}{"H" if kind == 3 else "I"}', *values)
        if len(packed) > 4:
            packed, far = struct.pack('<I', end + len(far)), far + packed
        table += struct.pack('<HHI', tag, kind, len(values)) + packed.ljust(4, b'\0')
    path.write_bytes(b'II*\0' + struct.pack('<IH', 8, len(entries)) + table + struct.pack('<I', 0) + far + data)
