"""What a data set is: where its samples lie, what its labels mean, and how its images are read.

`formats` makes descriptions of folders and of files, and checkpoints carry them without the files.
"""
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..errors import DatasetError
from .bands import EIGHT_BITS, Scale, check_bands, scale_of

IMAGE_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.npy')
MASK_EXTENSIONS = ('.png', '.bmp', '.tif', '.tiff', '.gif', '.npy')
DEPTH_EXTENSIONS = ('.png', '.tif', '.tiff', '.npy')
DEFAULT_IGNORE_LABEL = 255
LARGE_IGNORE_LABEL = 65535  # where 255 is a class

_SPLIT_SYNONYMS = (('train', 'training'), ('val', 'valid', 'validation'), ('test', 'testing'))
# First colours of `palette`: well apart, and none so dark or so light that an overlay hides it.
_FIRST_COLORS = (
    (70, 76, 92), (230, 84, 72), (64, 150, 232), (244, 190, 60), (60, 178, 112), (158, 94, 214),
    (240, 134, 190), (58, 196, 200), (150, 96, 58), (178, 208, 92), (28, 84, 156), (206, 206, 214),
)


TASKS = ('segmentation', 'depth', 'classification')
BACKGROUND = ('background', 'bg', 'void', 'unlabeled', 'unlabelled')  # what a class is called that is none

# An image and its mask: paths, or what stands for a file in a larger one (see `formats`)
Sample = tuple[Any, Any]


