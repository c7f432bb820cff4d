"""The reader of GeoTIFFs and large TIFFs: what it reads is what `read_image` reads, and the rest is refused."""
import sys
import warnings

import numpy as np
import pytest
import torch
from geotiffs import noise, write_geotiff
from pictures import write_tiff
from PIL import Image

from rexnet_timm.data import DatasetError, SegmentationFolder, create_segmentation_transform
from rexnet_timm.data.bands import turned
from rexnet_timm.data.geo import Scene, is_scene
from rexnet_timm.data.headers import read_header
from rexnet_timm.data.images import read_image

rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')


def read(path, *args) -> torch.Tensor:
    """A scene, read in windows that no block has."""
    with Scene(path, *args) as scene:
        height, width = scene.size
        rows = [(top, min(top + 37, height)) for top in range(0, height, 37)]
        columns = [(left, min(left + 41, width)) for left in range(0, width, 41)]
        return torch.cat([torch.cat([scene.read(row, column).pixels for column in columns], -1) for row in rows], -2)


@pytest.mark.parametrize('options', [
    {}, {'tiled': True, 'blockxsize': 32, 'blockysize': 16, 'compress': 'deflate'}, {'interleave': 'band'},
    {'compress': 'lzw', 'predictor': 2, 'BIGTIFF': 'YES'}])
@pytest.mark.parametrize('in_chans', [1, 3])
def test_windows_are_the_image_that_pillow_reads(options, in_chans, tmp_path):
    path = write_geotiff(tmp_path / 'a.tif', noise(3, 90, 100), **options)
    expected = read_image(path, in_chans).as_subclass(torch.Tensor)
    assert torch.equal(read(path, in_chans), expected)


@pytest.mark.parametrize('bits, photometric', [(1, 0), (1, 1), (2, 0), (2, 1), (4, 1), (8, 0), (8, 1)])
def test_grey_of_few_bits_and_inverted_grey(bits, photometric, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2 ** bits, (40, 48, 1))
    write_tiff(tmp_path / 'a.tif', pixels, bits, photometric)
    for in_chans in (1, 3):
        assert torch.equal(read(tmp_path / 'a.tif', in_chans), read_image(tmp_path / 'a.tif', in_chans))


def test_a_palette_becomes_its_colours(tmp_path):
    colors = {value: (value, 255 - value, value // 2, 255) for value in range(256)}
    path = write_geotiff(tmp_path / 'a.tif', noise(1, 40, 48), colors=colors, photometric=None)
    for in_chans in (1, 3):
        assert torch.equal(read(path, in_chans), read_image(path, in_chans))


@pytest.mark.parametrize('bands', [2, 4, 6])
def test_any_number_of_bands(bands, tmp_path):
    pixels = noise(bands, 40, 48)
    path = write_geotiff(tmp_path / 'a.tif', pixels, photometric='MINISBLACK')
    assert np.array_equal(read(path, bands).numpy(), pixels)


def test_alpha_is_a_channel_or_tells_where_there_is_data(tmp_path):
    pixels = noise(4, 40, 48)
    pixels[3, :, :20] = 0
    path = write_geotiff(tmp_path / 'a.tif', pixels, alpha='YES')
    assert np.array_equal(read(path, 4).numpy(), pixels) and np.array_equal(read(path, 3).numpy(), pixels[:3])
    with Scene(path, 3) as scene, Scene(path, 4) as whole:
        assert scene.has_gaps and not whole.has_gaps
        assert np.array_equal(scene.read((5, 40), (10, 48)).known, pixels[3, 5:, 10:] > 0)
        assert whole.read((5, 40), (10, 48)).known is None


def test_nodata_is_where_all_bands_have_it(tmp_path):
    pixels = noise(3, 40, 48)
    pixels[:, :10] = 0
    pixels[0, 20:] = 0
    with Scene(write_geotiff(tmp_path / 'a.tif', pixels, nodata=0), 3) as scene:
        known = scene.read((0, 40), (0, 48)).known
    assert not known[:10].any() and known[10:].all()


@pytest.mark.parametrize('name, options, expected', [
    ('a.tif', {}, True), ('a.TIFF', {'crs': None}, True), ('a.tif', {'transform': None}, True),
    ('a.tif', {'transform': None, 'crs': None}, False), ('a.tif', {'BIGTIFF': 'YES'}, True)])
def test_a_scene_has_a_georeference(name, options, expected, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
        path = write_geotiff(tmp_path / name, noise(3, 40, 48), **options)
    assert is_scene(path) is is_scene(str(path)) is expected


@pytest.mark.parametrize('ending', ['.tfw', '.TFW', '.wld'])
def test_a_world_file_is_a_georeference(ending, tmp_path):
    Image.fromarray(noise(3, 40, 48).transpose(1, 2, 0)).save(tmp_path / 'a.tif')
    assert not is_scene(tmp_path / 'a.tif')
    (tmp_path / f'a{ending}').write_text('0.5\n0\n0\n-0.5\n1000.25\n1999.75\n')
    assert is_scene(tmp_path / 'a.tif')
    with Scene(tmp_path / 'a.tif', 3) as scene:
        assert scene.place()['transform'] == rasterio.Affine(0.5, 0, 1000, 0, -0.5, 2000)


def test_a_tiff_beyond_pillows_limit_is_a_scene(tmp_path, monkeypatch):
    pixels = noise(3, 40, 48)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / 'a.tif')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40 * 48)
    assert not is_scene(tmp_path / 'a.tif')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40 * 48 - 1)
    assert is_scene(tmp_path / 'a.tif') and np.array_equal(read(tmp_path / 'a.tif', 3).numpy(), pixels)
    with Scene(tmp_path / 'a.tif', 3) as scene:
        assert scene.place() == {}
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert not is_scene(tmp_path / 'a.tif')


