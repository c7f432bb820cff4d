"""Tests of the image reader: nothing is cut, turned or left out in silence."""
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import is_known, one_sample, save, write_png, write_tiff
from PIL import Image, ImageOps

from rexnet_timm.data import DatasetError, SegmentationFolder, headers
from rexnet_timm.data.headers import read_header
from rexnet_timm.data.images import read_bands, read_image

ORIENTATION = 0x0112


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape).astype(np.uint8 if high <= 256 else np.uint16)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def corner(height: int = 32, width: int = 48) -> np.ndarray:
    """White in the first corner of black: no turn looks like another one."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:height // 2, :width // 4] = 255
    return pixels


@pytest.mark.parametrize('ending', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_turned_images_are_read_as_displayed(tmp_path, ending, orientation):
    """Where the white corner of a 32 x 48 picture is shown, by the table of the EXIF standard."""
    path = tmp_path / f'a.{ending}'
    options = {'tiffinfo': {ORIENTATION: orientation}} if ending == 'tif' else {'exif': turned(orientation)}
    save(path, corner(), **options)
    row_0th, column_0th = {  # the side on which the first row and the first column are shown
        1: 'top left', 2: 'top right', 3: 'bottom right', 4: 'bottom left',
        5: 'left top', 6: 'right top', 7: 'right bottom', 8: 'left bottom'}[orientation].split()
    upright = orientation < 5
    expected = np.zeros((32, 48) if upright else (48, 32), bool)
    height, width = (16, 12) if upright else (12, 16)
    sides = {row_0th, column_0th}
    expected[:height if 'top' in sides else None, :width if 'left' in sides else None] = True
    if 'bottom' in sides:
        expected[:-height] = False
    if 'right' in sides:
        expected[:, :-width] = False
    image = read_image(path, 3)
    assert image.shape[1:] == expected.shape == read_header(path, 'image').size
    assert ((image[0] > 127).numpy() == expected).mean() > 0.98


def test_image_and_mask_are_turned_together(tmp_path):
    image, mask = one_sample(tmp_path)
    save(image, corner(), exif=turned(6))
    save(mask, corner()[..., 0] // 255, exif=turned(6))
    pixels, labels = SegmentationFolder(tmp_path, 'train', 2)[0]
    assert labels.shape == (48, 32) and torch.equal(pixels[0] == 255, labels == 1)


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    path = tmp_path / 'a.png'
    save(path, corner(), exif=turned(6))
    content = path.read_bytes()
    place, end = content.index(b'eXIf') - 4, content.index(b'IDAT') - 4
    path.write_bytes(content[:place] + content[end:-12] + content[place:end] + content[-12:])
    assert read_image(path, 3).shape == (3, 48, 32)


def test_damaged_exif_does_not_matter(tmp_path):
    path = tmp_path / 'a.jpg'
    save(path, corner(), exif=b'Exif\0\0nonsense that is no TIFF')
    assert read_image(path, 3).shape == (3, 32, 48)


@pytest.mark.parametrize('kind', ['png', 'npy'])
@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_a_mask_drawn_on_the_stored_photo_is_turned_with_it(tmp_path, orientation, kind):
    image, mask = one_sample(tmp_path, 'a.jpg', f'a.{kind}')
    labels = corner()[..., 0] // 255
    save(image, corner(), exif=turned(orientation))
    np.save(mask, labels) if kind == 'npy' else save(mask, labels)
    pixels, read = SegmentationFolder(tmp_path, 'train', 2)[0]
    shown = ImageOps.exif_transpose(Image.open(image))
    assert read.shape == shown.size[::-1] and ((pixels[0] > 127) == (read == 1)).float().mean() > 0.98
    # one that was drawn on the photo as displayed is left as it is
    upright = (np.asarray(shown)[..., 0] > 127).astype(np.uint8)
    np.save(mask, upright) if kind == 'npy' else save(mask, upright)
    assert np.array_equal(SegmentationFolder(tmp_path, 'train', 2)[0][1].numpy(), upright)


def test_a_turned_mask_of_another_photo_is_told(tmp_path):
    image, mask = one_sample(tmp_path)
    save(image, corner())
    save(mask, corner()[..., 0] // 255, exif=turned(6))
    with pytest.raises(DatasetError, match=(
            'trainannot/a.png has an EXIF orientation, by which it is shown turned, and .*train/a.png fits it as '
            'stored: remove the orientation from the mask')):
        SegmentationFolder(tmp_path, 'train', 2)[0]
    save(mask, corner()[..., 0] // 255)  # as the remedy says
    assert SegmentationFolder(tmp_path, 'train', 2)[0][1].shape == (32, 48)


DEEP = [
    ('grey.png', 1, lambda path: write_png(path, noise(8, 8, high=4096), 16, 0)),
    ('rgb.png', 3, lambda path: write_png(path, noise(8, 8, 3, high=4096), 16, 2)),
    ('grey_alpha.png', 2, lambda path: write_png(path, noise(8, 8, 2, high=4096), 16, 4)),
    ('rgba.png', 4, lambda path: write_png(path, noise(8, 8, 4, high=4096), 16, 6)),
    ('grey.tif', 1, lambda path: write_tiff(path, noise(8, 8, 1, high=4096), 16)),
    ('rgb.tif', 3, lambda path: write_tiff(path, noise(8, 8, 3, high=4096), 16, 2)),
    ('rgba.tif', 4, lambda path: write_tiff(path, noise(8, 8, 4, high=4096), 16, 2, (2,))),
    ('rgb_and_more.tif', 4, lambda path: write_tiff(path, noise(8, 8, 4, high=4096), 16, 2, (0,))),
    ('seven.tif', 7, lambda path: write_tiff(path, noise(8, 8, 7, high=4096), 16, 1, (0,) * 6)),
    ('float.tif', 1, lambda path: save(path, noise(8, 8, high=4096).astype(np.float32))),
    ('int.tif', 1, lambda path: save(path, noise(8, 8, high=4096).astype(np.int32))),
    ('grey.npy', 1, lambda path: np.save(path, noise(8, 8, high=4096))),
    ('five.npy', 5, lambda path: np.save(path, noise(8, 8, 5, high=4096).astype(np.float64))),
]


def needs_rasterio(path) -> None:
    if path.suffix != '.npy' and not read_header(path, 'image').is_whole:
        pytest.importorskip('rasterio', reason='needs the extra geo')


@pytest.mark.parametrize('name, bands, write', DEEP)
def test_more_than_8_bits_are_read_whole_or_refused(tmp_path, name, bands, write):
    path = tmp_path / name
    write(path)
    needs_rasterio(path)
    stored = np.moveaxis(noise(8, 8, bands, high=4096), -1, 0)
    header = read_header(path, 'image')
    assert (header.bands, header.size) == (bands, (8, 8)) and header.bits > 8
    assert np.array_equal(read_bands(path).values, stored)
    image = read_image(path, bands, scale=4095.)
    assert image.dtype == torch.float32
    np.testing.assert_allclose(image.numpy(), stored / 4095, rtol=1e-6)
    pairs = ((100., 3000.),)
    np.testing.assert_allclose(
        read_image(path, bands, scale=pairs).numpy(), ((stored.astype(float) - 100) / 2900).clip(0, 1), atol=1e-6)
    kind = 'floating-point numbers' if 'float' in name or name == 'five.npy' else rf'{header.bits} bits'
    with pytest.raises(DatasetError, match=rf'must have 8 bits a channel: .*{name} has {kind}.*, values from 0 to'):
        read_image(path, bands)


@pytest.mark.parametrize('name, bands, write', DEEP)
def test_bands_are_chosen_by_number(tmp_path, name, bands, write):
    path = tmp_path / name
    write(path)
    needs_rasterio(path)
    stored = np.moveaxis(noise(8, 8, bands, high=4096), -1, 0)
    chosen = (bands, 1)[:bands]
    image = read_image(path, len(chosen), chosen, 4095.)
    np.testing.assert_allclose(image.numpy(), stored[[band - 1 for band in chosen]] / 4095, rtol=1e-6)
    with pytest.raises(DatasetError, match=rf'bands that are chosen, 1 9: .*{name} has {bands}'):
        read_image(path, 2, (1, 9), 4095.)


@pytest.mark.parametrize('name, bands, write', [row for row in DEEP if row[0] in ('rgb.png', 'seven.tif', 'grey.png')])
def test_a_picture_in_a_table_is_read_like_a_file(tmp_path, name, bands, write):
    """Of Hugging Face, which holds the bytes of files."""
    class Cell:
        suffix = ''

        def __str__(self):
            return 'row 3'

        def open(self, mode='rb'):
            return (tmp_path / name).open(mode)

    write(tmp_path / name)
    cell = Cell()
    cell.suffix = '.tif' if name == 'seven.tif' else ''
    needs_rasterio(tmp_path / name)
    assert torch.equal(read_image(cell, bands, scale=4095.), read_image(tmp_path / name, bands, scale=4095.))
    with pytest.raises(DatasetError, match='row 3 has .* bits'):
        read_image(cell, bands)


def test_an_image_of_8_bits_does_not_pass_for_one_of_more(tmp_path):
    save(tmp_path / 'a.png', noise(8, 8, 3))
    for scale in (65535., ((0., 3000.),)):
        with pytest.raises(DatasetError, match='have the bits of the others, whose values go up to .*a.png has 8 bits'):
            read_image(tmp_path / 'a.png', 3, scale=scale)
    with pytest.raises(DatasetError, match='8 bits must have values up to 1, as their scale says: .*a.png has 25'):
        read_image(tmp_path / 'a.png', 3, scale=1.)
    # its own range is one that it may be scaled by
    image = read_image(tmp_path / 'a.png', 3, scale=((10., 200.),))
    expected = ((noise(8, 8, 3).astype(float) - 10) / 190).clip(0, 1)
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_values_that_are_no_numbers_become_zero(tmp_path):
    pixels = np.full((4, 4), 0.5, np.float32)
    np.save(tmp_path / 'a.npy', pixels * 1j)
    with pytest.raises(DatasetError, match='must be real numbers: .*a.npy has complex64'):
        read_image(tmp_path / 'a.npy', 1)
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = np.nan, np.inf, 3
    np.save(tmp_path / 'a.npy', pixels)
    image = read_image(tmp_path / 'a.npy', 1, scale=1.)[0]
    assert (image[0, 0], image[1, 1], image[2, 2], image[3, 3]) == (0, 0, 3, 0.5)  # nothing is cut off
    np.save(tmp_path / 'a.npy', np.zeros(4))
    with pytest.raises(DatasetError, match=r'\(H, W\) or \(H, W, bands\): .*a.npy has the shape \(4,\)'):
        read_image(tmp_path / 'a.npy', 1)
    (tmp_path / 'a.npy').write_bytes(b'no array')
    with pytest.raises(DatasetError, match='must be readable: .*a.npy is not'):
        read_image(tmp_path / 'a.npy', 1)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_deep_images_are_turned_as_others(tmp_path, orientation):
    pixels = corner()
    save(tmp_path / 'a.png', pixels, exif=turned(orientation))
    exif = (tmp_path / 'a.png').read_bytes()
    place = exif.index(b'eXIf') - 4
    write_png(tmp_path / 'b.png', pixels.astype(np.uint16) * 257, 16, 2)
    deep = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'b.png').write_bytes(deep[:33] + exif[place:exif.index(b'IDAT') - 4] + deep[33:])
    expected = read_image(tmp_path / 'a.png', 3).float() / 255
    assert torch.equal(read_image(tmp_path / 'b.png', 3, scale=65535.), expected)
    assert read_header(tmp_path / 'b.png', 'image').size == tuple(expected.shape[1:])


def test_colours_and_grey_of_16_bits(tmp_path):
    write_png(tmp_path / 'rgb.png', noise(8, 8, 3, high=4096), 16, 2)
    grey = read_image(tmp_path / 'rgb.png', 1, scale=4095.)
    np.testing.assert_allclose(
        grey[0].numpy(), noise(8, 8, 3, high=4096) @ np.array([0.299, 0.587, 0.114]) / 4095, atol=1e-6)
    write_png(tmp_path / 'grey.png', noise(8, 8, high=4096), 16, 0)
    assert torch.equal(*(read_image(tmp_path / 'grey.png', 3, scale=4095.)[index] for index in (0, 2)))


@pytest.mark.parametrize('ending', ['png', 'tif'])
@pytest.mark.parametrize('bits', [1, 2, 4])
def test_few_bits_are_spread_over_the_range(tmp_path, bits, ending):
    pixels = noise(8, 8, high=2 ** bits)
    if ending == 'png':
        write_png(tmp_path / 'a.png', pixels, bits, 0)
    else:
        write_tiff(tmp_path / 'a.tif', pixels[..., None], bits)
    expected = pixels.astype(int) * 255 // (2 ** bits - 1)
    assert np.array_equal(read_image(tmp_path / f'a.{ending}', 1)[0].numpy(), expected)
    assert np.array_equal(read_image(tmp_path / f'a.{ending}', 3)[2].numpy(), expected)


def test_pages(tmp_path):
    path = tmp_path / 'a.tif'
    pages = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for kind in ('image', 'mask'):
        with pytest.raises(DatasetError, match=f'Every {kind} must be one picture: .*a.tif has 3 pages or frames'):
            read_header(path, kind)
    with pytest.raises(DatasetError, match='a.tif has 3 pages or frames'):
        read_image(path, 3)
    for ending in ('png', 'webp'):
        pages[0].save(tmp_path / f'a.{ending}', save_all=True, append_images=[Image.new('RGB', (8, 8))])
        with pytest.raises(DatasetError, match=f'a.{ending} has 2 pages or frames'):
            read_image(tmp_path / f'a.{ending}', 3)


def test_overviews_and_the_extra_pictures_of_phones_are_no_pages(tmp_path):
    def write(name, first, second, **options):
        first, second = Image.fromarray(first), Image.fromarray(second)
        second.encoderinfo = {'tiffinfo': {254: int(second.width < first.width)}}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)

    full, half = noise(8, 8, 3), noise(4, 4, 3)
    write('a.tif', full, half)
    assert np.array_equal(read_image(tmp_path / 'a.tif', 3).permute(1, 2, 0).numpy(), full)
    write('b.tif', half, full, tiffinfo={254: 1})
    with pytest.raises(DatasetError, match='b.tif has 2 pages'):  # the first is the overview
        read_image(tmp_path / 'b.tif', 3)
    write('a.jpg', full, half, format='MPO')
    assert Image.open(tmp_path / 'a.jpg').n_frames == 2
    assert read_image(tmp_path / 'a.jpg', 3).shape == (3, 8, 8)


def test_too_many_pixels(tmp_path):
    path = tmp_path / 'a.png'
    write_png(path, noise(1, 1, 3), 8, 2, size=(20000, 20000))
    with pytest.raises(DatasetError, match=r'at most 89478485 pixels: .*a.png has more; cut the image and its mask '):
        read_image(path, 3)


def test_too_many_pixels_are_refused_whatever_is_done_with_warnings(tmp_path, monkeypatch):
    """All threads of a process share the filters of warnings, so that another one may take ours back."""
    monkeypatch.setattr(headers, 'warnings', SimpleNamespace(catch_warnings=nullcontext, simplefilter=lambda *_: None))
    path = tmp_path / 'a.png'
    write_png(path, noise(1, 1, 3), 8, 2, size=(10000, 10000))  # of which Pillow only warns
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DatasetError, match='at most 89478485 pixels: '):
        read_image(path, 3)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB'])
@pytest.mark.parametrize('in_chans', [1, 3])
def test_modes_are_converted(tmp_path, mode, in_chans):
    """A picture of a red and a white half, in whatever mode, has the colours that a program shows."""
    picture = Image.new('RGB', (8, 8), 'white')
    picture.paste((255, 0, 0), (0, 0, 4, 8))
    if mode == 'LAB':
        red, white = [136, 80, 67], [255, 0, 0]  # lightness of 0 to 255, a, b
        picture = Image.fromarray(np.array([[red] * 4 + [white] * 4] * 8, np.uint8), 'LAB')
    else:
        picture = picture.convert(mode)
    path = tmp_path / ('a.png' if mode not in ('CMYK', 'YCbCr', 'LAB') else 'a.tif')
    picture.save(path)
    if mode == 'YCbCr' and Image.open(path).mode != mode:
        pytest.skip('Pillow before 13 does not read the YCbCr that it writes')
    assert Image.open(path).mode == mode
    image = read_image(path, in_chans).float()
    assert (image[:, :, 4:] > 250).all()
    if in_chans == 3 and mode not in ('1', 'L', 'LA'):
        assert (image[0, :, :4] > 200).all() and (image[1:, :, :4] < 60).all()
    elif mode != '1':
        assert (image[:, :, :4] < 130).all() and image[:, :, :4].std() == 0


def test_colours_below_transparent_pixels_stay_as_stored(tmp_path):
    pixels = noise(8, 8, 4)
    save(tmp_path / 'a.png', pixels)
    assert np.array_equal(read_image(tmp_path / 'a.png', 3).permute(1, 2, 0).numpy(), pixels[..., :3])
    indexed = Image.fromarray(noise(8, 8, high=4), 'P')
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    indexed.save(tmp_path / 'b.png', transparency=bytes([0, 100, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        image = read_image(tmp_path / 'b.png', 3)
    assert np.array_equal(image[1].numpy(), 20 + 30 * noise(8, 8, high=4))


def test_four_channels(tmp_path):
    pixels = noise(8, 8, 4)
    for name, extra in (('unassociated', 2), ('associated', 1), ('unspecified', 0)):
        write_tiff(tmp_path / f'{name}.tif', pixels, 8, 2, (extra,))
    assert np.array_equal(read_image(tmp_path / 'unassociated.tif', 4).permute(1, 2, 0).numpy(), pixels)
    with pytest.raises(DatasetError, match=r'associated.tif are stored multiplied by the last one \(associated'):
        read_image(tmp_path / 'associated.tif', 4)
    with pytest.raises(DatasetError, match=(
            'channels, 3: .*unspecified.tif has 4; choose which .* such as bands=1 2 3, or train .* in_chans=4 ')):
        read_image(tmp_path / 'unspecified.tif', 3)
    pytest.importorskip('rasterio', reason='needs the extra geo')
    assert np.array_equal(read_image(tmp_path / 'unspecified.tif', 4).permute(1, 2, 0).numpy(), pixels)
    chosen = read_image(tmp_path / 'unspecified.tif', 3, (4, 3, 2)).permute(1, 2, 0).numpy()
    assert np.array_equal(chosen, pixels[..., [3, 2, 1]])


def test_bands_that_pillow_leaves_out_need_rasterio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    write_tiff(tmp_path / 'a.tif', noise(8, 8, 7, high=4096), 16, 1, (0,) * 6)
    write_tiff(tmp_path / 'b.tif', noise(8, 8, 2), 8, 1, (0,))  # Pillow takes it for grey with opaque alpha
    for name, bands in (('a.tif', 7), ('b.tif', 2)):
        with pytest.raises(ValueError, match=rf"bands or bits than Pillow .*{name}' is one; pip install 'rexnet-timm"):
            read_image(tmp_path / name, bands, scale=4095. if bands == 7 else 255.)


def test_what_pillow_cannot_convert_is_refused(tmp_path):
    write_tiff(tmp_path / 'a.tif', noise(8, 8, 2), 8, 1, (1,))
    if not is_known(tmp_path / 'a.tif'):
        pytest.importorskip('rasterio', reason='needs the extra geo')
    rule = 'grey or in colour: .*a.tif has mode La, which Pillow cannot convert'
    with pytest.raises(DatasetError, match=rule if is_known(tmp_path / 'a.tif') else 'Bands must be independent'):
        read_image(tmp_path / 'a.tif', 3)


def test_a_file_that_pillow_does_not_know(tmp_path):
    (tmp_path / 'a.tif').write_bytes(b'no image at all')
    with pytest.raises(DatasetError, match='a.tif is not .*; save it as 8-bit PNG where another program can read it'):
        read_image(tmp_path / 'a.tif', 3)
