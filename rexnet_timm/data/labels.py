"""From the numbers and colours of mask files to classes: label maps, colour tables, and their lookup in one step.

The ids of Cityscapes are those of its public cityscapesScripts (labels.py), those of ADE20K of the scene parsing
benchmark (0 is "other", classes begin at 1), those of Oxford-IIIT Pet of its README (1 pet, 2 background, 3 border).
"""
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..errors import DatasetError, first_lines, near_names
from ..plain_text import load_yaml

LabelMap = tuple[tuple[int, int], ...]
Color = tuple[int, int, int]
ColorMap = tuple[tuple[Color, int], ...]

_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LABEL_MAPS: dict[str, LabelMap] = {
    'cityscapes': tuple((label, index) for index, label in enumerate(_CITYSCAPES)),
    'ade20k': tuple((index + 1, index) for index in range(150)),
    'pet': ((2, 0), (1, 1)),
}
# Names that labelling tools give to what is not labelled
VOID_NAMES = ('void', 'unlabelled', 'unlabeled', 'ignore', 'ignored')

INVALID = -1  # in a lookup: neither a class nor ignored
LOWEST, HIGHEST = -2 ** 31, 2 ** 32 - 1  # of the numbers that a mask can store
_SMALL = 2 ** 16  # numbers that are looked up in a table
_PAIR = re.compile(r'(-?\d+):(\d+)')
_LINE = re.compile(r'(-?\d+)\s*[:,;\s]\s*(-?\d+)')


def label_map_of(value: Any) -> LabelMap:
    """A label map in one of its forms as pairs of a label in the files and its class.

    Args:
        value: None or empty for none; a name of `LABEL_MAPS`; pairs such as '0:0 255:1', in one text or a list of them;
            the path of a file with a pair in each line, or of a YAML or JSON mapping; a mapping; pairs of numbers.

    Raises:
        ValueError: No such name or file, or something else than pairs of whole numbers; a label that stands twice.
    """
    if value is None or (not isinstance(value, str) and not len(value)):
        return ()
    if isinstance(value, Mapping):
        return _checked(value.items(), 'label_map')
    if isinstance(value, str):
        words, where = value.split(), 'label_map'
    elif all(isinstance(item, str) for item in value):
        words, where = ' '.join(value).split(), 'label_map'
    else:
        return _checked(value, 'label_map')
    if words and all(map(_PAIR.fullmatch, words)):
        return _checked([word.split(':') for word in words], where)
    name = value if isinstance(value, str) else ' '.join(value)
    if name in LABEL_MAPS:
        return LABEL_MAPS[name]
    if Path(name).is_file():
        return _checked(_pairs_of_file(Path(name)), name)
    raise ValueError(
        f"label_map must be pairs such as '0:0 255:1' (the number in the files, the class), one of "
        f'{", ".join(LABEL_MAPS)}, or a file of pairs, got {name!r}.{near_names(name, LABEL_MAPS)}')


def _pairs_of_file(path: Path) -> list[Sequence[Any]]:
    text = read_text(path)
    try:
        loaded = load_yaml(text)
    except yaml.YAMLError:
        loaded = None
    if isinstance(loaded, dict):
        return list(loaded.items())
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition('#')[0].strip()
        if line and not _LINE.fullmatch(line):
            raise DatasetError(
                f'A label map must have a pair in each line, such as "255: 1" (the number in the files, the class): '
                f'{path} has {line!r} in line {number}; correct the file.')
        if line:
            pairs.append(_LINE.fullmatch(line).groups())
    return pairs


def _checked(pairs: Any, where: str) -> LabelMap:
    found: dict[int, int] = {}
    for pair in pairs:
        try:
            label, index = (int(str(item)) for item in pair)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'A label map must be pairs of whole numbers, the number in the files and the class: {where} has '
                f'{pair!r}.') from error
        if not LOWEST <= label <= HIGHEST:
            raise ValueError(f'A label must be a number that a mask can store, {LOWEST} to {HIGHEST}, got {label}.')
        if not 0 <= index < _SMALL - 1:
            raise ValueError(
                f'A class of a label map must be from 0 to {_SMALL - 2}, got {label}:{index} in {where}; what is to be '
                'ignored is left out of the map.')
        if found.setdefault(label, index) != index:
            raise ValueError(
                f'A label must have one class, and {where} has {label}:{found[label]} and {label}:{index}.')
    if not found:
        raise ValueError(f'A label map must have at least one pair, and {where} has none.')
    return tuple(found.items())