def test_what_is_no_tiff_is_no_scene(tmp_path):
    for name, content in (('a.tif', b''), ('b.tif', b'II*\0'), ('c.tif', b'no image'), ('d.png', b'II*\0')):
        (tmp_path / name).write_bytes(content)
        assert not is_scene(tmp_path / name)
    assert not is_scene(tmp_path / 'nothing.tif') and not is_scene(tmp_path)


def tiff_of_pages(path):
    pages = [Image.new('RGB', (40, 48)) for _ in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


@pytest.mark.parametrize('write, in_chans, text', [
    (lambda path: write_geotiff(path, noise(4, 40, 48)), 3,
     'as many bands as the model has channels, 3: .*a.tif has 4; choose .* bands=1 2 3, or train .* in_chans=4 '),
    (lambda path: write_geotiff(path, noise(3, 40, 48)), 5,
     'channels, 5: .*a.tif has 3; take images with 5 bands, or train .* in_chans=3 '),
    (lambda path: write_geotiff(path, noise(4, 40, 48), alpha='YES'), 2, 'channels, 2: .*a.tif has 4 with alpha;'),
    (lambda path: path.write_bytes(b'no image'), 3, 'a.tif is not .*; name a TIFF file'),
    (lambda path: write_tiff(path, noise(4, 40, 48).transpose(1, 2, 0), 8, 2, (1,)), 3, 'associated alpha'),
    (tiff_of_pages, 3, 'must be one picture: .*a.tif has 3 pages'),
    (lambda path: Image.new('RGB', (40, 48)).save(path, tiffinfo={274: 6}), 3, 'stored upright: .*a.tif has the'),
])
def test_what_is_refused(write, in_chans, text, tmp_path):
    write(tmp_path / 'a.tif')
    with pytest.raises(DatasetError, match=text) as error:
        Scene(tmp_path / 'a.tif', in_chans)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('has_tags', [True, False])
def test_a_georeference_goes_before_an_orientation(orientation, has_tags, tmp_path):
    """Training, masks and windows all read such a file as it is stored; without a georeference it is turned."""
    pixels = noise(3, 40, 48)
    places = {'masks': pixels[0] % 4, 'images': pixels.transpose(1, 2, 0)}
    for kind, values in places.items():
        (tmp_path / kind / 'train').mkdir(parents=True)
        # ModelPixelScale and ModelTiepoint, or the same in a world file
        tags = {33550: (0.5, 0.5, 0.), 33922: (0., 0., 0., 1000., 2000., 0.)} if has_tags else {}
        Image.fromarray(values).save(tmp_path / kind / 'train' / 'a.tif', tiffinfo={274: orientation, **tags})
        if not has_tags:
            (tmp_path / kind / 'train' / 'a.tfw').write_text('0.5\n0\n0\n-0.5\n1000.25\n1999.75\n')
    path = tmp_path / 'images' / 'train' / 'a.tif'
    header = read_header(path, 'image')
    assert is_scene(path) and header.size == (40, 48) and header.orientation == 1
    assert np.array_equal(read(path, 3).numpy(), pixels)
    dataset = SegmentationFolder(tmp_path, 'train', 4)
    image, mask = dataset[0]
    assert np.array_equal(image.numpy(), pixels) and np.array_equal(mask.numpy(), pixels[0] % 4)
    assert dataset.sample_sizes() == [(40, 48)] and dataset.told_of_images() == [] and dataset.check_header(0) is None
    for channels, values in ((3, places['images']), (1, pixels[0])):
        bare = tmp_path / 'bare.tif'
        Image.fromarray(values).save(bare, tiffinfo={274: orientation})
        shown = turned(pixels[:channels], orientation)
        assert np.array_equal(read_image(bare, channels).numpy(), shown)
        assert read_header(bare, 'image').size == shown.shape[1:]


def test_bands_are_chosen_as_the_error_says(tmp_path):
    pixels = noise(4, 40, 48)
    path = write_geotiff(tmp_path / 'a.tif', pixels)
    with pytest.raises(DatasetError, match='such as bands=1 2 3, '):
        Scene(path, 3)
    assert np.array_equal(read(path, 3, (1, 2, 3)).numpy(), pixels[:3])
    assert np.array_equal(read(path, 2, (4, 2)).numpy(), pixels[[3, 1]])
    with pytest.raises(DatasetError, match='bands that are chosen, 5 1: .*a.tif has 4; choose bands from 1 to 4'):
        Scene(path, 2, (5, 1))


@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'uint32', 'float32', 'float64'])
def test_windows_of_any_type_are_scaled(dtype, tmp_path):
    pixels = (noise(6, 90, 100).astype(int) * 16).astype(dtype)
    path = write_geotiff(tmp_path / 'a.tif', pixels, photometric='MINISBLACK')
    for bands, scale in (((), 4095.), ((4, 3, 2), ((100., 3000.), (0., 4000.), (7., 8.)))):
        in_chans = len(bands) or 6
        image = read(path, in_chans, bands, scale)
        assert image.dtype == torch.float32 and torch.equal(image, read_image(path, in_chans, bands, scale))
        low, high = np.array(scale if bands else [(0., scale)]).T[..., None, None]
        expected = (pixels[[band - 1 for band in bands or range(1, 7)]] - low) / (high - low)
        np.testing.assert_allclose(image.numpy(), expected.clip(0, 1), atol=1e-6)
    with Scene(path, 6) as scene, pytest.raises(DatasetError, match=r'8 bits a channel: .*a.tif has .* to 4080'):
        scene.read((0, 90), (0, 100))


