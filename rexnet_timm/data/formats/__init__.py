"""From a folder, or a file that describes one, to a description of the data set.

A format is one function from a folder and what was said of its layout to a description, or to None where the folder is
of another form, and a row in `FORMATS`; those of other packages add theirs by `register_format`.
"""
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import DatasetError
from ...extensions import add_to_table, unknown_name
from ..bands import check_bands, scale_of
from ..description import DataDescription, DataSource, Layout, Sample, split_names
from ..labels import LabelMap, color_table, label_map_of, read_text
from ..stream import MANIFEST, describe_shards
from .dataset_yaml import FILE_NAME, DatasetFile, is_dataset_yaml, read_dataset_yaml
from .drawn import coco, coco_panoptic, yolo
from .folders import flat_folders, folder_pairs, folders, mmsegmentation
from .hugging_face import hugging_face
from .public import ade20k, camvid, cityscapes, nnunet, pet, voc
from .splits import divided
from .tars import is_tar_pattern, webdataset

__all__ = [
    'FORMATS', 'Format', 'data_above', 'describe_data', 'holds_masks', 'is_there', 'names_of_file', 'register_format']


Describe = Callable[[Path, Layout], DataDescription | None]


class Format(NamedTuple):
    """A row of `FORMATS`.

    Attributes:
        describe: From a folder and its layout to a description; None where the folder has another form.
        form: What the folder must have, for messages.
    """
    describe: Describe
    form: str


# In the order in which a folder is tried; the last one takes all others
FORMATS: dict[str, Format] = {
    'shards': Format(describe_shards, f'{MANIFEST}, as rexnet shards writes it'),
    'voc': Format(voc, 'JPEGImages, SegmentationClass and ImageSets/Segmentation'),
    'cityscapes': Format(cityscapes, 'leftImg8bit and gtFine'),
    'ade20k': Format(ade20k, 'images, annotations and objectInfo150.txt'),
    'camvid': Format(camvid, 'train with trainannot or train_labels, or 701_StillsRaw_full'),
    'pet': Format(pet, 'images and annotations/trimaps, as torchvision.datasets.OxfordIIITPet(root, download=True) '
                       'leaves them'),
    'nnunet': Format(nnunet, 'dataset.json, imagesTr and labelsTr'),
    'coco': Format(coco, 'annotations/instances_*.json, or _annotations.coco.json in the folder of each split'),
    'coco-panoptic': Format(coco_panoptic, 'annotations/panoptic_*.json and their pictures'),
    'yolo': Format(yolo, 'a YAML file with names, train and val'),
    'huggingface': Format(hugging_face, 'Parquet files, a saved data set, or metadata.csv with file_name and '
                                        'mask_file_name'),
    'webdataset': Format(webdataset, 'tar files with an image and a mask of each sample'),
    'mmseg': Format(mmsegmentation, 'img_dir and ann_dir'),
    'folders': Format(folders, 'folders of images and of masks'),
}
_OWN_FORMATS = tuple(FORMATS)


def register_format(name: str, form: str) -> Callable[[Describe], Describe]:
    """A decorator that makes a function a format of `describe_data` and of the commands, under a name.

    The function is called with the folder, or file, that the user names, and with what was said of its layout. It
    returns None where this is of another form, without opening a picture; where it is of this one, a
    :class:`DataDescription` whose `source` is a :class:`DataSource`. It raises DatasetError, with file and remedy, for
    one that is damaged.
    Formats of other packages are tried before those of this one, in the order in which they were registered.

    Args:
        name: The name, for `data_format`.
        form: What the folder must have, for messages.

    Raises:
        ValueError: A name that another package has registered, or that is no name.
    """
    def register(describe: Describe) -> Describe:
        taken = {'auto': describe_data, **{known: row.describe for known, row in FORMATS.items()}}
        add_to_table(taken, 'format', name, describe)
        rows = {**FORMATS, name: Format(describe, form)}
        FORMATS.clear()  # a table that others have imported stays the same one
        FORMATS.update(sorted(rows.items(), key=lambda row: row[0] in _OWN_FORMATS))
        return describe

    return register


