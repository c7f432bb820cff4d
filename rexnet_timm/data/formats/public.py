"""Trees of public data sets, and of tools that write the same trees: Pascal VOC, Cityscapes, ADE20K, CamVid,
Oxford-IIIT Pet, nnU-Net.

Each function looks for its tree below a folder and describes it; None where it is not there. Facts of the trees are
from their public documentation: VOC2012's development kit and CVAT's and labelme's pages on the format of that name,
the README of cityscapesScripts, that of the MIT scene parsing benchmark, those of CamVid and of the SegNet tutorial,
the README of Oxford-IIIT Pet, and nnU-Net's page "dataset format".
"""
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ...plain_text import load_json
from ..description import MASK_EXTENSIONS, DataDescription, DataSource, Layout, Sample
from ..labels import LABEL_MAPS, color_table, read_text
from .folders import folder_samples
from .splits import divided, listed, read_list

_VOC_NAMES = (
    'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable',
    'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
_VOC_VOID = 255
_CITYSCAPES = (
    ('road', (128, 64, 128)), ('sidewalk', (244, 35, 232)), ('building', (70, 70, 70)), ('wall', (102, 102, 156)),
    ('fence', (190, 153, 153)), ('pole', (153, 153, 153)), ('traffic light', (250, 170, 30)),
    ('traffic sign', (220, 220, 0)), ('vegetation', (107, 142, 35)), ('terrain', (152, 251, 152)),
    ('sky', (70, 130, 180)), ('person', (220, 20, 60)), ('rider', (255, 0, 0)), ('car', (0, 0, 142)),
    ('truck', (0, 0, 70)), ('bus', (0, 60, 100)), ('train', (0, 80, 100)), ('motorcycle', (0, 0, 230)),
    ('bicycle', (119, 11, 32)))
_CAMVID_NAMES = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian', 'bicyclist')
_NNUNET_IGNORE, _NNUNET_BACKGROUND = 'ignore', 'background'


def _below(root: Path, *names: str) -> list[Path]:
    """The folder itself, and those below it of the given names, which archives bring with them."""
    return [root, *(path for name in names for path in sorted(root.glob(name)) if path.is_dir())]


def voc(root: Path, layout: Layout) -> DataDescription | None:
    """Pascal VOC: JPEGImages, SegmentationClass and lists in ImageSets/Segmentation.

    CVAT's and labelme's exports of this form bring their own classes, in `labelmap.txt` (with the colours of the masks)
    or `class_names.txt`.
    """
    found = [path for path in _below(root, 'VOC20*', 'VOCdevkit/VOC20*') if (path / 'SegmentationClass').is_dir()]
    if not found:
        return None
    if len(found) > 1:
        raise DatasetError(f'A data set must be one tree: {root} has {" and ".join(str(path) for path in found)}; name '
                           'one of them.')
    root = found[0]
    images = next((root / name for name in ('JPEGImages', 'images') if (root / name).is_dir()), None)
    if images is None:
        raise DatasetError(
            f'A VOC tree must have its images: {root} has SegmentationClass and no JPEGImages; add the images, which '
            'some tools leave out of an export unless asked.')
    masks = next(root / name for name in ('SegmentationClassPNG', 'SegmentationClass') if (root / name).is_dir())
    known: dict[str, Any] = {'class_names': _VOC_NAMES, 'ignore_index': _VOC_VOID, 'colors': _bit_colors(21)}
    if (root / 'labelmap.txt').is_file():
        color_map, names = color_table(root / 'labelmap.txt')
        known = {'class_names': names, 'color_map': color_map, 'colors': _first_colors(color_map)}
    elif (root / 'class_names.txt').is_file():
        # labelme writes "__ignore__" for -1 first
        lines = [line.strip() for line in read_text(root / 'class_names.txt').splitlines() if line.strip()]
        names = [line.strip('_') for line in lines if line != '__ignore__']
        known = {'class_names': names, 'ignore_index': _VOC_VOID, 'colors': _bit_colors(len(names))}
    find = partial(_present_masks, images, masks)
    lists = root / 'ImageSets' / 'Segmentation'
    template = layout.split_file or 'ImageSets/Segmentation/{split}.txt'
    source = listed(root, 'voc', find, template)
    if layout.split_file is None and not {'train', 'val'} & set(source.splits):
        only = [lists / f'{name}.txt' for name in source.splits]
        whole = partial(read_list, only[0], root, find) if len(only) == 1 else find
        source = divided(root, 'voc', whole, layout)
    return DataDescription(source=source, **known)


def _present_masks(image_folder: Path, mask_folder: Path) -> list[Sample]:
    """Pairs of a folder in which only some images have masks, as VOC's, whose lists say which."""
    masks = {path.stem: path for path in sorted(mask_folder.iterdir()) if path.suffix.lower() in MASK_EXTENSIONS}
    images = {path.stem: path for path in sorted(image_folder.iterdir()) if path.stem in masks}
    return [(images[stem], masks[stem]) for stem in images]


def _bit_colors(number: int) -> tuple[tuple[int, int, int], ...]:
    """VOC's colours: the bits of the label, dealt out in turn to red, green and blue from their highest bit down."""
    colors = []
    for label in range(number):
        color = [0, 0, 0]
        for bit in range(8):
            color[bit % 3] |= (label >> bit & 1) << 7 - bit // 3
        colors.append(tuple(color))
    return tuple(colors)


def _first_colors(color_map: Any) -> tuple[tuple[int, int, int], ...]:
    first: dict[int, tuple[int, int, int]] = {}
    for color, label in color_map:
        first.setdefault(label, color)
    return tuple(first[label] for label in sorted(first))


def cityscapes(root: Path, layout: Layout) -> DataDescription | None:
    """Cityscapes: leftImg8bit/{split}/{city} and gtFine/{split}/{city}; ids become the 19 classes that count."""
    images, masks = root / 'leftImg8bit', root / 'gtFine'
    if not (images.is_dir() and masks.is_dir()):
        return None
    splits = tuple(sorted(path.name for path in images.iterdir() if (masks / path.name).is_dir()))
    one = next((path.name for path in sorted(masks.rglob('*_gtFine_label*Ids.png'))), '')
    # ids of the release, or what its script createTrainIdLabelImgs makes of them, where there is nothing else
    kind = 'labelIds' if not one or any(masks.rglob('*_gtFine_labelIds.png')) else 'labelTrainIds'
    labels = {'label_map': LABEL_MAPS['cityscapes']} if kind == 'labelIds' else {'ignore_index': 255}

    def find(split: str) -> list[Sample]:
        if split not in splits:
            raise source.no_split(split)
        return folder_samples(
            images / split, masks / split, '_leftImg8bit.png', f'_gtFine_{kind}.png', recursive=True)

    source = DataSource('cityscapes', root, splits, find)
    names, colors = zip(*_CITYSCAPES, strict=True)
    return DataDescription(source=source, class_names=names, colors=colors, **labels)


def ade20k(root: Path, layout: Layout) -> DataDescription | None:
    """ADE20K of the scene parsing benchmark: labels 1 to 150 become classes 0 to 149, and 0 is ignored."""
    root = next((path for path in _below(root, 'ADEChallengeData2016')
                 if (path / 'images').is_dir() and (path / 'annotations').is_dir() and (
                     path.name == 'ADEChallengeData2016' or (path / 'objectInfo150.txt').is_file()
                     or layout.data_format == 'ade20k')), None)
    if root is None:
        return None
    table = root / 'objectInfo150.txt'
    names = _object_info(table) if table.is_file() else tuple(f'class {index}' for index in range(150))
    pairs = {path.name: (path, root / 'annotations' / path.name) for path in sorted((root / 'images').iterdir())}
    source = _folder_source('ade20k', root, pairs)
    return DataDescription(source=source, class_names=names, label_map=LABEL_MAPS['ade20k'])


def _folder_source(name: str, root: Path, pairs: dict[str, tuple[Path, Path]]) -> DataSource:
    """A source of a folder of images and one of masks for each split, of those that have both."""
    pairs = {split: pair for split, pair in pairs.items() if all(folder.is_dir() for folder in pair)}

    def find(split: str) -> list[Sample]:
        if split not in pairs:
            raise source.no_split(split)
        return folder_samples(*pairs[split])

    source = DataSource(name, root, tuple(pairs), find)
    return source


def _object_info(path: Path) -> tuple[str, ...]:
    """Names of the classes: the last column of a table, of which the first has the label."""
    rows = [line.split('\t') for line in read_text(path).splitlines()[1:] if line.strip()]
    names = [row[-1].split(',')[0].strip() for row in rows]
    if len(names) != 150 or [row[0].strip() for row in rows] != [str(label) for label in range(1, 151)]:
        raise DatasetError(
            f'objectInfo150.txt must list the labels 1 to 150: {path} has {len(names)} rows; take that of the release.')
    # a few of the first words stand twice
    return tuple(name if names.count(name) == 1 else f'{name} {index}' for index, name in enumerate(names))


def camvid(root: Path, layout: Layout) -> DataDescription | None:
    """CamVid: the release with 32 colours, that of Kaggle with class_dict.csv, and, by name, the SegNet tutorial's.

    A table of the form of class_dict.csv is read of other sets too.
    """
    table = root / 'class_dict.csv'
    if table.is_file() and (root / 'train_labels').is_dir():
        color_map, names = color_table(table)
        return DataDescription(
            source=_folder_source('camvid', root, _beside(root, '_labels')), class_names=names, color_map=color_map,
            colors=_first_colors(color_map))
    if (root / '701_StillsRaw_full').is_dir():
        masks = next((path for path in (root / 'LabeledApproved_full', root / 'labels') if path.is_dir()), None)
        table = root / 'label_colors.txt'
        if masks is None or not table.is_file():
            raise DatasetError(
                f'CamVid must have LabeledApproved_full and label_colors.txt beside 701_StillsRaw_full: {root} lacks '
                f'{"the first" if masks is None else "the second"}; add it from the release.')
        color_map, names = color_table(table)
        source = divided(root, 'camvid', partial(folder_samples, root / '701_StillsRaw_full', masks), layout)
        return DataDescription(
            source=source, class_names=names, color_map=color_map, colors=_first_colors(color_map))
    if layout.data_format != 'camvid' or not (root / 'trainannot').is_dir():
        return None
    source = _folder_source('camvid', root, _beside(root, 'annot'))
    return DataDescription(source=source, class_names=_CAMVID_NAMES, ignore_index=11)


def _beside(root: Path, ending: str) -> dict[str, tuple[Path, Path]]:
    return {path.name: (path, root / f'{path.name}{ending}') for path in sorted(root.iterdir())}


def pet(root: Path, layout: Layout) -> DataDescription | None:
    """Oxford-IIIT Pet, as torchvision lays it out: background and pet; the border between them is ignored."""
    root = next((path for path in _below(root, 'oxford-iiit-pet')
                 if (path / 'annotations' / 'trimaps').is_dir() and (path / 'images').is_dir()), None)
    if root is None:
        return None

    def read(name: str) -> list[Sample]:
        return read_list(root / 'annotations' / f'{name}.txt', root, partial(
            _present_masks, root / 'images', root / 'annotations' / 'trimaps'))

    trained = divided(root, 'pet', partial(read, 'trainval'), layout)

    def find(split: str) -> list[Sample]:
        return read('test') if split == 'test' else trained.samples(split)

    source = replace(trained, splits=(*trained.splits, 'test'), find=find)
    return DataDescription(
        source=source, class_names=('background', 'pet'), label_map=LABEL_MAPS['pet'])


def nnunet(root: Path, layout: Layout) -> DataDescription | None:
    """nnU-Net's raw data of two dimensions: dataset.json with imagesTr and labelsTr, and labelsTs where it is there."""
    path = root / 'dataset.json'
    if not (path.is_file() and (root / 'labelsTr').is_dir()):
        return None
    try:
        content = load_json(read_text(path))
        labels = content['labels']
        if all(str(key).isdigit() for key in labels):  # nnU-Net 1 has the number first
            labels = {name: int(label) for label, name in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f'dataset.json must be JSON with the names of labels: {path} is not ({error}).') from error
    ending = content.get('file_ending', '.nii.gz')
    if ending not in MASK_EXTENSIONS:
        raise DatasetError(
            f'Data of nnU-Net is read where it has two dimensions, of {", ".join(MASK_EXTENSIONS)}: {path} has '
            f'file_ending {ending!r}; write the slices as files of one of these.')
    if any(isinstance(label, (list, tuple)) for label in labels.values()):
        raise DatasetError(f'Labels must be single numbers: {path} has regions, which are sets of them; name the '
                           'labels one by one.')
    further = next((root / 'imagesTr').glob(f'*_0001{ending}'), None)
    if further is not None:
        raise DatasetError(
            f'An image must be one file: {further} is a second channel; join the channels of each image in one file '
            f'that ends in _0000{ending}.')
    ignored = labels.pop(_NNUNET_IGNORE, None)
    ordered = sorted(labels, key=labels.get)
    if [labels[name] for name in ordered] != list(range(len(ordered))):
        raise DatasetError(f'Labels of nnU-Net must be 0, 1, 2, ...: {path} has {sorted(labels.values())}.')

    def read(part: str) -> list[Sample]:
        return folder_samples(root / f'images{part}', root / f'labels{part}', f'_0000{ending}', ending)

    trained = divided(root, 'nnunet', partial(read, 'Tr'), layout)
    has_test = (root / 'labelsTs').is_dir()

    def find(split: str) -> list[Sample]:
        return read('Ts') if split == 'test' and has_test else trained.samples(split)

    source = replace(trained, splits=(*trained.splits, *(['test'] if has_test else [])), find=find)
    return DataDescription(source=source, class_names=tuple(ordered), ignore_index=ignored)


__all__ = ['ade20k', 'camvid', 'cityscapes', 'nnunet', 'pet', 'voc']