def color_table(value: Any) -> tuple[ColorMap, tuple[str, ...]]:
    """A colour table in one of its forms as pairs of an RGB colour and its label, and the names of the labels.

    Labels are numbered in the order of the names. Several colours of one name have one label. Names that stand for
    unlabelled pixels (`VOID_NAMES`) get none.

    Args:
        value: None for none; the path of a file, or a mapping from names to a colour or a list of them. A file has a
            class in each line: `name,r,g,b` (with or without a head, as `class_dict.csv`), `name:r,g,b::` (as CVAT's
            `labelmap.txt`), `r g b name` (as CamVid's `label_colors.txt`), or is a YAML or JSON mapping.

    Raises:
        ValueError: No such file or no colours in it; a colour that stands for two names.
    """
    if value is None:
        return (), ()
    where = 'color_map'
    if isinstance(value, (str, Path)):
        path = Path(value)
        if not path.is_file():
            raise ValueError(
                f'color_map must be a file with a class in each line, such as "road,128,64,128": there is no file '
                f'{str(value)!r}.')
        where, value = str(path), _colors_of_file(path)
    elif isinstance(value, Mapping):
        value = [(name, color) for name, colors in value.items() for color in _several(colors)]
    labels: dict[str, int] = {}
    found: dict[Color, str] = {}
    for name, color in value:
        name = ' '.join(str(name).split())
        try:
            color = tuple(int(part) for part in color)
        except (TypeError, ValueError) as error:
            raise ValueError(f'A colour must be three numbers from 0 to 255, and {where} has {color!r}.') from error
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ValueError(f'A colour must be three numbers from 0 to 255, and {where} has {color}.')
        if found.setdefault(color, name) != name:
            raise ValueError(f'A colour must stand for one class, and {where} has {color} for {found[color]!r} and '
                             f'{name!r}; remove one.')
        if name.lower() not in VOID_NAMES:
            labels.setdefault(name, len(labels))
    if not labels:
        raise ValueError(f'A colour table must have at least one class, and {where} has none.')
    return tuple((color, labels[name]) for color, name in found.items() if name in labels), tuple(labels)


def _several(colors: Any) -> list[Any]:
    is_one = isinstance(colors, Sequence) and all(isinstance(part, int) for part in colors)
    return [colors] if is_one else list(colors)


def _colors_of_file(path: Path) -> list[tuple[str, Sequence[Any]]]:
    text = read_text(path)
    if path.suffix.lower() in ('.yaml', '.yml', '.json'):
        try:
            loaded = load_yaml(text)
        except yaml.YAMLError as error:
            raise DatasetError(
                f'A colour table must be YAML or JSON, as its ending says: {path} is not ({first_lines(error)}); '
                'correct the file.') from error
        if not isinstance(loaded, dict):
            raise DatasetError(f'A colour table must be a mapping from names to colours: {path} is none.')
        return [(name, color) for name, colors in loaded.items() for color in _several(colors)]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith('#'):
            continue
        row = _color_of_line(line)
        if row is None and number > 1:  # the first line may be a head
            raise DatasetError(
                f'A colour table must have a class in each line, such as "road,128,64,128": {path} has {line!r} in '
                f'line {number}; correct the file.')
        rows += [row] if row else []
    return rows


def _color_of_line(line: str) -> tuple[str, list[str]] | None:
    """Name and colour of a line, in any of the usual orders; None for something else."""
    number = r'\s*(\d{1,3})\s*'
    for pattern in (rf'(?P<name>[^:]+):{number},{number},{number}(:.*)?',  # CVAT
                    rf'{number}[,;\s]{number}[,;\s]{number}[,;\s]\s*(?P<name>\S.*)'):  # CamVid
        match = re.fullmatch(pattern, line)
        if match:
            return match['name'], [part for part in match.groups() if part and re.fullmatch(r'\d{1,3}', part)][:3]
    cells = [cell.strip() for cell in next(csv.reader([line.replace(';', ',').replace('\t', ',')]))]
    cells = cells if len(cells) >= 4 else line.rsplit(None, 3)
    if len(cells) >= 4 and all(cell.isdigit() for cell in cells[1:4]):
        return cells[0], cells[1:4]
    return None


