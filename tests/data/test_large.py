"""Images of more pixels than are decoded at once: what windows give is what the whole image would."""
import pickle
import re

import numpy as np
import pytest
import torch
from geotiffs import write_geotiff
from PIL import Image

from rexnet_timm.data import DatasetError, SegmentationFolder, create_segmentation_transform
from rexnet_timm.data import large as large_module
from rexnet_timm.data.crops import draw_rarer_class
from rexnet_timm.data.geo import Scene
from rexnet_timm.data.health import bad_samples

pytest.importorskip('rasterio', reason='needs the extra geo')

LABELS = np.arange(9000).reshape(90, 100) // 1200  # 0 to 7, of which 7 has half as many pixels
COLORS = np.random.default_rng(0).integers(0, 256, (8, 3), np.uint8)


def large(tmp_path, monkeypatch, masks=None, **options):
    """A folder of an image of 90 x 100 pixels that Pillow would not take, and its mask."""
    labels = np.arange(9000).reshape(90, 100) // 1200
    masks = labels[None] if masks is None else masks
    for kind, values in (('train', np.stack([labels * 20] * 3)), ('trainannot', masks)):
        (tmp_path / kind).mkdir(parents=True)
        write_geotiff(tmp_path / kind / 'a.tif', values.astype(np.uint8), **options if kind == 'trainannot' else {})
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    return tmp_path


@pytest.mark.parametrize('scale', [(1., 1.), (0.3, 2.)])
def test_crops_of_a_large_image_are_read_by_windows(scale, tmp_path, monkeypatch):
    """Crops show every part of the image and of the mask, in step; those larger than the image are padded."""
    dataset = SegmentationFolder(large(tmp_path, monkeypatch), 'train', 8)
    assert dataset.in_chans == 3 and len(dataset) == 1
    dataset.crops = 5
    assert len(dataset) == 5 and dataset.paths(4) == dataset.paths(-1) == dataset.paths(0)
    with pytest.raises(IndexError, match='no sample 5 of 5'):
        dataset[5]
    dataset.transform = create_segmentation_transform(
        True, 48, mean=(0,) * 3, std=(1,) * 3, scale=scale, color_jitter=0, interpolation='nearest', rotation=10)
    read, seen = [], set()
    own = Scene.read
    monkeypatch.setattr(Scene, 'read', lambda self, *spans: read.append(spans) or own(self, *spans))
    torch.manual_seed(0)
    for index in range(40):
        image, mask = dataset[index % 5]
        assert image.shape == (3, 48, 48) and mask.shape == (48, 48)
        known = mask != 255
        assert ((image[0] * 255 / 20).round() == mask)[known].float().mean() > 0.97
        seen |= set(mask[known].tolist())
    assert seen == set(range(8))
    heights = {rows[1] - rows[0] for rows, _ in read}
    assert max(heights) <= 90 and (len(heights) > 20 or scale == (1., 1.))
    assert min(rows[0] for rows, _ in read) < 4 and max(rows[1] for rows, _ in read) > 86


def tiles(root, monkeypatch, side=32, **options) -> SegmentationFolder:
    monkeypatch.setattr(large_module, 'TILE', side)
    dataset = SegmentationFolder(root, 'train', 8, **options)
    told = dataset.cut_large()
    assert '1 image of train has more than 2000 pixels, read as 12 tiles of at most 32 x 32 pixels' in told
    assert dataset.cut_large() is None
    return dataset


