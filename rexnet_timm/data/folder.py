""" Image and mask folders

One job: turn a folder of images with a folder of index masks into checked (image, mask) samples. Everything that
can be wrong with such folders is reported here, by file name, as a `DatasetError`.

The layouts are those that CamVid (SegNet tutorial), Cityscapes-like sets and most labelling tools write; samples are
the tv_tensors that torchvision's v2 transforms expect.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ..errors import DatasetError

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
MASK_EXTENSIONS = ('.png', '.bmp', '.tif', '.tiff')
DEFAULT_IGNORE_LABEL = 255

_SPLIT_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation'), ('test',))
_MASK_FOLDERS = ('masks', 'annotations', 'labels')
_ARTICLES = {'image': 'an', 'mask': 'a'}
_IMAGE_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
# Modes whose pixels are one number: 1 bit, grey, palette (the index is the label), 16 and 32 bit integers.
_MASK_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')
# First colours of `palette`: well apart, and none so dark or so light that an overlay hides it.
_FIRST_COLORS = (
    (70, 76, 92), (230, 84, 72), (64, 150, 232), (244, 190, 60), (60, 178, 112), (158, 94, 214),
    (240, 134, 190), (58, 196, 200), (150, 96, 58), (178, 208, 92), (28, 84, 156), (206, 206, 214),
)


def palette(num_classes: int) -> np.ndarray:
    """Distinct colours for drawing masks, the same on every call.

    The colours of n classes are the first n of any longer palette.

    Args:
        num_classes: Number of colours, 1 to 1024.

    Returns:
        uint8 array (num_classes, 3), RGB.
    """
    if not 1 <= num_classes <= 1024:
        raise ValueError(f'palette: num_classes must be from 1 to 1024, got {num_classes}.')
    colors = np.array(_FIRST_COLORS[:num_classes], dtype=np.int64)
    if num_classes <= len(colors):
        return colors.astype(np.uint8)
    # Each further colour is the grid point farthest from all before it. Integer arithmetic: no platform can differ.
    levels = np.arange(28, 253, 16)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    weights = np.array([3, 4, 2])  # the eye tells greens apart best, blues worst
    nearest = np.full(len(grid), np.iinfo(np.int64).max)
    for color in colors:
        nearest = np.minimum(nearest, ((grid - color) ** 2 * weights).sum(axis=1))
    chosen = list(colors)
    while len(chosen) < num_classes:
        color = grid[nearest.argmax()]
        chosen.append(color)
        nearest = np.minimum(nearest, ((grid - color) ** 2 * weights).sum(axis=1))
    return np.array(chosen, dtype=np.uint8)


def _split_names(split: str) -> tuple[str, ...]:
    """The asked name first, then its synonyms."""
    for names in _SPLIT_SYNONYMS:
        if split in names:
            return (split, *(name for name in names if name != split))
    return (split,)


def _layouts(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Every (image folder, mask folder) in which a split may be stored."""
    return (
        [(root / split, root / f'{split}annot')]
        + [(root / split / 'images', root / split / masks) for masks in _MASK_FOLDERS]
        + [(root / 'images' / split, root / masks / split) for masks in _MASK_FOLDERS]
    )


