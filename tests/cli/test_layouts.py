"""Layouts and labels from training to prediction, each by one natural command, on miniatures of the true trees."""
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml
from PIL import Image
from running import summary

from rexnet_timm.__main__ import main
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.load import load_model
from rexnet_timm.deployment.predict import Prediction

SMALL = ('--model rexnetv1_unet_test --img-size 32 --batch-size 2 --workers 0 --opt adamw --lr 5e-3 --warmup-epochs 0 '
         '--device cpu --experiment run').split()


def train(data: Path, tmp_path: Path, *words: str, epochs: int = 1) -> int:
    return main(['train', str(data), *SMALL, '--epochs', str(epochs), '--output', str(tmp_path), *words])


def binary_pngs(root: Path) -> Path:
    return trees.beside(root, '{split}/images/{name}.jpg', '{split}/masks/{name}.png',
                        lambda classes: classes * np.uint8(255), number=2)


def colored_masks(root: Path) -> Path:
    trees.beside(root, 'train/images/{name}.jpg', 'train/masks/{name}.png', trees.COLORS.__getitem__, ('train',))
    trees.beside(root, 'val/images/{name}.jpg', 'val/masks/{name}.png', trees.COLORS.__getitem__, ('val',))
    trees.write(root / 'colors.txt', 'animal,64,128,64\narchway,192,0,128\nground,0,0,0\n')
    return root


# the tree, the options beside it, the classes of the report, and a line of the log
BARS = {
    'binary': (binary_pngs, ['--num-classes', '1'], ['background', 'foreground'],
               'folders, 4 images to train on and 4 to validate on; 2 classes, 255 is the foreground'),
    'voc': (trees.voc, [], ['background', 'cat', 'person'],
            r'voc, 4 images .*; 21 classes \(background, aeroplane, .*\), label 255 is ignored'),
    'cityscapes': (trees.cityscapes, [], ['road', 'car', 'person'],
                   r'cityscapes, 4 images to train on and 3 .*; 19 classes \(road, .*\), labels are mapped to them by '
                   'cityscapes'),
    'colours': (colored_masks, ['--color-map', 'colors.txt'], ['animal', 'archway', 'ground'],
                r'folders, .*; 3 classes \(animal, archway, ground\), 3 colours are mapped to them'),
    'coco': (trees.coco, [], ['background', 'car', 'dog'], 'coco, 4 images .*; 3 classes'),
}


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name == 'cityscapes' else pytest.mark.slow) for name in BARS])
def test_one_command_trains_and_the_rest_follows(name, tmp_path, caplog, monkeypatch):
    make, words, classes, told = BARS[name]
    data = make(tmp_path / 'set')
    monkeypatch.chdir(data)
    epochs = 1 if name == 'cityscapes' else 8
    with caplog.at_level('INFO'):
        assert train(data, tmp_path, *words, epochs=epochs) == 0
    assert any(re.search(told, message) for message in caplog.messages), caplog.messages
    row = summary(tmp_path / 'run')[-1]
    scores = {key: float(row[f'eval_iou_{key}']) for key in classes}
    assert all(0 <= score <= 100 for score in scores.values())
    others = [float(value) for key, value in row.items() if key.startswith('eval_iou_')
              and key.removeprefix('eval_iou_') not in classes]
    assert all(value != value or value == 0 for value in others)  # nothing of these is in the masks
    assert len(others) == {'voc': 18, 'cityscapes': 16}.get(name, 0)
    if epochs > 1:
        first = summary(tmp_path / 'run')[0]
        assert float(row['train_loss']) < float(first['train_loss'])

    # nothing is typed again
    assert main(['validate', str(data), '--checkpoint', str(tmp_path / 'run'), '--split', 'val', '--device', 'cpu',
                 '--workers', '0']) == 0
    results = json.loads((tmp_path / 'run' / 'validate-val' / 'results.json').read_text())
    best = max(float(row['eval_miou']) for row in summary(tmp_path / 'run'))
    assert results['miou'] == pytest.approx(best, abs=1e-3) and results['images'] in (3, 4)
    assert set(classes) <= set(results['classes'])


def kitti(path: Path, metres: np.ndarray) -> None:
    Image.fromarray(np.rint(metres * 256).astype(np.uint16)).save(path)


DEPTH = ('--model rexdepth --rex-width-mult 0.25 --rex-depth-mult 0.2 --input-size 3 32 64 --min-depth 1 --max-depth '
         '80 --batch-size 2 --workers 0 --opt adamw --lr 5e-3 --warmup-epochs 0 --device cpu --experiment run').split()