def test_images_of_8_bits_are_no_scenes_of_more(tmp_path):
    path = write_geotiff(tmp_path / 'a.tif', noise(3, 40, 48))
    with pytest.raises(DatasetError, match='values go up to 65535: .*a.tif has 8 bits a channel'):
        Scene(path, 3, scale=65535.)
    for values, text in ((np.int8(-3), 'with a sign, values from -3'), (np.float32(0.5), 'values from 0 to 0.5')):
        with Scene(write_geotiff(path, np.full((3, 40, 48), values)), 3) as scene:
            with pytest.raises(DatasetError, match=text):
                scene.read((0, 40), (0, 48))


def test_blocks_are_small_or_the_remedy_makes_them_so(tmp_path, monkeypatch):
    import rasterio.shutil

    pixels = noise(3, 96, 48)
    path = write_geotiff(tmp_path / 'a.tif', pixels, blockysize=96, compress='deflate')
    monkeypatch.setattr('rexnet_timm.data.geo.MAX_BLOCK', 10000)
    with pytest.raises(DatasetError, match='a.tif has one of 96 x 48 pixels, which is decoded at once; .*TILED=True'):
        Scene(path, 3)
    rasterio.shutil.copy(path, tmp_path / 'tiled.tif', TILED=True, BLOCKXSIZE=32, BLOCKYSIZE=32)
    assert np.array_equal(read(tmp_path / 'tiled.tif', 3).numpy(), pixels)


@pytest.mark.parametrize('compress', [None, 'deflate'])
def test_a_truncated_file_is_told_where_it_is_read(compress, tmp_path):
    path = write_geotiff(tmp_path / 'a.tif', noise(3, 90, 100), compress=compress)
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    assert is_scene(path)
    with Scene(path, 3) as scene:
        scene.read((0, 10), (0, 100))
        with pytest.raises(DatasetError, match='readable: .*a.tif is not .*; replace or remove the file') as error:
            scene.read((80, 90), (0, 100))
    assert '\n' not in str(error.value)


def test_overviews_and_masks_are_no_pages(tmp_path):
    pixels = noise(3, 90, 100)
    path = write_geotiff(tmp_path / 'a.tif', pixels)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, 'r+') as file:
        file.write_mask(pixels[0] > 100)
        file.build_overviews([2, 4])
    with Scene(path, 3) as scene:
        window = scene.read((0, 90), (0, 100))
    assert np.array_equal(window.pixels.numpy(), pixels) and np.array_equal(window.known, pixels[0] > 100)


