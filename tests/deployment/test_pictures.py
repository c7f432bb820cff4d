import numpy as np
import pytest
import torch
from PIL import Image

from rexnet_timm.deployment.pictures import (
    IGNORED_COLOR,
    MARGIN,
    TEXT_SIZE,
    class_sheet,
    colorize_depth,
    confusion_picture,
    error_map,
    paint_over,
    sample_sheet,
    to_picture,
    with_legend,
    with_scale,
    worst_sheet,
)


@pytest.mark.parametrize('number', [2, 6, 150])
def test_the_confusion_of_right_predictions_is_a_dark_diagonal(number):
    names = [f'a long name of class {index}' for index in range(number)]
    picture = np.array(confusion_picture(np.eye(number) * 7, names)).astype(int)
    cell = max(2, min(52, 1200 // number))
    grid = picture[-8 - number * cell:-8, -8 - number * cell:-8][cell // 4::cell, cell // 4::cell]
    is_dark = grid.sum(-1) < 200
    assert np.array_equal(is_dark, np.eye(number, dtype=bool))


def test_a_class_without_pixels_is_left_empty():
    picture = np.array(confusion_picture(np.array([[0, 0], [1, 3]]), ['a', 'b']))
    row = picture[-8 - 2 * 52 + 26, -8 - 2 * 52:-8].astype(int)
    assert row.min() > 200


def test_errors_are_red_and_unlabelled_pixels_dark():
    picture = np.array(error_map(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 0, 9]]), 9))
    assert picture[0].tolist() == [[236, 236, 236], [214, 40, 40], [60, 60, 60]]


def test_near_is_light_and_what_has_no_depth_is_red():
    picture = np.array(colorize_depth(torch.tensor([[1., 4., 10., 0.]]), 1., 10.))
    assert picture[0, 0].tolist() == [255] * 3 and picture[0, 2].tolist() == [0] * 3
    assert 0 < picture[0, 1, 0] < 255 and picture[0, 3].tolist() == [90, 0, 0]


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_an_image_of_any_channels_is_shown(channels):
    image = torch.arange(channels * 6, dtype=torch.uint8).view(channels, 2, 3)
    pixels = np.array(to_picture(image))
    expected = image[:3] if channels >= 3 else image[:1].expand(3, -1, -1)
    assert np.array_equal(pixels, expected.permute(1, 2, 0).numpy())


def test_the_sheet_holds_images_of_any_size_below_each_other():
    rows = [(f'{size}', [Image.new('RGB', size, color) for color in ((255, 0, 0), (0, 0, 255))])
            for size in ((40, 20), (300, 600))]
    sheet = np.array(worst_sheet(('one', 'two'), rows, ['a'], np.array([(0, 255, 0)], dtype=np.uint8), width=100))
    for color, pixels in (((255, 0, 0), 100 * (50 + 200)), ((0, 0, 255), 100 * (50 + 200)), ((0, 255, 0), 14 * 14)):
        assert (sheet == color).all(-1).sum() == pixels
    assert sheet.shape[1] == 2 * 108 + 8


def test_samples_with_their_masks():
    image = torch.full((3, 30, 40), 200, dtype=torch.uint8)
    labels = torch.zeros(30, 40, dtype=torch.int64)
    labels[:, 20:], labels[:10, 20:] = 2, -1
    colors = np.array([(0, 0, 0), (0, 255, 0), (200, 0, 0)], np.uint8)
    sheet = np.array(sample_sheet([('a, 40 x 30', image, labels)], ['ground', 'unseen', 'car'], colors, width=40))
    line = TEXT_SIZE + 2 * MARGIN
    tiles = [sheet[2 * line:2 * line + 30, MARGIN + start:MARGIN + start + 40] for start in (0, 48, 96)]
    assert (tiles[0] == 200).all()
    assert (tiles[1][:, :20] == 0).all() and (tiles[1][20:, 20:] == (200, 0, 0)).all()
    assert (tiles[1][:10, 20:] == IGNORED_COLOR).all()
    assert np.abs(tiles[2].astype(int) - (tiles[0].astype(int) + tiles[1]) / 2).max() <= 1
    legend = sheet[2 * line + 30:].reshape(-1, 3).tolist()
    assert [200, 0, 0] in legend and list(IGNORED_COLOR) in legend and [0, 255, 0] not in legend
    deep = image.double() * 100 / 3
    deep[:, :, :5] = 0
    assert sample_sheet([('b', deep, labels)], ['ground', 'unseen', 'car'], colors).size[0] > 700


def test_what_is_not_painted_stays_as_it_is():
    picture = Image.new('RGB', (4, 1), (100, 100, 100))
    colors = np.array([(0, 0, 0), (200, 0, 0)], np.uint8)
    painted = np.array(paint_over(picture, torch.tensor([[0, 1, 1, 7]]), colors, 0.5, {0}))[0].tolist()
    assert painted == [[100] * 3, [150, 50, 50], [150, 50, 50], [80] * 3]
    assert np.array(paint_over(picture, np.array([[0, 1, 1, 7]]), colors, 1.))[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize('width', [20, 240, 3000])
@pytest.mark.parametrize('number', [1, 11, 40])
def test_a_legend_has_all_names_whole_below_the_picture(width, number):
    colors = np.array([(index, 200, 255 - index) for index in range(number)], np.uint8)
    picture = Image.new('RGB', (width, 30), (9, 9, 9))
    result = np.array(with_legend(picture, [f'a class {index}' for index in range(number)], colors))
    assert (result[:30, :width] == 9).all()
    below = result[30:].reshape(-1, 3)
    swatches = [int((below == color).all(-1).sum()) for color in colors]
    assert len(set(swatches)) == 1 and swatches[0] >= 9 * 9
    assert (result[30:, -4:] == 255).all()  # no name is cut at the right
    assert with_legend(picture, [], colors[:0]) is picture


def test_a_scale_runs_from_end_to_end():
    ramp = np.array([(0, 0, 0), (200, 0, 0)], np.uint8)
    result = np.array(with_scale(Image.new('RGB', (300, 20)), ramp, '1 m', '80 m'))
    row = result[20 + MARGIN + 5, 60:220, 0].astype(int)
    assert (np.diff(row) >= 0).all() and row[0] < 60 and row[-1] > 140
    assert with_scale(Image.new('RGB', (10, 20)), ramp, '1 m', '80 m').width > 80


def test_pictures_of_classes_stand_above_their_lines():
    cells = [(Image.new('RGB', (40, 20), (0, 0, 255)), [('truth: a', None), ('guess: ' + 'b' * 200, index == 0)])
             for index in range(5)]
    sheet = np.array(class_sheet(cells, columns=2, width=60))
    assert sheet.shape[1] == 2 * 68 + 8 and (sheet == (0, 0, 255)).all(-1).sum() == 5 * 60 * 30
    green, red = ((sheet == color).all(-1).sum() for color in ((26, 127, 55), (180, 35, 24)))
    assert red == 4 * green > 0
    assert (sheet[:, -MARGIN:] == 255).all()