def test_depth_trains_by_one_command_and_the_rest_follows(tmp_path, caplog):
    data = trees.depth(tmp_path / 'set', 'image_2/{split}/{name}.png', 'gt/{split}/{name}.png', kitti, size=(60, 128))
    words = ['--image-dir', 'image_2/{split}', '--depth-dir', 'gt/{split}', '--depth-scale', '256']
    run, files = tmp_path / 'run', ['--epochs', '2', '--output', str(tmp_path)]
    with caplog.at_level('INFO'):
        assert main(['train', str(data), *DEPTH, *words, *files]) == 0
    assert re.search(r'with depth \(256 for a metre\), 3 images to train on and 3 to validate on; 3 depth maps looked '
                     r'at have 2 to 60 m at \d+\.\d% of the pixels, 100% of that from 1 to 80 m', caplog.text)
    assert float(summary(run)[-1]['eval_rmse']) < 60
    description = load_model(run).description
    assert description.depth_scale == 256 and description.layout['mask_dir'] == 'gt/{split}'

    common = ['--checkpoint', str(run), '--device', 'cpu']
    assert main(['validate', str(data), '--split', 'val', '--workers', '0', *common]) == 0
    results = json.loads((run / 'validate-val' / 'results.json').read_text())
    image = data / 'image_2' / 'val' / 'val00.png'
    assert main(['predict', str(image), '--output', str(tmp_path / 'out'), '--depth-format', 'tiff', *common]) == 0
    depth = np.array(Image.open(tmp_path / 'out' / 'val00.tif'))
    truth = np.rint(trees.depth_picture(100, (60, 128))[1] * 256) / 256
    error = np.abs(depth - truth)[truth > 0] / truth[truth > 0]
    with open(run / 'validate-val' / 'per_image.csv') as file:
        row = next(csv.DictReader(file))
    assert row['image'] == 'val00.png' and float(row['abs_rel']) == pytest.approx(error.mean(), rel=2e-3)
    assert results['images'] == 3


