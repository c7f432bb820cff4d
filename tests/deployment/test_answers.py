"""Answers to uploads: what is shown, what is written, and what is refused."""
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from running import huge_png
from trained import trained_run

import rexnet_timm
from rexnet_timm.data import SyntheticShapes
from rexnet_timm.deployment import answers
from rexnet_timm.deployment.answers import Answerer
from rexnet_timm.deployment.load import load_model
from rexnet_timm.deployment.predict import Predictor
from rexnet_timm.grid import enlarge


def answerer(task: str, folder: Path, max_pixels: int = 10_000, **kwargs) -> Answerer:
    return Answerer(Predictor(load_model(trained_run(task)), **kwargs), max_pixels, folder)


@pytest.fixture
def photo(tmp_path) -> Path:
    """A picture of the built-in set of 72 x 100 pixels."""
    image, _ = SyntheticShapes(1, (72, 100), 6, seed=3)[0]
    path = tmp_path / 'photo.png'
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


def test_the_file_is_what_predict_writes(photo, tmp_path):
    answer = answerer('segmentation', tmp_path)(photo)
    expected = rexnet_timm.predict(load_model(trained_run('segmentation')), photo)
    expected.save(tmp_path / 'expected.png')
    assert answer.file.name == 'photo-mask.png' and answer.file.read_bytes() == (tmp_path / 'expected.png').read_bytes()
    assert answer.size == (72, 100) and answer.preview.probabilities is None
    assert np.array_equal(answer.preview.mask, expected.mask)
    counts = {int(index): int((expected.mask == index).sum()) for index in np.unique(expected.mask)}
    assert answer.shares == {index: count / 7200 for index, count in counts.items()}
    assert list(answer.shares.values()) == sorted(answer.shares.values(), reverse=True)


def test_each_scale_answers_with_its_own_classes(photo, tmp_path):
    model, answer = load_model(trained_run('segmentation')), None
    ask = answerer('segmentation', tmp_path)
    assert ask.scales == model.scales and len(ask.scales) > 2
    image = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.description.mean, model.description.std))
    with torch.no_grad():
        logits = model.forward_scales((image - mean) / std)
    for scale in ask.scales:
        answer = ask(photo, scale, answer)
        assert answer.scale == scale
        # bilinear logits of neighbouring classes may be equal up to rounding
        own = enlarge(logits[scale], scale, (72, 100))[0].argmax(0).numpy()
        assert (answer.preview.mask == own).mean() > 0.999
    assert set(answer.seconds) == set(ask.scales) and all(seconds > 0 for seconds in answer.seconds.values())
    other = photo.with_name('other.png')
    other.write_bytes(photo.read_bytes())
    assert set(ask(other, 0, answer).seconds) == {0}, 'times are of one image'


def test_a_scale_between_those_with_a_head_is_the_finer_one(tmp_path):
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, scales=(1, 3)).eval()
    ask = Answerer(Predictor(model), 10_000, tmp_path)
    assert [ask.nearest_scale(scale) for scale in (None, 0, 1, 2, 3, 4.)] == [1, 1, 1, 1, 3, 3]


@pytest.mark.parametrize('build', [
    lambda: smp.Unet('resnet18', encoder_weights=None, classes=3),
    lambda: rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, scales=(0,))], ids=['smp', 'one scale'])
def test_models_without_scales(build, photo, tmp_path):
    ask = Answerer(Predictor(build().eval()), 10_000, tmp_path)
    assert ask.scales == () and len(ask.colors) == 3
    answer = ask(photo, 2)
    assert answer.scale is None and set(answer.seconds) == {None}


