"""`rexnet predict` as a user calls it, with runs of one epoch."""
import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from geotiffs import CRS, noise, read_geotiff, write_geotiff
from PIL import ExifTags, Image
from running import ROOT
from trained import trained_run

from rexnet_timm.__main__ import main
from rexnet_timm.cli import predict, progress
from rexnet_timm.deployment.load import load_model
from rexnet_timm.deployment.predict import Predictor


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """photos/a.jpg, photos/sub/b.png (grey), photos/notes.txt, below a working folder of their own."""
    monkeypatch.chdir(tmp_path)
    folder, rng = tmp_path / 'photos', np.random.default_rng(0)
    (folder / 'sub').mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (40, 51, 3), dtype=np.uint8)).save(folder / 'a.jpg')
    Image.fromarray(rng.integers(0, 256, (35, 34), dtype=np.uint8)).save(folder / 'sub' / 'b.png')
    (folder / 'notes.txt').write_text('photos/a.jpg\n\n  sub/b.png \n')
    return folder


def run(*words: object, task: str = 'segmentation') -> int:
    return main(['predict', *map(str, words), '--checkpoint', str(trained_run(task)), '--device', 'cpu'])


def written(folder: str | Path = 'output/predict') -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def mask(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == 'P'
        return np.array(image)


def test_a_folder_keeps_its_paths(photos, capsys, monkeypatch):
    monkeypatch.setattr(progress, 'is_shown_live', lambda: True)  # as on a terminal
    assert run('photos') == 0
    assert written() == ['a.png', 'sub/b.png']
    predictor = Predictor(load_model(trained_run('segmentation')))
    assert np.array_equal(mask('output/predict/a.png'), predictor(photos / 'a.jpg').mask)
    assert mask('output/predict/sub/b.png').shape == (35, 34)
    output, error = capsys.readouterr()
    assert output == '2 of 2 images predicted in output/predict\n'
    assert '2/2' in error and 'image/s' in error


@pytest.mark.parametrize('inputs, names', [
    (['photos/a.jpg'], ['a.png']), (['photos/*.*'], ['a.png']), (['photos/**/*.png'], ['sub/b.png']),
    (['photos/notes.txt'], ['a.png', 'sub/b.png']), (['photos/a.jpg', 'photos/sub/b.png'], ['a.png', 'b.png'])])
def test_files_patterns_and_lists(inputs, names, photos):
    assert run(*inputs) == 0
    assert written() == names


def test_results_that_exist_stay_unless_overwritten(photos, capsys):
    (photos / 'output').mkdir()
    (photos / 'output' / 'a.png').write_text('mine')
    assert run('photos', '--output', 'photos/output') == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and '1 of 2 results exist' in error and '--overwrite' in error
    assert written(photos / 'output') == ['a.png']
    for _ in range(2):  # what it wrote is no input of the next call
        assert run('photos', '--output', 'photos/output', '--overwrite') == 0
        assert written(photos / 'output') == ['a.png', 'sub/b.png']


def test_results_never_leave_the_folder_or_replace_an_image(photos, capsys):
    before = (photos / 'sub' / 'b.png').read_bytes()
    assert run('photos', '--output', 'photos', '--overwrite') == 2
    assert 'No result may replace an image' in capsys.readouterr().err
    outside = photos.parent / 'outside'
    outside.mkdir()
    Path('out').mkdir()
    Path('out/sub').symlink_to(outside)
    assert run('photos', '--output', 'out') == 2
    assert 'leads out of' in capsys.readouterr().err
    assert not any(outside.iterdir()) and (photos / 'sub' / 'b.png').read_bytes() == before
    listed = photos.parent / 'far' / 'list.txt'
    listed.parent.mkdir()
    listed.write_text(f'../photos/a.jpg\n{photos / "sub" / "b.png"}\n')
    assert run(listed, '--output', 'new/deep') == 0
    assert written('new/deep') == ['a.png', 'sub/b.png']


def test_two_images_of_one_name_are_refused(photos, capsys):
    Image.new('RGB', (40, 40)).save(photos / 'a.png')
    assert run('photos') == 2
    error = capsys.readouterr().err
    assert 'a name of its own' in error and 'rename one, or give each an --output' in error
    Image.new('RGB', (40, 40)).save(photos / 'sub' / 'a.png')
    (photos / 'a.png').unlink()
    assert run('photos/a.jpg', 'photos/sub/a.png') == 2
    assert 'rename one, name the folder that holds both' in capsys.readouterr().err
    assert not Path('output').exists()
    assert run('photos') == 0


def test_a_failed_image_is_told_and_the_rest_goes_on(photos, capsys):
    (photos / '0.png').write_bytes(b'no image')
    (photos / 'list.txt').write_text('photos/gone.png\nphotos/a.jpg\n')
    assert run('photos') == 1
    output, error = capsys.readouterr()
    (line,) = [line for line in error.splitlines() if 'rexnet predict:' in line]
    assert '0.png' in line and output.startswith('2 of 3 images')
    assert written() == ['a.png', 'sub/b.png']
    assert run('photos/list.txt', '--output', 'other') == 1
    assert 'gone.png' in capsys.readouterr().err and written('other') == ['a.png']


def test_a_result_that_cannot_be_written_is_told(photos, capsys):
    Path('output/predict').mkdir(parents=True)
    Path('output/predict/sub').write_text('a file in the way of a folder')
    assert run('photos') == 1
    assert 'output/predict/sub' in capsys.readouterr().err
    assert written() == ['a.png', 'sub']


def test_a_fault_of_the_program_is_not_told_as_the_images(photos, monkeypatch):
    def broken(*args):
        raise TypeError('a fault')

    monkeypatch.setattr(predict.Predictor, '__call__', broken)
    with pytest.raises(TypeError, match='a fault'):
        run('photos')


def test_photos_are_predicted_as_displayed(photos):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    Image.open(photos / 'a.jpg').save(photos / 'turned.jpg', exif=exif)
    assert run('photos/turned.jpg') == 0
    assert mask('output/predict/turned.png').shape == (51, 40)


def test_tiles_mirrored_copies_and_zooms(photos):
    assert run('photos/a.jpg', '--tile', '32', '40', '--overlap', '0.5', '--tta', 'flips', '1.5') == 0
    predictor = Predictor(
        load_model(trained_run('segmentation')), tile=(32, 40), overlap=0.5, flips=('h', 'v', 'hv'), zooms=(1., 1.5))
    assert np.array_equal(mask('output/predict/a.png'), predictor(photos / 'a.jpg').mask)


def test_overlays_and_probabilities(photos):
    assert run('photos/a.jpg', '--output-type', 'overlay', '--no-legend') == 0
    with Image.open('output/predict/a.png') as image:
        assert image.mode == 'RGB' and image.size == (51, 40)
        plain = np.array(image)
    assert run('photos/a.jpg', '--output-type', 'overlay', '--overwrite') == 0
    with Image.open('output/predict/a.png') as image:
        assert image.height > 40 and np.array_equal(np.array(image)[:40, :51], plain)
        colors = np.array(image)[40:].reshape(-1, 3).tolist()
    palette = load_model(trained_run('segmentation')).description.palette(6).tolist()
    assert all(color in colors for color in palette[1:]) and palette[0] not in colors  # which is the background
    assert run('photos/a.jpg', '--output-type', 'prob') == 0
    probabilities = np.load('output/predict/a.npy')
    assert probabilities.dtype == np.float32 and probabilities.shape == (6, 40, 51)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)


