"""Tests of the mask reader: labels are the stored numbers, and binary masks mean one thing in a whole split."""
import numpy as np
import pytest
import torch
from pictures import is_known, one_sample, save, write_png, write_tiff
from PIL import Image

from rexnet_timm.data import DatasetError, SegmentationFolder, create_segmentation_loader, create_segmentation_transform
from rexnet_timm.data.masks import MaskReader, foreground_value


def read_mask(path, num_classes: int, **options):
    return MaskReader(num_classes, None, 255, **options)(path)


def binary(value: int = 1) -> np.ndarray:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:5] = value
    return mask


def make_split(root, *masks: np.ndarray, **options):
    for index, mask in enumerate(masks):
        image_path, mask_path = one_sample(root, f'{index}.png', f'{index}.png')
        save(image_path, np.zeros((*mask.shape, 3), np.uint8))
        save(mask_path, mask)
    return SegmentationFolder(root, 'train', **options)


@pytest.mark.parametrize('num_classes', [1, 2])
@pytest.mark.parametrize('value', [1, 255, True])
def test_binary_masks(tmp_path, num_classes, value):
    """0 and 1, 0 and 255, and 1-bit masks read the same, empty and full ones included."""
    kind = bool if value is True else np.uint8
    masks = [binary(value), np.zeros((8, 8)), np.full((8, 8), value)]
    dataset = make_split(tmp_path, *(mask.astype(kind) for mask in masks), num_classes=num_classes)
    expected = [binary(), np.zeros((8, 8)), np.ones((8, 8))]
    for index in range(3):
        labels = dataset[index][1]
        assert labels.dtype == torch.int64 and np.array_equal(labels.numpy(), expected[index])
    assert dataset.ignore_label == 255 and dataset.foreground == (255 if value == 255 else 1)


def test_one_bit_masks_beside_any_others(tmp_path):
    dataset = make_split(tmp_path, *[binary(255)] * 2, *[binary().astype(bool)] * 6, num_classes=1)
    assert all(np.array_equal(mask.numpy(), binary()) for _, mask in dataset)


@pytest.mark.parametrize('num_classes', [1, 2])
def test_ignored_255_is_kept(tmp_path, num_classes):
    """Where it is given as the ignored label, 255 is never the foreground, in whatever mask."""
    edge = np.maximum(binary(), np.eye(8, dtype=np.uint8) * 255)
    masks = [edge, binary(255), np.full((8, 8), 255, np.uint8)]
    dataset = make_split(tmp_path, *masks, num_classes=num_classes, ignore_index=255)
    for index, mask in enumerate(masks):
        assert np.array_equal(dataset[index][1].numpy(), mask)


@pytest.mark.parametrize('ignore_index', [0, 7, 128])
def test_another_ignored_label_beside_0_and_255(tmp_path, ignore_index):
    mask = binary(255)
    mask[0] = ignore_index
    dataset = make_split(tmp_path, mask, num_classes=1, ignore_index=ignore_index)
    assert np.array_equal(dataset[0][1].numpy(), np.where(mask == 255, 1, mask))


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize('other', [binary(255), np.full((8, 8), 255, np.uint8)])
def test_masks_that_differ_are_refused(tmp_path, order, other):
    """255 in one mask and 1 in another: it may be the foreground or unlabelled, and no single mask tells."""
    make_split(tmp_path, *[binary(), other, np.zeros((8, 8), np.uint8)][::order], num_classes=3, ignore_index=255)
    for num_classes in (1, 2):
        dataset = SegmentationFolder(tmp_path, 'train', num_classes)
        with pytest.raises(DatasetError, match=(
                r'Labels must be 0 \(background\) and .*pass ignore_index=255 if .* unlabelled pixels, or rewrite all '
                'binary masks with 0 and 1, or all with 0 and 255')):
            [dataset[index] for index in range(3)]
        assert len([SegmentationFolder(tmp_path, 'train', num_classes, 255)[index] for index in range(3)]) == 3


def test_both_in_one_mask_are_refused(tmp_path):
    mask = binary()
    mask[0] = 255
    with pytest.raises(DatasetError, match='has 255 in 8 pixels; pass ignore_index=255 if 1 is the foreground'):
        make_split(tmp_path, mask, num_classes=1)[0]
    with pytest.raises(DatasetError, match=r'Labels must be 0 .* or the ignored 1: .* has 255 in 12 pixels'):
        make_split(tmp_path, binary(255), num_classes=1, ignore_index=1)[0]  # it would become ignored


