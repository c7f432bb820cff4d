"""Miniatures of public data sets in their true layouts: images whose brightness tells the class, and their labels."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 48)  # height and width


def picture(seed: int, number: int = 3, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (H, W, 3) of stripes, and its classes uint8 (H, W)."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(rng.permutation(np.arange(number).repeat(4))[:8], size[1] // 8)[None].repeat(size[0], 0)
    image = classes[..., None] * (200 // max(1, number - 1)) + rng.integers(0, 50, (*size, 3))
    return image.astype(np.uint8), classes.astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def indexed(path: Path, labels: np.ndarray) -> None:
    """A palette PNG, as VOC's masks are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels).convert('L')
    mask = Image.frombytes('P', mask.size, mask.tobytes())
    mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
    mask.save(path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')
    return path


def beside(
        root: Path,
        image_path: str,
        mask_path: str,
        labels_of: Callable[[np.ndarray], np.ndarray] = lambda classes: classes,
        splits: Sequence[str] = ('train', 'val'),
        number: int = 3,
        images: int = 4,
) -> Path:
    """Images and masks at paths with {split} and {name}."""
    for part, split in enumerate(splits):
        for index in range(images):
            image, classes = picture(100 * part + index, number)
            names = {'split': split, 'name': f'{split}{index:02}'}
            save(root / image_path.format(**names), image)
            save(root / mask_path.format(**names), labels_of(classes))
    return root


def voc(root: Path) -> Path:
    """The tree of the development kit; some images have no mask, and a rim of 255 is around objects."""
    kit = root / 'VOCdevkit' / 'VOC2012'
    for part, split in enumerate(('train', 'val')):
        names = []
        for index in range(4):
            image, classes = picture(100 * part + index)
            labels = np.array([0, 8, 15], np.uint8)[classes]  # background, cat, person
            labels[:2] = 255
            names.append(f'2007_{part}{index:05}')
            save(kit / 'JPEGImages' / f'{names[-1]}.jpg', image)
            indexed(kit / 'SegmentationClass' / f'{names[-1]}.png', labels)
            indexed(kit / 'SegmentationObject' / f'{names[-1]}.png', labels)
        write(kit / 'ImageSets' / 'Segmentation' / f'{split}.txt', '\n'.join(names) + '\n')
    write(kit / 'ImageSets' / 'Segmentation' / 'trainval.txt', '2007_000000\n2007_100000\n')
    save(kit / 'JPEGImages' / '2009_000001.jpg', picture(9)[0])
    write(kit / 'ImageSets' / 'Main' / 'train.txt', '2009_000001\n')
    return root


def cityscapes(root: Path) -> Path:
    ids = np.array([7, 26, 24], np.uint8)  # road, car, person
    for split, cities in (('train', ('aachen', 'bochum')), ('val', ('frankfurt',))):
        for city in cities:
            for index in range(2 if split == 'train' else 3):
                image, classes = picture(hash_of(city) + index)
                labels = ids[classes]
                labels[-4:] = 1  # the bonnet of the car, which does not count
                stem = f'{city}_{index:06}_000019'
                save(root / 'leftImg8bit' / split / city / f'{stem}_leftImg8bit.png', image)
                folder = root / 'gtFine' / split / city
                save(folder / f'{stem}_gtFine_labelIds.png', labels)
                save(folder / f'{stem}_gtFine_instanceIds.png', labels.astype(np.uint16) * 1000)
                save(folder / f'{stem}_gtFine_color.png', np.stack([labels] * 3 + [labels], -1))
                write(folder / f'{stem}_gtFine_polygons.json', '{}')
    return root


def hash_of(text: str) -> int:
    return sum(map(ord, text))


def ade20k(root: Path) -> Path:
    tree = root / 'ADEChallengeData2016'
    beside(tree, 'images/{split}/ADE_{name}.jpg', 'annotations/{split}/ADE_{name}.png',
           lambda classes: np.array([0, 1, 150], np.uint8)[classes], ('training', 'validation'))
    rows = [f'{label}\t0.1\t10\t1\t0\tname {label}, other word' for label in range(1, 151)]
    write(tree / 'objectInfo150.txt', '\n'.join(['Idx\tRatio\tTrain\tVal\tStuff\tName', *rows]))
    return root


COLORS = np.array([(64, 128, 64), (192, 0, 128), (0, 0, 0)], np.uint8)


def camvid_of_kaggle(root: Path) -> Path:
    beside(root, '{split}/{name}.png', '{split}_labels/{name}_L.png', lambda classes: COLORS[classes],
           ('train', 'val', 'test'))
    write(root / 'class_dict.csv', 'name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\nVoid,0,0,0\n')
    return root


def camvid_of_the_release(root: Path) -> Path:
    beside(root, '701_StillsRaw_full/{name}.png', 'LabeledApproved_full/{name}_L.png', lambda classes: COLORS[classes],
           ('0001TP_',), images=10)
    write(root / 'label_colors.txt', '64 128 64\tAnimal\n192 0 128\t\tArchway\n0 0 0\t\tVoid\n')
    return root


def pet(root: Path) -> Path:
    tree = root / 'oxford-iiit-pet'
    lists = {'trainval': ('Abyssinian_1', 'beagle_2', 'pug_3', 'Sphynx_4', 'boxer_5'), 'test': ('pug_9',)}
    for name, names in lists.items():
        for index, stem in enumerate(names):
            image, classes = picture(index)
            save(tree / 'images' / f'{stem}.jpg', image)
            save(tree / 'annotations' / 'trimaps' / f'{stem}.png', classes + 1)
        write(tree / 'annotations' / f'{name}.txt', ''.join(f'{stem} 1 1 1\n' for stem in names))
    write(tree / 'annotations' / 'list.txt', '#Image CLASS-ID SPECIES BREED ID\n')
    write(tree / 'annotations' / 'trimaps' / '._pug_3.png', 'resource fork')
    return root


def nnunet(root: Path) -> Path:
    beside(root, 'images{split}/case_{name}_0000.png', 'labels{split}/case_{name}.png', splits=('Tr', 'Ts'), images=5)
    write(root / 'dataset.json', json.dumps({
        'channel_names': {'0': 'R', '1': 'G', '2': 'B'}, 'labels': {'background': 0, 'road': 1, 'ignore': 2},
        'numTraining': 5, 'file_ending': '.png', 'overwrite_image_reader_writer': 'NaturalImage2DIO'}))
    return root


def rectangle(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


COCO_CATEGORIES = [
    {'id': 3, 'name': 'car', 'supercategory': 'vehicle'}, {'id': 18, 'name': 'dog', 'supercategory': 'animal'}]


def coco(root: Path) -> Path:
    """Instances: a car by an outline, on it a dog by another, listed first, and a crowd of dogs by run lengths."""
    height, width = SIZE
    for part, split in enumerate(('train2017', 'val2017')):
        images, annotations = [], []
        for index in range(4):
            classes = coco_classes()
            image = (classes * 100)[..., None] + np.random.default_rng(index + 10 * part).integers(0, 50, (*SIZE, 3))
            name = f'{part}{index:011}.jpg'
            save(root / split / name, image.astype(np.uint8))
            images.append({'id': 50 + index, 'file_name': name, 'height': height, 'width': width})
            shared = {'image_id': 50 + index, 'bbox': [0, 0, 1, 1]}
            annotations += [
                {'id': len(annotations), 'category_id': 18, 'iscrowd': 0, 'area': 100, **shared,
                 'segmentation': [rectangle(10, 10, 20, 20)]},
                {'id': len(annotations) + 1, 'category_id': 3, 'iscrowd': 0, 'area': 800, **shared,
                 'segmentation': [rectangle(4, 4, 44, 24)]},
                {'id': len(annotations) + 2, 'category_id': 18, 'iscrowd': 1, 'area': 80, **shared,
                 'segmentation': {'size': [height, width], 'counts': column_runs(classes, 30)}}]
        write(root / 'annotations' / f'instances_{split}.json', json.dumps(
            {'info': {}, 'images': images, 'annotations': annotations, 'categories': COCO_CATEGORIES}))
    return root


def coco_classes() -> np.ndarray:
    classes = np.zeros(SIZE, np.uint8)
    classes[4:24, 4:44] = 1
    classes[10:20, 10:20] = 2
    classes[30:38, 2:12] = 2
    return classes


def column_runs(classes: np.ndarray, from_row: int) -> list[int]:
    """Run lengths of class 2 below a row, down the columns, of 0 and 1 in turn."""
    inside = classes == 2
    inside[:from_row] = False
    flat = inside.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return runs if not flat[0] else [0, *runs]


def coco_panoptic(root: Path) -> Path:
    for split in ('train2017', 'val2017'):
        images, annotations = [], []
        for index in range(3):
            image, classes = picture(index)
            stem = f'{index:012}'
            save(root / split / f'{stem}.jpg', image)
            numbers = np.array([0, 7000, 70000])[classes]  # 0 is no segment
            save(root / 'annotations' / f'panoptic_{split}' / f'{stem}.png', np.stack(
                [numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8))
            images.append({'id': index, 'file_name': f'{stem}.jpg', 'height': SIZE[0], 'width': SIZE[1]})
            annotations.append({'image_id': index, 'file_name': f'{stem}.png', 'segments_info': [
                {'id': 7000, 'category_id': 18, 'area': 1, 'iscrowd': 0},
                {'id': 70000, 'category_id': 3, 'area': 1, 'iscrowd': 0}]})
        write(root / 'annotations' / f'panoptic_{split}.json', json.dumps(
            {'images': images, 'annotations': annotations, 'categories': COCO_CATEGORIES}))
    return root


def yolo_of_outlines(root: Path) -> Path:
    for split in ('train', 'val'):
        for index in range(3):
            save(root / 'images' / split / f'{index}.jpg', picture(index)[0])
        shares = [f'{x / 48:.6f} {y / 40:.6f}' for x, y in ((12, 10), (24, 10), (24, 20), (12, 20))]
        write(root / 'labels' / split / '0.txt', f'1 {" ".join(shares)}\n')
        write(root / 'labels' / split / '1.txt', '')
    write(root / 'data.yaml',
          'path: /elsewhere/set\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n')
    return root


def yolo_of_masks(root: Path) -> Path:
    beside(root, 'images/{split}/{name}.jpg', 'masks/{split}/{name}.png', lambda classes: np.array(
        [0, 1, 255], np.uint8)[classes])
    write(root / 'data.yaml', 'train: images/train\nval: images/val\nmasks_dir: masks\nnc: 2\nnames: [cat, dog]\n')
    return root


def mmseg(root: Path) -> Path:
    return beside(root, 'img_dir/{split}/{name}_leftImg8bit.png', 'ann_dir/{split}/{name}_gtFine_labelTrainIds.png')


def depth_picture(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (H, W, 3) whose brightness tells the depth, and sparse depth in metres (H, W), 0 for none."""
    rng = np.random.default_rng(seed)
    metres = np.repeat(rng.permutation(np.linspace(2, 60, 8)), size[1] // 8)[None].repeat(size[0], 0)
    image = (250 - 4 * metres)[..., None] + rng.integers(0, 5, (*size, 3))
    return image.astype(np.uint8), metres * (rng.random(size) < 0.2)


def depth(root: Path, image_path: str, depth_path: str, save_depth: Callable[[Path, np.ndarray], Any], images: int = 3,
          size: tuple[int, int] = SIZE) -> Path:
    """Images and depth maps at paths with {split} and {name}."""
    for part, split in enumerate(('train', 'val')):
        for index in range(images):
            image, metres = depth_picture(100 * part + index, size)
            names = {'split': split, 'name': f'{split}{index:02}'}
            save(root / image_path.format(**names), image)
            path = root / depth_path.format(**names)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_depth(path, metres)
    return root


def image_folder(root: Path) -> Path:
    """An image folder of Hugging Face, with the mask of each image in a table."""
    for split in ('train', 'validation'):
        lines = []
        for index in range(3):
            image, classes = picture(index)
            save(root / split / 'images' / f'{index}.jpg', image)
            save(root / split / 'masks' / f'{index}.png', classes)
            lines.append({'file_name': f'images/{index}.jpg', 'mask_file_name': f'masks/{index}.png', 'text': 'a, "b"'})
        write(root / split / 'metadata.jsonl', '\n'.join(map(json.dumps, lines)))
    return root