def test_depth(photos, capsys):
    assert run('photos', task='depth') == 0
    assert 'depth in millimetres' in capsys.readouterr().out
    assert run('photos', '--depth-format', 'tiff', '--output', 'tiff', task='depth') == 0
    with Image.open('output/predict/a.png') as png, Image.open('tiff/a.tif') as tiff:
        metres = np.array(tiff)
        assert png.mode == 'I;16' and metres.dtype == np.float32
        assert np.abs(np.array(png) - (1000 * metres).clip(0, 65535)).max() <= 0.51
    assert run('photos/a.jpg', '--output-type', 'overlay', '--output', 'colors', task='depth') == 0
    with Image.open('colors/a.png') as image:
        assert image.mode == 'RGB' and image.height > 40


def test_classes(photos, capsys):
    Image.new('RGB', (48, 40), (205, 205, 205)).save(photos / 'c.png')
    (photos / 'broken.png').write_bytes(b'no image')
    assert run('photos', task='classification') == 1
    assert written() == ['predictions.csv']
    with open('output/predict/predictions.csv') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['file', 'class', 'score', 'class_2', 'score_2']
    assert [row['file'] for row in rows] == ['photos/a.jpg', 'photos/c.png', 'photos/sub/b.png']
    for row in rows:
        assert {row['class'], row['class_2']} == {'bright', 'dark'}
        assert float(row['score']) + float(row['score_2']) == pytest.approx(1, abs=1e-5)
        assert float(row['score']) >= float(row['score_2'])
    assert run('photos', task='classification') == 2
    assert '1 of 1 results exist' in capsys.readouterr().err


