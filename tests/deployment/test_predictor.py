"""`Predictor` on networks whose results are known, and on trained ones."""
import csv
import io

import numpy as np
import pytest
import timm
import torch
from networks import COLORS, Brightest, brightest
from PIL import ExifTags, Image
from torch import nn
from torchvision import tv_tensors
from trained import trained_run

import rexnet_timm
from rexnet_timm.data.description import DataDescription
from rexnet_timm.deployment.load import describe, load_model
from rexnet_timm.deployment.predict import Prediction, Predictor, predict, read_any

PIXELS = np.array([[[9, 0, 0], [0, 9, 0], [0, 0, 9]], [[90, 91, 5], [5, 6, 7], [255, 0, 254]]], dtype=np.uint8)
MASK = [[0, 1, 2], [1, 2, 0]]


@pytest.mark.parametrize('make', [
    lambda path: PIXELS, lambda path: Image.fromarray(PIXELS), lambda path: torch.from_numpy(PIXELS).permute(2, 0, 1),
    lambda path: path, str], ids=['array', 'pil', 'tensor', 'path', 'str'])
def test_a_mask_by_hand(make, tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(PIXELS).save(path)
    result = predict(brightest(), make(path))
    assert result.mask.dtype == np.uint8 and result.mask.tolist() == MASK
    expected = (torch.from_numpy(PIXELS).float() / 255 / 0.1).softmax(-1).permute(2, 0, 1).numpy()
    assert result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities, expected, rtol=1e-5)
    assert result.depth is None and result.scores is None


def test_a_notebook_shows_the_overlay():
    result = predict(brightest(), PIXELS)
    assert repr(result) == '<Prediction of segmentation, 3 x 2>'
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.format == 'PNG' and np.array_equal(np.array(shown), np.array(result.overlay()))
    scores = np.array([0.25, 0.75], np.float32)
    classes = Prediction(
        result.image, DataDescription(task='classification', class_names=('a', 'b')), 2, scores=scores)
    assert repr(classes) == '<Prediction of classification, 3 x 2, b 0.75, a 0.25>' and classes._repr_png_() is None


def test_mean_std_and_range_are_those_of_the_data():
    class Seen(Brightest):
        def forward(self, x):
            self.seen = x
            return x

    model = describe(Seen(), DataDescription(mean=(0.1, 0.2, 0.3), std=(1., 2., 4.), value_range=(-1., 1.)))
    predict(model, np.full((40, 40, 3), 51, np.uint8))
    torch.testing.assert_close(model.seen[0, :, 5, 5], torch.tensor([-0.7, -0.4, -0.225]))


def test_a_model_that_takes_uint8_gets_it():
    class Exported:
        description = DataDescription(mean=(0.,), std=(1.,))
        takes_uint8 = True

        def __call__(self, x):
            assert x.dtype == torch.uint8
            return x.float()

    assert predict(Exported(), PIXELS).mask.tolist() == MASK


