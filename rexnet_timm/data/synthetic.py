"""The built-in set: endless procedural images with exact masks, for demonstrations and tests without a download.

A class is a shape or a texture. Colour is a hint that a network learns first and that fails it for every tenth object:
then outlines, thin rings and fine stripes at many sizes have to decide. Objects overlap and cast shadows; the
background has a gradient, blotches, grain and lines that belong to nothing; light falls off to one side and the sensor
adds noise.
"""
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .description import DEFAULT_IGNORE_LABEL
from .drawing import check_set, color_of_hue, smooth_noise

_CLASS_NAMES = ('background', 'disc', 'square', 'triangle', 'ring', 'stripes')
_SUPERSAMPLING = 4  # outlines are drawn this much larger, and an object owns the pixels that it covers by half
# Fills of what is not striped, the quiet ones as often as the patterns that could be taken for stripes.
_FILLS = ('plain', 'plain', 'plain', 'shaded', 'shaded', 'dots', 'speckle')
_SOLID_SHAPES = ('disc', 'square', 'triangle')
# Where the hues of a class lie on the colour circle, nine times in ten; stripes have any.
_HUES = {'disc': 0.0, 'square': 0.6, 'triangle': 0.14, 'ring': 0.38}


class SyntheticShapes(Dataset):
    """Procedural RGB images of discs, squares, triangles, rings and striped objects, with their masks.

    A sample follows from (seed, index) only, whatever the order or the process in which it is asked for. `dataset[i]`
    is `(image, mask)`: `tv_tensors.Image` uint8 (3, H, W) and `tv_tensors.Mask` int64 (H, W) with values 0 to
    num_classes - 1, or whatever `transform(image, mask)` returns for the two.

    Other objects are plain, shaded, dotted or speckled; "stripes" is any solid outline filled with stripes.

    Attributes:
        ignore_label: 255, the value for padding; no pixel of a sample has it.

    Args:
        length: Number of samples.
        image_size: Height and width in pixels, or one number for both; at least 32.
        num_classes: 2 to 6, the first so many of background, disc, square, triangle, ring, stripes.
        seed: At least 0; sets of different seeds share no image.
        transform: Called with image and mask, see `create_segmentation_transform`.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
            self,
            length: int,
            image_size: int | tuple[int, int] = (128, 128),
            num_classes: int = 6,
            seed: int = 0,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
    ) -> None:
        image_size = check_set(length, image_size, seed)
        if not 2 <= num_classes <= len(_CLASS_NAMES):
            raise ValueError(
                f'num_classes must be from 2 to {len(_CLASS_NAMES)} ({", ".join(_CLASS_NAMES)}), got {num_classes}.')
        self.length = length
        self.image_size = image_size
        self.num_classes = num_classes
        self.ignore_label = DEFAULT_IGNORE_LABEL
        self.in_chans = 3
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(f'index must be from 0 to {self.length - 1}, got {index}.')
        canvas, labels = draw_scene(np.random.default_rng([self.seed, index]), self.image_size, self.num_classes)
        image = tv_tensors.Image(torch.from_numpy(canvas))
        mask = tv_tensors.Mask(torch.from_numpy(labels.astype(np.int64)))
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def sample_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every sample, before any transform."""
        return [self.image_size] * self.length

    @property
    def class_names(self) -> list[str]:
        """One name a class."""
        return list(_CLASS_NAMES[:self.num_classes])


