"""Options that say how the files of a data set of masks or depth are laid out, and what their numbers mean, for every
command that reads one.
"""
import argparse
from collections.abc import Callable
from dataclasses import replace

from ..data import DataDescription, DepthFolder, Layout, SegmentationFolder, describe_data, describe_depth
from ..data.bands import EIGHT_BITS, PERCENTILE, Scale, scale_of
from ..data.formats import FORMATS
from ..data.labels import HIGHEST, LABEL_MAPS, LOWEST
from .values import Kind, number, one_of_table

__all__ = [
    'FLAGS', 'IMAGES', 'LABELS', 'LAYOUT', 'PLANNED', 'add_depth_scale', 'add_images', 'add_labels', 'add_layout',
    'depth_summary', 'described', 'described_depth', 'layout_of', 'read_as', 'scale_words', 'summary']

SHARE = number(float, above=0, below=1)
DATA_FORMAT = one_of_table(FORMATS, 'auto')
LABEL_MAP = Kind('pairs such as 0:0 255:1, the name of a map or a file', str)


def _scale_word(word: str) -> str:
    scale_of(word)
    return word


IMAGE_SCALE = Kind(f'a number above 0, {PERCENTILE}, or LOW:HIGH', _scale_word, metavar='SCALE')
IGNORE_INDEX = number(int, at_least=LOWEST, at_most=HIGHEST)

LAYOUT = (
    'data_format', 'image_dir', 'mask_dir', 'image_suffix', 'mask_suffix', 'split_file', 'val_share', 'split_seed')
LABELS = ('label_map', 'color_map')
IMAGES = ('bands', 'image_scale')
# What a run may take from a check of its data
PLANNED = (
    'batch_size', 'color_map', 'ignore_index', 'img_size', 'label_map', 'num_classes', 'scale', 'val_share')
# What the library calls an argument, by the option that sets it; "bands" is an English word too
FLAGS = {
    **{name: f'--{name.replace("_", "-")}' for name in (
        *LAYOUT, *LABELS, 'image_scale', 'ignore_index', 'num_classes', 'depth_dir', 'depth_suffix', 'depth_scale')},
    'bands=': '--bands ', 'bands must': '--bands must'}


def add_layout(add: Callable[..., None]) -> None:
    """Add the options of `LAYOUT` to a group."""
    add('--data-format', kind=DATA_FORMAT, help='form of the files', unset='auto')
    add('--image-dir', metavar='DIR', help="folder of the images below that of the data, such as 'leftImg8bit/{split}'",
        unset='by --data-format')
    add('--mask-dir', '--depth-dir', metavar='DIR', help='folder of the masks, or of the depth maps, likewise')
    add('--image-suffix', metavar='END', unset='the ending of the format',
        help='how names of images end behind what they share with their masks, such as _leftImg8bit.png')
    add('--mask-suffix', '--depth-suffix', metavar='END', help='how names of masks, or of depth maps, end')
    add('--split-file', metavar='FILE', unset='by --data-format',
        help="list of the images of a split, such as 'ImageSets/Segmentation/{split}.txt'")
    add('--val-share', kind=SHARE, unset='0.2 where there are no splits',
        help='share of the images that is kept for validation where there is no split for it')
    add('--split-seed', kind=number(int, at_least=0), help='which images --val-share takes', unset='0')


def add_depth_scale(add: Callable[..., None]) -> None:
    """Add the option of what depth files hold to a group."""
    add('--depth-scale', kind=number(float, above=0), unset='1, for floating-point files',
        help='what the files have for a metre: 256 in KITTI, 1000 where they are millimetres')


def add_labels(add: Callable[..., None]) -> None:
    """Add the options of `LABELS` to a group."""
    add('--label-map', kind=LABEL_MAP, nargs='+', metavar='FROM:TO', unset='that of the data, or none',
        help='number in the masks and its class, such as 0:0 255:1 (others are ignored); '
             f'{", ".join(LABEL_MAPS)}; or a file of pairs')
    add('--color-map', metavar='FILE', unset='that of the data, or none',
        help='colours of the masks: a text file with a class in each line, such as road,128,64,128')


def add_images(add: Callable[..., None], unset: str = '') -> None:
    """Add the options of `IMAGES` to a group."""
    add('--bands', kind=number(int, at_least=1), nargs='+', metavar='N', unset=unset or 'all',
        help='bands of images that are the channels, counted from 1')
    add('--image-scale', kind=IMAGE_SCALE, nargs='+', unset=unset or '255; above 8 bits percentile',
        help=f'value of images that becomes 1; LOW:HIGH, of all channels or each; or {PERCENTILE}, which is measured')