def describe_data(
        root: str | Path,
        layout: Layout | None = None,
        *,
        class_names: Sequence[str] = (),
        ignore_index: int | None = None,
        label_map: Any = None,
        color_map: Any = None,
        bands: Sequence[int] = (),
        image_scale: Any = None,
) -> DataDescription:
    """What a folder or a file says of a data set; what is given goes before what is found.

    Files are listed when a split is asked for, and no picture is opened.

    Args:
        root: Folder of the data; or a `dataset.yaml`, YOLO's YAML, COCO's JSON, a tar file, or a pattern of several as
            `train-{000000..000012}.tar`.
        layout: What is said of the layout; None detects it.
        class_names: Names of the classes.
        ignore_index: Label in the files that does not count.
        label_map: See `labels.label_map_of`.
        color_map: See `labels.color_table`.
        bands: Numbers of the bands of images that are read, counted from 1; empty for all.
        image_scale: What the values of images are scaled by, see `bands.scale_of`.

    Raises:
        ValueError: No such format, or a label map, colour table, bands or scale that are none.
        DatasetError: No such folder, or one that is not of the form.
    """
    root, layout = Path(root), layout or Layout()
    if not is_there(root):
        raise DatasetError(f'The data set must be a folder: {root} does not exist or is no folder; check the path.')
    path = root if root.is_file() else root / FILE_NAME
    said = DatasetFile(root)
    if path.is_file() and is_dataset_yaml(path):
        said = read_dataset_yaml(path)
    layout = replace(said.layout, **layout.given())
    found = replace(_with_table_of_folder(_detect(said.root, layout)), layout=layout.given())
    for colors, labels in ((said.color_map, said.label_map), (color_map, label_map)):
        found = found if colors is None else _with_colors(found, colors)
        found = found if labels is None else _with_label_map(found, label_map_of(labels))
    if color_map is not None or label_map is not None:  # to which names and colours of the file need not belong
        said = replace(said, class_names=(), colors=())
    class_names = class_names or said.class_names
    names = _source_of(found).root / 'classes.txt'
    if class_names or names.is_file():
        found = _with_names(found, class_names or names_of_file(names))
    if said.colors:
        if len(said.colors) != len(found.class_names):
            raise DatasetError(
                f'colors must have one entry for each of the {len(found.class_names)} class names: {path} has '
                f'{len(said.colors)}; correct them, or add class_names.')
        found = replace(found, colors=said.colors)
    scale = said.image_scale if image_scale is None else scale_of(image_scale)
    found = replace(found, bands=check_bands(bands) or said.bands, image_scale=scale)
    ignored = said.ignore_index if ignore_index is None else ignore_index
    return found if ignored is None else replace(found, ignore_index=ignored)


def is_there(root: str | Path) -> bool:
    """Whether there is something that `describe_data` may read: a folder, a file, or what a pattern stands for."""
    return Path(root).exists() or is_tar_pattern(root)


def _detect(root: Path, layout: Layout) -> DataDescription:
    name = layout.data_format
    if name not in ('auto', *FORMATS):
        raise ValueError(unknown_name('data_format', name, {'auto': None, **FORMATS}))
    if name == 'auto' and (root / MANIFEST).is_file():  # whatever is known of files that became these
        name = 'shards'
    if layout.image_dir is not None and name == 'auto':
        name = 'folders'
    if name == 'auto':
        rows = list(FORMATS.values())
        if not root.is_dir():
            others = [row for known, row in FORMATS.items() if known not in _OWN_FORMATS]
            rows = [*others, FORMATS[{'.json': 'coco', '.tar': 'webdataset'}.get(root.suffix.lower(), 'yolo')]]
        found = next((found for row in rows if (found := row.describe(root, layout)) is not None), None)
        if found is None:
            raise DatasetError(
                f'The data must be a folder, or a file that describes one: {root} is neither a dataset.yaml, nor '
                "YOLO's YAML, nor COCO's JSON; name the folder of the data.")
    else:
        found = FORMATS[name].describe(root, layout)
        if found is None:
            present = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else [root.name]
            raise DatasetError(
                f'Data of the format {name} must have {FORMATS[name].form}: {root} has '
                f'{", ".join(present[:8]) or "nothing"}{", ..." if len(present) > 8 else ""}; name another folder, or '
                'data_format=auto.')
    return replace(found, source=_with_share(_source_of(found), layout))