def test_shades_of_a_binary_mask_are_refused(tmp_path):
    shades = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    shades[0, 0] = 255
    with pytest.raises(DatasetError, match='threshold them to 0 and 255 if they are shades of a binary mask'):
        make_split(tmp_path, shades, num_classes=1)[0]
    assert make_split(tmp_path, (shades > 127) * np.uint8(255), num_classes=1)[0][1].float().mean() == 0.5 + 1 / 64


def test_three_classes_or_more_do_not_take_255_for_1(tmp_path):
    with pytest.raises(DatasetError, match=(
            'Labels must be 0 to 2: .* has 255 in 12 pixels; pass num_classes=1 if the masks are binary, with 255 for '
            'the foreground, or pass ignore_index=255 if it stands for unlabelled pixels, or say by a '
            'label_map, such as 7:0 11:1, which label is which class')):
        make_split(tmp_path, binary(255), num_classes=3)[0]
    with pytest.raises(DatasetError, match=r'has 3 in 12 pixels; .*pass num_classes=4 if they are classes'):
        make_split(tmp_path, binary(3), num_classes=1)[0]


def test_empty_and_damaged_masks_do_not_decide(tmp_path):
    paths = []
    for index in range(40):
        paths.append(tmp_path / f'{index}.png')
        save(paths[-1], binary(255) if index == 39 else np.zeros((8, 8), np.uint8))
    paths[0].write_bytes(b'damaged')
    assert foreground_value(paths, None) == 255
    assert foreground_value(paths[:-1], None) == 1
    assert foreground_value(paths, 255) == 1


@pytest.mark.parametrize('ignore_index', [0, 1, 2])
def test_the_label_of_a_class_can_be_ignored(tmp_path, ignore_index):
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    dataset = make_split(tmp_path, mask, num_classes=3, ignore_index=ignore_index)
    assert np.array_equal(dataset[0][1].numpy(), mask) and dataset.ignore_label == ignore_index


def test_padding_of_binary_masks_is_not_foreground(tmp_path):
    dataset = make_split(tmp_path, binary(255), num_classes=1, transform=create_segmentation_transform(False))
    _, masks = next(iter(create_segmentation_loader(dataset, 1, is_training=False, num_workers=0)))
    assert masks.shape == (1, 32, 32) and (masks == 1).sum() == 12 and (masks == 255).sum() == 32 * 32 - 64


@pytest.mark.parametrize('ending', ['png', 'tif'])
@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_labels_are_the_stored_numbers(tmp_path, bits, ending):
    mask = np.arange(64).reshape(8, 8) % min(2 ** bits, 40)
    if ending == 'png':
        write_png(tmp_path / 'a.png', mask, bits, 0)
    else:
        write_tiff(tmp_path / 'a.tif', mask[..., None], bits)
    assert np.array_equal(read_mask(tmp_path / f'a.{ending}', max(2, mask.max() + 1)).numpy(), mask)


def test_the_index_of_a_palette_is_the_label_whatever_its_colours(tmp_path):
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 4
    transparent = {'transparency': bytes([0, 9, 255, 255])}
    for name, options in (('plain', {}), ('transparent', transparent), ('two_bits', {'bits': 2})):
        indexed = Image.fromarray(mask, 'P')
        indexed.putpalette([0, 0, 0, 0, 0, 0, 255, 255, 255, 9, 9, 9])  # two classes share a colour
        indexed.save(tmp_path / f'{name}.png', **options)
        assert np.array_equal(read_mask(tmp_path / f'{name}.png', 4).numpy(), mask)


