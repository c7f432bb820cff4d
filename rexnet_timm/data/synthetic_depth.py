"""The built-in depth set: endless procedural scenes with exact depth, for demonstrations and tests without a download.

A camera at about the height of a person looks over a textured ground at boxes and spheres that stand on it, and at a
wall behind them; where the wall ends there is sky, which has no depth. Every ray is intersected with every surface, so
depth is exact. What gives it away is what gives it away in photographs: where an object meets the ground and where the
horizon is, the size of textures, shading, shadows at the foot of an object, what hides what, and haze. Where a pixel
lies in the picture says little by itself, because pitch, height and everything in the scene are drawn at random.
"""
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .drawing import check_set, color_of_hue, smooth_noise

_FOCAL_LENGTH = 0.9  # of the image's width: a horizontal field of view of 58 degrees
_TILE = 96  # side of a texture in its own pixels
_PATTERNS = ('noise', 'tiles', 'stripes', 'checks')

# The world's axes are those of the camera without its pitch, in metres: right, down, forward. An array over the image
# is float32 (H, W), or (3, H, W) for a point, a direction or a colour. A ray is scaled to advance 1 along the optical
# axis, so that its length is depth.


class SyntheticDepth(Dataset):
    """Procedural RGB images of boxes and spheres on a plane, with the depth of every pixel.

    A sample follows from (seed, index) only, whatever the order or the process in which it is asked for. `dataset[i]`
    is `(image, depth)`: `tv_tensors.Image` uint8 (3, H, W) and `tv_tensors.Mask` float32 (H, W), or whatever
    `transform(image, depth)` returns for the two. Depth is along the optical axis, in metres, from about 1 to 50; the
    sky has none, which is 0.

    Attributes:
        ignore_label: 0, the depth of pixels that have none, and of padding.

    Args:
        length: Number of samples.
        image_size: Height and width in pixels, or one number for both; at least 32. The horizontal field of view is
            the same at every size.
        seed: At least 0; sets of different seeds share no image.
        transform: Called with image and depth, see `create_depth_transform`.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
            self,
            length: int,
            image_size: int | tuple[int, int] = (96, 128),
            seed: int = 0,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
    ) -> None:
        self.image_size = check_set(length, image_size, seed)
        self.length = length
        self.ignore_label = 0
        self.in_chans = 3
        self.seed = seed
        self.transform = transform

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(f'index must be from 0 to {self.length - 1}, got {index}.')
        canvas, metres = draw_depth_scene(np.random.default_rng([self.seed, index]), self.image_size)
        image, depth = tv_tensors.Image(torch.from_numpy(canvas)), tv_tensors.Mask(torch.from_numpy(metres))
        return (image, depth) if self.transform is None else self.transform(image, depth)

    def sample_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every sample, before any transform."""
        return [self.image_size] * self.length


