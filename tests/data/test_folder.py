"""Tests of the image and mask folders: layouts, samples, and the text of every error."""
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from rexnet_timm.data import DatasetError, SegmentationFolder, palette
from rexnet_timm.data.formats.folders import find_folders

CAMVID = Path(__file__).parents[3] / 'shared' / 'data' / 'camvid'
needs_camvid = pytest.mark.skipif(not CAMVID.is_dir(), reason='the CamVid images are not beside the checkout')

LAYOUTS = {
    'camvid': ('{split}', '{split}annot'),
    'split_masks': ('{split}/images', '{split}/masks'),
    'split_annotations': ('{split}/images', '{split}/annotations'),
    'split_labels': ('{split}/images', '{split}/labels'),
    'masks_split': ('images/{split}', 'masks/{split}'),
    'annotations_split': ('images/{split}', 'annotations/{split}'),
    'labels_split': ('images/{split}', 'labels/{split}'),
}


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def rgb(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def labels(height: int = 6, width: int = 8, num_classes: int = 3) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) % num_classes).astype(np.uint8)


def make_folder(root: Path, layout: str = 'camvid', split: str = 'train', stems: tuple[str, ...] = ('b', 'a')) -> Path:
    images, masks = LAYOUTS[layout]
    for seed, stem in enumerate(stems):
        write(root / images.format(split=split) / f'{stem}.png', rgb(seed=seed))
        write(root / masks.format(split=split) / f'{stem}.png', labels())
    return root


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, layout):
    dataset = SegmentationFolder(make_folder(tmp_path, layout), 'train', num_classes=3)
    assert len(dataset) == 2
    images, masks = LAYOUTS[layout]
    assert dataset.paths(0) == (
        tmp_path / images.format(split='train') / 'a.png', tmp_path / masks.format(split='train') / 'a.png')
    image, mask = dataset[0]
    assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
    assert isinstance(mask, tv_tensors.Mask) and mask.dtype == torch.int64
    assert np.array_equal(image.permute(1, 2, 0).numpy(), rgb(seed=1))
    assert np.array_equal(mask.numpy(), labels())


@pytest.mark.parametrize('stored, asked', [
    ('training', 'train'), ('train', 'training'), ('valid', 'val'), ('validation', 'val'), ('val', 'validation'),
    ('test', 'test'), ('fold_3', 'fold_3'),
])
def test_split_synonyms(tmp_path, stored, asked):
    assert len(SegmentationFolder(make_folder(tmp_path, split=stored), asked, num_classes=3)) == 2


def test_asked_split_is_preferred_to_its_synonym(tmp_path):
    make_folder(tmp_path, split='val', stems=('a',))
    make_folder(tmp_path, split='validation', stems=('a', 'b', 'c'))
    assert len(SegmentationFolder(tmp_path, 'val', num_classes=3)) == 1
    assert len(SegmentationFolder(tmp_path, 'validation', num_classes=3)) == 3


@needs_camvid
@pytest.mark.parametrize('split, length', [('train', 367), ('val', 101)])
def test_camvid(split, length):
    dataset = SegmentationFolder(CAMVID, split, num_classes=11, ignore_index=11)
    assert len(dataset) == length
    assert dataset.ignore_label == 11
    seen = torch.zeros(12, dtype=torch.long)
    for index in range(0, length, 10):
        image, mask = dataset[index]
        assert image.shape == (3, 180, 240) and mask.shape == (180, 240)
        seen += torch.bincount(mask.flatten(), minlength=12)
        assert dataset.paths(index)[0].stem == dataset.paths(index)[1].stem
    assert (seen > 0).all()


@needs_camvid
def test_camvid_without_ignore_index_is_refused():
    with pytest.raises(DatasetError, match=r'\.png has 11 in \d+ pixels; pass ignore_index=11'):
        SegmentationFolder(CAMVID, 'val', num_classes=11)[0]


def test_transform_gets_both_and_its_result_comes_back(tmp_path):
    dataset = SegmentationFolder(
        make_folder(tmp_path), 'train', num_classes=3, transform=lambda image, mask: (image.shape, mask.max().item()))
    assert dataset[0] == ((3, 6, 8), 2)


