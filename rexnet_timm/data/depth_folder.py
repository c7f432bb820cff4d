"""Images with depth files as checked (image, depth) samples in metres.

A depth file holds one number a pixel: whole ones, of which `depth_scale` make a metre (256 in KITTI's 16-bit PNGs,
http://www.cvlibs.net/datasets/kitti/eval_depth.php; 1000, millimetres, in those of NYU Depth V2, of most depth cameras
and of `rexnet predict`), or floating-point ones, which are metres. Where nothing was measured it is 0, below 0, NaN or
infinite, and 0 here.
"""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import DataDescription, Layout
from .formats.dataset_yaml import FILE_NAME, DatasetFile, is_dataset_yaml, read_dataset_yaml
from .formats.folders import folder_source
from .formats.partners import DEPTHS
from .headers import load_array
from .images import decode, read_image
from .pairs import refuse_sizes, sample_sizes
from .stream import describe_shards

__all__ = ['DepthFolder', 'describe_depth', 'read_depth']

_MOST_LOOKED_AT = 8  # depth maps, for the line that tells of them


def describe_depth(
        root: str | Path, layout: Layout | None = None, depth_scale: float | None = None) -> DataDescription:
    """What a folder, or a `dataset.yaml`, says of images and their depth; what is given goes before what is found.

    Args:
        root: Folder of the data, or a `dataset.yaml`.
        layout: What is said of the layout: `mask_dir` and `mask_suffix` are those of the depth maps. None detects it.
        depth_scale: What the files have for a metre.

    Raises:
        ValueError: A `depth_scale` that is not above 0.
        DatasetError: No such folder, or a layout that does not fit.
    """
    if depth_scale is not None and not 0 < depth_scale < float('inf'):
        raise ValueError(f'depth_scale must be above 0, what the files have for a metre, got {depth_scale}.')
    root, layout = Path(root), layout or Layout()
    if not root.exists():
        raise DatasetError(f'The data set must be a folder: {root} does not exist or is no folder; check the path.')
    path = root if root.is_file() else root / FILE_NAME
    said = read_dataset_yaml(path) if path.is_file() and is_dataset_yaml(path) else DatasetFile(root)
    if not said.root.is_dir():
        raise DatasetError(
            f'Images with depth are a folder, or a dataset.yaml that describes one, and {said.root} is neither.')
    layout = replace(said.layout, **layout.given())
    shards = describe_shards(said.root, layout, 'depth')
    if shards is not None:
        return shards if depth_scale is None else replace(shards, depth_scale=depth_scale)
    if layout.data_format not in ('auto', 'folders'):
        raise DatasetError(
            f'data_format must be folders, or left out, for images with depth, got {layout.data_format!r}.')
    return DataDescription(
        task='depth', source=folder_source(said.root, layout, DEPTHS), layout=layout.given(),
        depth_scale=said.depth_scale if depth_scale is None else depth_scale)