def test_the_picture_is_painted_by_opacity_and_classes(photo, tmp_path):
    answer = answerer('segmentation', tmp_path)(photo)
    image, mask = np.array(Image.open(photo)), np.zeros((72, 100), np.uint8)
    mask[:, 30:], mask[:, 60:] = 1, 4
    preview = replace(answer.preview, mask=mask)
    answer = replace(answer, preview=preview, shares={4: 0.4, 0: 0.3, 1: 0.3})
    colors = preview.description.palette(6)
    assert np.array_equal(answer.paint(0), image)
    assert np.array_equal(answer.paint(1), colors[mask])
    half = np.array(answer.paint(0.5, hidden=[4]))
    assert np.array_equal(half[:, 60:], image[:, 60:])
    assert np.abs(half[:, :60].astype(int) - (image[:, :60] / 2 + colors[mask][:, :60] / 2)).max() <= 1
    assert np.array_equal(answer.paint(0.7, hidden=[0, 1, 4]), image)


def test_depth_and_classes(photo, tmp_path):
    depth = answerer('depth', tmp_path)(photo)
    assert depth.file.name == 'photo-depth.png' and Image.open(depth.file).mode.startswith('I')
    assert np.array_equal(depth.paint(1), rexnet_timm.predict(load_model(trained_run('depth')), photo).overlay(1))
    assert depth.shares == {} and answerer('depth', tmp_path).colors == []
    classes = answerer('classification', tmp_path)(photo)
    assert classes.file.read_text().startswith('class,score\n')
    assert np.array_equal(classes.paint(0.5), np.array(Image.open(photo)))
    assert {name for name, _ in classes.preview.top()} == {'bright', 'dark'}


def test_what_is_kept_of_a_large_image_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, 'PREVIEW', 50)
    left = np.zeros((60, 200, 3), np.uint8)
    left[:, 100:] = 255
    Image.fromarray(left).save(tmp_path / 'wide.png')
    answer = answerer('segmentation', tmp_path, 12_000)(tmp_path / 'wide.png')
    assert answer.size == (60, 200) and answer.preview.image.shape == (3, 15, 50)
    whole = np.array(Image.open(answer.file))
    assert whole.shape == (60, 200)
    assert np.array_equal(answer.preview.mask, whole[2::4, 2::4])
    assert (answer.preview.image[0, :, :24] == 0).all() and (answer.preview.image[0, :, 26:] == 255).all()
    depth = answerer('depth', tmp_path, 12_000)(tmp_path / 'wide.png')
    assert depth.preview.depth.shape == (15, 50) and Image.open(depth.file).size == (200, 60)


def test_the_file_goes_with_the_answer(photo, tmp_path):
    answer = answerer('segmentation', tmp_path)(photo)
    file = answer.file
    assert file.is_file() and tmp_path in file.parents
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ResourceWarning)
        del answer
    assert not file.parent.exists()


@pytest.mark.parametrize('make, message', [
    (lambda path: Image.new('L', (101, 100)).save(path),
     'Images must have at most 0.01 megapixels here: {} has 101 x 100, 0.0101; shrink it, or cut out a part.'),
    (lambda path: path.write_bytes(huge_png()), 'at most 89478485 pixels: {} has more'),
    (lambda path: Image.new('RGB', (9, 9)).save(path, 'EPS'),
     'Every image must be readable: {} is not (UnidentifiedImageError'),
    (lambda path: Image.new('RGB', (9, 9)).save(path, 'GIF'),
     'Images must be JPEG, PNG, WebP, BMP or TIFF: {} is GIF; save it as PNG.'),
    (lambda path: path.write_text('no image'), 'Every image must be readable: {} is not (UnidentifiedImageError'),
    (lambda path: Image.fromarray(np.full((40, 40), 256, np.uint16)).save(path), 'must have 8 bits a channel: {}'),
], ids=['pixels', 'bomb', 'eps', 'gif', 'text', 'deep'])
def test_what_is_refused(make, message, tmp_path):
    path = tmp_path / 'a.png'
    make(path)
    with pytest.raises(ValueError) as error:
        answerer('segmentation', tmp_path)(path)
    assert message.format(path) in str(error.value) and '\n' not in str(error.value)


def test_bands_that_the_model_does_not_take(photo, tmp_path):
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, in_channels=4).eval()
    with pytest.raises(ValueError, match='as the model has channels, 4: .*photo.png has 3; take images with 4 bands'):
        Answerer(Predictor(model), 10_000, tmp_path)(photo)
