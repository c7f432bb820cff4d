"""Tests of what images have in common: channels, bits, range, mean and deviation, and what a user is told of them."""
import re

import numpy as np
import pytest
import torch
from pictures import save, write_png, write_tiff
from PIL import ExifTags, Image

from rexnet_timm.data import DatasetError, SegmentationFolder, describe_data, write_dataset_yaml
from rexnet_timm.data.survey import survey


def noise(*shape: int, high: int = 256, seed: int = 0) -> np.ndarray:
    kind = np.uint8 if high <= 256 else np.uint16
    return np.random.default_rng(seed).integers(0, high, shape).astype(kind)


def folder(root, images: dict[str, np.ndarray], size=(8, 8)):
    """A folder of images, arrays by their names, with masks of two classes."""
    for part in ('train', 'trainannot'):
        (root / part).mkdir(exist_ok=True)
    for name, pixels in images.items():
        path = root / 'train' / name
        if path.suffix == '.npy':
            np.save(path, pixels)
        elif path.suffix == '.tif' and (
                pixels.ndim == 3 and pixels.dtype == np.uint16 or pixels.shape[-1] in (2, 5)):
            write_tiff(path, pixels, pixels.dtype.itemsize * 8, 1, (0,) * (pixels.shape[-1] - 1))
        elif pixels.dtype == np.uint16 and pixels.ndim == 3:
            write_png(path, pixels, 16, {2: 4, 3: 2, 4: 6}[pixels.shape[-1]])
        else:
            save(path, pixels)
        labels = np.arange(size[0] * size[1]).reshape(size) % 2
        save(root / 'trainannot' / f'{path.stem}.png', labels.astype(np.uint8))
    return root


OPAQUE = np.concatenate([noise(8, 8, 3), np.full((8, 8, 1), 255, np.uint8)], -1)
HOLES = np.concatenate([noise(8, 8, 3), (noise(8, 8, 1) > 100) * np.uint8(255)], -1)


@pytest.mark.parametrize('images, in_chans, told', [
    ({'a.png': noise(8, 8, 3)}, 3, []),
    ({'a.png': noise(8, 8)}, 1, []),
    ({'a.png': noise(8, 8), 'b.png': noise(8, 8, 3)}, 3, []),  # grey among colours
    ({'a.png': noise(8, 8, high=2) > 0}, 1, []),
    ({'a.png': noise(8, 8, 4)}, 4, ['band 4 is marked as alpha and has many values, such as in .*a.png: it is']),
    ({'a.png': OPAQUE}, 3, ['the last band of images such as .*a.png is alpha, which is left out']),
    ({'a.png': HOLES, 'b.png': noise(8, 8, 3)}, 3, ['the last band of images such as .*a.png is alpha']),
    ({'a.png': noise(8, 8, 2)}, 2, ['band 2 is marked as alpha and has many values']),
    ({'a.png': noise(8, 8, high=4096)}, 1, []),
    ({'a.tif': noise(8, 8, 7, high=4096)}, 7, []),
    ({'a.tif': noise(8, 8, 5)}, 5, []),
    ({'a.tif': noise(8, 8, 2)}, 2, []),
    ({'a.npy': noise(8, 8, 2).astype(np.float32)}, 2, []),
])
def test_channels_follow_the_images(tmp_path, images, in_chans, told):
    if 'a.tif' in images:
        pytest.importorskip('rasterio', reason='needs the extra geo')
    dataset = SegmentationFolder(folder(tmp_path, images), 'train', 2)
    assert dataset.in_chans == dataset.description.in_chans == in_chans
    lines = dataset.told_of_images()
    assert len(lines) == len(told)
    for line, text in zip(lines, told, strict=True):
        assert re.search(text, line), line
    assert dataset[0][0].shape == (in_chans, 8, 8)


def test_a_damaged_image_is_left_to_its_sample(tmp_path):
    folder(tmp_path, {'a.png': noise(8, 8), 'b.png': noise(8, 8, 3)})
    (tmp_path / 'train' / 'b.png').write_bytes(b'no image')
    dataset = SegmentationFolder(tmp_path, 'train', 2)
    assert dataset.in_chans == 1
    with pytest.raises(DatasetError, match='b.png is not'):
        dataset[1]


