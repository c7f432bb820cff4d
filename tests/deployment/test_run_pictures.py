"""Pictures of a run while it trains: they show what the network says, and change nothing of the run."""
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from trained import trained_run

import rexnet_timm
from rexnet_timm.data import SyntheticDepth, SyntheticShapes
from rexnet_timm.deployment import run_pictures
from rexnet_timm.deployment.curves import LEFT, RIGHT, WIDTH, progress_picture
from rexnet_timm.deployment.pictures import MARGIN, TEXT_SIZE
from rexnet_timm.deployment.run_pictures import TILE, RunPictures, default_interval, spread

LINE = TEXT_SIZE + 2 * MARGIN


class Odd(Dataset):
    """Masks on images of a size that no scale divides."""

    def __init__(self) -> None:
        self.shapes = SyntheticShapes(3, image_size=(75, 117), seed=4)
        self.transform = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int):
        sample = self.shapes[index]
        return sample if self.transform is None else self.transform(*sample)


class Classes(Dataset):
    """One picture under both classes, so that every network guesses right and wrong."""

    transform = None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        return Image.new('RGB', (40, 30), (160,) * 3), index % 2


def summary(folder, epochs: int = 1) -> None:
    rows = [f'{epoch},{3 - epoch},2.5,{10 + epoch},0.1' for epoch in range(epochs)]
    (folder / 'summary.csv').write_text('\n'.join(['epoch,train_loss,eval_loss,eval_miou,lr', *rows]) + '\n')


def drawn(task: str, dataset, folder) -> np.ndarray:
    """The sheet of a trained model on a data set."""
    summary(folder)
    model = rexnet_timm.load_model(trained_run(task))
    pictures = RunPictures(folder, dataset, model.description, 1, 1)
    shown = pictures.draw(0, model)
    sheet = np.array(Image.open(folder / 'predictions' / 'epoch-0.png'))
    assert np.array_equal(sheet, np.array(shown['predictions']))
    assert Image.open(folder / 'progress.png').size == shown['progress'].size
    return sheet


def tile(sheet: np.ndarray, row: int, column: int, height: int) -> np.ndarray:
    top, left = LINE + row * (LINE + height) + LINE, MARGIN + column * (TILE + MARGIN)
    return sheet[top:top + height, left:left + TILE]


def test_masks_and_every_scale_are_those_of_the_network(tmp_path):
    dataset = Odd()
    dataset.transform = lambda image, mask: pytest.fail('the transform of the loader is left out')
    sheet = drawn('segmentation', dataset, tmp_path)
    model = rexnet_timm.load_model(trained_run('segmentation'))
    palette = model.description.palette(6)
    height = round(TILE * 75 / 117)
    rows, columns = (np.arange(height) + 0.5) * 75 / height, (np.arange(TILE) + 0.5) * 117 / TILE
    image, target = dataset.shapes[1]
    mask = rexnet_timm.predict(model, image.as_subclass(torch.Tensor)).mask
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.description.mean, model.description.std))
    with torch.no_grad():
        scales = model.forward_scales(((image / 255 - mean) / std)[None])
    maps = [target.numpy(), mask, *(scales[scale][0].argmax(0).numpy() for scale in (1, 2, 3, 4))]
    for column, (labels, scale) in enumerate(zip(maps, (0, 0, 1, 2, 3, 4), strict=True), 1):
        expected = palette[labels[np.ix_((rows / 2 ** scale).astype(int), (columns / 2 ** scale).astype(int))]]
        found = tile(sheet, 1, column, height)
        assert (found == expected).all(-1).mean() > 0.999, column  # one pixel may lie on an edge


def test_depth_and_every_scale_have_a_tile(tmp_path):
    sheet = drawn('depth', SyntheticDepth(2, (64, 96)), tmp_path)
    assert sheet.shape == (LINE + 2 * (LINE + round(TILE * 64 / 96)), 6 * (TILE + MARGIN) + MARGIN, 3)


def test_classes_have_truth_and_guess(tmp_path):
    sheet = drawn('classification', Classes(), tmp_path)
    green, red = ((sheet == color).all(-1).any() for color in ((26, 127, 55), (180, 35, 24)))
    assert green and red
    assert (sheet == 160).all(-1).sum() > 100 * 70


def test_a_stream_has_curves_only(tmp_path, caplog):
    caplog.set_level('INFO')

    class Stream(IterableDataset):
        def __iter__(self):
            pytest.fail('nothing is read')

    summary(tmp_path)
    pictures = RunPictures(tmp_path, Stream(), rexnet_timm.load_model(trained_run('segmentation')).description, 1, 1)
    pictures.begin()
    assert list(pictures.draw(0, torch.nn.Identity())) == ['progress']
    assert 'a stream, and no pictures of predictions are drawn' in caplog.text
    assert not (tmp_path / 'predictions').exists()


