"""What the built-in sets share: checked arguments, colours and smooth noise of procedural images.

While drawn, a picture is float32 planes
(3, H, W) from 0 to 255, and a colour is an array (3, 1, 1) that broadcasts to them.
"""
import colorsys

import numpy as np
from PIL import Image


def check_set(length: int, image_size: int | tuple[int, int], seed: int) -> tuple[int, int]:
    """Check the arguments that every built-in set takes.

    Args:
        length: Number of samples, at least 1.
        image_size: Height and width in pixels, or one number for both; at least 32.
        seed: At least 0.

    Returns:
        Height and width.

    Raises:
        ValueError: An argument out of range.
    """
    image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if length < 1:
        raise ValueError(f'length must be at least 1, got {length}.')
    if len(image_size) != 2 or min(image_size) < 32:
        raise ValueError(f'image_size must be one or two (height, width) numbers of at least 32, got {image_size}.')
    if seed < 0:
        raise ValueError(f'seed must be at least 0, got {seed}.')
    return image_size


def color_of_hue(rng: np.random.Generator, hue: float) -> np.ndarray:
    """A bright colour; hues are turns of the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 1), rng.uniform(0.55, 1))
    return np.array([red, green, blue], dtype=np.float32)[:, None, None] * np.float32(235)


def smooth_noise(rng: np.random.Generator, cells: int, height: int, width: int) -> np.ndarray:
    """Noise in -1 to 1 with about `cells` blotches a side, float32 (height, width)."""
    noise = Image.fromarray(rng.uniform(-1, 1, size=(cells, cells)).astype(np.float32))
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