@pytest.mark.parametrize('words, message', [
    ([], 'needs its unit: .* has values up to 15360 of 16 bits; pass --depth-scale 256 where they are those of KITTI'),
    (['--depth-scale', '0'], '--depth-scale must be above 0, got 0.0'),
    (['--depth-scale', '256', '--data-format', 'voc'], "--data-format must be folders, or left out, .* got 'voc'"),
    (['--depth-scale', '256', '--depth-dir', 'd/{split}'], 'belong together, got only --mask-dir'),
])
def test_mistakes_with_depth_files_end_with_one_line(words, message, tmp_path, capsys):
    data = trees.depth(tmp_path / 'set', '{split}/images/{name}.png', '{split}/depth/{name}.png', kitti)
    assert main(['train', str(data), *DEPTH, '--output', str(tmp_path), *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def predicted(run: Path, image: Path, output: Path, *words: str) -> Image.Image:
    common = ['--checkpoint', str(run), '--output', str(output), '--device', 'cpu']
    assert main(['predict', str(image), *common, *words]) == 0
    return Image.open(output / image.with_suffix('.png').name)


def test_original_labels_of_a_map(tmp_path, monkeypatch):
    data = trees.beside(tmp_path / 'set', 'train/images/{name}.png', 'train/masks/{name}.png',
                        lambda classes: np.array([3, 200, 9], np.uint8)[classes], ('a',))
    trees.write(data / 'map.txt', '3: 0\n200: 1\n')
    words = ['--label-map', str(data / 'map.txt'), '--val-share', '0.25']
    assert train(data, tmp_path, *words) == 0
    run, image = tmp_path / 'run', data / 'train' / 'images' / 'a00.png'
    saved = yaml.safe_load((run / 'args.yaml').read_text())
    assert saved['num_classes'] == 2 and saved['val_share'] == 0.25
    description = load_model(run).description
    assert description.label_map == ((3, 0), (200, 1)) and description.layout == {'val_share': 0.25}
    classes = predicted(run, image, tmp_path / 'classes')
    labels = predicted(run, image, tmp_path / 'labels', '--original-labels')
    assert labels.mode == classes.mode == 'P'
    assert np.array_equal(np.array(labels), np.array([3, 200], np.uint8)[np.array(classes)])
    assert np.array_equal(np.array(labels.convert('RGB')), np.array(classes.convert('RGB')))  # the same colours
    # what was written reads as the masks of the training data
    assert not set(np.unique(labels)) - {3, 200}
    assert main(['predict', str(image), '--checkpoint', str(run), '--output', str(tmp_path / 'x'), '--output-type',
                 'overlay', '--original-labels']) == 2


def test_original_colours_and_values(tmp_path):
    mask = trees.picture(0)[1]

    def written(**options) -> np.ndarray:
        description = DataDescription(**options)
        Prediction(None, description, 3, mask=mask).save(tmp_path / 'a.png', original_labels=True)
        return np.array(Image.open(tmp_path / 'a.png'))

    colors = tuple((tuple(color), index) for index, color in enumerate(trees.COLORS.tolist()))
    assert np.array_equal(written(color_map=colors), trees.COLORS[mask])
    swapped = written(color_map=colors, label_map=((2, 0), (1, 1), (0, 2)))
    assert np.array_equal(swapped, trees.COLORS[2 - mask])
    assert np.array_equal(written(label_map=((0, 0), (300, 1), (7, 2))), np.array([0, 300, 7])[mask])
    assert np.array_equal(written(foreground=1), mask)
    with pytest.raises(ValueError, match='from 0 to 65535 to be written, .* has -1: leave out original_labels'):
        written(label_map=((-1, 0), (1, 1), (2, 2)))


def test_a_validation_with_other_labels(tmp_path, capsys):
    """The masks of the training are 0 and 255, those of another folder 0 and 1, or need a map."""
    assert train(binary_pngs(tmp_path / 'set'), tmp_path, '--num-classes', '1') == 0
    run, rows = tmp_path / 'run', {}
    for name, values, words in (
            ('255', (0, 255), []), ('1', (0, 1), []), ('map', (5, 7), ['--label-map', '5:0', '7:1'])):
        data = trees.beside(tmp_path / name, 'val/images/{name}.jpg', 'val/masks/{name}.png',
                            lambda classes, values=values: np.array(values, np.uint8)[classes], ('val',), number=2)
        file = tmp_path / f'{name}.csv'
        assert main(['validate', str(data), '--checkpoint', str(run), '--split', 'val', '--device', 'cpu', '--workers',
                     '0', '--results-dir', str(tmp_path / f'of-{name}'), '--results-file', str(file), *words]) == 0
        with open(file) as table:
            rows[name] = next(csv.DictReader(table))['miou']
    assert len(set(rows.values())) == 1, rows
    capsys.readouterr()
    assert main(['validate', str(tmp_path / 'map'), '--checkpoint', str(run), '--split', 'val', '--device', 'cpu']) == 2
    assert "pass --label-map '5:0 7:1' if these are all labels" in capsys.readouterr().err


@pytest.mark.parametrize('words, text', [
    ([], '--num-classes is needed for segmentation'), (['--label-map', 'cityscape'], 'Did you mean cityscapes'),
    (['--label-map', '0:0', '255'], "--label-map must be pairs such as '0:0 255:1'"),
    (['--color-map', 'gone.txt'], "--color-map must be a file with a class in each line"),
    (['--data-format', 'vok'], "--data-format must be one of auto, shards, voc"),
    (['--image-dir', 'x'], '--image-dir and --mask-dir belong together, got only --image-dir: pass --mask-dir too'),
    (['--data-format', 'voc'], 'must have JPEGImages, SegmentationClass and ImageSets/Segmentation'),
    (['--num-classes', '3'], 'pass --num-classes 1 if the masks are binary'),
    (['--num-classes', '1', '--val-share', '0.2'], "--val-share is for data without a split for validation"),
])
def test_mistakes_end_with_one_line(words, text, tmp_path, capsys):
    assert train(binary_pngs(tmp_path / 'set'), tmp_path, *words) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
    assert len(error) == 1 and text in error[0], error


def test_a_pair_of_templates_trains(tmp_path, caplog):
    data = trees.cityscapes(tmp_path / 'set')
    (data / 'leftImg8bit').rename(data / 'left')
    words = ('--image-dir left/{split} --mask-dir gtFine/{split} --image-suffix _leftImg8bit.png '
             '--mask-suffix _gtFine_labelIds.png --label-map 7:0 26:1 24:2').split()
    assert train(data, tmp_path, *words) == 0
    assert '10.0% of the pixels of 4 masks have labels that the map does not list (1: 10.0%), and are ignored' \
        in caplog.messages
    assert main(['validate', str(data), '--checkpoint', str(tmp_path / 'run'), '--split', 'val', '--device', 'cpu',
                 '--workers', '0']) == 0
    assert any(message.startswith('10.0% of the pixels of 3 masks') for message in caplog.messages)


def test_a_map_of_ones_own_on_a_known_tree_is_followed(tmp_path):
    data = trees.cityscapes(tmp_path / 'set')
    assert train(data, tmp_path, '--label-map', '7:0', '26:1', '24:1') == 0
    assert load_model(tmp_path / 'run').description.class_names == ('class 0', 'class 1')
    assert main(['validate', str(data), '--checkpoint', str(tmp_path / 'run'), '--split', 'val', '--device', 'cpu',
                 '--workers', '0']) == 0
    results = json.loads((tmp_path / 'run' / 'validate-val' / 'results.json').read_text())
    assert sum(scores['pixels'] for scores in results['classes'].values()) == 3 * 36 * 48  # all but the bonnet


def test_options_on_files_are_told_where_nothing_reads_them(tmp_path, caplog):
    words = ['--dataset', 'synthetic', '--synthetic-images', '4', '--label-map', 'pet', '--data-format', 'voc']
    assert main(['train', *SMALL, '--epochs', '1', '--output', str(tmp_path), *words]) == 0
    assert {'--label-map has no effect with a built-in --dataset.', '--data-format has no effect with a built-in '
            '--dataset.'} <= set(caplog.messages)


@pytest.mark.parametrize('part, format, make', [
    ('gtFine', 'cityscapes', trees.cityscapes), ('leftImg8bit/train', 'cityscapes', trees.cityscapes),
    ('VOCdevkit/VOC2012/JPEGImages', 'voc', trees.voc)])
def test_a_part_of_a_data_set_is_told_the_whole(part, format, make, tmp_path, capsys):
    make(tmp_path / 'set')
    assert train(tmp_path / 'set' / part, tmp_path) == 2
    error = capsys.readouterr().err
    assert 'is a part of a data set' in error and f'is of the format {format}; pass that folder' in error