@dataclass(frozen=True)
class Layout:
    """How the files of a data set are laid out, as far as that is said and not detected.

    Attributes:
        data_format: A name of `formats.FORMATS`, or 'auto'.
        image_dir: Folder of the images below the root; `{split}` in it stands for the name of a split.
        mask_dir: Folder of the masks, or of the depth maps, likewise.
        image_suffix: How the names of images end, behind what they share with their masks, such as `_leftImg8bit.png`.
        mask_suffix: How the names of masks, or of depth maps, end.
        split_file: List of the images of a split, a name a line, with `{split}` in its path.
        val_share: Share of the images that is kept for validation where there is no validation split; None takes
            `DEFAULT_VAL_SHARE` where there are no splits at all.
        split_seed: Which images these are.
    """
    data_format: str = 'auto'
    image_dir: str | None = None
    mask_dir: str | None = None
    image_suffix: str | None = None
    mask_suffix: str | None = None
    split_file: str | None = None
    val_share: float | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        if (self.image_dir is None) != (self.mask_dir is None):
            given, lacking = ('image_dir', 'mask_dir') if self.mask_dir is None else ('mask_dir', 'image_dir')
            raise ValueError(f'image_dir and mask_dir belong together, got only {given}: pass {lacking} too.')
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise ValueError(f'val_share must be above 0 and below 1, got {self.val_share}.')

    def given(self) -> dict[str, Any]:
        """What is said: the values that are not the defaults."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}


@dataclass(frozen=True)
class DataSource:
    """Where the samples of a data set are.

    Attributes:
        format: The name of the format that it is read as.
        root: Folder, or file, of the data.
        splits: Names of the splits that are there.
        find: The samples of a split, by one of those names; a DatasetError for another.
        kept: Share of the training images that is kept for validation, where there is no split for that.
    """
    format: str
    root: Path
    splits: tuple[str, ...]
    find: Callable[[str], Sequence[Sample]]
    kept: float | None = None

    def __str__(self) -> str:
        return f'{self.format}, {self.kept:.0%} of it kept for validation' if self.kept else self.format

    def name_of(self, split: str) -> str | None:
        """What a split is called here: the asked name, or a synonym such as 'val' for 'validation'; None for none."""
        return next((name for name in split_names(split) if name in self.splits), None)

    def samples(self, split: str) -> Sequence[Sample]:
        """The pairs of image and mask of a split.

        Raises:
            DatasetError: No such split, or files that do not pair; the text has what was found.
        """
        return self.find(self.name_of(split) or split)

    def no_split(self, split: str) -> DatasetError:
        """The error for a split that is not there."""
        share = ', or pass val_share=0.2 to keep a part of the training images for it' \
            if 'validation' in split_names(split) and self.name_of('train') else ''
        return DatasetError(
            f'There is no split "{split}" in {self.root}, read as {self}: it has '
            f'{", ".join(self.splits) or "none"}; name one of them as the split{share}.')


@dataclass(frozen=True)
class DataDescription:
    """What is known of a data set, and what a model knows of the one that it was trained on.

    All but `source` are plain values, which are saved with a model.

    Labels: the numbers of a mask (of a coloured one those that `color_map` gives its colours) become classes by
    `label_map`, and what that does not list is ignored; without it, they are the classes.

    Attributes:
        task: 'segmentation', 'depth' or 'classification'; or that of another package, whose models are loaded and
            exported here, and neither validated nor predicted with.
        class_names: One name a class; of a binary mask background and foreground. Empty where they are not known.
        colors: RGB from 0 to 255 of each class, for pictures. Empty takes those of `palette`.
        ignore_index: Label in the files that does not count, None for no such label.
        label_map: Pairs of a label in the files and its class; empty where labels are classes.
        color_map: Pairs of an RGB colour in the files and its label; empty where masks hold numbers.
        foreground: Of binary masks without a label map, the number in the files that is class 1: 1 or 255.
        in_chans: Channels of the images.
        bands: Which bands of a file they are, counted from 1; empty for all of them.
        image_scale: What the values of files are scaled by, see `bands.Scale`; of data also 'percentile', by what is
            measured on them. None is 255 for images of 8 bits, and 'percentile' for data of others.
        mean: Mean of each channel, of values in `value_range`.
        std: Standard deviation of each channel, likewise.
        value_range: What the lowest and the highest pixel, 0 and 1 after scaling, become before `mean` and `std` are
            applied.
        input_size: Height and width of the training crops, None where they are not known.
        crop_pct: Side of the centre crop of classification, of 1.
        interpolation: How images are resized.
        min_depth: Depth of disparity 1 in metres, for depth.
        max_depth: Depth of disparity 0 in metres, for depth.
        depth_scale: What the files have for a metre, for depth; None where they are in metres.
        layout: What was said of the layout of the files, by names of `Layout`.
        source: Where the samples are; None in the description of a model.

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
    depth_scale: float | None = None
    label_map: tuple[tuple[int, int], ...] = ()
    color_map: tuple[tuple[tuple[int, int, int], int], ...] = ()
    foreground: int = 1
    bands: tuple[int, ...] = ()
    image_scale: Scale | str | None = None
    layout: Mapping[str, Any] = field(default_factory=dict)
    source: DataSource | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for item in fields(self):  # lists, as JSON and YAML have them, become tuples
            value = getattr(self, item.name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, item.name, _tuples(value))
        if not isinstance(self.task, str) or not self.task:
            raise ValueError(f'task must be one of {", ".join(TASKS)}, or the name of another, got {self.task!r}.')
        object.__setattr__(self, 'bands', check_bands(self.bands))
        object.__setattr__(self, 'image_scale', scale_of(self.image_scale))
        for name in ('mean', 'std'):
            values = getattr(self, name)
            if len(values) != self.in_chans:  # of another number of channels, as those of ImageNet: their mean for all
                values = (sum(values) / len(values),) * self.in_chans
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if self.colors and len(self.colors) != len(self.class_names):
            raise ValueError(
                f'colors must have one entry for each of the {len(self.class_names)} class names, got '
                f'{len(self.colors)}.')

    def require_known_task(self) -> None:
        """Raise ValueError for the task of another package, which only that knows."""
        if self.task not in TASKS:
            raise ValueError(
                f'The model must be one for {", ".join(TASKS)} here, and is for {self.task}: call the network itself, '
                'as the package that trained it says.')

    @property
    def reading(self) -> dict[str, Any]:
        """How a model reads image files: keywords of `images.read_image`."""
        return {'in_chans': self.in_chans, 'bands': self.bands, 'scale': self.image_scale or EIGHT_BITS}

    @property
    def num_classes(self) -> int | None:
        """Classes of the masks, None where they are not known."""
        known = [label for _, label in self.label_map or self.color_map]
        return len(self.class_names) or (max(known) + 1 if known else None)

    @property
    def ignore_label(self) -> int | None:
        """What pixels that do not count are in label tensors, None where all of them count."""
        if self.ignore_index is None and not self.label_map and not self.color_map:
            return None
        return ignored_label(self.ignore_index, bool(self.label_map or self.color_map), self.num_classes or 1)

    @property
    def file_labels(self) -> tuple[int, ...]:
        """The label in the files of each class, of several the first; empty where labels are classes."""
        if self.label_map:
            first: dict[int, int] = {}
            for label, index in self.label_map:
                first.setdefault(index, label)
            return tuple(first.get(index, -1) for index in range(max(first) + 1))  # -1 for a class of no label
        return (0, self.foreground) if self.foreground != 1 else ()

    def in_files(self, classes: np.ndarray) -> np.ndarray:
        """Classes as the masks of the data have them.

        Args:
            classes: Whole numbers (H, W).

        Returns:
            Labels, uint8 or uint16 (H, W), or with a `color_map` RGB colours, uint8 (H, W, 3).

        Raises:
            ValueError: A class without a label, or a label that no picture holds.
        """
        if self.color_map:
            color_of: dict[int, tuple[int, int, int]] = {}
            for color, label in self.color_map:
                color_of.setdefault(label, color)
            labels = self.file_labels or sorted(color_of)
            return np.array([color_of[label] for label in labels], np.uint8)[classes]
        labels = self.file_labels
        if not labels:
            return classes.astype(np.uint8 if classes.max(initial=0) <= 255 else np.uint16)
        if min(labels) < 0 or max(labels) > LARGE_IGNORE_LABEL:
            raise ValueError(
                f'Labels of the files must be from 0 to {LARGE_IGNORE_LABEL} to be written, and the label map has '
                f'{min(labels) if min(labels) < 0 else max(labels)}: leave out original_labels.')
        return np.array(labels, np.uint8 if max(labels) <= 255 else np.uint16)[classes]

    def labelled_as(self, other: 'DataDescription') -> 'DataDescription':
        """These data with labels that mean what another description says, as far as it says something."""
        own, maps = self, (other.label_map, other.color_map)
        if any(maps) and maps != (own.label_map, own.color_map):
            # names belong to the classes as they were
            own = replace(own, label_map=maps[0], color_map=maps[1], class_names=(), colors=())
        if other.ignore_index is not None:
            own = replace(own, ignore_index=other.ignore_index)
        return replace(own, ignore_index=None) if own.ignore_index in dict(own.label_map) else own

    def seen_as(self, other: 'DataDescription') -> 'DataDescription':
        """These data with images that are read as another description says."""
        return replace(self, bands=other.bands, image_scale=other.image_scale or EIGHT_BITS)

    def without_places(self) -> 'DataDescription':
        """The same without whole paths in its layout, which would tell others of the machine of the training."""
        layout = {name: value for name, value in self.layout.items() if not os.path.isabs(str(value))}
        return replace(self, layout=layout, source=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, which `from_dict` takes; files are left out."""
        values = asdict(replace(self, source=None))
        del values['source']
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'DataDescription':
        """From what `to_dict` gave, also by way of JSON or YAML; names of later releases are left out."""
        known = {item.name for item in fields(cls)} - {'source'}
        return cls(**{name: value for name, value in values.items() if name in known})

    def palette(self, num_classes: int) -> np.ndarray:
        """uint8 (num_classes, 3) RGB colours: its own where it has them."""
        if len(self.colors) == num_classes:
            return np.array(self.colors, dtype=np.uint8)
        return palette(num_classes)

    def background(self, num_classes: int) -> frozenset[int]:
        """The classes that an overlay leaves unpainted: those with a name of `BACKGROUND`, or else the first of two."""
        names = self.class_names if len(self.class_names) == num_classes else ()
        found = frozenset(index for index, name in enumerate(names) if name.strip('_ ').lower() in BACKGROUND)
        return found or frozenset((0,) if num_classes == 2 else ())


def split_names(split: str) -> tuple[str, ...]:
    """The asked name of a split first, then its synonyms."""
    for names in _SPLIT_SYNONYMS:
        if split in names:
            return (split, *(name for name in names if name != split))
    return (split,)


def ignored_label(ignore_index: int | None, is_mapped: bool, num_classes: int) -> int:
    """The label of ignored pixels and of padding in label tensors.

    It is the ignored label of the files where tensors have their numbers and can hold it, and otherwise 255, or 65535
    where there are so many classes.
    """
    if ignore_index is not None and 0 <= ignore_index <= LARGE_IGNORE_LABEL and not is_mapped:
        return ignore_index
    return DEFAULT_IGNORE_LABEL if num_classes <= DEFAULT_IGNORE_LABEL else LARGE_IGNORE_LABEL


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
