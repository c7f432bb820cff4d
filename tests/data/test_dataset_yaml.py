"""`dataset.yaml`: every key, what is wrong with others, and the way from a description to a file and back."""
import os
import re
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml

from rexnet_timm.data import (
    DataDescription,
    DatasetError,
    Layout,
    SegmentationFolder,
    describe_data,
    write_dataset_yaml,
)
from rexnet_timm.data.formats import FORMATS, dataset_yaml

FULL = """
root: ../set                   # relative to this file
image-dir: pictures/{split}
mask_dir: truth/{split}
image_suffix: _i.png
mask_suffix: _m.png
class_names: {0: sky, 1: road}
colors: [[1, 2, 3], [4, 5, 6]]
ignore_index: 9
label_map: {0: 0, 2: 1}
"""


@pytest.fixture
def described(tmp_path):
    trees.beside(tmp_path / 'set', 'pictures/{split}/{name}_i.png', 'truth/{split}/{name}_m.png')
    return trees.write(tmp_path / 'about' / 'dataset.yaml', FULL)


@pytest.mark.parametrize('as_folder', [False, True])
def test_every_key_from_any_working_folder(described, as_folder, tmp_path, monkeypatch):
    monkeypatch.chdir('/')
    data = SegmentationFolder(described.parent if as_folder else described, 'train')
    assert data.class_names == ['sky', 'road'] and data.description.colors == ((1, 2, 3), (4, 5, 6))
    assert data.num_classes == 2 and data.ignore_index == 9 and len(data) == 4
    assert np.array_equal(data[0][1].numpy(), np.array([0, 255, 1])[trees.picture(0)[1]])
    assert data.description.layout == {
        'image_dir': 'pictures/{split}', 'mask_dir': 'truth/{split}', 'image_suffix': '_i.png', 'mask_suffix': '_m.png'}


def test_what_is_given_goes_before_the_file(described):
    data = describe_data(described, ignore_index=4, label_map='0:0 1:1 2:2')
    assert data.ignore_index == 4 and data.num_classes == 3 and data.class_names == ()
    with pytest.raises(DatasetError, match='no file ending in _x.png; correct mask_suffix'):
        SegmentationFolder(described, 'train', layout=Layout(mask_suffix='_x.png'))


def test_names_and_numbers_of_the_file_go_before_those_of_the_folder(tmp_path):
    trees.cityscapes(tmp_path)
    trees.write(tmp_path / 'classes.txt', 'a\nb\nc\n')
    trees.write(tmp_path / 'dataset.yaml', 'label_map: {7: 0, 24: 1, 26: 1}\nclass_names: [road, other]\n')
    data = SegmentationFolder(tmp_path, 'train')
    assert data.class_names == ['road', 'other'] and data.description.colors == ()
    trees.write(tmp_path / 'dataset.yaml', 'colors: [[1, 2, 3]]\n')
    with pytest.raises(DatasetError, match='one entry for each of the 3 class names: .*dataset.yaml has 1; correct'):
        describe_data(tmp_path)


def test_names_do_not_outlive_their_labels(tmp_path):
    """Another map of as many classes: their names are not those of the format."""
    trees.cityscapes(tmp_path)
    pairs = {label: index for index, label in enumerate(range(7, 26))}
    assert describe_data(tmp_path, label_map=pairs).class_names == ()
    assert describe_data(tmp_path, label_map='cityscapes').class_names[0] == 'road'
    trees.write(tmp_path / 'classes.txt', '\n'.join(f'mine {index}' for index in range(19)))
    assert describe_data(tmp_path, label_map=pairs).class_names[0] == 'mine 0'


def test_tables_beside_the_file(tmp_path):
    trees.beside(tmp_path, '{split}/images/{name}.png', '{split}/masks/{name}.png', trees.COLORS.__getitem__)
    trees.write(tmp_path / 'tables' / 'colors.csv', 'a,64,128,64\nb,192,0,128\nvoid,0,0,0\n')
    trees.write(tmp_path / 'dataset.yaml', 'color_map: tables/colors.csv\n')
    data = SegmentationFolder(tmp_path, 'train')
    assert data.class_names == ['a', 'b']
    assert np.array_equal(data[1][1].numpy(), np.array([0, 1, 255])[trees.picture(1)[1]])
    trees.write(tmp_path / 'dataset.yaml', 'label_map: cityscapes\n')
    assert describe_data(tmp_path).num_classes == 19