def put_together(dataset) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask of all tiles, each pixel of which must come once."""
    image, mask, seen = np.zeros((3, 90, 100), np.uint8), np.zeros((90, 100), int), np.zeros((90, 100), int)
    for index in range(len(dataset)):
        part = dataset.paths(index)[0]
        place = slice(*part.rows), slice(*part.columns)
        pixels, labels = dataset[index]
        image[(slice(None), *place)], mask[place] = pixels.numpy(), labels.numpy()
        seen[place] += 1
    assert (seen == 1).all()
    return image, mask


def test_tiles_cover_every_pixel_once(tmp_path, monkeypatch):
    dataset = tiles(large(tmp_path, monkeypatch), monkeypatch)
    image, mask = put_together(dataset)
    assert np.array_equal(mask, LABELS) and np.array_equal(image, np.stack([LABELS * 20] * 3))
    sizes = dataset.sample_sizes()
    assert sizes == [tuple(dataset[index][1].shape) for index in range(12)]
    assert sizes[0] == (32, 32) and sizes[-1] == (26, 4)
    assert str(dataset.paths(5)[0]) == f'{tmp_path / "train" / "a.tif"}, rows 32 to 64, columns 32 to 64'
    assert str(dataset.paths(5)[1]).endswith('trainannot/a.tif, rows 32 to 64, columns 32 to 64')
    assert bad_samples(dataset, whole=True) == []
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][1], dataset[3][1])  # to the process of a loader


@pytest.mark.parametrize('length, expected', [
    (1024, [1024]), (1025, [544, 481]), (20000, [1024] * 19 + [544]), (5, [5])])
def test_tiles_are_few_and_on_the_grid(length, expected):
    spans = large_module._tile_spans(length)
    assert [end - begin for begin, end in spans] == expected


@pytest.mark.parametrize('bands', [3, 4])
def test_masks_in_colours(bands, tmp_path, monkeypatch):
    pixels = np.moveaxis(COLORS[LABELS], -1, 0)
    pixels = np.concatenate([pixels, np.full((bands - 3, 90, 100), 255, np.uint8)])
    root = large(tmp_path, monkeypatch, pixels)
    table = {f'class {index}': color.tolist() for index, color in enumerate(COLORS)}
    assert np.array_equal(put_together(tiles(root, monkeypatch, color_map=table))[1], LABELS)
    dataset = SegmentationFolder(root, 'train', 8, color_map=table)
    assert dataset.told_of_labels() is None
    dataset.transform = create_segmentation_transform(True, 48, scale=(1, 1), balanced_share=0.5)
    assert set(dataset[0][1].unique().tolist()) <= {*range(8), 255}
    del table['class 7']
    dataset = SegmentationFolder(root, 'train', 7, color_map=table)
    assert '6.7% of the pixels of 1 masks have colours that the table does not have' in dataset.told_of_labels()
    with pytest.raises(DatasetError, match='colour table must say what its colours are: .*a.tif has colours; pass as '):
        tiles(root, monkeypatch)[0]


def test_a_palette_and_grey_in_three_bands(tmp_path, monkeypatch):
    grey = large(tmp_path / 'grey', monkeypatch, np.stack([LABELS] * 3))
    assert np.array_equal(put_together(tiles(grey, monkeypatch))[1], LABELS)
    colors = {index: (*map(int, color), 255) for index, color in enumerate(COLORS)}
    palette = large(tmp_path / 'palette', monkeypatch, colors=colors)
    assert np.array_equal(put_together(tiles(palette, monkeypatch))[1], LABELS)  # the indices
    table = {f'class {index}': color.tolist() for index, color in enumerate(COLORS[::-1])}
    assert np.array_equal(put_together(tiles(palette, monkeypatch, color_map=table))[1], 7 - LABELS)


@pytest.mark.parametrize('options, white', [({}, 255), ({'nbits': 1}, 1)])
def test_binary_masks(options, white, tmp_path, monkeypatch):
    """255 for the foreground is found, in whichever block it is; one bit needs no number."""
    root = large(tmp_path, monkeypatch, (LABELS == 7)[None] * white, **options)
    monkeypatch.setattr(large_module, 'BLOCK', 16)
    dataset = SegmentationFolder(root, 'train', 1)
    assert dataset.foreground == white
    dataset.transform = create_segmentation_transform(True, 100, scale=(1, 1))
    mask = dataset[0][1]
    assert (mask == 1).sum() > 0 and set(mask.unique().tolist()) == {0, 1, 255}


def test_crops_look_for_rarer_classes_as_in_memory(tmp_path, monkeypatch):
    """The pixel that a crop must hold is drawn as of a mask in memory: a class evenly, then any of its pixels."""
    root = large(tmp_path, monkeypatch, np.where(LABELS == 7, 7, np.where(LABELS == 3, 3, 0))[None])
    monkeypatch.setattr(large_module, 'BLOCK', 16)
    dataset = SegmentationFolder(root, 'train', 8)
    dataset.transform = create_segmentation_transform(
        True, 8, mean=(0,) * 3, std=(1,) * 3, scale=(1, 1), balanced_share=1, hflip=0, color_jitter=0)
    opened = []
    own = large_module.LargeMask.read
    monkeypatch.setattr(large_module.LargeMask, 'read', lambda self, *spans: opened.append(spans) or own(self, *spans))
    assert dataset.find_classes() == 1 and len(opened) == 6 * 7
    assert dataset.find_classes() == 1 and len(opened) == 6 * 7  # once
    sent = pickle.loads(pickle.dumps(dataset))  # to the process of a loader, which need not count again
    torch.manual_seed(0)
    crops = [sent[0][1] for _ in range(200)]
    assert len(opened) == 6 * 7 + 2 * 200  # of each crop the block of the pixel, and its own window
    held = [{label for label in (3, 7) if (crop == label).any()} for crop in crops]
    assert all(held) and 70 < sum(7 in found for found in held) < 130
    places = next(iter(dataset._places.values()))
    mask = np.where(LABELS == 7, 7, np.where(LABELS == 3, 3, 0))
    drawn = [places.draw(255, lambda rows, columns: mask[slice(*rows), slice(*columns)]) for _ in range(3000)]
    labels = np.array([mask[place] for place in drawn])
    assert set(labels) == {3, 7} and 1380 < (labels == 7).sum() < 1620
    of_seven = {place for place, label in zip(drawn, labels, strict=True) if label == 7}
    assert len(of_seven) > 550 and of_seven <= set(zip(*(side.tolist() for side in np.nonzero(mask == 7)), strict=True))
    assert places.draw(3, lambda rows, columns: mask[slice(*rows), slice(*columns)]) in of_seven | set(
        zip(*(side.tolist() for side in np.nonzero(mask == 7)), strict=True))
    assert draw_rarer_class(torch.tensor([5, 0, 0]), 255) is None


def test_what_cannot_be_read_by_windows_is_told(tmp_path, monkeypatch):
    dataset = SegmentationFolder(large(tmp_path, monkeypatch), 'train', 8)
    text = r'more than 2000 pixels is read by windows only, .*cut_large\) for validation: .*a.tif has more; cut it and'
    for transform in (None, create_segmentation_transform(False, 48)):
        dataset.transform = transform
        with pytest.raises(DatasetError, match=text):
            dataset[0]
    dataset.transform = None
    with pytest.raises(DatasetError, match=text):
        dataset.sample_sizes()
    mask = tmp_path / 'trainannot' / 'a.tif'
    for values, error in (
            (np.zeros((1, 90, 90), np.uint8), 'must have the same size: .*a.tif is 90 x 90 .* image 100 x 90'),
            (np.zeros((2, 90, 100), np.uint8), 'whole numbers, or colours of 8 bits: .*a.tif has 2 of uint8; save it'),
            (np.zeros((1, 90, 100), np.float32), 'whole numbers, or colours of 8 bits: .*a.tif has 1 of float32;'),
            (np.full((1, 90, 100), 9, np.uint8), r'Labels must be 0 to 7: .*a.tif, rows \d+ to \d+, columns \d+')):
        write_geotiff(mask, values)
        dataset.transform = create_segmentation_transform(True, 48)
        with pytest.raises(DatasetError, match=error):
            dataset[0]
        if 'Labels' not in error:  # headers tell, before a run
            assert len(bad_samples(dataset)) == 1
            tiled = SegmentationFolder(tmp_path, 'train', 8)
            tiled.cut_large()
            assert re.search(error, bad_samples(tiled)[0].reason)
    mask.unlink()
    Image.fromarray(np.zeros((90, 100), np.uint8)).save(mask.with_suffix('.png'))
    dataset = SegmentationFolder(tmp_path, 'train', 8, transform=dataset.transform)
    with pytest.raises(DatasetError, match='of more than 2000 pixels, .* must be a TIFF: .*a.png is none; save it as'):
        dataset[0]


def test_the_range_of_large_images_is_measured_on_parts(tmp_path, monkeypatch):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'trainannot').mkdir()
    pixels = np.random.default_rng(0).integers(100, 3000, (2, 90, 100)).astype(np.uint16)
    write_geotiff(tmp_path / 'train' / 'a.tif', pixels, photometric='MINISBLACK')
    write_geotiff(tmp_path / 'trainannot' / 'a.tif', np.zeros((1, 90, 100), np.uint8))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2000)
    dataset = SegmentationFolder(tmp_path, 'train', 2)
    assert dataset.in_chans == 2
    np.testing.assert_allclose(dataset.description.image_scale, ((100, 3000),) * 2, atol=60)