def read_as(args: argparse.Namespace, description: DataDescription) -> DataDescription:
    """What a model knows of its data, with images that are read as the options say.

    Raises:
        ValueError: Another number of bands than the model has channels, or no scale for these.
    """
    if args.bands and len(args.bands) != description.in_chans:
        raise ValueError(
            f'--bands must be as many as the model has channels, {description.in_chans}, got '
            f'{" ".join(map(str, args.bands))}.')
    scale = scale_of(args.image_scale)
    if scale == PERCENTILE or isinstance(scale, tuple) and len(scale) not in (1, description.in_chans):
        raise ValueError(
            f'--image-scale must be a number, or LOW:HIGH once or for each of the {description.in_chans} channels, '
            f'since nothing is measured here, got {" ".join(args.image_scale)}.')
    said = {'bands': tuple(args.bands or ()), 'image_scale': scale}
    return replace(description, **{name: value for name, value in said.items() if value})


def scale_words(scale: Scale) -> list[str]:
    """A scale as words of --image-scale."""
    return [f'{low!r}:{high!r}' for low, high in scale] if isinstance(scale, tuple) else [repr(scale)]


def layout_of(args: argparse.Namespace, otherwise: Layout | None = None) -> Layout:
    """The layout that the options say; where none does, another one."""
    said = {name: value for name in LAYOUT if (value := getattr(args, name)) is not None}
    return Layout(**said) if said or otherwise is None else otherwise


def described(
        args: argparse.Namespace, folder: str, ignore_index: int | None = None, otherwise: Layout | None = None,
) -> DataDescription:
    """What the data themselves and the options say of them. ValueError where these do not fit."""
    return describe_data(
        folder, layout_of(args, otherwise), ignore_index=ignore_index, label_map=args.label_map,
        color_map=args.color_map, bands=args.bands or (), image_scale=args.image_scale)


def described_depth(
        args: argparse.Namespace, folder: str, model: DataDescription | None = None) -> DataDescription:
    """What the data and the options say of images and depth; where they do not, as a model knows its data."""
    otherwise = None if model is None else Layout(**model.layout)
    scale = model.depth_scale if model is not None and args.depth_scale is None else args.depth_scale
    return describe_depth(folder, layout_of(args, otherwise), scale)


def depth_summary(datasets: tuple[DepthFolder, DepthFolder], min_depth: float, max_depth: float) -> tuple[str, bool]:
    """One line on what was found of images and depth, and whether most of the depth is out of the range."""
    train_set, val_set = datasets
    share, counted, nearest, farthest, number = train_set.measured(min_depth, max_depth)
    unit = f'{train_set.depth_scale:g} for a metre' if train_set.depth_scale else 'in metres'
    return (
        f'{train_set.root} is read as {train_set.form} with depth ({unit}), {len(train_set)} images to train on and '
        f'{len(val_set)} to validate on; {number} depth maps looked at have {nearest:.3g} to {farthest:.3g} m at '
        f'{share:.1%} of the pixels, {counted:.0%} of that from {min_depth:g} to {max_depth:g} m, which counts',
        counted < 0.5)


def summary(datasets: tuple[SegmentationFolder, SegmentationFolder]) -> str:
    """One line on what was found: the form, the number of images, and what labels mean."""
    train_set, val_set = datasets
    data = train_set.description
    crops = f', {train_set.crops} crops of each,' if train_set.crops > 1 else ''
    parts = [f'{train_set.root} is read as {train_set.form}',
             f'{len(train_set) // train_set.crops} images to train on{crops} and {len(val_set)} to validate on',
             f'{max(2, train_set.num_classes)} classes{_names(train_set)}']
    if data.color_map:
        parts.append(f'{len(data.color_map)} colours are mapped to them')
    elif data.label_map:
        name = next((name for name, pairs in LABEL_MAPS.items() if pairs == data.label_map), None)
        parts.append(f'labels are mapped to them by {name or " ".join(f"{a}:{b}" for a, b in data.label_map)}')
    elif train_set.foreground != 1:
        parts.append(f'{train_set.foreground} is the foreground')
    if data.ignore_index is not None:
        parts.append(f'label {data.ignore_index} is ignored')
    return ', '.join(parts[:2]) + '; ' + ', '.join(parts[2:]) + '; ' + _images(data)


def _names(train_set: SegmentationFolder) -> str:
    """The first names of the classes, in brackets, where the data tell them: a format may have given the wrong ones."""
    names = train_set.description.class_names
    known = [name for index, name in enumerate(names) if name != f'class {index}']
    return f' ({", ".join(names[:5])}{", ..." if len(names) > 5 else ""})' if known and len(names) > 2 else ''


def _images(data: DataDescription) -> str:
    """What is read of the images, in words."""
    what = f'bands {" ".join(map(str, data.bands))}' if data.bands else {1: 'grey', 3: 'colours'}.get(
        data.in_chans, f'{data.in_chans} bands')
    scale = data.image_scale
    if isinstance(scale, tuple):
        ranges = [f'{low:g} to {high:g}' for low, high in scale]
        more = ', ...' if len(ranges) > 4 else ''
        return f'images are read as {what}, {", ".join(ranges[:4])}{more} as 0 to 1'
    return f'images are read as {what}' + ('' if scale == EIGHT_BITS else f', {scale:g} as 1')