@pytest.mark.parametrize('words, text, task', [
    (['nothing.png'], "no image, folder, list or pattern 'nothing.png'", 'segmentation'),
    (['nothing/*.png'], "'nothing/*.png' has none that end in", 'segmentation'),
    (['photos', '--tile', '8'], '--tile must be at least 32', 'segmentation'),
    (['photos', '--tile', '64', '64', '64'], '--tile must be one number or two', 'segmentation'),
    (['photos', '--overlap', '1'], '--overlap must be at least 0 and below 1', 'segmentation'),
    (['photos', '--no-legend'], '--no-legend is for overlays, and this is mask: leave it out', 'segmentation'),
    (['photos', '--output-type', 'png'], '--output-type must be one of mask, overlay, prob', 'segmentation'),
    (['photos', '--out', 'x'], 'Did you mean --output?', 'segmentation'),
    (['photos', '--output', 'photos/a.jpg'], '--output must be a folder', 'segmentation'),
    (['photos', '--depth-format', 'png'], '--depth-format is for maps of depth', 'segmentation'),
    (['photos', '--output-type', 'prob'], 'depth has no probabilities', 'depth'),
    (['photos', '--tta', 'h', 'v'], 'take h.', 'depth'),
    (['photos', '--tta', '2'], '--tta has zooms for masks only', 'depth'),
    (['photos', '--tta', 'flop'], "got 'flop'. Did you mean flips?", 'segmentation'),
    (['photos', '--output-type', 'overlay'], 'a classifier writes predictions.csv', 'classification'),
    (['photos', '--tile', '64'], '--tile is for masks and depth', 'classification'),
])
def test_mistakes_are_one_line(words, text, task, photos, capsys):
    trained_run(task)
    capsys.readouterr()
    assert run(*words, task=task) == 2
    output, error = capsys.readouterr()
    assert text in error and error.count('\n') == 1 and not output
    assert not Path('output').exists()


def test_a_geotiff_gives_a_geotiff(photos, capsys, monkeypatch):
    monkeypatch.setattr(progress, 'is_shown_live', lambda: True)
    write_geotiff(photos / 'scene.tiff', noise(3, 150, 130), nodata=0)
    write_geotiff(photos / 'broken.tif', noise(3, 150, 130))
    os.truncate(photos / 'broken.tif', 30000)
    write_geotiff(photos / 'four.tif', noise(4, 40, 50))
    Image.fromarray(noise(3, 40, 50).transpose(1, 2, 0)).save(photos / 'plain.tif')
    assert run('photos', '--tile', '64') == 1
    assert written() == ['a.png', 'plain.png', 'scene.tif', 'sub/b.png']
    classes, known = read_geotiff('output/predict/scene.tif')
    predictor = Predictor(load_model(trained_run('segmentation')), tile=64)
    assert np.array_equal(classes[0], predictor(photos / 'scene.tiff').mask)
    assert known['crs'] == CRS and known['nodata'] == 255 and known['tags']['class_1'] == 'disc'
    output, error = capsys.readouterr()
    assert output == '4 of 6 images predicted in output/predict\n'
    lines = [line.strip() for line in error.splitlines() if 'rexnet predict:' in line]
    assert len(lines) == 2
    assert 'photos/broken.tif is not (' in lines[0] and 'photos/four.tif has 4; choose' in lines[1]\
        and 'such as --bands 1 2 3, or' in lines[1]
    assert 'scene.tiff: ' in error and 'window' in error
    assert run('photos/scene.tiff') == 2
    assert 'results exist, such as output/predict/scene.tif: pass --overwrite' in capsys.readouterr().err
    for kind, bands in (('prob', 6), ('overlay', 4)):
        assert run('photos/scene.tiff', '--output-type', kind, '--output', kind) == 0
        values, known = read_geotiff(f'{kind}/scene.tif')
        assert values.shape == (bands, 150, 130) and known['crs'] == CRS