def find_folders(root: str | Path, split: str) -> tuple[Path, Path]:
    """Find a split's folders in any of the layouts that `SegmentationFolder` lists.

    Args:
        root: Folder of the data set.
        split: Name of the split; train/training and val/valid/validation are tried for each other.

    Returns:
        The folder of images and the folder of masks.

    Raises:
        DatasetError: No such root, no layout fits, or several fit.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f'The data set must be a folder: {root} does not exist or is no folder; check the path.')
    for name in _split_names(split):
        found = [folders for folders in _layouts(root, name) if all(folder.is_dir() for folder in folders)]
        if len(found) > 1:
            masks = ' and '.join(str(folders[1]) for folders in found)
            raise DatasetError(f'A split must have one folder of masks: found {masks}; move or rename all but one.')
        if found:
            return found[0]

    layouts = '; '.join(f'{images} with {masks}' for images, masks in (
        (f'{split}/', f'{split}annot/'),
        (f'{split}/images/', f'{split}/masks/'),
        (f'images/{split}/', f'masks/{split}/'),
    ))
    present = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith('.'))
    content = f'has the folders {", ".join(present[:8])}{", ..." if len(present) > 8 else ""}' if present \
        else 'has no folders'
    half = [
        f'{images} has no {masks}' for name in _split_names(split) for images, masks in _layouts(root, name)[1::3]
        if images.is_dir()
    ]
    raise DatasetError(
        f'No folders of images and masks for split "{split}": {root} {content}{"".join(f"; {text}" for text in half)}. '
        f'Arrange it as one of: {layouts} ("masks" may also be called "annotations" or "labels"; '
        f'split names tried: {", ".join(_split_names(split))}).')


def _files_by_stem(folder: Path, extensions: tuple[str, ...], kind: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # Names with a leading dot are what file managers leave behind, not data.
        if path.name.startswith('.') or path.suffix.lower() not in extensions or not path.is_file():
            continue
        if path.stem in files:
            raise DatasetError(
                f'Each {kind} must have a stem of its own, by which pairs are matched: {files[path.stem].name} '
                f'and {path.name} in {folder} share "{path.stem}"; remove or rename one.')
        files[path.stem] = path
    if not files:
        raise DatasetError(
            f'The folder of {kind}s is empty: {folder} has no file ending in {", ".join(extensions)}; '
            'put the files directly into it.')
    return files


def _require_partner(files: dict[str, Path], partners: dict[str, Path], kind: str, partner: str, folder: Path) -> None:
    alone = [path for stem, path in files.items() if stem not in partners]
    if alone:
        names = ', '.join(path.name for path in alone[:3]) + (', ...' if len(alone) > 3 else '')
        raise DatasetError(
            f'Each {kind} must have {_ARTICLES[partner]} {partner} of the same stem: {len(alone)} of {len(files)} '
            f'{kind}s in {alone[0].parent} have none ({names}); add the {partner}s to {folder} or remove the {kind}s.')


def _open(path: Path, kind: str) -> Image.Image:
    """Decode a whole file now, so that a truncated one fails here, where its name is known."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, struct.error, ...
        raise DatasetError(
            f'Every {kind} must be readable: {path} is not ({type(error).__name__}: {error}); '
            'replace or remove the file.') from error