def _source_of(found: DataDescription) -> DataSource:
    assert found.source is not None, 'a format describes data that are there'
    return found.source


def _with_share(source: DataSource, layout: Layout) -> DataSource:
    """A source that has no validation split, with a share of its training split for that, where it was asked for."""
    if layout.val_share is None or source.kept:
        return source
    if source.name_of('validation') is not None:
        raise DatasetError(
            f'val_share is for data without a split for validation, and {source.root} has '
            f'{source.name_of("validation")!r}; leave it out.')
    if source.name_of('train') is None:
        return source
    parts = divided(source.root, source.format, partial(source.samples, 'train'), layout)

    def find(split: str) -> Sequence[Sample]:
        return parts.samples(split) if parts.name_of(split) else source.samples(split)

    others = (name for name in source.splits if name not in split_names('train'))
    return replace(parts, splits=(*parts.splits, *others), find=find)


def _with_names(found: DataDescription, names: Sequence[str]) -> DataDescription:
    fits = len(found.colors) == len(names)
    return replace(found, class_names=tuple(names), colors=found.colors if fits else ())


def _with_table_of_folder(found: DataDescription) -> DataDescription:
    """With the colours of `labelmap.txt` or `class_dict.csv` beside plain folders."""
    source = _source_of(found)
    root = source.root
    table = next((path for path in (root / 'labelmap.txt', root / 'class_dict.csv') if path.is_file()), None)
    return found if table is None or source.format != 'folders' else _with_colors(found, table)


def _with_colors(found: DataDescription, value: Any) -> DataDescription:
    color_map, names = color_table(value)
    first: dict[int, tuple[int, int, int]] = {}
    for color, label in color_map:
        first.setdefault(label, color)
    return replace(
        found, color_map=color_map, label_map=(), class_names=names,
        colors=tuple(first[label] for label in sorted(first)), ignore_index=None)


def _with_label_map(found: DataDescription, label_map: LabelMap) -> DataDescription:
    """With another label map, to which the names of the classes as they were do not belong."""
    if set(label_map) == set(found.label_map):
        return found
    return replace(found, label_map=label_map, class_names=(), colors=())


def names_of_file(path: Path) -> list[str]:
    """The names of `classes.txt`, one a line.

    Raises:
        DatasetError: Not UTF-8 text, no names, or a name that stands twice.
    """
    # spaces that cannot be seen make no other name
    lines = read_text(path).splitlines()
    numbered = [(' '.join(line.split()), number) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise DatasetError(
            f'classes.txt must name every class, one a line: {path} has no names; write them, or remove the file.')
    first: dict[str, int] = {}
    for name, number in numbered:
        if name in first:
            raise DatasetError(
                f'Every class must have a name of its own: {path} has {name!r} in the lines {first[name]} and '
                f'{number}; rename one of the two.')
        first[name] = number
    return [name for name, _ in numbered]


def holds_masks(root: str | Path, split: str) -> str | None:
    """What a folder has beside its images, for messages; None where there is nothing of masks."""
    root = Path(root)
    pairs = [*(pair for name in (split, '') for pair in folder_pairs(root, name)), *flat_folders(root)]
    if pairs:
        images, masks = pairs[0]
        return f'{images.name} with {masks.name}'
    path = root / FILE_NAME
    if path.is_file() and is_dataset_yaml(path):
        return FILE_NAME
    return next((row.form for name, row in FORMATS.items() if name != 'folders' and _is_of(name, root)), None)


def data_above(root: str | Path) -> tuple[str, str] | None:
    """The nearest data set of a known form of which a folder is a part, one or two above it, and its format."""
    path = Path(root).resolve()
    for number, parent in enumerate(path.parents[:2], 1):
        names = (name for name in FORMATS if name not in ('folders', 'huggingface', 'yolo'))
        name = next((name for name in names if _is_of(name, parent)), None)
        if name is not None:
            return os.path.normpath(os.path.join(root, *[os.pardir] * number)), name
    return None


def _is_of(name: str, root: Path) -> bool:
    """Whether a folder has a format; a damaged one too, but for tables, which may be of anything."""
    try:
        return FORMATS[name].describe(root, Layout()) is not None
    except ValueError:
        return name != 'huggingface'

