"""A data set read whole, beside counts of our own."""
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from test_components import searched

from rexnet_timm.data import describe_data
from rexnet_timm.data import large as large_module
from rexnet_timm.data.check import check_data
from rexnet_timm.data.plan import plan_of


def masks(root: Path, labels: list[np.ndarray], split: str = 'train') -> Path:
    """A split of images of noise, each of its own, with the given masks."""
    for index, mask in enumerate(labels):
        image = np.random.default_rng((index, len(split))).integers(0, 256, (*mask.shape[:2], 3), np.uint8)
        trees.save(root / split / 'images' / f'{index:04}.png', image)
        trees.save(root / split / 'masks' / f'{index:04}.png', mask)
    return root


def noise(number: int, seed: int = 0, size: tuple[int, int] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, number, size, np.uint8)


def both(root: Path, labels: list[np.ndarray]) -> Path:
    return masks(masks(root, labels), labels, 'val')


def checked(root: Path, **options):
    return check_data(describe_data(root), **options)


def kinds(check) -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in check.findings]


def text_of(check, kind: str) -> str:
    (finding,) = (finding for finding in check.findings if finding.kind == kind)
    return finding.text


def test_counts_are_those_of_a_search(tmp_path):
    labels = [noise(4, seed, (20 + seed, 33)) for seed in range(5)]
    masks(masks(tmp_path, labels), labels[:1], 'val')
    check = checked(tmp_path, threads=3)
    split = check.splits['train']
    assert (split.pairs, split.num_bad, split.turned) == (5, 0, 0)
    assert dict(split.sizes) == {(20 + seed, 33): 1 for seed in range(5)}
    objects = Counter()
    for mask in labels:
        objects.update(searched(mask))
    classes = check.classes('train')
    assert sorted(classes) == [0, 1, 2, 3]
    for index, found in classes.items():
        areas = sorted(area for (label, area), number in objects.items() if label == index for _ in range(number))
        assert found.pixels == sum(int((mask == index).sum()) for mask in labels) == sum(areas)
        assert found.images == sum(bool((mask == index).any()) for mask in labels)
        assert (found.objects, found.smallest) == (len(areas), areas[0])
        # half of the pixels are in objects of at least so many pixels, to within a step
        true = next(area for area in areas if sum(a for a in areas if a <= area) >= sum(areas) / 2)
        assert found.typical == pytest.approx(true, rel=0.05)
    pixels = np.concatenate([
        np.array(Image.open(path)).reshape(-1, 3) for path in (tmp_path / 'train' / 'images').iterdir()])
    assert split.mean == pytest.approx(pixels.mean(0)) and split.std == pytest.approx(pixels.std(0))


@pytest.mark.parametrize('threads', [1, 4])
def test_the_number_of_threads_changes_nothing(threads, tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(9)])
    split = checked(tmp_path, threads=threads).splits['train']
    reference = checked(tmp_path, threads=2).splits['train']
    assert np.array_equal(split.mean, reference.mean) and np.array_equal(split.std, reference.std)
    assert (split.labels, split.shown, split.digests) == (reference.labels, reference.shown, reference.digests)


def test_a_map_is_applied_before_objects_are_counted(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 1:3], mask[1:3, 3:5], mask[6, 6] = 3, 4, 200  # the first two become one object
    both(tmp_path, [mask, mask])
    check = check_data(describe_data(tmp_path, label_map='0:0 3:1 4:1'))
    found = check.classes('train')
    assert (found[1].objects, found[1].smallest, found[1].pixels) == (2, 8, 16) and sorted(found) == [0, 1]
    assert '1.6% of the pixels have labels that the map does not list, and are ignored: 200 (1.56%)' \
        in text_of(check, 'unlisted')


def test_all_masks_are_read_for_labels_that_a_map_does_not_list(tmp_path):
    both(tmp_path, [noise(2, seed, (4, 4)) for seed in range(99)] + [np.full((4, 4), 9, np.uint8)])
    assert '9 (1.00%)' in text_of(check_data(describe_data(tmp_path, label_map='0:0 1:1')), 'unlisted')