class SegmentationFolder(Dataset):
    """Images with index masks, matched by file stem and sorted by it.

    Layouts, with `{split}` being train/training, val/valid/validation, test, or any other folder name:

    * CamVid's: `root/{split}/` with `root/{split}annot/`
    * `root/{split}/images/` with `root/{split}/masks/`
    * `root/images/{split}/` with `root/masks/{split}/`

    where `masks` may also be called `annotations` or `labels`. Images: jpg, jpeg, png, bmp, tif, tiff, webp. Masks:
    png, bmp, tif, tiff with one channel whose value (of a palette image: the index) is the label. Files are read as
    stored; an EXIF orientation is not applied.

    `dataset[i]` is `(image, mask)`: `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` int64 (H, W) with
    values 0 to num_classes - 1 and `ignore_label`, or whatever `transform(image, mask)` returns for the two.

    Attributes:
        ignore_label: The one value that losses and metrics have to ignore, and with which transforms and the loader
            fill padding: `ignore_index`, or 255 where there is none.

    Args:
        root: Folder of the data set. An optional `classes.txt` in it names the classes, one a line.
        split: Which part to read.
        num_classes: Number of classes; 1 to 255 where there is no `ignore_index`.
        ignore_index: Label in the files that stands for "not labelled", None if there is none.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored).
        transform: Called with image and mask, see `create_segmentation_transform`.

    Raises:
        ValueError: `num_classes`, `ignore_index` or `in_chans` out of range.
        DatasetError: At construction for missing, empty or ambiguous folders, images without masks and the reverse,
            and a `classes.txt` that does not fit; at the sample for unreadable files, sizes that differ, masks that
            are not index images and labels outside the classes.
    """

    def __init__(
            self,
            root: str | Path,
            split: str,
            num_classes: int,
            ignore_index: int | None = None,
            in_chans: int = 3,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
    ) -> None:
        if in_chans not in _IMAGE_MODES:
            raise ValueError(f'in_chans must be 1 (grey), 3 (RGB) or 4 (RGBA), got {in_chans}.')
        if num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
        if ignore_index is None and num_classes > DEFAULT_IGNORE_LABEL:
            raise ValueError(
                f'Without ignore_index, label {DEFAULT_IGNORE_LABEL} marks padding, so num_classes must be at most '
                f'{DEFAULT_IGNORE_LABEL}, got {num_classes}; pass an ignore_index that is no class.')
        if ignore_index is not None and not 0 <= ignore_index <= 65535:
            raise ValueError(f'ignore_index must be a label that a mask can store, 0 to 65535, got {ignore_index}.')
        self.root = Path(root)
        self.split = split
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.ignore_label = DEFAULT_IGNORE_LABEL if ignore_index is None else ignore_index
        self.in_chans = in_chans
        self.transform = transform

        image_folder, mask_folder = find_folders(self.root, split)
        images = _files_by_stem(image_folder, IMAGE_EXTENSIONS, 'image')
        masks = _files_by_stem(mask_folder, MASK_EXTENSIONS, 'mask')
        _require_partner(images, masks, 'image', 'mask', mask_folder)
        _require_partner(masks, images, 'mask', 'image', image_folder)
        self._pairs = [(images[stem], masks[stem]) for stem in sorted(images)]
        self._class_names = self._read_class_names()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self._pairs[index]
        image, mask = self._read_image(image_path), self._read_mask(mask_path)
        if image.shape[-2:] != mask.shape[-2:]:
            sizes = [f'{tensor.shape[-1]} x {tensor.shape[-2]}' for tensor in (image, mask)]
            raise DatasetError(
                f'Image and mask must have the same size: {image_path} is {sizes[0]} but {mask_path} is {sizes[1]} '
                '(width x height); resize the mask by nearest neighbour, or export it again at the size of the image.')
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, mask)."""
        return self._pairs[index]

    @property
    def class_names(self) -> list[str]:
        """One name a class, from `root/classes.txt`, or "class 0", "class 1", ..."""
        return list(self._class_names)

    def _read_class_names(self) -> list[str]:
        path = self.root / 'classes.txt'
        if not path.is_file():
            return [f'class {index}' for index in range(self.num_classes)]
        try:
            lines = path.read_text(encoding='utf-8-sig').splitlines()
        except UnicodeDecodeError as error:
            raise DatasetError(f'Class names must be UTF-8 text: {path} is not ({error}); save it as UTF-8.') from error
        names = [line.strip() for line in lines if line.strip()]
        if len(names) != self.num_classes:
            raise DatasetError(
                f'classes.txt must name every class, one a line, without the ignored label: {path} has {len(names)} '
                f'names, num_classes is {self.num_classes}; correct the file or pass --num-classes {len(names)}.')
        return names

    def _read_image(self, path: Path) -> tv_tensors.Image:
        image = _open(path, 'image')
        if image.mode in ('I', 'F') or image.mode.startswith('I;16'):
            raise DatasetError(
                f'Images must have 8 bits a channel: {path} has mode {image.mode}; convert it to 8 bits, '
                'since cutting it off here would lose its range unseen.')
        if self.in_chans == 4 and image.mode != 'RGBA':
            raise DatasetError(
                f'in_chans 4 needs RGBA images: {path} has mode {image.mode}; pass --in-chans 3, '
                'or store the fourth channel as alpha.')
        return tv_tensors.Image(F.pil_to_tensor(image.convert(_IMAGE_MODES[self.in_chans])))

    def _read_mask(self, path: Path) -> tv_tensors.Mask:
        mask = _open(path, 'mask')
        if mask.mode not in _MASK_MODES:
            raise DatasetError(
                f'A mask must be a single-channel image whose pixels are class indices: {path} has mode {mask.mode} '
                f'with channels {", ".join(mask.getbands())}; map its colours to the indices 0 to '
                f'{self.num_classes - 1} and save it as 8-bit grey or palette PNG.')
        labels = torch.from_numpy(np.array(mask).astype(np.int64))
        valid = (labels >= 0) & (labels < self.num_classes)
        if self.ignore_index is not None:
            valid |= labels == self.ignore_index
        if not valid.all():
            self._refuse_labels(path, labels[~valid])
        return tv_tensors.Mask(labels)

    def _refuse_labels(self, path: Path, labels: torch.Tensor) -> None:
        values = labels.unique().tolist()
        listed = ', '.join(str(value) for value in values[:8]) + (', ...' if len(values) > 8 else '')
        allowed = f'0 to {self.num_classes - 1}'
        if self.ignore_index is not None:
            allowed += f' or the ignored {self.ignore_index}'
        remedies = []
        if len(values) == 1:
            remedies.append(f'pass --ignore-index {values[0]} if it stands for unlabelled pixels')
        if 0 <= values[0] and values[-1] < DEFAULT_IGNORE_LABEL:
            remedies.append(f'pass --num-classes {values[-1] + 1} if they are classes')
        remedies.append('rewrite the masks with those labels')
        raise DatasetError(
            f'Labels must be {allowed}: {path} has {listed} in {len(labels)} pixels; {", or ".join(remedies)}.')
