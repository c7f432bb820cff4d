"""Predictions that are read and written by windows, beside those of the whole image in memory."""
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from geotiffs import CRS, ORIGIN, PIXEL, noise, read_geotiff, write_geotiff
from networks import COLORS, Brightest, brightest
from scene_memory import measure
from torch import nn
from trained import trained_run

import rexnet_timm
from rexnet_timm.data.description import DataDescription
from rexnet_timm.deployment.inference import windows
from rexnet_timm.deployment.load import describe, load_model
from rexnet_timm.deployment.predict import Predictor

rasterio = pytest.importorskip('rasterio', reason='needs the extra geo')

def test_a_mask_lies_where_its_image_lies(tmp_path):
    pixels = noise(3, 300, 210)
    source = write_geotiff(tmp_path / 'scene.tif', pixels, tiled=True, blockxsize=64, blockysize=64)
    steps = []
    Predictor(brightest(), tile=96).write(
        source, tmp_path / 'mask.tif', progress=lambda done, number: steps.append((done, number)))
    mask, known = read_geotiff(tmp_path / 'mask.tif')
    assert mask.dtype == np.uint8 and np.array_equal(mask[0], pixels.argmax(0))
    assert known['crs'] == CRS and known['transform'] == rasterio.Affine(PIXEL, 0, ORIGIN[0], 0, -PIXEL, ORIGIN[1])
    assert [known['colors'][index][:3] for index in range(3)] == list(COLORS) and known['nodata'] is None
    assert known['tags'] == {'class_0': 'red', 'class_1': 'green', 'class_2': 'blue'}
    number = len(windows(300, 96, 0.25)) * len(windows(210, 96, 0.25))
    assert steps == [(done, number) for done in range(1, number + 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['mask.tif', 'scene.tif']


def test_what_is_written_is_what_is_predicted_in_memory(tmp_path):
    source = write_geotiff(tmp_path / 'scene.tif', noise(3, 200, 170))
    predictor = Predictor(load_model(trained_run('segmentation')), tile=(64, 96), overlap=0.5, flips=('h',))
    expected = predictor(source)
    for output in ('mask', 'prob', 'overlay'):
        predictor.write(source, tmp_path / 'result.tiff', output)
        values, known = read_geotiff(tmp_path / 'result.tiff')
        assert known['crs'] == CRS
        if output == 'mask':
            assert np.array_equal(values[0], expected.mask)
        elif output == 'prob':
            assert values.dtype == np.float32 and np.array_equal(values, expected.probabilities)
            assert known['descriptions'] == tuple(expected.class_name(index) for index in range(6))
        else:
            assert [kind.name for kind in known['kinds']] == ['red', 'green', 'blue']
            assert np.array_equal(values, np.moveaxis(np.asarray(expected.overlay()), -1, 0))


@pytest.mark.parametrize('gaps', [False, True])
@pytest.mark.parametrize('labels, dtype, label', [
    ((7, 3, 200), np.uint8, 255), ((7, 3, 255), np.uint16, 65535), ((0, 300, 1), np.uint16, 9)])
def test_labels_of_the_files(labels, dtype, label, gaps, tmp_path):
    pixels = noise(3, 100, 130)
    pixels[:, :30, :50] = 0
    source = write_geotiff(tmp_path / 'scene.tif', pixels, nodata=0 if gaps else None)
    model = brightest(
        label_map=tuple((value, index) for index, value in enumerate(labels)), ignore_index=9 if label == 9 else None)
    Predictor(model, tile=64).write(source, tmp_path / 'mask.tif', 'labels')
    mask, about = read_geotiff(tmp_path / 'mask.tif')
    known = (pixels > 0).any(0) | (not gaps)
    expected = np.where(known, np.array(labels)[pixels.argmax(0)], label)
    small = np.uint8 if max(labels) < 256 and not (gaps and label > 255) else dtype
    assert mask.dtype == small and np.array_equal(mask[0], expected) and about['nodata'] == (label if gaps else None)
    if small is np.uint8:
        assert [about['colors'][value][:3] for value in labels] == list(COLORS)
        assert about['tags'] == {f'class_{value}': name for value, name in zip(labels, model.class_names, strict=True)}


@pytest.mark.parametrize('gaps', [False, True])
def test_colours_of_the_files(gaps, tmp_path):
    pixels = noise(3, 90, 80)
    pixels[:, :30, :50] = 0
    source = write_geotiff(tmp_path / 'scene.tif', pixels, nodata=0 if gaps else None)
    colors = tuple((color[::-1], index) for index, color in enumerate(COLORS))
    Predictor(brightest(color_map=colors), tile=64).write(source, tmp_path / 'mask.tif', 'labels')
    values, about = read_geotiff(tmp_path / 'mask.tif')
    known = (pixels > 0).any(0) | (not gaps)
    expected = np.array([color[::-1] for color in COLORS], np.uint8)[pixels.argmax(0)]
    assert np.array_equal(np.moveaxis(values[:3], 0, -1)[known], expected[known])
    assert len(values) == (4 if gaps else 3) and (not gaps or np.array_equal(values[3] == 255, known))


@pytest.mark.parametrize('ignored, label', [(None, 255), (7, 7), (1, 255), (-100, 255), (1000, 255)])
def test_there_is_no_class_where_there_is_no_data(ignored, label, tmp_path):
    pixels = noise(3, 100, 130)
    pixels[:, :30, :50] = 0
    known = (pixels > 0).any(0)
    source = write_geotiff(tmp_path / 'scene.tif', pixels, nodata=0)
    predictor = Predictor(brightest(ignore_index=ignored), tile=64)
    predictor.write(source, tmp_path / 'mask.tif')
    mask, about = read_geotiff(tmp_path / 'mask.tif')
    assert about['nodata'] == label and about['colors'][label][3] == 0
    assert np.array_equal(mask[0], np.where(known, pixels.argmax(0), label))
    predictor.write(source, tmp_path / 'prob.tif', 'prob')
    probabilities, about = read_geotiff(tmp_path / 'prob.tif')
    assert np.isnan(about['nodata']) and np.array_equal(np.isnan(probabilities), np.broadcast_to(~known, (3, 100, 130)))
    predictor.write(source, tmp_path / 'overlay.tif', 'overlay')
    colors, about = read_geotiff(tmp_path / 'overlay.tif')
    assert [kind.name for kind in about['kinds']] == ['red', 'green', 'blue', 'alpha']
    assert np.array_equal(colors[3], known * 255)


@pytest.mark.parametrize('classes, gaps, dtype, label', [
    (255, True, 'uint8', 255), (256, False, 'uint8', None), (256, True, 'uint16', 65535),
    (300, False, 'uint16', None)])
def test_many_classes(classes, gaps, dtype, label, tmp_path):
    class Last(nn.Module):
        num_classes = classes

        def forward(self, x):
            return F.pad(x[:, :1] + 1, (0, 0, 0, 0, classes - 1, 0))

    source = write_geotiff(tmp_path / 'a.tif', noise(3, 40, 50), **({'nodata': 0} if gaps else {}))
    Predictor(describe(Last(), DataDescription(mean=(0.,), std=(1.,)))).write(source, tmp_path / 'b.tif')
    mask, known = read_geotiff(tmp_path / 'b.tif')
    assert mask.dtype == dtype and (mask == classes - 1).all() and known['nodata'] == label


def test_depth_is_written_in_metres(tmp_path):
    class Red(nn.Module):
        def forward(self, x):
            return {('disp', 0): x[:, :1]}

    pixels = noise(3, 90, 100)
    pixels[:, :10] = 0
    source = write_geotiff(tmp_path / 'a.tif', pixels, nodata=0)
    model = describe(Red(), DataDescription('depth', mean=(0.,), std=(1.,), min_depth=0.5, max_depth=80.))
    predictor = Predictor(model, tile=64)
    predictor.write(source, tmp_path / 'depth.tif')
    depth, known = read_geotiff(tmp_path / 'depth.tif')
    assert depth.dtype == np.float32 and known['crs'] == CRS
    assert np.isnan(depth[0, :10]).all() and np.array_equal(depth[0, 10:], predictor(source).depth[10:])
    with pytest.raises(ValueError, match='the output must be mask, since the colours of depth'):
        predictor.write(source, tmp_path / 'b.tif', 'overlay')


@pytest.mark.parametrize('size', [None, (64, 48)])
def test_networks_of_files_predict_by_windows(size, tmp_path):
    class Exported(Brightest):
        """What `ExportedNetwork` says of a file that normalises, and that may be made for one size."""
        takes_uint8 = True

        def forward(self, x):
            assert x.dtype == torch.uint8 and (size is None or tuple(x.shape[-2:]) == size)
            return x.float()

    Exported.size = size
    pixels = noise(3, 150, 130)
    model = describe(Exported(), DataDescription(mean=(0.,), std=(1.,)))
    Predictor(model, tile=size or 64).write(write_geotiff(tmp_path / 'a.tif', pixels), tmp_path / 'b.tif')
    assert np.array_equal(read_geotiff(tmp_path / 'b.tif')[0][0], pixels.argmax(0))


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['ts', 'onnx'])
@pytest.mark.parametrize('size', [None, (64, 64)])
def test_exported_files_predict_by_windows(ending, size, tmp_path):
    if ending == 'onnx':
        pytest.importorskip('onnxscript', reason='needs the extra export')
        pytest.importorskip('onnxruntime', reason='needs the extra export')
    model, path = load_model(trained_run('segmentation')), tmp_path / f'model.{ending}'
    rexnet_timm.export(model, path, size=size)
    exported = load_model(path)
    source = write_geotiff(tmp_path / 'scene.tif', noise(3, 150, 130), nodata=0)
    views = {} if size else dict(tile=64, overlap=0.5)
    Predictor(exported, **views).write(source, tmp_path / 'mask.tif')
    mask, known = read_geotiff(tmp_path / 'mask.tif')
    assert known['crs'] == CRS
    # a file of one size sees windows of that size only, which end with the image
    expected = Predictor(exported if size else model, **views)(source).mask
    assert (mask[0] == expected).mean() > 0.999


class Seen(nn.Module):
    """Counts how often it is given each pixel, which tells its place by its first two channels."""
    num_classes = 3

    def __init__(self, size):
        super().__init__()
        self.counts = torch.zeros(size, dtype=torch.long)

    def forward(self, x):
        row, column = (x[0, :2] * 255).round().long()
        self.counts[row, column] += 1
        return x


@pytest.mark.parametrize('overlap', [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize('size', [(250, 201), (64, 256), (97, 130)])
def test_no_pixel_is_run_more_often_than_the_overlap_asks(size, overlap, tmp_path):
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    source = write_geotiff(tmp_path / 'a.tif', np.stack([rows, columns, rows]))
    model = describe(Seen(size), DataDescription(mean=(0.,), std=(1.,)))
    Predictor(model, tile=64, overlap=overlap).write(source, tmp_path / 'b.tif')
    expected = np.ones(size, int)
    for axis, length in enumerate(size):
        covered = np.zeros(length, int)
        for begin, end in windows(length, 64, overlap):
            covered[begin:end] += 1
        stride = 64 - round(64 * overlap)
        number = 1 + -(-max(0, length - 64) // stride)
        assert covered.min() >= 1 and covered.max() <= -(-64 // stride)
        assert covered.sum() <= length + (number - 1) * (64 - stride)
        expected *= covered[:, None] if axis == 0 else covered
    assert np.array_equal(model.counts.numpy(), expected)


def steps_at(probabilities: np.ndarray, columns: list[int]) -> float:
    """The mean step of the probabilities from one column to the next, across the left edges of `columns`."""
    return float(np.mean([np.abs(probabilities[..., c] - probabilities[..., c - 1]).mean() for c in columns]))


def test_seams_do_not_show():
    """On a trained network. Seen: steps across the edges of tiles are 0.99 of the image's own; without overlap, 4.7."""
    model, pixels = load_model(trained_run('segmentation')), torch.from_numpy(noise(3, 256, 512))
    whole = Predictor(model)(pixels).probabilities
    ratios = {}
    for overlap in (0, 0.25):
        spans = windows(512, 128, overlap)
        edges = sorted({edge for span in spans for edge in span} - {0, 512})
        tiled = Predictor(model, tile=(256, 128), overlap=overlap)(pixels).probabilities
        ratios[overlap] = steps_at(tiled, edges) / steps_at(whole, edges)
    assert 0.9 < ratios[0.25] < 1.1 and ratios[0] > 2
    assert (tiled.argmax(0) != whole.argmax(0)).mean() < 0.01


def test_an_untiled_scene_is_run_in_windows_of_512(tmp_path):
    sizes = []

    class Sizes(Brightest):
        def forward(self, x):
            sizes.append(tuple(x.shape[-2:]))
            return x

    model = describe(Sizes(), DataDescription(mean=(0.,), std=(1.,)))
    source = write_geotiff(tmp_path / 'a.tif', noise(3, 600, 1100))
    Predictor(model).write(source, tmp_path / 'b.tif')
    assert len(sizes) == 2 * 3 and max(max(size) for size in sizes) <= 512


def test_huge_pictures_in_memory_are_tiled_too(monkeypatch):
    sizes = []

    class Sizes(Brightest):
        def forward(self, x):
            sizes.append(tuple(x.shape[-2:]))
            return x

    model = describe(Sizes(), DataDescription(mean=(0.,), std=(1.,)))
    monkeypatch.setattr('rexnet_timm.deployment.predict.MAX_WHOLE', 600 * 700)
    Predictor(model)(np.zeros((600, 700, 3), np.uint8))
    assert sizes == [(600, 700)]
    sizes.clear()
    Predictor(model)(np.zeros((600, 701, 3), np.uint8))
    assert len(sizes) == 4 and max(max(size) for size in sizes) <= 512


@pytest.mark.parametrize('name, target, output, text', [
    ('a.tif', 'b.png', 'mask', "ends in .tif or .tiff, got '.*b.png'"),
    ('a.tif', 'b.tif', 'masks', "the output must be mask or labels or prob or overlay; got 'masks'"),
    ('a.tif', 'a.tif', 'mask', 'No result may replace its image'),
    ('a.png', 'b.tif', 'mask', 'a.png is not .*; name a TIFF file'),
    ('four.tif', 'b.tif', 'mask', 'four.tif has 4')])
def test_mistakes_are_told_and_leave_nothing(name, target, output, text, tmp_path):
    write_geotiff(tmp_path / 'a.tif', noise(3, 40, 50))
    write_geotiff(tmp_path / 'four.tif', noise(4, 40, 50))
    (tmp_path / 'a.png').write_bytes(b'no TIFF')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=text):
        Predictor(brightest()).write(tmp_path / name, tmp_path / target, output)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_old_result_stays_where_the_new_one_fails(tmp_path):
    source = write_geotiff(tmp_path / 'a.tif', noise(3, 90, 100))
    source.write_bytes(source.read_bytes()[:14000])
    (tmp_path / 'mask.tif').write_text('old')
    with pytest.raises(ValueError, match='must be readable: .*a.tif'):
        Predictor(brightest(), tile=32).write(source, tmp_path / 'mask.tif')
    assert (tmp_path / 'mask.tif').read_text() == 'old' and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(FileNotFoundError, match='There is no folder'):
        Predictor(brightest()).write(write_geotiff(tmp_path / 'c.tif', noise(3, 40, 50)), tmp_path / 'no' / 'mask.tif')


@pytest.mark.parametrize('output, space', [('mask', 2000), ('prob', 300000), ('overlay', 100000)])
def test_a_full_disk_is_told(output, space, tmp_path):
    """GDAL itself would leave a file without its end, and say nothing. A limit of the process stands for the disk's."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 400, 400), dtype=np.uint8)
    source = write_geotiff(tmp_path / 'a.tif', pixels)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, limits[1]))
    try:
        with pytest.raises(OSError, match='it could not be written whole: is there space for it') as error:
            Predictor(brightest(), tile=64).write(source, tmp_path / 'b.tif', output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / 'b.tif')
    assert [path.name for path in tmp_path.iterdir()] == ['a.tif']
    Predictor(brightest(), tile=64).write(source, tmp_path / 'b.tif', output)


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_files_do_not_grow_by_what_is_written_twice(dtype, tmp_path):
    """A tile of the file gets its parts from several windows."""
    output = 'mask' if dtype == 'uint8' else 'prob'
    pixels = np.random.default_rng(0).integers(0, 256, (3, 900, 800), dtype=np.uint8)
    source = write_geotiff(tmp_path / 'a.tif', pixels)
    Predictor(brightest(), tile=96).write(source, tmp_path / 'b.tif', output)
    values, known = read_geotiff(tmp_path / 'b.tif')
    options = {name: known[name] for name in ('tiled', 'blockxsize', 'blockysize', 'interleave')}
    options.update(compress=known.get('compress'), photometric='MINISBLACK')
    once = write_geotiff(tmp_path / 'c.tif', values, **options)
    assert (tmp_path / 'b.tif').stat().st_size < 1.02 * once.stat().st_size + 2000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image(tmp_path):
    """Two sizes, with a cache that neither fits into: the larger image would take twice what memory may grow by."""
    small, large = (measure(tmp_path, size, 'mask', tile=256, cache=8)['MiB'] for size in (1500, 3500))
    more = (3500 ** 2 - 1500 ** 2) * 3 / 2 ** 20
    assert large - small < more / 2, (small, large)
    assert large < 200
