"""Images of other bits and bands than RGB of 8 bits: trained on by one command, then validated and predicted."""
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from geotiffs import read_geotiff, write_geotiff
from PIL import Image

from rexnet_timm import load_model
from rexnet_timm import predict as predict_image
from rexnet_timm.cli import predict, train, validate
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.data import SegmentationFolder
from rexnet_timm.deployment.load import description_of

TRAIN = ('--model rexnetv1_unet_test --num-classes 3 --img-size 64 --batch-size 4 --workers 0 --epochs 1 '
         '--warmup-epochs 0 --opt adamw --lr 0.01 --crops-per-image 32 --device cpu --seed 3')


def classes_of(index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    return np.repeat(rng.permutation(np.arange(3).repeat(4))[:8], 10)[None].repeat(72, 0)


def deep(index: int, bands: int = 1) -> np.ndarray:
    """uint16 (bands, 72, 80) of values around 200 to 2900 whose size tells the class."""
    rng = np.random.default_rng(index)
    values = classes_of(index) * 1000 + rng.integers(200, 900, (bands, 72, 80))
    return (values * np.linspace(1, 2, bands)[:, None, None]).astype(np.uint16)


def write_grey(path: Path, index: int) -> None:
    Image.fromarray(deep(index)[0]).save(path.with_suffix('.tif'))


def write_six(path: Path, index: int) -> None:
    write_geotiff(path.with_suffix('.tif'), deep(index, 6), photometric='MINISBLACK')


def write_array(path: Path, index: int) -> None:
    np.save(path.with_suffix('.npy'), np.moveaxis(deep(index, 2), 0, -1).astype(np.float32) / 4000)


def write_rgb_and_infrared(path: Path, index: int) -> None:
    write_geotiff(path.with_suffix('.tif'), (deep(index, 4) // 32).astype(np.uint8), alpha='YES')  # as GDAL marks it


def folder(root: Path, write) -> Path:
    for part, (split, number) in enumerate((('train', 8), ('val', 3))):
        for kind in ('images', 'masks'):
            (root / kind / split).mkdir(parents=True)
        for index in range(number):
            write(root / 'images' / split / f'{index}', 100 * part + index)
            Image.fromarray(classes_of(100 * part + index).astype(np.uint8)).save(
                root / 'masks' / split / f'{index}.png')
    return root


def trained(root: Path, write, options: str = '') -> tuple[Path, Path]:
    data = folder(root / 'data', write)
    command = [str(data), *TRAIN.split(), *options.split(), '--output', str(root), '--experiment', 'run']
    assert train.main(command) == 0
    return data, root / 'run'


@pytest.mark.slow
@pytest.mark.parametrize('write, channels, line', [
    (write_grey, 1, 'images are read as grey, 2'), (write_six, 6, 'images are read as 6 bands, 2'),
    (write_array, 2, 'images are read as 2 bands, 0.0'), (write_rgb_and_infrared, 4, 'images are read as 4 bands')])
def test_one_command_trains_and_the_others_follow(tmp_path, write, channels, line, caplog, capsys):
    caplog.set_level('INFO')
    data, run = trained(tmp_path, write)
    assert line in caplog.text and 'Mean ' in caplog.text
    if channels == 4:
        assert 'band 4 is marked as alpha and has many values' in caplog.text
    description = description_of(load_model(run))
    dataset = SegmentationFolder(data, 'train', 3)
    assert description.in_chans == channels and description.bands == ()
    assert description.image_scale == dataset.description.image_scale
    assert (description.mean, description.std) == dataset.statistics()

    # validate gives what training gave, with a plausible report of each class
    capsys.readouterr()
    model_options = ['--checkpoint', str(run), '--device', 'cpu']
    assert validate.main([str(data), '--split', 'val', '--workers', '0', *model_options]) == 0
    results = json.loads((run / 'validate-val' / 'results.json').read_text())
    with open(run / 'summary.csv') as file:
        (row,) = csv.DictReader(file)
    assert results['miou'] == pytest.approx(float(row['eval_miou']), abs=0.02)
    assert set(results['classes']) == {'class 0', 'class 1', 'class 2'}
    assert 50 < results['miou'] <= 100 and 70 < results['pixel_acc'] <= 100
    assert Image.open(run / 'validate-val' / 'worst.png').size[0] > 100

    # predict gives what the network gives on the image of the data set
    source = next((data / 'images' / 'val').glob('0.*'))
    assert predict.main([str(source), *model_options, '--output', str(tmp_path / 'out')]) == 0
    target = next((tmp_path / 'out').iterdir())
    mask = read_geotiff(target)[0][0] if target.suffix == '.tif' else np.array(Image.open(target))
    model = load_model(run)
    val = SegmentationFolder(dataset.description.seen_as(description), 'val', 3, in_chans=channels) \
        if dataset.description.source else SegmentationFolder(
            data, 'val', 3, in_chans=channels, image_scale=description.image_scale)
    pixels = val[0][0].as_subclass(torch.Tensor).float() / (255 if channels == 4 else 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (description.mean, description.std))
    with torch.no_grad():
        logits = model(((pixels - mean) / std)[None])
    assert (logits.argmax(1)[0].numpy() == mask).mean() > 0.999
    if target.suffix == '.tif':  # windows and memory
        assert (predict_image(model, source).mask == mask).mean() > 0.999
    raw = np.moveaxis(deep(100, channels), 0, -1)
    raw = {2: raw.astype(np.float32) / 4000, 4: (raw // 32).astype(np.uint8)}.get(channels, raw)
    assert (predict_image(model, raw).mask == predict_image(model, source).mask).all()


@pytest.mark.slow
def test_orthophotos_beyond_the_limit_are_trained_on_and_validated(tmp_path, monkeypatch, caplog):
    """Above the limit of pixels: crops that look for classes, masks in colours, and validation by tiles."""
    caplog.set_level('INFO')
    colors = np.array([[0, 0, 0], [200, 30, 30], [30, 200, 30]], np.uint8)
    for split, number in (('train', 2), ('val', 2)):
        for index in range(number):
            classes = classes_of(100 * (split == 'val') + index)
            for kind, pixels in (('images', np.moveaxis(colors[classes], -1, 0) // 2 + 40),
                                 ('masks', np.moveaxis(colors[classes], -1, 0))):
                (tmp_path / 'data' / kind / split).mkdir(parents=True, exist_ok=True)
                write_geotiff(tmp_path / 'data' / kind / split / f'{index}.tif', pixels)
    (tmp_path / 'data' / 'class_dict.csv').write_text('name,r,g,b\nfield,0,0,0\nroof,200,30,30\ntree,30,200,30\n')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 72 * 80 - 1)
    monkeypatch.setattr('rexnet_timm.data.large.TILE', 64)
    options = f'{TRAIN} --class-balanced-crops --crops-per-image 4'.split()
    command = [str(tmp_path / 'data'), *options, '--output', str(tmp_path), '--experiment', 'run']
    assert train.main(command) == 0
    assert '2 images of validation have more than 5759 pixels, read as 8 tiles of at most 64 x 64 pixels' in caplog.text
    model_options = ['--checkpoint', str(tmp_path / 'run'), '--device', 'cpu', '--workers', '0']
    assert validate.main([str(tmp_path / 'data'), '--split', 'val', *model_options]) == 0
    results = json.loads((tmp_path / 'run' / 'validate-val' / 'results.json').read_text())
    assert results['images'] == 8 and np.sum(results['confusion']) == 2 * 72 * 80
    with open(tmp_path / 'run' / 'summary.csv') as file:
        (row,) = csv.DictReader(file)
    assert results['miou'] == pytest.approx(float(row['eval_miou']), abs=0.02)
    with open(tmp_path / 'run' / 'validate-val' / 'per_image.csv') as file:
        names = [row['image'] for row in csv.DictReader(file)]
    assert names[:2] == ['0.tif, rows 0 to 64, columns 0 to 64', '0.tif, rows 0 to 64, columns 64 to 80']


@pytest.mark.slow
def test_bands_and_scale_are_chosen_and_repeated(tmp_path, caplog):
    caplog.set_level('INFO')
    data, run = trained(
        tmp_path, write_six, '--bands 4 3 2 --image-scale 100:4000 --mean 0.4 --rotation 20 --elastic 2 '
                             '--class-balanced-crops 0.5')
    assert 'images are read as bands 4 3 2, 100 to 4000 as 0 to 1' in caplog.text
    description = description_of(load_model(run))
    assert description.bands == (4, 3, 2) and description.image_scale == ((100., 4000.),)
    assert description.mean == (0.4,) * 3 and len(set(description.std)) == 3
    recorded = yaml.safe_load((run / 'args.yaml').read_text())
    assert recorded['in_chans'] == 3 and recorded['image_scale'] == ['100.0:4000.0']
    again = parse_train_args(['--config', str(run / 'args.yaml')])
    assert again.std == list(description.std) and again.bands == [4, 3, 2] and again.class_balanced_crops == 0.5
    # other files may have their bands elsewhere
    source = data / 'images' / 'val' / '0.tif'
    moved = write_geotiff(tmp_path / 'moved.tif', read_geotiff(source)[0][[3, 2, 1]], photometric='MINISBLACK')
    common = ['--checkpoint', str(run), '--device', 'cpu', '--output', str(tmp_path / 'out')]
    assert predict.main([str(source), *common]) == 0
    assert predict.main([str(moved), '--bands', '1', '2', '3', *common]) == 0
    first, second = (read_geotiff(tmp_path / 'out' / name)[0] for name in ('0.tif', 'moved.tif'))
    assert np.array_equal(first, second)


@pytest.mark.slow
def test_published_weights_are_adapted_to_the_bands(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model('rexnetv1_test')
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    # no step: what the run begins with
    _, run = trained(tmp_path, write_six, f'--pretrained-path {tmp_path / "weights.pth"} --opt sgd '
                                          '--weight-decay 0 --lr 1e-12')
    expected = timm.create_model(
        'rexnetv1_test', in_chans=6, pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'weights.pth'), num_classes=-1))
    torch.testing.assert_close(
        dict(load_model(run).named_parameters())['encoder.stem.conv.weight'], expected.stem.conv.weight)
    # timm's rule: three channels repeated, and weakened so that their sum stays
    weight = source.stem.conv.weight
    torch.testing.assert_close(expected.stem.conv.weight, torch.cat([weight, weight], 1) / 2)


@pytest.mark.parametrize('options, text', [
    ('--bands 1 2 --in-chans 3', '--in-chans must be the number of --bands, got 3 and 1 2: leave it out.'),
    ('--bands 2 2', '--bands must be different ones, got 2 2.'),
    ('--bands 0', '--bands must be at least 1, got 0.'),
    ('--bands 1 2 --input-size 3 64 64', 'must have as many channels as there are --bands, got 3 and 1 2.'),
    ('--image-scale half', "--image-scale must be a number above 0, percentile, or LOW:HIGH, got 'half'."),
    ('--image-scale 9:1', "--image-scale must be a number above 0, percentile, or LOW:HIGH, got '9:1'."),
    ('--rotation 200', '--rotation must be at least 0 and at most 180, got 200.0.'),
    ('--elastic -1', '--elastic must be at least 0, got -1.0.'),
    ('--class-balanced-crops 2', '--class-balanced-crops must be at least 0 and at most 1, got 2.0.')])
def test_options_that_do_not_fit(tmp_path, options, text, capsys):
    assert train.main([str(tmp_path), *TRAIN.split(), *options.split()]) == 2
    assert capsys.readouterr().err.strip().endswith(text)


@pytest.mark.parametrize('options, text', [
    ('--in-chans 3', 'as many bands as the model has channels, 3: .* has 6; choose which by their numbers, such '
                     'as --bands 1 2 3, or train a model with --in-chans 6 for all of them.'),
    ('--bands 9', 'must have the bands that are chosen, 9: .* has 6; choose bands from 1 to 6'),
    ('--image-scale 255', 'must have 8 bits a channel: .* has 16 bits, values from .* or train a model on such images'),
    ('--image-scale 0:9 0:9', '--image-scale must have one pair, or one for each of the 6 channels, got 2.'),
    ('--mean 0.5 0.5', '--mean must have one value, or one for each of the 6 channels of the images, got 0.5 0.5.')])
def test_bands_that_do_not_fit_the_images(tmp_path, options, text, capsys):
    data = folder(tmp_path / 'data', write_six)
    command = [str(data), *TRAIN.split(), *options.split(), '--output', str(tmp_path), '--experiment', 'run']
    assert train.main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert re.search(text, line), line


def test_different_images_are_told_before_training(tmp_path, capsys):
    data = folder(tmp_path / 'data', write_grey)
    Image.fromarray(np.zeros((72, 80), np.uint8)).save(data / 'images' / 'train' / '3.tif')
    command = [str(data), *TRAIN.split(), '--output', str(tmp_path), '--experiment', 'run']
    assert train.main(command) == 2
    assert 'Images must have the same bits: ' in capsys.readouterr().err and not (tmp_path / 'run').exists()