def test_bad_samples_are_told_and_counted(tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(6)])
    images = tmp_path / 'train' / 'images'
    (images / '0001.png').write_bytes((images / '0001.png').read_bytes()[:300])
    (images / '0002.png').write_bytes(b'no picture')
    trees.save(tmp_path / 'train' / 'masks' / '0003.png', noise(3, 0, (24, 30)))
    check = checked(tmp_path)
    split = check.splits['train']
    assert split.num_bad == 3 and check.level == 'error' and sum(found.images for found in split.labels.values()) == 9
    assert [Path(image).name for image, _, _ in split.bad] == ['0001.png', '0002.png', '0003.png']
    assert 'is not (OSError' in split.bad[0][2] and '31 x 24' in split.bad[2][2] and '30 x 24' in split.bad[2][2]
    assert '3 of 6 samples of train cannot be used: Every image must be readable' in text_of(check, 'samples')


def test_images_that_are_in_two_splits(tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(4)])
    shared = tmp_path / 'train' / 'images' / '0002.png'
    Image.open(shared).save(tmp_path / 'val' / 'images' / '0000.png', compress_level=0)  # other bytes, the same pixels
    Image.open(shared).save(tmp_path / 'train' / 'images' / '0003.png')
    check = checked(tmp_path)
    (finding,) = (finding for finding in check.findings if finding.kind == 'duplicates')
    assert finding.level == 'warning' and finding.text.startswith('One image is in more than one split')
    assert [Path(path).relative_to(tmp_path).as_posix() for path in finding.files] == [
        'train/images/0002.png', 'train/images/0003.png', 'val/images/0000.png']


def test_classes_that_a_split_lacks(tmp_path):
    masks(masks(tmp_path, [noise(3), noise(3, 1)]), [noise(4, 2), noise(2, 3)], 'val')
    texts = [finding.text for finding in checked(tmp_path, num_classes=5).findings if finding.kind == 'classes']
    assert texts == ['1 class of 5 is in no mask: class 4.',
                     '1 class of 5 is missing in train and cannot be learnt there: class 3.']


def test_names_of_a_format_may_be_those_of_others(tmp_path):
    def told(check) -> str:
        return ' '.join(finding.text for finding in check.findings if finding.kind == 'classes')

    names = trees.voc(tmp_path) / 'VOCdevkit' / 'VOC2012' / 'classes.txt'
    text = told(checked(tmp_path))
    assert 'names, which voc gives, are not those of these masks' in text and f'into {names}.' in text
    names.write_text(''.join(f'kind {index}\n' for index in range(16)))
    check = checked(tmp_path)
    assert 'these masks' not in told(check) and check.description.class_names[15] == 'kind 15'


def test_a_missing_split_and_what_follows(tmp_path):
    masks(tmp_path, [noise(3, seed) for seed in range(3)])
    check = checked(tmp_path)
    assert ('warning', 'split') in kinds(check) and plan_of(check).values['val_share'] == 0.2
    assert ('error', 'split') in kinds(checked(tmp_path, train_split='other'))
    assert ('error', 'split') in kinds(checked(tmp_path, val_split='other'))


def test_files_that_do_not_pair_are_an_error(tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(3)])
    (tmp_path / 'val' / 'masks' / '0001.png').unlink()
    check = checked(tmp_path)
    assert 'Each image must have a mask' in text_of(check, 'files') and list(check.splits) == ['train']


def test_colours_get_a_table(tmp_path):
    colors = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)
    labels = [noise(3, seed) for seed in range(3)]
    both(tmp_path, [colors[mask] for mask in labels])
    check = checked(tmp_path)
    assert check.colors_are_proposed and check.description.color_map == (
        ((0, 0, 0), 0), ((10, 200, 10), 1), ((200, 10, 10), 2))
    order = np.array([0, 2, 1])
    for index, found in check.classes('train').items():
        assert found.pixels == sum(int((order[mask] == index).sum()) for mask in labels)
    assert ('warning', 'colours') in kinds(check)


def test_notes_on_orientation_and_kinds(tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(3)])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(255, 9, (31, 24))).save(tmp_path / 'train' / 'images' / '0001.png', exif=exif)
    check = checked(tmp_path)
    assert check.splits['train'].num_bad == 0 and check.splits['train'].turned == 1
    assert '1 of 3 images of train have an EXIF orientation' in text_of(check, 'orientation')
    assert '1 images with 1, 5 images with 3' in text_of(check, 'channels')


LARGE = np.kron(noise(3, 7, (9, 10)), np.ones((10, 10), np.uint8))  # objects that cross the blocks
PALETTE = np.array([(0, 0, 0), (200, 10, 10), (10, 200, 10)], np.uint8)