def with_alpha(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([values, alpha[..., None]], axis=-1)


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
OPAQUE = np.full((8, 8), 255, np.uint8)
COLORED = np.stack([GREY, GREY, 2 - GREY], axis=-1)


@pytest.mark.parametrize('pixels', [
    np.stack([GREY] * 3, axis=-1), with_alpha(np.stack([GREY] * 3, axis=-1), OPAQUE),
    with_alpha(GREY[..., None], OPAQUE), GREY.astype(np.float32), GREY.astype(np.int32)])
def test_labels_in_more_than_they_need(tmp_path, pixels):
    save(tmp_path / 'a.tif', pixels)
    assert np.array_equal(read_mask(tmp_path / 'a.tif', 3).numpy(), GREY)


@pytest.mark.parametrize('pixels, found', [
    (COLORED, r'must hold class indices, or a colour table .*a.tif has mode RGB with colours such as \(0, 0, 2\)'),
    (with_alpha(COLORED, OPAQUE), r'a.tif has mode RGBA with colours such as \(0, 0, 2\), \(1, 1, 1\)'),
    (with_alpha(GREY[..., None], GREY), 'a.tif has transparent pixels, and nothing tells what these are; save it with'),
    (GREY / np.float32(2), 'a.tif has floating-point numbers that are not whole; round them'),
    (np.full((8, 8), np.nan, np.float32), 'a.tif has floating-point numbers that are not whole; round them'),
])
def test_masks_that_are_not_labels(tmp_path, pixels, found):
    save(tmp_path / 'a.tif', pixels)
    with pytest.raises(DatasetError, match=found):
        read_mask(tmp_path / 'a.tif', 3)


@pytest.mark.parametrize('kind', ['int8', 'int16', 'int32', 'uint16', 'uint32', 'float32'])
def test_every_type_of_numbers(tmp_path, kind):
    """The smallest and the largest number of the type, which Pillow may show as others, can be ignored by name."""
    rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')
    limits = np.finfo(kind) if kind == 'float32' else np.iinfo(kind)
    ignored = int({'float32': -1}.get(kind, limits.min or limits.max))
    mask = GREY.astype(kind)
    mask[0] = ignored
    with rasterio.open(tmp_path / 'a.tif', 'w', driver='GTiff', height=8, width=8, count=1, dtype=kind) as file:
        file.write(mask, 1)
    expected = np.where(mask == ignored, 255, GREY)
    assert np.array_equal(MaskReader(3, ignored, 255)(tmp_path / 'a.tif').numpy(), expected)


@pytest.mark.parametrize('value', [-1, -2 ** 31, 2 ** 31 - 1])
def test_labels_of_32_bits(tmp_path, value):
    mask = np.zeros((8, 8), np.int32)
    mask[0] = value
    save(tmp_path / 'a.tif', mask)
    with pytest.raises(DatasetError, match=f'has {value} in 8 pixels; pass ignore_index={value} if it stands for unl'):
        read_mask(tmp_path / 'a.tif', 3)
    expected = torch.from_numpy(np.where(mask == value, 255, mask))
    assert torch.equal(MaskReader(3, value, 255)(tmp_path / 'a.tif'), expected)  # the remedy
    mask[0] = 2
    save(tmp_path / 'a.tif', mask)
    assert np.array_equal(read_mask(tmp_path / 'a.tif', 3).numpy(), mask)


def test_inverted_and_blurred_files_are_refused(tmp_path):
    write_tiff(tmp_path / 'a.tif', binary(255)[..., None], 8, photometric=0)
    with pytest.raises(DatasetError, match=r'inverted grey \(WhiteIsZero\), which some programs turn over'):
        read_mask(tmp_path / 'a.tif', 2)
    save(tmp_path / 'a.png', binary(255), format='JPEG')
    with pytest.raises(DatasetError, match='stored without loss: .*a.png is a JPEG file, which blurs labels'):
        read_mask(tmp_path / 'a.png', 2)


def test_a_second_channel_that_pillow_leaves_out(tmp_path):
    write_tiff(tmp_path / 'a.tif', np.stack([binary(), binary(2)], axis=-1), 8, extra_samples=(0,))
    rule = 'must be readable: .*a.tif'
    if is_known(tmp_path / 'a.tif'):
        assert Image.open(tmp_path / 'a.tif').mode == 'L'
        rule = 'single-channel image .*a.tif has 2 channels; save the one with the labels'
    with pytest.raises(DatasetError, match=rule):
        read_mask(tmp_path / 'a.tif', 3)


def test_several_pages(tmp_path):
    page = Image.fromarray(binary())
    page.save(tmp_path / 'a.tif', save_all=True, append_images=[page])
    with pytest.raises(DatasetError, match='Every mask must be one picture: .*a.tif has 2 pages'):
        read_mask(tmp_path / 'a.tif', 2)