def test_depth_and_classes_of_geotiffs(photos, capsys):
    scene = write_geotiff(photos / 'scene.tif', noise(3, 150, 130))
    assert run(scene, task='depth') == 0
    assert 'millimetres' not in capsys.readouterr().out
    depth, known = read_geotiff('output/predict/scene.tif')
    assert depth.dtype == np.float32 and known['crs'] == CRS
    for words, text in ((['--depth-format', 'png'], 'take tiff'), (['--output-type', 'overlay'], 'take mask')):
        assert run(scene, *words, '--output', 'other', task='depth') == 2
        error = capsys.readouterr().err
        assert text in error and 'photos/scene.tif' in error and error.count('\n') == 1
    assert run(scene, '--output', 'table', task='classification') == 0
    assert written('table') == ['predictions.csv'] and not Path('other').exists()


def test_geotiffs_need_the_extra_and_other_images_do_not(photos, capsys, monkeypatch):
    write_geotiff(photos / 'scene.tif', noise(3, 150, 130))
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    assert run('photos') == 2
    error = capsys.readouterr().err
    assert "'photos/scene.tif' is one; pip install 'rexnet-timm[geo]'" in error and error.count('\n') == 1
    assert not Path('output').exists()
    assert run('photos/a.jpg') == 0


def test_a_picture_beyond_the_limit_is_read_as_a_tiff(photos, capsys, monkeypatch):
    pytest.importorskip('rasterio', reason='needs the extra geo')
    from rasterio.rio.main import main_group

    Image.fromarray(noise(3, 150, 130).transpose(1, 2, 0)).save(photos / 'large one.png')
    assert run('photos/large one.png', '--tile', '64') == 0
    expected = mask('output/predict/large one.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 16000)
    monkeypatch.chdir('photos')
    assert run('large one.png') == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'rexnet predict:' in line]
    assert 'at most 16000 pixels: large one.png has more; cut it, or make it a TIFF, which is read by windows' in line
    main_group(shlex.split(line.split(', and rio ')[1]), standalone_mode=False)
    assert run('large one.tif', '--tile', '64') == 0
    assert np.array_equal(read_geotiff('output/predict/large one.tif')[0][0], expected)


def test_an_empty_folder_and_a_missing_run(photos, capsys):
    Path('empty').mkdir()
    assert run('empty') == 2
    assert main(['predict', 'photos', '--checkpoint', 'nowhere', '--device', 'cpu']) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "'empty' has none" in lines[0] and 'nowhere' in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_processes_share_the_images(task, photos):
    (photos / 'broken.png').write_bytes(b'no image')
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'rexnet_timm',
         'predict', 'photos', '--checkpoint', str(trained_run(task)), '--device', 'cpu'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True,
        timeout=300)
    assert result.returncode == 1 and result.stderr.count('rexnet predict:') == 1, result.stderr
    assert '2 of 3 images predicted' in result.stdout
    assert written() == (['a.png', 'sub/b.png'] if task == 'segmentation' else ['predictions.csv'])
    if task == 'classification':
        with open('output/predict/predictions.csv') as file:
            assert [row['file'] for row in csv.DictReader(file)] == ['photos/a.jpg', 'photos/sub/b.png']