@pytest.mark.parametrize('text, message', [
    ('class_name: [a]', "has the keys root, data_format, .*yaml has 'class_name'. Did you mean class_names"),
    ('masks: x', "has 'masks'. Did you mean"), ('- a', 'must hold KEY: VALUE lines'), ('', 'must hold KEY'),
    ('root: [', 'must be YAML: .*dataset.yaml is not .*line'), ('root: nowhere', 'there is no .*nowhere; correct it'),
    ('root: 7', 'root must be a text: .* has 7; quote it'),
    ('ignore_index: none', "ignore_index must be a whole number, got 'none'"),
    ('class_names: {1: a}', r'must name the classes 0, 1, 2, ..., got \[1\]'),
    ('class_names: a', "must be a list of names, .* got 'a'"),
    ('class_names: [a, a]', r"each of its own, got \['a', 'a'\]"), ('colors: [1, 2]', r'list of \[red, green, blue\]'),
    ('{class_names: [a, b], colors: [[1, 2, 3]]}', 'one entry for each of the 2 class names: .*yaml has 1; correct'),
    ('image_dir: x', 'belong together, got only image_dir: pass mask_dir too'),
    ('{data_format: vok}', "got 'vok'. Did you mean voc"), ('val_share: 2', 'above 0 and below 1, got 2'),
    ('val_share: much', "val_share must be a number: .*dataset.yaml has 'much'"),
])
def test_mistakes(tmp_path, text, message):
    path = trees.write(tmp_path / 'dataset.yaml', text)
    with pytest.raises(ValueError, match=message):
        describe_data(path)


def test_a_yaml_of_yolo_is_none_of_these(tmp_path):
    trees.yolo_of_masks(tmp_path)
    (tmp_path / 'data.yaml').rename(tmp_path / 'dataset.yaml')
    assert describe_data(tmp_path).source.format == 'yolo'


@pytest.mark.parametrize('make', [trees.voc, trees.cityscapes, trees.camvid_of_kaggle, trees.pet])
def test_what_is_written_reads_the_same(make, tmp_path):
    first = describe_data(make(tmp_path / 'set'))
    (tmp_path / 'notes').mkdir()
    path = tmp_path / 'notes' / 'dataset.yaml'
    write_dataset_yaml(first, path)
    again = describe_data(path)
    kept = ('class_names', 'colors', 'ignore_index', 'label_map', 'color_map', 'num_classes')
    assert [getattr(again, name) for name in kept] == [getattr(first, name) for name in kept]
    ours, theirs = (SegmentationFolder(data, 'train') for data in (first, again))
    assert (ours[1][1] == theirs[1][1]).all()
    content = yaml.safe_load(path.read_text())
    assert content['root'].startswith('../set') and not set(content) - set(dataset_yaml.KEYS)
    assert sorted(os.listdir(tmp_path / 'notes')) == ['dataset.yaml']


def test_the_documentation_is_true(tmp_path):
    text = (Path(__file__).parents[2] / 'docs' / 'data.md').read_text()
    (listed,) = re.findall(r'`--data-format` names one of these: (.*?)\. Without', text, re.DOTALL)
    assert re.findall(r'`([\w-]+)`', listed) == list(FORMATS)
    (block,) = re.findall(r'```yaml\n(.*?)```', text, re.DOTALL)
    trees.beside(tmp_path / 'city', 'pictures/{split}/{name}.png', 'truth/{split}/{name}.png',
                 np.array([23, 7, 26], np.uint8).__getitem__)
    data = SegmentationFolder(trees.write(tmp_path / 'about' / 'dataset.yaml', block), 'val')
    assert data.class_names == ['sky', 'road', 'car']
    assert np.array_equal(data[0][1].numpy(), trees.picture(100)[1])
    assert all(key in text for key in dataset_yaml.KEYS)


def test_a_model_has_no_files_to_write_of(tmp_path):
    with pytest.raises(ValueError, match='a data set with files, and this one is of a model'):
        write_dataset_yaml(DataDescription(), tmp_path / 'dataset.yaml')


def test_a_description_in_a_checkpoint_is_plain_and_whole(described):
    description = SegmentationFolder(described, 'train').description
    saved = yaml.safe_load(yaml.safe_dump(trees.json.loads(trees.json.dumps(description.to_dict()))))
    assert 'source' not in saved
    assert DataDescription.from_dict(saved) == description and DataDescription.from_dict(saved).source is None
    told = DataDescription(layout={'image_dir': '/home/me/set/{split}', 'image_suffix': '_i.png'}).without_places()
    assert told.layout == {'image_suffix': '_i.png'} and description.without_places() == description
    assert description.file_labels == (0, 2) and description.ignore_label == 255
    assert DataDescription(ignore_index=7).ignore_label == 7 and DataDescription().ignore_label is None
    assert DataDescription(ignore_index=-1).ignore_label == 255
    assert DataDescription(foreground=255).file_labels == (0, 255)