def draw_scene(rng: np.random.Generator, size: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image and its labels.

    Args:
        rng: Source of all randomness.
        size: Height and width in pixels.
        num_classes: Classes to choose from, the background included.

    Returns:
        Image uint8 (3, H, W) and labels uint8 (H, W).
    """
    height, width = size
    canvas = _background(rng, height, width)
    labels = np.zeros((height, width), dtype=np.uint8)
    # Large objects first: what comes later lies on top, and a small object must not vanish below a large one.
    radii = np.sort(min(size) * np.exp(rng.uniform(math.log(0.12), math.log(0.3), size=rng.integers(4, 8))))[::-1]
    for radius in radii:
        _draw_object(rng, canvas, labels, int(rng.integers(1, num_classes)), float(radius))

    y, x = np.ogrid[-1:1:height * 1j, -1:1:width * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + rng.uniform(0.05, 0.3) * (math.cos(angle) * x + math.sin(angle) * y) / math.sqrt(2)
    canvas *= light.astype(np.float32)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return canvas.clip(0, 255, out=canvas).astype(np.uint8), labels


def _color(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(25, 235, size=(3, 1, 1)).astype(np.float32)


def _color_apart(rng: np.random.Generator, other: np.ndarray, distance: float = 100) -> np.ndarray:
    """A colour that can be told from another: an object of its surroundings' colour could not be found."""
    color = _color(rng)
    while float(((color - other) ** 2).sum()) < distance ** 2:
        color = _color(rng)
    return color


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    first = _color(rng)
    first += np.float32(0.6) * (first.mean() - first)  # muted, so that objects stand out
    second = first + rng.uniform(-45, 45, size=(3, 1, 1)).astype(np.float32)
    y, x = np.ogrid[0:1:height * 1j, 0:1:width * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    blend = 0.5 + 0.5 * (math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5))
    blend = blend + rng.uniform(0.1, 0.5) * smooth_noise(rng, int(rng.integers(3, 9)), height, width)
    canvas = first + blend.astype(np.float32) * (second - first)
    canvas += np.float32(rng.uniform(3, 10)) * smooth_noise(rng, min(height, width) // 3, height, width)

    lines = Image.new('L', (width * 2, height * 2))
    draw = ImageDraw.Draw(lines)
    for _ in range(rng.integers(1, 5)):
        bend = rng.uniform(-0.2, 0.2, size=2)
        start, end = rng.uniform(-0.1, 1.1, size=(2, 2))
        points = [start * (1 - t) + end * t + bend * 4 * t * (1 - t) for t in np.linspace(0, 1, 9)]
        draw.line([(float(px) * width * 2, float(py) * height * 2) for px, py in points],
                  fill=int(rng.integers(90, 256)), width=int(rng.integers(2, 6)))
    alpha = np.asarray(lines.reduce(2), dtype=np.float32) / 255
    canvas += alpha * (_color(rng) - canvas)
    return canvas


def _outline(rng: np.random.Generator, shape: str, radius: float, side: int, center: tuple[float, float]) -> np.ndarray:
    """Coverage of a shape in a square box, float32 (side, side) in 0 to 1."""
    scale = _SUPERSAMPLING
    box = Image.new('L', (side * scale, side * scale))
    draw = ImageDraw.Draw(box)
    cx, cy, r = center[0] * scale, center[1] * scale, radius * scale
    tilt = rng.uniform(-0.35, 0.35)
    if shape in ('disc', 'ring'):
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
        if shape == 'ring':
            inner = r - scale * max(2.5, radius * rng.uniform(0.2, 0.35))
            draw.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=0)
    else:
        corners = 4 if shape == 'square' else 3
        # Upright except for the tilt: a square stands on a side, a triangle points up.
        angles = tilt - math.pi / (4 if corners == 4 else 2) + 2 * math.pi * np.arange(corners) / corners
        # Triangles of every kind but slivers; squares stay square.
        angles = angles + rng.uniform(-0.3, 0.3, size=3) if corners == 3 else angles
        draw.polygon([(cx + r * math.cos(a), cy + r * math.sin(a)) for a in angles], fill=255)
    return np.asarray(box.reduce(scale), dtype=np.float32) / 255


def _fill(rng: np.random.Generator, kind: str, side: int, base: np.ndarray) -> np.ndarray:
    """Texture of an object in a colour and another one, float32 (3, side, side)."""
    x = np.arange(side, dtype=np.float32)
    y = x[:, None]
    angle = rng.uniform(0, math.pi)
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    if kind == 'stripes':
        period, phase = rng.uniform(4, 8), rng.uniform(0, 2 * math.pi)
        amount = np.clip(0.5 + 1.5 * np.sin(2 * math.pi / period * u + phase), 0, 1)
    elif kind == 'dots':
        period = rng.uniform(4.5, 8)
        amount = np.clip(2 * (np.cos(2 * math.pi / period * u) + np.cos(2 * math.pi / period * v)) - 1, 0, 1)
    elif kind == 'speckle':
        amount = np.clip(smooth_noise(rng, max(3, side // 2), side, side), 0, 1)
    elif kind == 'shaded':
        amount = 0.5 + 0.5 * u / side
    else:
        amount = np.zeros_like(u)
    # stripes are of two colours, every other pattern of two shades of one
    other = _color_apart(rng, base) if kind == 'stripes' else base * np.float32(rng.uniform(0.4, 0.7))
    return base + amount.astype(np.float32) * (other - base)


def _draw_object(rng: np.random.Generator, canvas: np.ndarray, labels: np.ndarray, label: int, radius: float) -> None:
    height, width = labels.shape
    name = _CLASS_NAMES[label]
    striped = name == 'stripes'
    shape = _SOLID_SHAPES[rng.integers(len(_SOLID_SHAPES))] if striped else name
    kind = 'stripes' if striped else _FILLS[rng.integers(len(_FILLS))]
    # Too few pixels to hold a pattern: a striped object would be a riddle, and so would a hole in a dot.
    radius = max(radius, 10.0) if striped or name == 'ring' else max(radius, 6.0)

    center_x, center_y = rng.uniform(0.05, 0.95) * width, rng.uniform(0.05, 0.95) * height
    side = 2 * math.ceil(radius) + 2
    left, top = math.floor(center_x) - side // 2, math.floor(center_y) - side // 2
    coverage = _outline(rng, shape, radius, side, (center_x - left, center_y - top))
    hue = _HUES.get(name, rng.uniform()) if rng.uniform() < 0.9 else rng.uniform()
    texture = _fill(rng, kind, side, color_of_hue(rng, hue + rng.normal(0, 0.05)))

    shift = max(1, round(radius * 0.12))
    _blend(canvas, coverage * np.float32(0.35), np.zeros((3, side, side), dtype=np.float32), left + shift, top + shift)
    _blend(canvas, coverage, texture, left, top)
    window, inside = _windows(labels.shape, side, left, top)
    labels[window][coverage[inside] >= 0.5] = label


def _windows(shape: tuple[int, ...], side: int, left: int, top: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the picture under a square box, and the part of the box inside the picture."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = max(y0, min(top + side, shape[0])), max(x0, min(left + side, shape[1]))
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _blend(canvas: np.ndarray, alpha: np.ndarray, color: np.ndarray, left: int, top: int) -> None:
    """Mix colours into the canvas in place."""
    (rows, columns), inside = _windows(canvas.shape[1:], alpha.shape[0], left, top)
    part = canvas[:, rows, columns]
    part += alpha[inside] * (color[:, inside[0], inside[1]] - part)