def test_grey_for_a_network_of_colours_is_told(tmp_path):
    dataset = SegmentationFolder(folder(tmp_path, {'a.png': noise(8, 8)}), 'train', 2, in_chans=3)
    told = ['images are grey, and each is given to all 3 channels alike; 1 channel would do']
    assert dataset.told_of_images() == told
    assert torch.equal(*(dataset[0][0][channel] for channel in (0, 2)))


def test_different_bands_and_bits_are_refused(tmp_path):
    root = folder(tmp_path, {'a.png': noise(8, 8, 4), 'b.png': noise(8, 8, 3)})
    with pytest.raises(DatasetError, match=(
            'the same bands: .*b.png has 3 and .*a.png has 4; choose those that all have by their numbers, such as '
            'bands=1 2 3, or')):
        SegmentationFolder(root, 'train', 2)
    for remedy in ({'bands': (1, 2, 3)}, {'in_chans': 3}):  # which work
        assert SegmentationFolder(root, 'train', 2, **remedy)[0][0].shape == (3, 8, 8)
    folder(tmp_path, {'a.png': noise(8, 8, high=4096), 'b.png': noise(8, 8)})
    with pytest.raises(DatasetError, match='the same bits: .*a.png has 16 a channel and .*b.png has 8; convert one'):
        SegmentationFolder(root, 'train', 2)


def test_bands_are_chosen(tmp_path):
    pixels = noise(8, 8, 4)
    folder(tmp_path, {'a.png': pixels})
    dataset = SegmentationFolder(tmp_path, 'train', 2, bands=(4, 2))
    assert dataset.in_chans == 2 and not dataset.has_colors
    assert np.array_equal(dataset[0][0].numpy(), np.moveaxis(pixels[..., [3, 1]], -1, 0))
    with pytest.raises(ValueError, match='in_chans must be the number of bands that are chosen, 2, got 3: leave it'):
        SegmentationFolder(tmp_path, 'train', 2, in_chans=3, bands=(4, 2))
    for wrong in ((0, 1), (1, 1), (1.5,)):
        with pytest.raises(ValueError, match='bands must be the numbers of the bands of a file, counted from 1'):
            SegmentationFolder(tmp_path, 'train', 2, bands=wrong)


def test_the_range_is_measured_where_there_are_more_than_8_bits(tmp_path):
    """Against NumPy's own percentiles, mean and deviation of all pixels."""
    images = {f'{index}.npy': noise(8, 8, 2, high=4096, seed=index) * np.array([1, 3], np.uint16) for index in range(9)}
    dataset = SegmentationFolder(folder(tmp_path, images), 'train', 2)
    pixels = np.concatenate([image.reshape(-1, 2) for image in images.values()]).astype(float)
    low, high = np.percentile(pixels, (0.5, 99.5), axis=0)
    np.testing.assert_allclose(dataset.description.image_scale, np.stack([low, high], 1), rtol=1e-5)
    expected = ((pixels - low) / (high - low)).clip(0, 1)
    mean, std = dataset.statistics()
    np.testing.assert_allclose(mean, expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(std, expected.std(0), atol=1e-5)
    image = dataset[3][0]
    assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    np.testing.assert_allclose(image.flatten(1).T.numpy(), expected[3 * 64:4 * 64], atol=1e-5)
    # another time the same, and of a scale that is given nothing is measured
    assert SegmentationFolder(tmp_path, 'train', 2).description == dataset.description
    given = SegmentationFolder(tmp_path, 'train', 2, image_scale=65535)
    assert given.description.image_scale == 65535
    np.testing.assert_allclose(given.statistics()[0], pixels.mean(0) / 65535, rtol=1e-5)


def test_plain_images_are_not_measured(tmp_path):
    for name, images in (('grey', {'a.png': noise(8, 8)}), ('rgb', {'a.png': noise(8, 8, 3)})):
        (tmp_path / name).mkdir()
        dataset = SegmentationFolder(folder(tmp_path / name, images), 'train', 2)
        assert dataset.statistics() is None and dataset.description.image_scale == 255
    (tmp_path / 'four').mkdir()
    four = SegmentationFolder(folder(tmp_path / 'four', {'a.png': noise(8, 8, 4)}), 'train', 2)
    np.testing.assert_allclose(four.statistics()[0], noise(8, 8, 4).reshape(-1, 4).mean(0) / 255, rtol=1e-5)


def test_pixels_without_data_are_not_measured(tmp_path):
    rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')
    from geotiffs import write_geotiff
    pixels = noise(2, 8, 8, high=4096) + 100
    pixels[:, :4] = 0
    folder(tmp_path, {'a.png': noise(8, 8)})
    (tmp_path / 'train' / 'a.png').unlink()
    write_geotiff(tmp_path / 'train' / 'a.tif', pixels, photometric='MINISBLACK', nodata=0)
    known = pixels[:, 4:].reshape(2, -1)
    dataset = SegmentationFolder(tmp_path, 'train', 2)
    np.testing.assert_allclose(dataset.description.image_scale, np.percentile(known, (0.5, 99.5), axis=1).T, rtol=1e-5)
    with rasterio.open(tmp_path / 'train' / 'a.tif') as file:
        assert file.nodata == 0
    values = known.astype(np.float32)
    values[0, 0] = np.nan
    (tmp_path / 'train' / 'a.tif').unlink()
    np.save(tmp_path / 'train' / 'a.npy', values.T.reshape(4, 8, 2))
    dataset = SegmentationFolder(tmp_path, 'train', 2)
    np.testing.assert_allclose(
        dataset.description.image_scale, np.percentile(known[:, 1:], (0.5, 99.5), axis=1).T, rtol=1e-5)


def test_images_that_cannot_be_measured(tmp_path):
    folder(tmp_path, {'a.png': noise(8, 8, high=4096)})
    path = tmp_path / 'train' / 'a.png'
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DatasetError, match='measured on some that can be read: none of 1, such as .*a.png, can'):
        SegmentationFolder(tmp_path, 'train', 2)
    with pytest.raises(ValueError, match='image_scale must have one pair, or one for each of the 1 channels, got 2'):
        SegmentationFolder(tmp_path, 'train', 2, in_chans=1, image_scale=[[0, 1], [0, 2]])


