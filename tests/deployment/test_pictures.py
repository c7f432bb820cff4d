import numpy as np
import pytest
import torch
from PIL import Image

from rexnet_timm.deployment.pictures import (
    IGNORED_COLOR,
    MARGIN,
    TEXT_SIZE,
    colorize_depth,
    confusion_picture,
    error_map,
    sample_sheet,
    to_picture,
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