class DepthFolder(Dataset):
    """Images with depth maps, in the order of their names, or of the list of the split.

    Layouts are those of `SegmentationFolder`, with `depth`, `depths` or `depth_maps` in the place of `masks`,
    `{split}_depth` in that of `{split}annot`, and `images`, `image` or `rgb`. Depth: png of 8 or 16 bits, tif and npy
    of whole or floating-point numbers.

    `dataset[i]` is `(image, depth)`: `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` float32 (H, W) in
    metres, 0 where nothing was measured, or whatever `transform(image, depth)` returns for the two.

    Attributes:
        description: What is known of the data, without its files.
        root: Folder of the data.
        form: The format that it is read as, in words.
        ignore_label: 0, the depth of pixels that have none, and of padding.

    Args:
        root: Folder of the data set, or a `dataset.yaml`; or a description by `describe_depth`.
        split: Which part to read.
        depth_scale: What the files have for a metre; None for that of the description, or metres. Whole numbers need
            it.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored).
        transform: Called with image and depth, see `create_depth_transform`.
        layout: How the files are laid out; None detects it. Not with a description.

    Raises:
        ValueError: An argument out of range.
        DatasetError: At construction for missing or empty folders, images without depth and the reverse, and a first
            depth map that cannot be read, as one of whole numbers without `depth_scale`; at the sample for files that
            cannot be read and sizes that differ.
    """

    def __init__(
            self,
            root: str | Path | DataDescription,
            split: str,
            depth_scale: float | None = None,
            in_chans: int = 3,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
            *,
            layout: Layout | None = None,
    ) -> None:
        if not isinstance(root, DataDescription):
            root = describe_depth(root, layout, depth_scale)
        elif depth_scale is not None:
            root = replace(root, depth_scale=depth_scale)
        self.root = Path(root.source.root)
        self.form = str(root.source)
        self.split = split
        self.depth_scale = root.depth_scale
        self.in_chans = in_chans
        self.ignore_label = 0
        self.transform = transform
        self._pairs = root.source.samples(split)
        # without the source, whose functions no process of a loader could be sent
        self.description = replace(root, source=None)
        read_depth(self._pairs[0][1], self.depth_scale)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        image_path, depth_path = self._pairs[index]
        image = read_image(image_path, self.in_chans)
        depth = read_depth(depth_path, self.depth_scale)
        if image.shape[-2:] != depth.shape[-2:]:
            refuse_sizes(image_path, depth_path, image.shape[-2:], depth.shape[-2:], 'depth map')
        return (image, depth) if self.transform is None else self.transform(image, depth)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, depth)."""
        return self._pairs[index]

    def sample_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every sample, from the headers of the images, or where the transform resizes from that.

        Raises:
            DatasetError: An image whose header is damaged, or tells that it would lose something.
        """
        return sample_sizes(self._pairs, self.transform, {'in_chans': self.in_chans})

    def measured(self, min_depth: float, max_depth: float) -> tuple[float, float, float, float, int]:
        """What some depth maps of the split hold.

        Args:
            min_depth: Depths below it do not count, in metres.
            max_depth: Depths above it do not count.

        Returns:
            The share of pixels that were measured, of these the share from `min_depth` to `max_depth`, the nearest and
            the farthest depth in metres, and the number of depth maps that were looked at.

        Raises:
            DatasetError: A file that cannot be read, or no depth at all in these.
        """
        step = max(1, len(self) // _MOST_LOOKED_AT)
        paths = [depth for _, depth in self._pairs[::step]][:_MOST_LOOKED_AT]
        pixels, known = 0, []
        for path in paths:
            depth = read_depth(path, self.depth_scale)
            pixels += depth.numel()
            known.append(depth[depth > 0].as_subclass(torch.Tensor))
        depths = torch.cat(known)
        if not depths.numel():
            raise DatasetError(
                f'Depth must have been measured somewhere: the {len(paths)} depth maps looked at, such as {paths[0]}, '
                'have none above 0; check the files.')
        counted = (depths >= min_depth) & (depths <= max_depth)
        return (depths.numel() / pixels, counted.float().mean().item(), depths.min().item(), depths.max().item(),
                len(paths))


def read_depth(path: Path, depth_scale: float | None = None) -> tv_tensors.Mask:
    """Read a depth map.

    Args:
        path: PNG, TIFF or .npy.
        depth_scale: What the file has for a metre; None where it is in metres.

    Returns:
        float32 (H, W) in metres, 0 where nothing was measured.

    Raises:
        DatasetError: Not readable, more than one page, a picture in colour, or whole numbers without `depth_scale`.
    """
    values = _array(path) if path.suffix.lower() == '.npy' else _picture(path)
    if values.dtype.kind != 'f' and depth_scale is None:
        raise DatasetError(
            f'Depth in whole numbers needs its unit: {path} has values up to {values.max(initial=0)} of '
            f'{values.dtype.itemsize * 8} bits; pass depth_scale=256 where they are those of KITTI, depth_scale=1000 '
            'where they are millimetres, or what they have for a metre.')
    metres = torch.from_numpy(values.astype(np.float64)) / (depth_scale or 1.)
    return tv_tensors.Mask(torch.where((metres > 0) & metres.isfinite(), metres, 0.).float())


def _picture(path: Path) -> np.ndarray:
    picture, header = decode(path, 'depth map')
    if header.format in ('JPEG', 'MPO'):
        raise DatasetError(
            f'Depth must be stored without loss: {path} is a JPEG file, which blurs it; save it as 16-bit PNG from the '
            'source.')
    if header.channels > 1 or picture.mode not in ('L', 'I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N'):
        raise DatasetError(
            f'A depth map must have one number a pixel: {path} has mode {header.mode}, as pictures in colour have; '
            'save the depth itself as 16-bit PNG, floating-point TIFF or .npy.')
    if header.white_is_zero:
        raise DatasetError(
            f'A depth map must say plainly which number a pixel has: {path} is a TIFF with inverted grey '
            '(WhiteIsZero); save it with black as zero.')
    values = np.array(picture)
    if header.mode == 'L' and header.bits < 8:
        raise DatasetError(f'A depth map must have at least 8 bits a pixel: {path} has {header.bits}; save it anew.')
    return values


def _array(path: Path) -> np.ndarray:
    values = load_array(path, 'depth map')
    shape = values.shape
    values = values.reshape([side for side in shape if side != 1] if len(shape) == 3 else shape)
    if values.ndim != 2 or values.dtype.kind not in 'uif' or 0 in shape:
        raise DatasetError(
            f'A depth map must be an array (H, W) of numbers: {path} has the shape {shape} and the type '
            f'{values.dtype}; save one number a pixel.')
    return values
