"""Masks that are drawn from outlines: COCO's JSON of instances and of panoptic segments, and YOLO's YAML.

Objects are drawn from the largest to the smallest, so that what lies on something else is seen. The background is
class 0, and the classes of the file follow in its order. Facts of the forms are from cocodataset.org ("data format")
and from Ultralytics' pages on data sets of semantic and of instance segmentation.
"""
import importlib.util
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from ...errors import DatasetError
from ...plain_text import load_json, load_yaml
from ..description import IMAGE_EXTENSIONS, DataDescription, DataSource, Layout, Sample
from ..headers import read_header
from ..images import decode
from ..labels import LabelTable, read_text
from .folders import folder_samples

_logger = logging.getLogger(__name__)
_BACKGROUND = 'background'
_FINER = 4
_VOID = -1  # no number of a category


@cache
def _coco_mask() -> Any:
    """pycocotools' functions on masks; None where it is not installed, of which a line of the log tells."""
    if importlib.util.find_spec('pycocotools') is None:
        _logger.info('Outlines are filled by Pillow, which differs from pycocotools in some pixels at the edges; '
                     "pip install 'rexnet-timm[coco]' brings that.")
        return None
    from pycocotools import mask
    return mask


def _fill(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of the pixels inside any of some outlines, x and y in turn, in pixels."""
    height, width = size
    tools = _coco_mask()
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if tools is not None and polygons:
        runs = tools.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
        return tools.decode(tools.merge(runs)).astype(bool)
    inside = np.zeros(size, bool)
    for polygon in polygons:
        points = np.array(polygon, float)[:len(polygon) // 2 * 2].reshape(-1, 2)
        left, top = np.clip(np.floor(points.min(0)), 0, (width, height)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(points.max(0)), 0, (width, height)).astype(int).tolist()
        if left < right and top < bottom:
            inside[top:bottom, left:right] |= _fill_box(points - (left, top), (bottom - top, right - left))
    return inside


def _fill_box(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of the pixels whose middle is inside an outline (points, 2).

    Pillow paints the edge too, half a pixel wide, so it draws on a finer grid, of which the middles are taken.
    """
    picture = Image.new('1', (size[1] * _FINER, size[0] * _FINER))
    ImageDraw.Draw(picture).polygon((points * _FINER - 0.5).ravel().tolist(), fill=1)
    return np.array(picture)[_FINER // 2::_FINER, _FINER // 2::_FINER]


def _runs(counts: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of run lengths, of 0 and 1 in turn, down the columns."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def _area(polygons: Sequence[Sequence[float]]) -> float:
    total = 0.
    for polygon in polygons:
        x, y = np.array(polygon[::2], float), np.array(polygon[1::2], float)
        total += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return total


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """The mask of an image of COCO's instances.

    Attributes:
        path: The JSON file.
        image: The image, for messages.
        size: Height and width.
        objects: The class of each object and its `segmentation`, the largest first.
    """
    path: Path
    image: Path
    size: tuple[int, int]
    objects: tuple[tuple[int, Any], ...]

    def __str__(self) -> str:
        return f'{self.path}, outlines of {self.image.name}'

    def labels(self) -> np.ndarray:
        """uint8 or uint16 (H, W), classes. DatasetError for what is no outline."""
        highest = max((index for index, _ in self.objects), default=0)
        labels = np.zeros(self.size, np.uint8 if highest <= 255 else np.uint16)
        for index, shape in self.objects:
            labels[self._inside(shape)] = index
        return labels

    def _inside(self, shape: Any) -> np.ndarray:
        try:
            if isinstance(shape, list):
                return _fill(shape, self.size)
            size, counts = tuple(shape['size']), shape['counts']
            if size == self.size and isinstance(counts, list) and sum(counts) == size[0] * size[1]:
                return _runs(counts, size)
            tools = _coco_mask()
            if size == self.size and isinstance(counts, str) and tools is not None:
                return tools.decode({'size': list(size), 'counts': counts.encode()}).astype(bool)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f'A segmentation must be outlines or run lengths: {self} has something else '
                               f'({type(error).__name__}: {error}); correct the file.') from error
        if isinstance(counts, str) and tools is None:
            raise ValueError(
                f"Packed run lengths, as {self} has them, need pycocotools: pip install 'rexnet-timm[coco]'.")
        raise DatasetError(f'Run lengths must be of the size of the image, {self.size[0]} x {self.size[1]} (height x '
                           f'width): {self} has others ({size[0]} x {size[1]}); correct the file.')


@dataclass(frozen=True, eq=False)
class PanopticMask:
    """The mask of an image of COCO's panoptic segments: colours of a picture stand for segments, these for categories.

    Attributes:
        path: The picture of the segments.
        segments: Number and category of each segment.
    """
    path: Path
    segments: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        return str(self.path)

    def labels(self) -> np.ndarray:
        """int64 (H, W): numbers of categories, and `_VOID` for pixels of no segment."""
        return LabelTable(1, None, _VOID, self.segments)(_panoptic_numbers(self.path))


def _panoptic_numbers(path: Path) -> np.ndarray:
    """int64 (H, W): the numbers of segments, of which red has the lowest byte."""
    pixels = np.array(decode(path, 'mask')[0].convert('RGB'), np.int64)
    return pixels @ (1, 256, 256 * 256)


def coco(root: Path, layout: Layout) -> DataDescription | None:
    """COCO's instances: annotations/instances_{split}.json, or _annotations.coco.json in the folder of each split.

    The numbers of years at the end of a split are left out: train2017 is train.
    """
    return _coco(root, 'coco', 'instances_')


def coco_panoptic(root: Path, layout: Layout) -> DataDescription | None:
    """COCO's panoptic segments: annotations/panoptic_{split}.json, with pictures in a folder of the same name."""
    return _coco(root, 'coco-panoptic', 'panoptic_')


def _coco(root: Path, name: str, start: str) -> DataDescription | None:
    files = _coco_files(root, start)
    if not files:
        return None

    def find(split: str) -> list[Sample]:
        if split not in files:
            raise source.no_split(split)
        content = _coco_content(files[split])
        if start == 'panoptic_':
            return _panoptic(root, split, files[split], content)
        return _instances(root, split, files[split], content, _indices(content, 1))

    source = DataSource(name, root, tuple(files), find)
    content = _coco_content(next(iter(files.values())))
    names = [str(entry['name']) for entry in _categories(content)]
    _coco_mask()  # tells what fills outlines, before workers are started
    if start == 'instances_':
        return DataDescription(source=source, class_names=(_BACKGROUND, *names))
    return DataDescription(source=source, class_names=names, label_map=tuple(_indices(content, 0).items()))


def _coco_files(root: Path, start: str) -> dict[str, Path]:
    """The JSON file of each split."""
    if root.is_file():
        return {'train': root}
    files = {}
    for folder in (root / 'annotations', root):
        for path in sorted(folder.glob(f'{start}*.json')):
            files.setdefault(re.sub(r'_?(19|20)\d\d$', '', path.stem.removeprefix(start)), path)
    if start == 'instances_':
        for path in sorted(root.glob('*/_annotations.coco.json')):
            files.setdefault(path.parent.name, path)
    return files


def _coco_content(path: Path) -> Mapping[str, Any]:
    return _read_json(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)  # the names and the samples of a split are asked one after the other
def _read_json(path: Path, changed: int) -> Mapping[str, Any]:
    try:
        content = load_json(read_text(path))
    except ValueError as error:
        raise DatasetError(f'Annotations must be JSON: {path} is not ({error}); export it again.') from error
    lists = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise DatasetError(f'Annotations of COCO must have lists of {", ".join(lists)}: {path} lacks one.')
    return content


def _categories(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Categories in the order of their numbers, without those that only sum up others, as Roboflow writes one."""
    above = {entry.get('supercategory') for entry in content['categories']}
    used = {entry.get('category_id') for entry in content['annotations']}
    return sorted(
        (entry for entry in content['categories']
         if entry['id'] in used or entry['name'] not in above or entry.get('supercategory') == entry['name']),
        key=lambda entry: entry['id'])


def _indices(content: Mapping[str, Any], first: int) -> dict[int, int]:
    return {entry['id']: index for index, entry in enumerate(_categories(content), first)}


def _image_folder(root: Path, split: str, path: Path, file_name: str) -> Path:
    """Where the images of an annotation file lie: the first of the usual folders that has one of them."""
    whole = re.sub(r'^(instances|panoptic)_', '', path.stem)
    folders = [base / below for base in (root if root.is_dir() else root.parent, path.parent, path.parent.parent)
               for below in (whole, f'images/{whole}', split, f'images/{split}', 'images', '')]
    folder = next((folder for folder in folders if (folder / file_name).is_file()), None)
    if folder is None:
        tried = ', '.join(dict.fromkeys(str(folder) for folder in folders[:5]))
        raise DatasetError(
            f'The images of an annotation file must be there: {path} names {file_name}, which is not in {tried}; put '
            'the images into one of these.')
    return folder


def _instances(
        root: Path, split: str, path: Path, content: Mapping[str, Any], indices: Mapping[int, int]) -> list[Sample]:
    objects: dict[int, list[tuple[float, int, Any]]] = {}
    for entry in content['annotations']:
        shape = entry.get('segmentation')
        if not shape:
            continue  # a box without an outline
        if entry['category_id'] not in indices:
            raise DatasetError(f'Each object must have a category: {path} has none of the id {entry["category_id"]}.')
        area = entry.get('area') or (_area(shape) if isinstance(shape, list) else 0.)
        objects.setdefault(entry['image_id'], []).append((area, indices[entry['category_id']], shape))
    if content['annotations'] and not objects:
        raise DatasetError(f'Masks are drawn from outlines: {path} has boxes only; export it with segmentations.')
    if not content['images']:
        raise DatasetError(f'A split must have images: {path} lists none.')
    folder = _image_folder(root, split, path, content['images'][0]['file_name'])
    samples = []
    for entry in sorted(content['images'], key=lambda entry: str(entry['file_name'])):
        largest_first = sorted(objects.get(entry['id'], ()), key=lambda item: -item[0])
        image = folder / entry['file_name']
        samples.append((image, DrawnMask(
            path, image, (int(entry['height']), int(entry['width'])),
            tuple((index, shape) for _, index, shape in largest_first))))
    return samples


def _panoptic(root: Path, split: str, path: Path, content: Mapping[str, Any]) -> list[Sample]:
    names = {entry['id']: entry['file_name'] for entry in content['images']}
    masks = next((folder for folder in (path.with_suffix(''), root / path.stem) if folder.is_dir()), None)
    if masks is None or not names:
        raise DatasetError(f'The pictures of panoptic segments must be there: {path} has no folder '
                           f'{path.with_suffix("")}, or lists no images; unpack the archive beside it.')
    folder = _image_folder(root, split, path, next(iter(names.values())))
    samples = []
    for entry in sorted(content['annotations'], key=lambda entry: str(entry['file_name'])):
        segments = tuple((int(part['id']), int(part['category_id'])) for part in entry['segments_info'])
        samples.append((folder / names[entry['image_id']], PanopticMask(masks / entry['file_name'], segments)))
    return samples


def yolo(root: Path, layout: Layout) -> DataDescription | None:
    """YOLO's YAML: path, train, val and names, with masks in the folder `masks_dir` or outlines in `labels`."""
    path, content = _yolo_file(root)
    if path is None:
        return None
    names = content['names']
    names = [names[key] for key in sorted(names)] if isinstance(names, dict) else list(names)
    base = Path(content.get('path') or '.')
    if not base.is_absolute():
        base = path.parent / base
    if not base.is_dir():  # names of folders of the machine where it was written
        base = path.parent
    splits = {name: content[name] for name in ('train', 'val', 'test') if content.get(name)}
    _coco_mask()
    masks_dir = content.get('masks_dir')

    def find(split: str) -> list[Sample]:
        if split not in splits:
            raise source.no_split(split)
        return _yolo_samples(base, splits[split], split, masks_dir, len(names))

    source = DataSource('yolo', path.parent, tuple(splits), find)
    if masks_dir:
        return DataDescription(source=source, class_names=names, ignore_index=255)
    return DataDescription(source=source, class_names=(_BACKGROUND, *names))


def _yolo_file(root: Path) -> tuple[Path | None, Mapping[str, Any]]:
    paths = [root] if root.is_file() else [root / 'data.yaml', root / 'dataset.yaml', *sorted(root.glob('*.yaml'))]
    for path in paths:
        if path.is_file() and path.suffix.lower() in ('.yaml', '.yml'):
            try:
                content = load_yaml(read_text(path))
            except yaml.YAMLError:
                continue
            if isinstance(content, dict) and 'names' in content and ('train' in content or 'val' in content):
                return path, content
    return None, {}


def _yolo_samples(
        base: Path, where: Any, split: str, masks_dir: str | None, num_names: int) -> list[Sample]:
    if not isinstance(where, str):
        raise DatasetError(f'A split of YOLO must be one folder: {split} is {where!r}; name one folder of images.')
    folder = base / where
    if not folder.is_dir():  # Roboflow writes paths that begin one folder too high
        folder = base / where.removeprefix('../')
    if not folder.is_dir():
        raise DatasetError(f'A split of YOLO must be a folder of images: there is no {folder}; correct the YAML.')
    other = _in_place_of_images(folder, masks_dir or 'labels')
    if masks_dir:
        return folder_samples(folder, other, recursive=True)
    images = sorted(path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_EXTENSIONS
                    and not path.name.startswith('.'))
    if not images or not any(other.rglob('*.txt')):
        raise DatasetError(f'A split of YOLO must have images and outlines: {folder} has {len(images)} images, and '
                           f'{other} {"has" if other.is_dir() else "is not there for"} their .txt files.')
    return [(image, OutlineMask(other / image.relative_to(folder).with_suffix('.txt'), image, num_names))
            for image in images]


def _in_place_of_images(folder: Path, name: str) -> Path:
    """The folder of labels: that of the images with `name` instead of the last `images` in its path."""
    parts = list(folder.parts)
    if 'images' not in parts:
        return folder.parent / name
    parts[len(parts) - 1 - parts[::-1].index('images')] = name
    return Path(*parts)


@dataclass(frozen=True, eq=False)
class OutlineMask:
    """The mask of an image of YOLO: a class and an outline, as shares of width and height, in each line of a text.

    Attributes:
        path: The text; one that is not there has no objects.
        image: The image.
        num_names: Number of classes, without the background.
    """
    path: Path
    image: Path
    num_names: int

    def __str__(self) -> str:
        return str(self.path)

    def labels(self) -> np.ndarray:
        """uint8 or uint16 (H, W), classes, the background first. DatasetError for a line that is no outline."""
        height, width = read_header(self.image, 'image').size
        labels = np.zeros((height, width), np.uint8 if self.num_names < 255 else np.uint16)
        lines = read_text(self.path).splitlines() if self.path.is_file() else []
        objects = [self._object(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        for index, outline in sorted(objects, key=lambda item: -_area([item[1]])):
            points = np.array(outline).reshape(-1, 2) * (width, height)
            labels[_fill([points.ravel().tolist()], (height, width))] = index + 1
        return labels

    def _object(self, number: int, words: list[str]) -> tuple[int, list[float]]:
        try:
            index, outline = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            index, outline = -1, []
        if len(outline) == 4:
            raise DatasetError(f'Masks are drawn from outlines: {self.path} has a box in line {number}; export the '
                               'labels as polygons.')
        if not 0 <= index < self.num_names or len(outline) < 6 or len(outline) % 2:
            raise DatasetError(
                f'A line must be a class from 0 to {self.num_names - 1} and at least three points: {self.path} has '
                f'{" ".join(words[:6])!r} in line {number}; correct it.')
        return index, outline
