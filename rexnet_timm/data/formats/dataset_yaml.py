"""`dataset.yaml`: what a data set is, said in a file beside it.

Its keys are `KEYS`; docs/data.md explains them. Paths are relative to the file, and only read.
"""
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ...errors import DatasetError, near_names
from ...files import atomic_path
from ...plain_text import load_yaml
from ..bands import Scale, check_bands, scale_of
from ..description import DataDescription, Layout
from ..labels import read_text

FILE_NAME = 'dataset.yaml'

_LAYOUT_KEYS = tuple(item.name for item in fields(Layout))
_VALUE_KEYS = ('class_names', 'colors', 'ignore_index', 'bands', 'image_scale', 'depth_scale')
KEYS = ('root', *_LAYOUT_KEYS, *_VALUE_KEYS, 'label_map', 'color_map')
_TEXTS = {'root', 'data_format', 'image_dir', 'mask_dir', 'image_suffix', 'mask_suffix', 'split_file'}
_YOLO_KEYS = {'names', 'nc', 'train', 'val', 'path', 'masks_dir'}


@dataclass(frozen=True)
class DatasetFile:
    """What a `dataset.yaml` says.

    Attributes:
        root: Folder of the data.
        layout: How its files are laid out.
        class_names: Names of the classes; empty where it does not say, as the colours are.
        colors: RGB colours of the classes.
        ignore_index: Label that does not count; None where it does not say.
        bands: Numbers of the bands that are read; empty where it does not say.
        image_scale: What values of images are scaled by; None where it does not say.
        depth_scale: Of depth maps, what they have for a metre; None where it does not say.
        label_map: As `labels.label_map_of` takes it; None for none.
        color_map: As `labels.color_table` takes it; None for none.
    """
    root: Path
    layout: Layout = Layout()
    class_names: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    ignore_index: int | None = None
    bands: tuple[int, ...] = ()
    image_scale: Scale | str | None = None
    depth_scale: float | None = None
    label_map: Any = None
    color_map: Any = None


def is_dataset_yaml(path: Path) -> bool:
    """Whether a file is a YAML mapping of this form, or means to be one, and not YOLO's or something else.

    Raises:
        DatasetError: A `dataset.yaml` that is no YAML.
    """
    if path.suffix.lower() not in ('.yaml', '.yml'):
        return False
    try:
        content = load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise DatasetError(
            f'The description of a data set must be YAML: {path} is not ({_problem(error)}); correct it.') from error
    return not (isinstance(content, dict) and 'names' in content and _YOLO_KEYS & content.keys() - {'names'})


def read_dataset_yaml(path: Path) -> DatasetFile:
    """Read a `dataset.yaml`.

    Raises:
        DatasetError: No mapping, an unknown key, or a value that is not of the kind of its key; the text has the
            nearest keys.
    """
    content = load_yaml(read_text(path))
    if not isinstance(content, dict):
        raise DatasetError(f'The description of a data set must hold KEY: VALUE lines: {path} has none.')
    content = {str(key).replace('-', '_'): value for key, value in content.items() if value is not None}
    unknown = next((key for key in content if key not in KEYS), None)
    if unknown is not None:
        raise DatasetError(f'The description of a data set has the keys {", ".join(KEYS)}: {path} has '
                           f'{unknown!r}.{near_names(unknown, KEYS)}')
    for key in _TEXTS & content.keys():
        if not isinstance(content[key], str):
            raise DatasetError(f'{key} must be a text: {path} has {content[key]!r}; quote it.')
    for key, kinds in (('val_share', (int, float)), ('split_seed', int)):
        if key in content and (isinstance(content[key], bool) or not isinstance(content[key], kinds)):
            raise DatasetError(f'{key} must be a number: {path} has {content[key]!r}; correct it.')
    root = path.parent / content.get('root', '.')
    if not root.exists():
        raise DatasetError(f'root must be the folder of the data, relative to {path}: there is no {root}; correct it.')
    try:
        layout = Layout(**{key: content[key] for key in _LAYOUT_KEYS if key in content})
        values = {key: _value(key, content[key]) for key in _VALUE_KEYS if key in content}
    except (TypeError, ValueError) as error:
        raise DatasetError(f'{path} cannot be used: {error}') from error
    tables = [content.get(key) for key in ('label_map', 'color_map')]
    # a name of a table, or a file beside this one
    tables = [str(path.parent / value) if isinstance(value, str) and (path.parent / value).is_file() else value
              for value in tables]
    return DatasetFile(root, layout, **values, label_map=tables[0], color_map=tables[1])


def _value(key: str, value: Any) -> Any:
    if key == 'ignore_index':
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f'ignore_index must be a whole number, got {value!r}.')
        return value
    if key == 'bands':
        return check_bands(value if isinstance(value, list) else [value])
    if key == 'image_scale':
        return scale_of(value)
    if key == 'depth_scale':
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float('inf'):
            raise ValueError(f'depth_scale must be a number above 0, what the files have for a metre, got {value!r}.')
        return float(value)
    if key == 'class_names':
        if isinstance(value, Mapping):  # by number
            if sorted(value) != list(range(len(value))):
                raise ValueError(f'class_names must name the classes 0, 1, 2, ..., got {list(value)}.')
            value = [value[index] for index in range(len(value))]
        names = [' '.join(str(name).split()) for name in value] if isinstance(value, list) else []
        if not names or len(set(names)) != len(names):
            raise ValueError(f'class_names must be a list of names, each of its own, got {value!r}.')
        return tuple(names)
    if not isinstance(value, list):
        raise ValueError(f'{key} must be a list, got {value!r}.')
    if not all(isinstance(color, list) and len(color) == 3 for color in value):
        raise ValueError(f'colors must be a list of [red, green, blue], got {value!r}.')
    return tuple(map(tuple, value))


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, 'problem_mark', None)
    return f'{getattr(error, "problem", error)}{f", line {mark.line + 1}" if mark else ""}'


def write_dataset_yaml(description: DataDescription, path: str | Path) -> None:
    """Write what is known of a data set, so that reading the file gives the same description.

    Paths in it are relative to its folder.

    Raises:
        FileNotFoundError: The folder of the file does not exist.
        ValueError: A description without files.
    """
    path = Path(path)
    if description.source is None:
        raise ValueError('A description is written of a data set with files, and this one is of a model.')
    root = Path(description.source.root).resolve()
    content: dict[str, Any] = {'root': _relative(root, path.parent.resolve())}
    content['data_format'] = description.source.format
    content.update(description.layout)
    for key in _VALUE_KEYS:
        value = getattr(description, key)
        if value not in ((), None):
            content[key] = _lists(value)
    if description.label_map:
        content['label_map'] = dict(description.label_map)
    if description.color_map:
        names = description.class_names or [f'class {index}' for index in range(description.num_classes or 0)]
        colors: dict[str, list[list[int]]] = {}
        for color, label in sorted(description.color_map, key=lambda pair: pair[1]):  # the order numbers them
            colors.setdefault(names[label], []).append(list(color))
        content['color_map'] = colors
    with atomic_path(path) as part, open(part, 'w', encoding='utf-8') as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _relative(root: Path, folder: Path) -> str:
    return Path(os.path.relpath(root, folder)).as_posix()


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