@pytest.mark.parametrize('in_chans, mode', [(1, 'L'), (3, 'RGB'), (4, 'RGBA')])
def test_in_chans(tmp_path, in_chans, mode):
    pixels = np.random.default_rng(0).integers(0, 256, size=(6, 8, 4), dtype=np.uint8)
    path = write(tmp_path / 'train' / 'a.png', pixels)
    write(tmp_path / 'trainannot' / 'a.png', labels())
    image, _ = SegmentationFolder(tmp_path, 'train', num_classes=3, in_chans=in_chans)[0]
    assert image.shape == (in_chans, 6, 8)
    expected = np.asarray(Image.open(path).convert(mode)).reshape(6, 8, in_chans)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_mask_storage_modes(tmp_path):
    """Palette, 1-bit and 16-bit masks hold labels as grey ones do."""
    for stem in 'abc':
        write(tmp_path / 'train' / f'{stem}.png', rgb())
    indexed = Image.fromarray(labels()).convert('P')
    indexed.putdata(labels().flatten().tolist())
    indexed.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    (tmp_path / 'trainannot').mkdir()
    indexed.save(tmp_path / 'trainannot' / 'a.png')
    Image.fromarray(labels(num_classes=2) * 255).convert('1').save(tmp_path / 'trainannot' / 'b.png')
    Image.fromarray(labels().astype(np.uint16) * 300).save(tmp_path / 'trainannot' / 'c.png')
    dataset = SegmentationFolder(tmp_path, 'train', num_classes=601, ignore_index=65535)
    assert np.array_equal(dataset[0][1].numpy(), labels())
    assert np.array_equal(dataset[1][1].numpy(), labels(num_classes=2))
    assert np.array_equal(dataset[2][1].numpy(), labels().astype(np.int64) * 300)


def test_ignore_label():
    with pytest.raises(ValueError, match='num_classes must be at most 255, got 256; pass an ignore_index'):
        SegmentationFolder('unread', 'train', num_classes=256)
    with pytest.raises(ValueError, match='ignore_index must be a label that a mask can store, .* got -3000000000'):
        SegmentationFolder('unread', 'train', num_classes=2, ignore_index=-3 * 10 ** 9)
    with pytest.raises(ValueError, match='num_classes must be at least 1, got 0'):
        SegmentationFolder('unread', 'train', num_classes=0)
    with pytest.raises(ValueError, match='in_chans must be at least 1, got 0'):
        SegmentationFolder('unread', 'train', num_classes=2, in_chans=0)


def test_ignored_label_is_kept(tmp_path):
    make_folder(tmp_path)
    dataset = SegmentationFolder(tmp_path, 'train', num_classes=2, ignore_index=2)
    assert dataset.ignore_label == 2
    assert dataset[0][1].unique().tolist() == [0, 1, 2]
    assert SegmentationFolder(tmp_path, 'train', num_classes=3).ignore_label == 255