def test_jpeg_in_a_tiff_is_colour(tmp_path):
    rows, columns = np.mgrid[:90, :100].astype(np.uint8)
    pixels = np.stack([2 * rows, 2 * columns, 250 - rows - columns])
    path = write_geotiff(tmp_path / 'a.tif', pixels, compress='jpeg', photometric='YCBCR')
    assert np.abs(read(path, 3).numpy().astype(int) - pixels).mean() < 3
    assert (read(path, 3).int() - read_image(path, 3).int()).abs().max() < 9


def test_no_file_and_no_rasterio(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        Scene(tmp_path / 'a.tif', 3)
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(ValueError, match=r"rasterio, which cannot be imported here: .*a.tif' is one; pip install "):
        Scene(tmp_path / 'a.tif', 3)


def test_ground_control_points_are_the_place(tmp_path):
    corners = ((0, 0, 9., 50.), (0, 47, 9.1, 50.), (39, 0, 9., 49.))
    points = [rasterio.control.GroundControlPoint(*corner) for corner in corners]
    path = write_geotiff(tmp_path / 'a.tif', noise(3, 40, 48), transform=None, crs='EPSG:4326', gcps=points)
    assert is_scene(path)
    with Scene(path, 3) as scene:
        place = scene.place()
    assert [(point.row, point.col, point.x, point.y) for point in place['gcps']] == list(corners)
    assert place['crs'] == 'EPSG:4326' and 'transform' not in place


def test_polynomials_are_the_place(tmp_path):
    numbers = dict.fromkeys(('height_off', 'lat_off', 'line_off', 'long_off', 'samp_off'), 5.)
    scales = dict.fromkeys(('height_scale', 'lat_scale', 'line_scale', 'long_scale', 'samp_scale'), 2.)
    terms = {name: [float(index) for index in range(20)] for name in (
        'line_num_coeff', 'line_den_coeff', 'samp_num_coeff', 'samp_den_coeff')}
    rpcs = rasterio.rpc.RPC(**numbers, **scales, **terms)
    path = write_geotiff(tmp_path / 'a.tif', noise(3, 40, 48), transform=None, crs=None, rpcs=rpcs)
    assert is_scene(path)
    with Scene(path, 3) as scene:
        assert scene.place()['rpcs'].to_dict() == {**rpcs.to_dict(), **{
            name: scene.place()['rpcs'].to_dict()[name] for name in ('err_bias', 'err_rand')}}


@pytest.mark.parametrize('bits', [10, 12])
@pytest.mark.parametrize('bands', [1, 3])
def test_packed_bits_are_the_numbers(bits, bands, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2 ** bits, (bands, 9, 11)).astype(np.uint16)
    path = write_geotiff(tmp_path / 'a.tif', pixels, nbits=bits)
    assert read_header(path, 'image').bits == bits
    expected = torch.from_numpy(pixels.astype(np.float32)) / (2 ** bits - 1)
    for image in (read(path, bands, (), 2. ** bits - 1), read_image(path, bands, (), 2. ** bits - 1)):
        torch.testing.assert_close(image.as_subclass(torch.Tensor), expected)


@pytest.mark.slow
@pytest.mark.parametrize('bands, kind, stored', [
    (4, np.uint16, {'tiled': True, 'blockxsize': 256, 'blockysize': 256}), (3, np.uint8, {'blockysize': 8}),
    (3, np.uint8, {'tiled': True, 'blockxsize': 128, 'blockysize': 128, 'compress': 'deflate'})])
def test_several_crops_of_a_scene_are_read_by_windows(bands, kind, stored, tmp_path, monkeypatch):
    pixels = noise(bands, 2052, 2060).astype(kind)
    for folder in ('images', 'masks'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
    write_geotiff(tmp_path / 'train' / 'images' / 'a.tif', pixels, **stored)
    write_geotiff(tmp_path / 'train' / 'masks' / 'a.tif', noise(1, 2052, 2060, seed=1) % 3, **stored)
    data = SegmentationFolder(tmp_path, 'train', 3)
    data.crops = 4
    data.transform = create_segmentation_transform(True, img_size=(64, 96), mean=[0.5] * bands, std=[0.5] * bands,
                                                   in_chans=bands, color_jitter=0)

    def crops() -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [part for index in range(4) for part in data[index]]

    def refuse(*args, **kwargs):
        raise AssertionError('the image is read whole')

    with monkeypatch.context() as patch:
        patch.setattr('rexnet_timm.data.folder.read_image', refuse)
        by_windows = crops()
    monkeypatch.setattr('rexnet_timm.data.folder.is_cut_by_windows', lambda image, mask: False)
    assert all(torch.equal(one, other) for one, other in zip(by_windows, crops(), strict=True))