def test_nothing_of_the_run_changes(tmp_path):
    model = rexnet_timm.load_model(trained_run('segmentation'))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    summary(tmp_path)
    dataset = Odd()
    dataset.transform = transform = object()
    RunPictures(tmp_path, dataset, model.description, 1, 1).draw(0, model)
    assert dataset.transform is transform
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.is_inference() for value in model.state_dict().values())


@pytest.mark.parametrize('epochs, every, number', [(1, 1, 1), (30, 1, 30), (31, 2, 16), (300, 10, 31), (1000, 34, 31)])
def test_a_long_run_has_no_more_sheets_than_a_short_one(epochs, every, number):
    assert default_interval(epochs) == every
    pictures = RunPictures('', [], None, every, epochs)
    due = [epoch for epoch in range(epochs) if pictures.is_due(epoch)]
    assert len(due) == number and due[0] == 0 and due[-1] == epochs - 1


def test_a_run_that_goes_on_keeps_the_pictures_before(tmp_path):
    folder = tmp_path / 'predictions'
    folder.mkdir()
    for name in ('epoch-3.png', 'epoch-4.png', 'epoch-10.png', '.12-epoch-4.png', 'mine.png'):
        (folder / name).touch()
    for name in ('.7-progress.png', 'progress.png'):
        (tmp_path / name).touch()
    RunPictures(tmp_path, [], None, 1, 20, start_epoch=4).begin()
    assert {path.name for path in folder.iterdir()} == {'epoch-3.png', 'mine.png'}
    assert [path.name for path in tmp_path.glob('*.png')] == ['progress.png'] and not list(tmp_path.glob('.7*'))
    RunPictures(tmp_path, [], None, 0, 20).begin()
    assert {path.name for path in folder.iterdir()} == {'mine.png'} and not (tmp_path / 'progress.png').exists()


def test_curves_of_a_damaged_summary(tmp_path):
    """What the report reads of it is drawn, and a run goes on without a picture where nothing is left of it."""
    summary(tmp_path, 3)
    with open(tmp_path / 'summary.csv', 'a') as file:
        file.write('1,x,2.5,,0.1\n3,0.5')
    pictures = RunPictures(tmp_path, None, None, 1, 3)
    drawn = pictures.draw(2, torch.nn.Identity())['progress']
    nan = float('nan')
    expected = progress_picture([0, 1, 2], {
        'train_loss': [3, nan, 1], 'eval_loss': [2.5] * 3, 'eval_miou': [10, nan, 12], 'lr': [0.1] * 3})
    assert drawn.tobytes() == expected.tobytes()
    (tmp_path / 'summary.csv').write_text('epoch,lr\nx\n')
    with pytest.raises(ValueError, match='must have the numbers of an epoch in each row, and none has: remove'):
        pictures.draw(2, torch.nn.Identity())


def test_the_fixed_images_are_spread_over_the_set():
    assert spread(101, 4) == [12, 37, 63, 88] and spread(3, 4) == [0, 1, 2] and spread(1, 16) == [0]


def test_many_classes_have_the_names_that_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(run_pictures, 'MOST_NAMES', 3)
    few = drawn('segmentation', Odd(), tmp_path)
    palette = rexnet_timm.load_model(trained_run('segmentation')).description.palette(6)
    legend = few[-(TEXT_SIZE + MARGIN):].reshape(-1, 3).tolist()
    assert sum(color in legend for color in palette.tolist()) == 3


def rows_of(picture: Image.Image, color: tuple[int, int, int], column: int) -> np.ndarray:
    return np.flatnonzero((np.array(picture)[70:, column].astype(int) - color).__abs__().max(-1) < 40) + 70


def test_curves_rise_and_fall_with_their_numbers():
    nan = float('nan')
    red, blue = (214, 70, 47), (47, 120, 196)
    columns = {'train_loss': [4., 3., 2., 1., 0.], 'eval_loss': [1., nan, nan, 3., 4.]}
    picture = progress_picture(list(range(5)), columns)
    assert picture.size[0] == WIDTH
    left, middle, right = LEFT + 7, (LEFT + WIDTH - RIGHT) // 2, WIDTH - RIGHT - 7
    places = [rows_of(picture, red, column).mean() for column in (left, middle, right)]
    assert places[0] < places[1] < places[2]
    assert places[1] == pytest.approx((places[0] + places[2]) / 2, abs=2)
    assert rows_of(picture, blue, left).mean() > rows_of(picture, blue, right).mean()
    assert rows_of(picture, blue, right).mean() == pytest.approx(places[0], abs=2)
    assert not len(rows_of(picture, blue, middle))  # where no number is, there is no line


def test_curves_of_any_numbers():
    for values in ([0.], [float('nan')], [1e-9, 1e9], [-1., -1.], [float('inf'), 2.]):
        columns = {f'{name}_{index}': values for index in range(60) for name in ('train_loss_scale', 'eval')}
        progress_picture(list(range(len(values))), {'train_loss': values, 'lr': values, **columns})