def test_a_file_of_one_size_gets_that_size():
    class Fixed(Brightest):
        size = (40, 48)

        def forward(self, x):
            assert tuple(x.shape[-2:]) == self.size
            return x

    model = describe(Fixed(), DataDescription(mean=(0.,), std=(1.,)))
    for size in ((3, 5), (40, 48), (100, 60)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        chosen = np.take_along_axis(pixels, predict(model, pixels).mask[..., None], -1)[..., 0]
        assert np.array_equal(chosen, pixels.max(-1))


def test_a_file_that_returns_classes():
    class Classes(Brightest):
        returns_classes = True

        def forward(self, x):
            return x.argmax(1).to(torch.uint8)

    model = describe(Classes(), DataDescription(mean=(0.,), std=(1.,)))
    result = Predictor(model, tile=32, flips=('h',))(np.tile(PIXELS, (40, 1, 1)))
    assert result.mask.tolist() == MASK * 40 and result.probabilities is None
    model.description = DataDescription('classification')
    with pytest.raises(ValueError, match='export it with logits'):
        Predictor(model)


def test_one_logit_is_a_binary_mask():
    class Red(nn.Module):
        num_classes = 1

        def forward(self, x):
            return x[:, :1]

    model = describe(Red(), DataDescription(mean=(0.5,), std=(1.,)))
    pixels = np.array([[[127, 255, 255], [128, 0, 0]]], dtype=np.uint8)  # just below and above the mean
    assert predict(model, pixels).mask.tolist() == [[0, 1]]


def test_images_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter clockwise
    Image.fromarray(PIXELS).save(tmp_path / 'a.png', exif=exif)
    expected = np.rot90(MASK, -1).tolist()
    assert predict(brightest(), tmp_path / 'a.png').mask.tolist() == expected
    with Image.open(tmp_path / 'a.png') as image:
        assert predict(brightest(), image).mask.tolist() == expected


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK'])
def test_every_mode_is_read_as_a_file_of_it(mode, tmp_path):
    image = Image.fromarray(PIXELS).convert(mode)
    ending = 'tif' if mode == 'CMYK' else 'png'
    image.save(tmp_path / f'a.{ending}')
    for in_chans in (1, 3):
        assert torch.equal(read_any(image, in_chans), read_any(tmp_path / f'a.{ending}', in_chans))
    assert read_any(np.asarray(image.convert('L')), 3).shape == (3, 2, 3)


@pytest.mark.parametrize('image, in_chans, text', [
    (PIXELS.astype(np.float32), 3, 'uint8 array'), (PIXELS[:0], 3, 'uint8 array'), (torch.zeros(3, 4, 4), 3, 'uint8 t'),
    (PIXELS, 4, 'takes 4 channels'), (PIXELS, 5, 'takes 5 channels'), (PIXELS[..., :2], 3, 'image with 2'),
    ('a.png', 5, 'a.png is not'), (None, 3, 'got NoneType'), (Image.new('I;16', (4, 4)), 3, '8 bits a channel')])
def test_what_is_no_image_is_refused(image, in_chans, text):
    with pytest.raises(ValueError, match=text):
        read_any(image, in_chans)


def test_five_channels_come_as_an_array():
    pixels = np.zeros((4, 4, 5), np.uint8)
    pixels[..., 4] = 9
    model = brightest(in_chans=5, class_names=(), colors=())
    assert predict(model, pixels).mask.tolist() == [[4] * 4] * 4


def test_images_of_other_bits_are_scaled_as_in_training(tmp_path):
    class Seen(Brightest):
        def forward(self, x):
            self.seen = x
            return x

    model = describe(Seen(), DataDescription(
        in_chans=2, bands=(3, 1), image_scale=((100, 300), (0, 1000)), mean=(0.5, 0.25), std=(0.5, 2.)))
    assert model.preprocessing['bands'] == [3, 1] and model.preprocessing['image_scale'] == [[100, 300], [0, 1000]]
    stored = np.zeros((40, 40, 3), np.uint16)
    stored[..., 0], stored[..., 2] = 600, 250
    np.save(tmp_path / 'a.npy', stored)
    # by hand: (250 - 100) / 200 = 0.75 and 0.6
    expected = torch.tensor([(0.75 - 0.5) / 0.5, (0.6 - 0.25) / 2])
    channels = stored[..., [2, 0]]  # in memory they are those of the model
    for image in (tmp_path / 'a.npy', channels, channels.astype(np.float64), torch.from_numpy(
            channels.astype(np.int32)).permute(2, 0, 1)):
        result = predict(model, image)
        torch.testing.assert_close(model.seen[0, :, 5, 5], expected)
        assert result.image.dtype == torch.uint8 and result.image[:, 5, 5].tolist() == [191, 153]
    scaled = read_any(channels, **model.description.reading)
    predict(model, tv_tensors.Image(scaled))  # a second time nothing is scaled
    torch.testing.assert_close(model.seen[0, :, 5, 5], expected)
    with pytest.raises(ValueError, match='have the bits of the others, whose values go up to 1000: an image'):
        predict(model, channels.astype(np.uint8))
    with pytest.raises(ValueError, match='The model takes 2 channels, got an image with 3'):
        predict(model, stored)
    with pytest.raises(ValueError, match='come as array .H, W. or .H, W, channels. of values as those of the training'):
        predict(model, np.zeros(4))


def test_deep_pictures_of_pillow(tmp_path):
    model = brightest(in_chans=1, class_names=(), colors=(), image_scale=65535, mean=(0,), std=(1,))
    pixels = np.full((4, 4), 13107, np.uint16)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    for image in (pixels, Image.fromarray(pixels), tmp_path / 'a.png', Image.fromarray(pixels.astype(np.float32))):
        torch.testing.assert_close(read_any(image, **model.description.reading), torch.full((1, 4, 4), 0.2))


@pytest.mark.parametrize('size', [(1, 1), (1, 200), (70, 3), (150, 130)])
def test_views_give_the_same_mask_of_any_size(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    model = brightest()
    whole = predict(model, pixels)
    chosen = np.take_along_axis(pixels, whole.mask[..., None], -1)[..., 0]
    assert np.array_equal(chosen, pixels.max(-1))
    tiled = Predictor(model, tile=64, flips=('h', 'v', 'hv'))(pixels)
    assert tiled.mask.shape == size
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-5)
    assert np.array_equal(Predictor(model, tile=64, keep_probabilities=False)(pixels).mask, whole.mask)
    assert Predictor(model, keep_probabilities=False)(pixels).probabilities is None


def test_the_mask_is_written_with_its_palette(tmp_path):
    predict(brightest(), PIXELS).save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        assert image.mode == 'P' and np.array(image).tolist() == MASK
        assert np.array(image.convert('RGB')).tolist() == np.array(COLORS)[np.array(MASK)].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_a_mask_of_many_classes_has_16_bits(tmp_path):
    class Many(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(x[:, 0].long(), 300).movedim(-1, 1).float()

    model = describe(Many(), DataDescription(mean=(0.,), std=(1 / 299.5,)))
    result = predict(model, np.array([[[0] * 3, [254] * 3]], dtype=np.uint8))
    assert result.mask.dtype == np.uint16 and result.mask.tolist() == [[0, 298]]
    result.save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        assert np.array(image).tolist() == [[0, 298]]
    assert result.overlay().size == (2, 1)


def test_probabilities_are_written(tmp_path):
    result = predict(brightest(), PIXELS)
    result.save(tmp_path / 'a.npy')
    assert np.array_equal(np.load(tmp_path / 'a.npy'), result.probabilities)


@pytest.mark.parametrize('alpha', [0, 0.5, 1])
def test_the_overlay_is_a_blend(alpha):
    result = predict(brightest(), PIXELS)
    expected = PIXELS * (1 - alpha) + np.array(COLORS)[np.array(MASK)] * alpha
    assert np.abs(np.array(result.overlay(alpha)) - expected).max() <= 1


def test_classes_that_are_not_asked_for_stay_unpainted():
    result, mask = predict(brightest(), PIXELS), np.array(MASK)
    expected = np.where((mask == 1)[..., None], PIXELS, np.array(COLORS)[mask])
    assert np.array_equal(np.array(result.overlay(1, classes=(0, 2))), expected)
    assert np.array_equal(np.array(result.overlay(0.7, classes=())), PIXELS)
    assert np.array_equal(np.array(result.picture()), PIXELS)


@pytest.mark.parametrize('names, unpainted', [
    (('red', 'green', 'blue'), ()), (('Background', 'green', 'blue'), (0,)), (('red', 'green', '_background_'), (2,)),
    ((), ())])
def test_the_background_stays_unpainted_and_has_no_name_in_the_legend(names, unpainted):
    result, mask = predict(brightest(class_names=names, colors=COLORS if names else ()), PIXELS), np.array(MASK)
    colors = result.description.palette(3)
    expected = np.where(np.isin(mask, unpainted)[..., None], PIXELS, colors[mask])
    assert np.array_equal(np.array(result.overlay(1)), expected)
    assert np.array_equal(np.array(result.overlay(1, classes=range(3))), colors[mask])
    legend = np.array(result.overlay(1, legend=True))[len(MASK):].reshape(-1, 3).tolist()
    assert [color in legend for color in colors.tolist()] == [index not in unpainted for index in range(3)]


def test_colours_of_very_many_classes_repeat():
    mask = np.array([[3, 1027, 1500]], np.uint16)  # of which the first two have one colour
    result = Prediction(torch.zeros(3, 1, 3, dtype=torch.uint8), DataDescription(), 2000, mask=mask)
    colors = np.array(result.overlay(1, classes=(1027,)))
    assert colors[0, 1].tolist() == result.description.palette(1024)[3].tolist()
    assert not colors[0, 0].any() and not colors[0, 2].any()
    assert result.overlay(legend=True).height > 1


@pytest.mark.parametrize('names, expected', [
    ((), {0}), (('no crack', 'crack'), {0}), (('pet', 'background'), {1}), (('void', 'background'), {0, 1})])
def test_of_two_classes_one_is_the_background(names, expected):
    assert DataDescription(class_names=names).background(2) == expected


def test_what_cannot_be_written_is_refused(tmp_path):
    result = predict(brightest(), PIXELS)
    for path, text in (
            ('a.jpg', 'ends in .png, .npy'), ('a.csv', 'ends in .png, .npy'), ('a.tif', 'Predictor.write makes')):
        with pytest.raises(ValueError, match=text):
            result.save(tmp_path / path)
    with pytest.raises(ValueError, match='keep_probabilities=True'):
        Predictor(brightest(), keep_probabilities=False)(PIXELS).save(tmp_path / 'a.npy')
    with pytest.raises(ValueError, match='alpha must be'):
        result.overlay(2)
    assert not list(tmp_path.iterdir())


class Disparity(nn.Module):
    """Depth from red, at half the size: 1 / depth runs from 1 / 80 m (black) to 1 / 0.5 m."""

    def forward(self, x):
        return {('disp', 2): x[:, :1, ::4, ::4], ('disp', 1): x[:, :1, ::2, ::2]}


def depth_model() -> nn.Module:
    return describe(Disparity(), DataDescription('depth', mean=(0.,), std=(1.,), min_depth=0.5, max_depth=80.))


def test_depth_by_hand(tmp_path):
    pixels = np.zeros((34, 41, 3), np.uint8)
    pixels[:, 20:] = 51
    result = predict(depth_model(), pixels)
    near = 1 / (1 / 80 + 0.2 * (1 / 0.5 - 1 / 80))
    assert result.depth.shape == (34, 41) and result.depth.dtype == np.float32
    np.testing.assert_allclose(result.depth[:, :18], 80, rtol=1e-5)
    np.testing.assert_allclose(result.depth[:, 23:40], near, rtol=1e-5)
    for name in ('a.png', 'a.tif', 'a.npy'):
        result.save(tmp_path / name)
    with Image.open(tmp_path / 'a.png') as image:
        millimetres = np.array(image)
        assert image.text['Description'] == 'depth in millimetres'
    assert millimetres[0, 30] == round(near * 1000) and millimetres[0, 0] == 65535
    with Image.open(tmp_path / 'a.tif') as image:
        assert image.mode == 'F' and np.array_equal(np.array(image), result.depth)
    overlay = np.array(result.overlay(1)).astype(int)
    assert overlay[0, 30].sum() > overlay[0, 0].sum()


def test_tiles_and_flips_of_depth():
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    whole = predict(depth_model(), pixels).depth
    np.testing.assert_allclose(Predictor(depth_model(), tile=64)(pixels).depth, whole, rtol=1e-4)
    for arguments, text in ((dict(flips=('v',)), "only be 'h'"), (dict(zooms=(1., 2.)), 'zooms are for masks')):
        with pytest.raises(ValueError, match=text):
            Predictor(depth_model(), **arguments)


def test_classes_are_those_of_timms_transform(tmp_path):
    model = load_model(trained_run('classification'))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    transform = timm.data.create_transform(
        (3, 32, 32), mean=model.description.mean, std=model.description.std,
        interpolation=model.description.interpolation, crop_pct=model.description.crop_pct)
    with torch.no_grad():
        expected = model(transform(image)[None]).softmax(1)[0]
    result = predict(model, image)
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    assert result.top()[0] == (['bright', 'dark'][expected.argmax()], pytest.approx(float(expected.max())))
    result.save(tmp_path / 'a.csv')
    with open(tmp_path / 'a.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['class'] for row in rows] == [name for name, _ in result.top()]
    with pytest.raises(ValueError, match='a classifier sees a whole image'):
        Predictor(model, tile=64)


@pytest.mark.parametrize('task, channels', [('segmentation', 6), ('depth', 0)])
def test_trained_networks_predict(task, channels):
    model = load_model(trained_run(task)).train()
    result = rexnet_timm.predict(model, np.zeros((33, 50, 3), np.uint8))
    assert isinstance(result, Prediction) and not model.training
    if task == 'depth':
        assert result.depth.shape == (33, 50) and 0.5 <= result.depth.min() <= result.depth.max() <= 80
    else:
        assert result.mask.shape == (33, 50) and result.probabilities.shape == (channels, 33, 50)
        assert 'class' in result.class_name(1) or result.class_name(1) in model.class_names