def read_text(path: Path) -> str:
    """The text of a file that belongs to a data set. DatasetError for one that is not UTF-8."""
    try:
        return path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
        raise DatasetError(f'Text of a data set must be UTF-8: {path} is not ({error}); save it as UTF-8.') from error


class LabelTable:
    """Looks up the class of every number in a mask, in one step.

    Args:
        num_classes: Number of classes; 1 and 2 both stand for background and foreground.
        ignore_index: Label in the files that does not count; None for none.
        ignore_label: What such pixels become.
        label_map: See `label_map_of`; empty where labels are classes.
        foreground: Without a label map and with one or two classes, the number that is class 1: 1 or 255.
    """

    def __init__(
            self,
            num_classes: int,
            ignore_index: int | None,
            ignore_label: int,
            label_map: LabelMap = (),
            foreground: int = 1,
    ) -> None:
        self.is_mapped = bool(label_map)
        if label_map:
            classes = dict(label_map)
        elif foreground != 1 and num_classes <= 2:
            classes = {0: 0, foreground: 1}
        else:
            classes = {label: label for label in range(max(num_classes, 2))}
        if ignore_index is not None:
            classes[ignore_index] = ignore_label
        self.ignore_label = ignore_label
        self._other = ignore_label if label_map else INVALID
        self._far = {label: index for label, index in classes.items() if not 0 <= label < _SMALL}
        self._table = np.full(_SMALL, self._other, np.int64)
        for label, index in classes.items():
            if 0 <= label < _SMALL:
                self._table[label] = index
        # a pixel of one bit is set or not, whatever number other files have for that
        white = classes.get(1, classes.get(255)) if label_map else 1
        self._bits = np.array([classes.get(0, self._other), self._other if white is None else white])

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Classes of the numbers in a mask.

        Args:
            labels: (H, W) of a type of whole numbers, or bool for files of one bit a pixel.

        Returns:
            int64 (H, W) of classes, `ignore_label`, and without a label map `INVALID` for every other number.
        """
        if labels.dtype == np.bool_:
            return self._bits[labels.view(np.uint8)]
        if labels.dtype in (np.uint8, np.uint16):
            # by torch, since NumPy first makes numbers of 64 bits of the labels, which takes several times as long
            places = torch.from_numpy(labels.astype(np.int32, order='C')).view(-1)
            return torch.from_numpy(self._table).index_select(0, places).numpy().reshape(labels.shape)
        low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
        if 0 <= low and high < _SMALL:
            return self._table[labels]
        near = (labels >= 0) & (labels < _SMALL)
        found = np.where(near, self._table[np.where(near, labels, 0)], self._other)
        for label, index in self._far.items():
            found[labels == label] = index
        return found


class ColorTable:
    """Looks up the label of every colour in a mask, in one step.

    Args:
        color_map: See `color_table`.
    """

    def __init__(self, color_map: ColorMap) -> None:
        highest = max(label for _, label in color_map)
        self.unlisted = highest + 1  # a number that stands for no class
        self._table = np.full(2 ** 24, self.unlisted, np.uint8 if self.unlisted <= 255 else np.uint16)
        for (red, green, blue), label in color_map:
            self._table[red << 16 | green << 8 | blue] = label

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Labels (H, W) of colours uint8 (H, W, 3); `unlisted` for a colour that the table does not have."""
        return self._table[color_keys(pixels)]


def color_keys(pixels: np.ndarray) -> np.ndarray:
    """One number for each colour: uint32 (H, W) of uint8 (H, W, 3)."""
    keys = pixels[..., 0].astype(np.uint32) << 16
    keys |= pixels[..., 1].astype(np.uint32) << 8
    keys |= pixels[..., 2]
    return keys
