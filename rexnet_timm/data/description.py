"""What a data set is: its splits, pairs of files, class names and colours.

The layouts are those that CamVid (SegNet tutorial), Cityscapes-like sets and most labelling tools write. Everything
that can be wrong with the folders is reported here, by file name, as a `DatasetError`.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..errors import DatasetError

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
MASK_EXTENSIONS = ('.png', '.bmp', '.tif', '.tiff')
DEFAULT_IGNORE_LABEL = 255

_SPLIT_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation'), ('test',))
_MASK_FOLDERS = ('masks', 'annotations', 'labels')
_ARTICLES = {'image': 'an', 'mask': 'a'}
# First colours of `palette`: well apart, and none so dark or so light that an overlay hides it.
_FIRST_COLORS = (
    (70, 76, 92), (230, 84, 72), (64, 150, 232), (244, 190, 60), (60, 178, 112), (158, 94, 214),
    (240, 134, 190), (58, 196, 200), (150, 96, 58), (178, 208, 92), (28, 84, 156), (206, 206, 214),
)


TASKS = ('segmentation', 'depth', 'classification')


@dataclass(frozen=True)
class DataDescription:
    """What a model knows of the data that it was trained on. Plain values, saved with it.

    Attributes:
        task: 'segmentation', 'depth' or 'classification'.
        class_names: One name a class; of a binary mask background and foreground. Empty where they are not known.
        colors: RGB from 0 to 255 of each class, for pictures. Empty takes those of `palette`.
        ignore_index: Label that does not count, None for no such label.
        in_chans: Channels of the images.
        mean: Mean of each channel, of values in `value_range`.
        std: Standard deviation of each channel, likewise.
        value_range: What the lowest and the highest pixel become before `mean` and `std` are applied.
        input_size: Height and width of the training crops, None where they are not known.
        crop_pct: Side of the centre crop of classification, of 1.
        interpolation: How images are resized.
        min_depth: Depth of disparity 1 in metres, for depth.
        max_depth: Depth of disparity 0 in metres, for depth.

    Raises:
        ValueError: A value that does not fit the others.
    """
    task: str = 'segmentation'
    class_names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int | None = None
    in_chans: int = 3
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    value_range: tuple[float, float] = (0., 1.)
    input_size: tuple[int, int] | None = None
    crop_pct: float = 0.875
    interpolation: str = 'bilinear'
    min_depth: float | None = None
    max_depth: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):  # lists, as JSON and YAML have them, become tuples
            value = getattr(self, field.name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, field.name, _tuples(value))
        if self.task not in TASKS:
            raise ValueError(f'task must be one of {", ".join(TASKS)}, got {self.task!r}.')
        for name in ('mean', 'std'):
            values = getattr(self, name)
            if len(values) != self.in_chans:  # of another number of channels, as those of ImageNet: their mean for all
                values = (sum(values) / len(values),) * self.in_chans
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.colors and len(self.colors) != len(self.class_names):
            raise ValueError(
                f'colors must have one entry for each of the {len(self.class_names)} class names, got '
                f'{len(self.colors)}.')

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, which `from_dict` takes."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'DataDescription':
        """From what `to_dict` gave, also by way of JSON or YAML; names of later releases are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def palette(self, num_classes: int) -> np.ndarray:
        """uint8 (num_classes, 3) RGB colours: its own where it has them."""
        if len(self.colors) == num_classes:
            return np.array(self.colors, dtype=np.uint8)
        return palette(num_classes)


def _tuples(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(item) if isinstance(item, (list, tuple)) else item for item in value)


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


def folder_pairs(root: str | Path, split: str) -> list[tuple[Path, Path]]:
    """Every (image folder, mask folder) that a folder has for a split, under the first of its names that has any."""
    for name in _split_names(split):
        found = [folders for folders in _layouts(Path(root), name) if all(folder.is_dir() for folder in folders)]
        if found:
            return found
    return []


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
    found = folder_pairs(root, split)
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


def files_by_stem(folder: Path, extensions: tuple[str, ...], kind: str) -> dict[str, Path]:
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


def require_partner(files: dict[str, Path], partners: dict[str, Path], kind: str, partner: str, folder: Path) -> None:
    alone = [path for stem, path in files.items() if stem not in partners]
    if alone:
        names = ', '.join(path.name for path in alone[:3]) + (', ...' if len(alone) > 3 else '')
        raise DatasetError(
            f'Each {kind} must have {_ARTICLES[partner]} {partner} of the same stem: {len(alone)} of {len(files)} '
            f'{kind}s in {alone[0].parent} have none ({names}); add the {partner}s to {folder} or remove the {kind}s.')


def read_class_names(root: Path, num_classes: int) -> list[str]:
    """One name a class, from `root/classes.txt` or, without that file, "class 0", "class 1", ...

    Args:
        root: Folder of the data set.
        num_classes: Number of classes. 1 is a binary mask, which has the names of background and foreground: the file
            has both or that of the foreground, and without it they are "background" and "foreground".

    Raises:
        DatasetError: Not UTF-8 text, another number of names than of classes, or a name that stands twice.
    """
    path = root / 'classes.txt'
    if not path.is_file():
        return ['background', 'foreground'] if num_classes == 1 else [f'class {index}' for index in range(num_classes)]
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f'Class names must be UTF-8 text: {path} is not ({error}); save it as UTF-8.') from error
    # spaces that cannot be seen make no other name
    numbered = [(' '.join(line.split()), number) for number, line in enumerate(lines, 1) if line.strip()]
    names = [name for name, _ in numbered]
    if not names:
        raise DatasetError(
            f'classes.txt must name every class, one a line: {path} has no names; write them, or remove the file.')
    if len(names) != num_classes and not (num_classes == 1 and len(names) == 2):
        one = ', or that of the foreground, since num_classes is 1' if num_classes == 1 else ''
        raise DatasetError(
            f'classes.txt must name every class, one a line, without the ignored label{one}: {path} has {len(names)} '
            f'names, num_classes is {num_classes}; correct the file or pass num_classes={len(names)}.')
    first: dict[str, int] = {}
    for name, number in numbered:
        if name in first:
            raise DatasetError(
                f'Every class must have a name of its own: {path} has {name!r} in the lines {first[name]} and '
                f'{number}; rename one of the two.')
        first[name] = number
    if len(names) == 1 == num_classes:
        if names == ['background']:
            raise DatasetError(
                f'The one name of a binary set must be that of the foreground: {path} has {names[0]!r}; name the '
                'foreground, or both in two lines.')
        names = ['background', *names]
    return names