def with_large(root: Path, masks_of=lambda labels: labels) -> Path:
    """Two splits of two small images and a large one, 90 x 100, in TIFFs."""
    for split in ('train', 'val'):
        for index in range(3):
            labels = noise(3, index) if index else LARGE
            image = np.random.default_rng((index, len(split))).integers(0, 256, (*labels.shape, 3), np.uint8)
            trees.save(root / split / 'images' / f'{index}.tif', image)
            trees.save(root / split / 'masks' / f'{index}.tif', masks_of(labels))
    return root


@pytest.mark.parametrize('masks_of', [
    lambda labels: labels, lambda labels: (labels > 1) * np.uint8(255), lambda labels: PALETTE[labels],
    lambda labels: np.where(labels == 2, 9, labels)], ids=['numbers', 'binary', 'colours', 'many'])
def test_large_images_are_counted_as_others(masks_of, tmp_path, monkeypatch):
    """By windows, in which objects are cut, a check finds what it finds in images that are decoded whole."""
    pytest.importorskip('rasterio', reason='needs the extra geo')
    root = with_large(tmp_path, masks_of)
    whole = checked(root)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    monkeypatch.setattr(large_module, 'BLOCK', 16)
    check = checked(root)
    assert check.level == whole.level and check.class_names == whole.class_names and check.meaning == whole.meaning
    assert check.description.color_map == whole.description.color_map
    for name, split in check.splits.items():
        other = whole.splits[name]
        assert split.large == 1 and other.large == 0 and split.num_bad == other.num_bad == 0
        assert (split.labels, split.stored, split.neighbours) == (other.labels, other.stored, other.neighbours)
        assert (split.sizes, split.shown, split.colors) == (other.sizes, other.shown, other.colors)
        assert split.mean == pytest.approx(other.mean) and split.std == pytest.approx(other.std)
    large = [(finding.level, finding.text) for finding in check.findings if finding.kind == 'large']
    assert large == [('note', f'1 image of {split} has more than 2000 pixels: such are read by windows, in {how}.')
                     for split, how in (('train', 'random crops'), ('val', 'tiles'))]
    assert [finding for finding in check.findings if finding.kind != 'large'] == whole.findings


def test_large_images_that_cannot_be_used_are_told(tmp_path, monkeypatch):
    pytest.importorskip('rasterio', reason='needs the extra geo')
    root = with_large(tmp_path)
    trees.save(root / 'train' / 'masks' / '0.tif', LARGE[:80])
    (root / 'val' / 'masks' / '0.tif').unlink()
    trees.save(root / 'val' / 'masks' / '0.png', LARGE)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    check = checked(root)
    reasons = {name: split.bad[0][2] for name, split in check.splits.items()}
    assert [split.num_bad for split in check.splits.values()] == [1, 1] and check.level == 'error'
    assert '0.tif is 100 x 80 (width x height) and its image 100 x 90' in reasons['train']
    assert '0.png is none; save it as TIFF' in reasons['val']


def test_large_images_of_two_splits_are_compared(tmp_path, monkeypatch):
    pytest.importorskip('rasterio', reason='needs the extra geo')
    root = with_large(tmp_path)
    Image.open(root / 'val' / 'images' / '0.tif').save(root / 'train' / 'images' / '0.tif', compression='tiff_lzw')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    monkeypatch.setattr(large_module, 'BLOCK', 16)
    (finding,) = (finding for finding in checked(root).findings if finding.kind == 'duplicates')
    assert finding.level == 'warning' and [Path(path).name for path in finding.files] == ['0.tif', '0.tif']


def test_images_that_cannot_be_read_alike_are_an_error(tmp_path):
    both(tmp_path, [noise(3, seed) for seed in range(3)])
    trees.save(tmp_path / 'train' / 'images' / '0001.png', noise(200).astype(np.uint16) * 300)
    check = checked(tmp_path)
    assert 'Images must have the same bits' in text_of(check, 'images') and check.level == 'error'


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    def measured(number: int) -> int:
        root = tmp_path / str(number)
        image = np.zeros((160, 160, 3), np.uint8)
        for split in ('train', 'val'):
            for index in range(number):
                image[0, 0] = index
                trees.save(root / split / 'images' / f'{index:04}.png', image, compress_level=1)
                trees.save(root / split / 'masks' / f'{index:04}.png', image[..., 0] * 0, compress_level=1)
        description = describe_data(root)
        tracemalloc.start()
        try:
            check_data(description, threads=2)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = measured(8), measured(56)
    # 96 more samples would hold 9 MB of pixels; their paths and digests are some hundred bytes each
    assert many - few < 500_000