@pytest.mark.parametrize('orientation', range(2, 9))
@pytest.mark.parametrize('size', [(8, 8), (6, 10)])
def test_an_orientation_whose_mask_is_unclear_is_told(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    folder(tmp_path, {'a.png': noise(*size, 3)}, size)
    save(tmp_path / 'train' / 'a.png', noise(*size, 3), exif=exif)
    is_clear = orientation >= 5 and size != (8, 8)
    lines = SegmentationFolder(tmp_path, 'train', 2).told_of_images()
    assert len(lines) == (not is_clear)
    if not is_clear:
        assert '1 images, such as' in lines[0] and 'taken as drawn on the image as displayed' in lines[0]
        mask = tmp_path / 'trainannot' / 'a.png'
        save(mask, np.array(Image.open(mask)), exif=exif)  # the mask has it too
        assert not SegmentationFolder(tmp_path, 'train', 2).told_of_images()


def test_no_images():
    assert survey([], None, (), None).in_chans == 3


@pytest.mark.parametrize('scale, saved', [
    (65535, 65535.), ('percentile', 'percentile'), ([0, 4000], ((0., 4000.),)),
    ([[0, 1], [0, 2]], ((0., 1.), (0., 2.)))])
def test_bands_and_scale_in_dataset_yaml(tmp_path, scale, saved):
    folder(tmp_path, {'a.npy': noise(8, 8, 3, high=4096)})
    (tmp_path / 'dataset.yaml').write_text(f'bands: [3, 1]\nimage_scale: {scale}\n')
    described = describe_data(tmp_path)
    assert described.bands == (3, 1) and described.image_scale == saved
    again = tmp_path / 'again.yaml'
    write_dataset_yaml(described, again)
    assert (describe_data(again).bands, describe_data(again).image_scale) == ((3, 1), saved)
    assert SegmentationFolder(tmp_path, 'train', 2)[0][0].shape == (2, 8, 8)
    # what is given goes before the file
    assert SegmentationFolder(tmp_path, 'train', 2, bands=(2,), image_scale=4095)[0][0].shape == (1, 8, 8)


@pytest.mark.parametrize('text, error', [
    ('bands: [0]', 'bands must be the numbers of the bands of a file'),
    ('bands: red', 'bands must be the numbers of the bands of a file'),
    ('image_scale: -3', "image_scale must be a number above 0 that becomes 1, such as 255 or 65535, 'percentile'"),
    ('image_scales: 3', 'image_scale')])
def test_wrong_bands_and_scales_in_dataset_yaml(tmp_path, text, error):
    folder(tmp_path, {'a.npy': noise(8, 8, 3)})
    (tmp_path / 'dataset.yaml').write_text(f'{text}\n')
    with pytest.raises(DatasetError, match=error):
        describe_data(tmp_path)