def test_class_names(tmp_path):
    make_folder(tmp_path)
    assert SegmentationFolder(tmp_path, 'train', num_classes=3).class_names == ['class 0', 'class 1', 'class 2']
    (tmp_path / 'classes.txt').write_text('sky\nroad\n tall  tree \n\n', encoding='utf-8')
    assert SegmentationFolder(tmp_path, 'train', num_classes=3).class_names == ['sky', 'road', 'tall tree']
    with pytest.raises(DatasetError, match=r'classes.txt has 3 names, num_classes is 4; .* pass num_classes=3'):
        SegmentationFolder(tmp_path, 'train', num_classes=4)
    with pytest.raises(DatasetError, match=r'classes.txt has 3 names, num_classes is 2; .* pass num_classes=3'):
        SegmentationFolder(tmp_path, 'train', num_classes=2)
    (tmp_path / 'classes.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DatasetError, match='Text of a data set must be UTF-8: .*classes.txt'):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_class_names_that_stand_twice(tmp_path):
    make_folder(tmp_path)
    for second in ('tall tree', ' tall \t tree'):
        (tmp_path / 'classes.txt').write_text(f'tall tree\n\nroad\n{second}\n', encoding='utf-8')
        with pytest.raises(DatasetError, match="classes.txt has 'tall tree' in the lines 1 and 4; rename one"):
            SegmentationFolder(tmp_path, 'train', num_classes=3)
    (tmp_path / 'classes.txt').write_text('Tree\ntree\nroad\n', encoding='utf-8')
    assert SegmentationFolder(tmp_path, 'train', num_classes=3).class_names == ['Tree', 'tree', 'road']
    (tmp_path / 'classes.txt').write_text(' \n\n', encoding='utf-8')
    with pytest.raises(DatasetError, match='classes.txt has no names; write them, or remove the file'):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_class_names_of_binary_masks(tmp_path):
    """Always two, of background and foreground, as the report of a binary model has two classes."""
    make_folder(tmp_path)
    assert SegmentationFolder(tmp_path, 'train', num_classes=1).class_names == ['background', 'foreground']
    for text in ('crack', 'background\ncrack'):
        (tmp_path / 'classes.txt').write_text(text, encoding='utf-8')
        assert SegmentationFolder(tmp_path, 'train', num_classes=1).class_names == ['background', 'crack']
    (tmp_path / 'classes.txt').write_text('a\nb\nc', encoding='utf-8')
    with pytest.raises(DatasetError, match=(
            'or that of the foreground, since num_classes is 1: .*has 3 names, .*pass num_classes=3')):
        SegmentationFolder(tmp_path, 'train', num_classes=1)
    (tmp_path / 'classes.txt').write_text('background', encoding='utf-8')
    with pytest.raises(DatasetError, match="must be that of the foreground: .* has 'background'; name the foreground"):
        SegmentationFolder(tmp_path, 'train', num_classes=1)


def test_missing_root(tmp_path):
    with pytest.raises(DatasetError, match='nowhere does not exist or is no folder; check the path'):
        SegmentationFolder(tmp_path / 'nowhere', 'train', num_classes=2)


def test_unknown_layout_names_all(tmp_path):
    (tmp_path / 'JPEGImages').mkdir()
    with pytest.raises(DatasetError) as info:
        SegmentationFolder(tmp_path, 'val', num_classes=2)
    text = str(info.value)
    for part in ('split "val"', 'has the folders JPEGImages', 'val/ with valannot/', 'val/images/ with val/masks/',
                 'images/val/ with masks/val/', '"annotations" or "labels"', 'val, valid, validation'):
        assert part in text
    assert '\n' not in text


def test_half_a_layout_is_named(tmp_path):
    make_folder(tmp_path, 'masks_split')
    (tmp_path / 'masks').rename(tmp_path / 'truth')
    with pytest.raises(DatasetError, match='has the folders images, truth; .*images/train has no .*masks/train'):
        SegmentationFolder(tmp_path, 'train', num_classes=2)


def test_two_mask_folders_are_refused(tmp_path):
    make_folder(tmp_path, 'split_masks')
    make_folder(tmp_path, 'split_labels')
    with pytest.raises(DatasetError, match='one folder of masks: found .*train/masks and .*train/labels; move'):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


@pytest.mark.parametrize('empty, kind', [('train', 'images'), ('trainannot', 'masks')])
def test_empty_folder(tmp_path, empty, kind):
    make_folder(tmp_path)
    for path in (tmp_path / empty).iterdir():
        path.rename(path.with_suffix('.txt'))
    with pytest.raises(DatasetError, match=f'The folder of {kind} is empty: .*{empty} has no file ending in '):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_image_without_mask(tmp_path):
    make_folder(tmp_path, stems=tuple('abcdef'))
    for stem in 'bcde':
        (tmp_path / 'trainannot' / f'{stem}.png').unlink()
    with pytest.raises(DatasetError, match=(
            r'Each image must have a mask of the same stem: 4 of 6 images in .*train have none '
            r'\(b.png, c.png, d.png, ...\); add the masks to .*trainannot or remove the images')):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_mask_without_image(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / 'trainannot' / 'z.png', labels())
    with pytest.raises(DatasetError, match=(
            r'Each mask must have an image of the same stem: 1 of 3 masks in .*trainannot have none \(z.png\); '
            r'add the images to .*train or remove the masks')):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_same_stem_twice(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / 'train' / 'a.jpg', rgb())
    with pytest.raises(DatasetError, match='a.jpg and a.png in .*train share "a"; remove or rename one'):
        SegmentationFolder(tmp_path, 'train', num_classes=3)


def test_hidden_and_foreign_files_are_no_samples(tmp_path):
    make_folder(tmp_path)
    (tmp_path / 'train' / '._a.png').write_bytes(b'resource fork')
    (tmp_path / 'train' / 'notes.txt').write_text('notes')
    assert len(SegmentationFolder(tmp_path, 'train', num_classes=3)) == 2


def test_sizes_differ(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / 'trainannot' / 'a.png', labels(height=12, width=16))
    with pytest.raises(DatasetError, match=r'a.png is 8 x 6 but .*trainannot/a.png is 16 x 12 \(width x height\); '):
        SegmentationFolder(tmp_path, 'train', num_classes=3)[0]


def test_rgb_mask(tmp_path):
    make_folder(tmp_path)
    write(tmp_path / 'trainannot' / 'a.png', rgb())
    with pytest.raises(DatasetError, match=(
            r'a colour table must say what its colours are: .*a.png has mode RGB with colours such as \(\d+, .*'
            '.*pass as color_map a text file with a line for each class, .* or save the mask as 8-bit grey')):
        SegmentationFolder(tmp_path, 'train', num_classes=3)[0]


@pytest.mark.parametrize('values, ignore_index, text', [
    ((0, 255), None, r'Labels must be 0 to 2: .*a.png has 255 in 24 pixels; pass num_classes=1 if .* by a label_map'),
    ((1, 3), 255, r'Labels must be 0 to 2 or the ignored 255: .*has 3 in 24 .*num_classes=4 if they are classes'),
    ((4, 9), 2, r'Labels must be 0 to 2 or the ignored 2: .*has 4, 9 in 48 pixels; pass num_classes=10 if'),
])
def test_label_outside(tmp_path, values, ignore_index, text):
    make_folder(tmp_path)
    write(tmp_path / 'trainannot' / 'a.png', np.array(values, dtype=np.uint8)[labels(num_classes=2)])
    with pytest.raises(DatasetError, match=text):
        SegmentationFolder(tmp_path, 'train', num_classes=3, ignore_index=ignore_index)[0]


@pytest.mark.parametrize('folder, kind', [('train', 'image'), ('trainannot', 'mask')])
@pytest.mark.parametrize('damage', ['truncated', 'foreign', 'empty'])
def test_unreadable_file(tmp_path, folder, kind, damage):
    make_folder(tmp_path)
    path = write(tmp_path / folder / 'a.png', rgb(64, 64))
    content = path.read_bytes()
    path.write_bytes({'truncated': content[:len(content) // 2], 'foreign': b'no image at all', 'empty': b''}[damage])
    dataset = SegmentationFolder(tmp_path, 'train', num_classes=3)
    with pytest.raises(DatasetError, match=rf'Every {kind} must be readable: .*{folder}/a.png is not \(\w+: '):
        dataset[0]
    assert len(dataset[1]) == 2  # the next sample is untouched


def test_images_that_would_lose_something_are_refused(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(DatasetError, match='the model has channels, 4: .*a.png has 3; take images with 4 bands'):
        SegmentationFolder(tmp_path, 'train', num_classes=3, in_chans=4)[0]
    write(tmp_path / 'train' / 'a.png', labels().astype(np.uint16) * 1000)
    dataset = SegmentationFolder(tmp_path, 'train', num_classes=3, in_chans=1, image_scale=255)
    with pytest.raises(DatasetError, match='Images must have 8 bits a channel: .*a.png has 16 bits, values from 0 to'):
        dataset[0]


def test_palette():
    colors = palette(64)
    assert colors.shape == (64, 3) and colors.dtype == np.uint8
    assert np.array_equal(colors, palette(64))
    assert np.array_equal(colors[:11], palette(11))
    distance = np.linalg.norm(colors[:, None].astype(float) - colors, axis=-1) + 1e3 * np.eye(64)
    assert distance.min() > 30
    with pytest.raises(ValueError, match='num_classes must be from 1 to 1024, got 0'):
        palette(0)


def test_splits_that_there_are_come_first_in_the_advice(tmp_path):
    for name in ('train', 'trainannot', 'val', 'valannot'):
        (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match='for split "test": .* Take the split "train" or "val", or arrange it'):
        find_folders(tmp_path, 'test')