def draw_depth_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image and its depth.

    Args:
        rng: Source of all randomness.
        size: Height and width in pixels.

    Returns:
        Image uint8 (3, H, W) and depth in metres, float32 (H, W), 0 where a pixel has no depth.
    """
    scene = _Scene(rng, size)
    ground_depth = scene.add_ground()
    scene.add_wall()
    for _ in range(rng.integers(3, 8)):
        # far objects are as likely as near ones, and a little of what is out of view reaches into it
        z = math.exp(rng.uniform(math.log(2.5), math.log(18)))
        x = rng.uniform(-0.6, 0.6) * z
        extent = rng.uniform(0.25, 0.9) * min(1., 0.3 * z)  # half a side: nothing near fills the whole view
        scene.add_shadow(ground_depth, x, z, extent)
        if rng.uniform() < 0.6:
            half_sides = extent, extent * rng.uniform(0.4, 2.0), extent * rng.uniform(0.5, 1.3)
            scene.add_box(x, z, half_sides, rng.uniform(0, math.pi))
        else:
            scene.add_sphere(x, z, extent)
    return scene.finish()


class _Scene:
    """A picture in the making: what is nearest so far at each pixel."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        height, width = size
        self.focal = _FOCAL_LENGTH * width
        x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / self.focal
        y = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2) / self.focal
        pitch = math.radians(rng.uniform(-6, 8))  # downwards
        self.rays = np.stack([
            np.broadcast_to(x, size),
            np.broadcast_to(y * math.cos(pitch) + math.sin(pitch), size),
            np.broadcast_to(math.cos(pitch) - y * math.sin(pitch), size),
        ]).astype(np.float32)
        self.camera_height = rng.uniform(1.3, 1.9)
        light = np.array([rng.uniform(-1, 1), -rng.uniform(0.7, 1.5), rng.uniform(-1, 0.3)])
        self.to_light = light / np.linalg.norm(light)
        self.haze = np.float32(rng.uniform(150, 230)) + rng.uniform(-15, 15, size=(3, 1, 1)).astype(np.float32)
        self.visibility = rng.uniform(20, 60)  # metres in which haze hides two thirds

        self.depth = np.full(size, np.inf, dtype=np.float32)
        zenith = self.haze * np.array([0.6, 0.75, 1.0], dtype=np.float32)[:, None, None]
        blend = np.clip(-2.5 * self.rays[1], 0, 1)
        self.canvas = self.haze + blend * (zenith - self.haze)

    def add_ground(self) -> np.ndarray:
        """The plane below the camera; returns its own depth, inf above the horizon."""
        down = self.rays[1]
        depth = np.where(down > 1e-4, self.camera_height / np.maximum(down, 1e-4), np.inf).astype(np.float32)
        x, z = (np.where(np.isfinite(depth), depth, 0) * self.rays[axis] for axis in (0, 2))
        # seen at a slant, a pixel covers more of the ground than of an upright surface
        self._paint(depth, x, z, self._color(muted=0.7), self._lambert(0., -1., 0.), slant=depth / self.camera_height)
        return depth

    def add_wall(self) -> None:
        """An upright plane behind everything, turned a little and not always high."""
        rng = self.rng
        yaw, distance = math.radians(rng.uniform(-20, 20)), math.exp(rng.uniform(math.log(10), math.log(30)))
        normal = (math.sin(yaw), 0., math.cos(yaw))
        depth = (distance / (normal[0] * self.rays[0] + normal[2] * self.rays[2])).astype(np.float32)
        top = self.camera_height - rng.uniform(2.2, 10)
        depth[depth * self.rays[1] < top] = np.inf
        along = self.rays[0] * normal[2] - self.rays[2] * normal[0]
        finite = np.where(np.isfinite(depth), depth, 0)
        self._paint(depth, finite * along, finite * self.rays[1], self._color(muted=0.5), self._lambert(
            -normal[0], 0., -normal[2]))

    def add_shadow(self, ground_depth: np.ndarray, x: float, z: float, extent: float) -> None:
        """Darken the ground around the foot of an object, where the ground is what is seen."""
        seen = np.isfinite(ground_depth) & (ground_depth == self.depth)
        metres = np.where(seen, ground_depth, 0)
        distance = np.hypot(metres * self.rays[0] - x, metres * self.rays[2] - z) / extent
        self.canvas *= 1 - np.float32(0.55) * np.where(seen, np.clip(1.7 - distance, 0, 1), 0).astype(np.float32)

    def add_box(self, x: float, z: float, half_sides: tuple[float, float, float], yaw: float) -> None:
        """A box on the ground, turned about its own upright axis."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        center = np.array([x, self.camera_height - half_sides[1], z])
        # in the frame of the box, from whose centre the rays start at `origin`
        rays = [cos * self.rays[0] - sin * self.rays[2], self.rays[1], sin * self.rays[0] + cos * self.rays[2]]
        origin = -np.array([cos * center[0] - sin * center[2], center[1], sin * center[0] + cos * center[2]])
        entries, exits = [], []
        for ray, start, side in zip(rays, origin, half_sides, strict=True):
            ray = np.where(np.abs(ray) < 1e-6, 1e-6, ray)
            one, other = (-side - start) / ray, (side - start) / ray
            entries.append(np.minimum(one, other))
            exits.append(np.maximum(one, other))
        entry, face = np.max(entries, axis=0), np.argmax(entries, axis=0)
        depth = np.where((entry < np.min(exits, axis=0)) & (entry > 0.3), entry, np.inf).astype(np.float32)

        hit = np.isfinite(depth)
        points = [np.where(hit, entry, 0) * ray + start for ray, start in zip(rays, origin, strict=True)]
        u, v = np.where(face == 0, points[2], points[0]), np.where(face == 1, points[2], points[1])
        facing = [-np.sign(ray) for ray in rays]  # the side that is entered faces the ray
        shades = [
            self._lambert(cos * facing[0], 0., -sin * facing[0]), self._lambert(0., facing[1], 0.),
            self._lambert(sin * facing[2], 0., cos * facing[2]),
        ]
        self._paint(depth, u, v, self._color(), np.choose(face, shades))

    def add_sphere(self, x: float, z: float, radius: float) -> None:
        """A sphere that lies on the ground."""
        center = np.array([x, self.camera_height - radius, z])[:, None, None]
        a, b = (self.rays ** 2).sum(0), (self.rays * center).sum(0)
        discriminant = b ** 2 - a * ((center ** 2).sum() - radius ** 2)
        entry = (b - np.sqrt(np.maximum(discriminant, 0))) / a
        depth = np.where((discriminant > 0) & (entry > 0.3), entry, np.inf).astype(np.float32)
        normal = (np.where(np.isfinite(depth), entry, 0) * self.rays - center) / radius
        u, v = np.arctan2(normal[0], -normal[2]) * radius, np.arcsin(normal[1].clip(-1, 1)) * radius
        self._paint(depth, u, v, self._color(), self._lambert(*normal))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Add haze, exposure and the sensor's noise."""
        rng = self.rng
        clear = np.exp(-self.depth / np.float32(self.visibility))  # the sky is of the haze's colour already
        canvas = np.where(np.isfinite(self.depth), self.haze + clear * (self.canvas - self.haze), self.canvas)
        canvas = canvas * np.float32(rng.uniform(0.75, 1.15))
        canvas = canvas + rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(1, 5))
        return canvas.clip(0, 255).astype(np.uint8), np.where(np.isfinite(self.depth), self.depth, 0)

    def _color(self, muted: float = 0.) -> np.ndarray:
        color = color_of_hue(self.rng, self.rng.uniform())
        return color + np.float32(muted) * (color.mean() - color)

    def _lambert(self, x: Any, y: Any, z: Any) -> Any:
        """Brightness of a matt surface of unit normal (x, y, z), 0.45 to 1.1."""
        return 0.45 + 0.65 * np.maximum(0, x * self.to_light[0] + y * self.to_light[1] + z * self.to_light[2])

    def _paint(
            self,
            depth: np.ndarray,
            u: np.ndarray,
            v: np.ndarray,
            color: np.ndarray,
            shade: Any,
            slant: Any = 1.,
    ) -> None:
        """Draw a surface where it is nearer than all before it.

        Args:
            depth: (H, W), inf where the surface is not hit.
            u: (H, W) place on the surface in metres.
            v: (H, W) likewise, across to `u`.
            color: (3, 1, 1).
            shade: Brightness, a number or (H, W).
            slant: How much longer than wide the part of the surface is that a pixel sees.
        """
        rng = self.rng
        tile = _tile(rng, _PATTERNS[rng.integers(len(_PATTERNS))])
        period = rng.uniform(0.6, 1.6)  # metres that a tile covers
        row, column = (np.floor(place * np.float32(_TILE / period)).astype(np.int64) % _TILE for place in (v, u))
        nearer = depth < self.depth
        with np.errstate(invalid='ignore'):
            # a texture finer than a pixel is grey, where it would flicker
            covered = np.where(nearer, depth * slant, 0) / (self.focal * period / 4)
        strength = rng.uniform(0.25, 0.6) / (1 + covered ** 2)
        painted = color * (shade * (1 + strength * tile[row, column])).astype(np.float32)
        self.canvas = np.where(nearer, painted, self.canvas)
        self.depth = np.where(nearer, depth, self.depth)


def _tile(rng: np.random.Generator, pattern: str) -> np.ndarray:
    """A texture in -1 to 1, float32 (_TILE, _TILE)."""
    place = np.arange(_TILE, dtype=np.float32) / _TILE
    grain = smooth_noise(rng, 24, _TILE, _TILE)
    if pattern == 'noise':
        return smooth_noise(rng, 6, _TILE, _TILE) + np.float32(0.5) * grain
    if pattern == 'tiles':
        joint = np.minimum(np.abs(place - 0.5), np.abs(place[:, None] - 0.5)) < 0.04
        figure = np.where(joint, -1., 0.3)
    elif pattern == 'stripes':
        figure = np.broadcast_to(np.where(place % 0.5 < 0.25, 0.6, -0.6), grain.shape)
    else:
        figure = np.where((place < 0.5) ^ (place[:, None] < 0.5), 0.6, -0.6)
    return figure.astype(np.float32) + np.float32(0.3) * grain
