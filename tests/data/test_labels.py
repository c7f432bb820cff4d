"""Label maps and colour tables: every form of them, the lookup, and what is wrong with the others."""
import time

import numpy as np
import pytest
import torch
import trees
from pictures import one_sample, write_png
from PIL import Image

from rexnet_timm.data import DatasetError, SegmentationFolder
from rexnet_timm.data.labels import LABEL_MAPS, ColorTable, LabelTable, color_table, label_map_of
from rexnet_timm.data.masks import found_colors


@pytest.mark.parametrize('value', [
    '0:0 255:1', ['0:0', '255:1'], ['0:0 255:1'], {0: 0, 255: 1}, {'0': '0', '255': 1}, ((0, 0), (255, 1)),
    [[0, 0], [255, 1]]])
def test_forms_of_a_label_map(value):
    assert label_map_of(value) == ((0, 0), (255, 1))


@pytest.mark.parametrize('text', [
    '0: 0\n255: 1\n', '{"0": 0, "255": 1}', '0 0\n255 1', '# from, to\n0,0\n\n255,1  # object', '0:0\n255:1',
    '0;0\n255;1'])
def test_files_of_a_label_map(tmp_path, text):
    path = trees.write(tmp_path / 'my map.txt', text)
    assert label_map_of(str(path)) == ((0, 0), (255, 1)) == label_map_of([str(path)])


def test_named_maps_and_none():
    assert label_map_of('cityscapes') == label_map_of(['cityscapes']) == LABEL_MAPS['cityscapes']
    assert dict(LABEL_MAPS['cityscapes'])[33] == 18 and len(LABEL_MAPS['cityscapes']) == 19
    assert label_map_of(None) == label_map_of([]) == label_map_of(()) == ()


@pytest.mark.parametrize('value, text', [
    ('citiscapes', "or a file of pairs, got 'citiscapes'. Did you mean cityscapes"),
    ('0:0 255', "got '0:0 255'"), ({0: 'road'}, "pairs of whole numbers, .*has .0, 'road'."),
    ({0: -1}, 'must be from 0 to 65534, got 0:-1 .*is left out of the map'), ('0:65535', 'got 0:65535'),
    ([(0, 0), (0, 1)], 'must have one class, and label_map has 0:0 and 0:1'),
    ({2 ** 32: 0}, 'a number that a mask can store, -2147483648 to 4294967295, got 4294967296'),
])
def test_label_maps_that_are_none(value, text):
    with pytest.raises(ValueError, match=text):
        label_map_of(value)


def test_a_line_that_is_no_pair(tmp_path):
    path = trees.write(tmp_path / 'map.txt', '0:0\nroad 1\n')
    with pytest.raises(DatasetError, match="map.txt has 'road 1' in line 2; correct the file"):
        label_map_of(str(path))
    with pytest.raises(ValueError, match='at least one pair, and .*map.txt has none'):
        label_map_of(str(trees.write(tmp_path / 'map.txt', '# nothing\n')))


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.int64, '>u2'])
def test_the_lookup_is_that_of_a_dictionary(dtype):
    pairs = {0: 3, 7: 0, 11: 1, 200: 2}
    labels = np.random.default_rng(0).choice([0, 7, 11, 33, 200, 201], (30, 40)).astype(dtype)
    expected = np.vectorize(lambda label: pairs.get(label, 255))(labels)
    classes = LabelTable(4, None, 255, tuple(pairs.items()))(labels)
    assert classes.dtype == np.int64 and np.array_equal(classes, expected)


def test_the_lookup_of_far_labels():
    table = LabelTable(3, -7, 255, ((-1, 0), (70000, 1), (2, 2)))
    assert table(np.array([[-1, 70000, 2, 5, -7, 4 * 10 ** 9]])).tolist() == [[0, 1, 2, 255, 255, 255]]
    assert LabelTable(3, 2 ** 31, 255)(np.array([[2 ** 31, 2, 70000]], np.uint32)).tolist() == [[255, 2, -1]]


def test_bits_are_set_or_not():
    bits = np.array([[True, False]])
    for pairs, expected in (
            ((), [1, 0]), (((0, 1), (1, 0)), [0, 1]), (((0, 0), (255, 1)), [1, 0]), (((0, 0),), [255, 0])):
        assert LabelTable(2, None, 255, pairs)(bits).tolist() == [expected]


@pytest.mark.parametrize('name, text', [
    ('class_dict.csv', 'name,r,g,b\nroad, 128,64,128\n"tree, tall",0,128,0\nVoid,0,0,0\n'),
    ('labelmap.txt', '# label:color_rgb:parts:actions\nroad:128,64,128::\ntree, tall:0,128,0::\nvoid:0,0,0::\n'),
    ('label_colors.txt', '128 64 128\troad\n0 128 0\t\ttree, tall\n0 0 0 \tVoid\n'),
    ('colors.yaml', 'road: [128, 64, 128]\n"tree, tall": [[0, 128, 0]]\nvoid: [0, 0, 0]\n'),
    ('colors.json', '{"road": [128, 64, 128], "tree, tall": [0, 128, 0]}'),
])
def test_files_of_a_colour_table(tmp_path, name, text):
    pairs, names = color_table(str(trees.write(tmp_path / name, text)))
    assert names == ('road', 'tree, tall') and pairs == (((128, 64, 128), 0), ((0, 128, 0), 1))


def test_words_and_numbers_in_a_line(tmp_path):
    assert color_table(trees.write(tmp_path / 'a.txt', 'tall tree 0 128 0\n'))[1] == ('tall tree',)


@pytest.mark.parametrize('value, text', [
    ({'road': [0, 0]}, 'three numbers from 0 to 255, and color_map has'), ({'road': [0, 0, 256]}, r'has \(0, 0, 256\)'),
    ({'road': [1, 1, 1], 'tree': [1, 1, 1]}, r"has \(1, 1, 1\) for 'road' and 'tree'; remove one"),
    ({'void': [0, 0, 0]}, 'at least one class, and color_map has none'), ('gone.csv', "there is no file 'gone.csv'")])
def test_colour_tables_that_are_none(value, text):
    with pytest.raises(ValueError, match=text):
        color_table(value)


def test_a_line_that_is_no_colour(tmp_path):
    path = trees.write(tmp_path / 'a.csv', 'name,r,g,b\nroad,1,2\n')
    with pytest.raises(DatasetError, match="a.csv has 'road,1,2' in line 2"):
        color_table(path)


def colored(root, labels: np.ndarray, mode: str = 'RGB', **options) -> SegmentationFolder:
    image_path, mask_path = one_sample(root)
    trees.save(image_path, np.zeros((*labels.shape, 3), np.uint8))
    mask = Image.fromarray(trees.COLORS[labels])
    mask.quantize(8).save(mask_path) if mode == 'P' else mask.convert(mode).save(mask_path)
    return SegmentationFolder(root, 'train', **options)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
def test_coloured_masks(tmp_path, mode):
    """A palette's own order says nothing where colours have a table."""
    labels = trees.picture(3)[1]
    table = {'a': [64, 128, 64], 'b': [192, 0, 128]}
    dataset = colored(tmp_path, labels, mode, color_map=table)
    assert dataset.class_names == ['a', 'b'] and dataset.ignore_label == 255
    assert np.array_equal(dataset[0][1].numpy(), np.array([0, 1, 255])[labels])
    assert dataset.unlisted_labels() == ({2: pytest.approx((labels == 2).mean())}, 1)
    merged = SegmentationFolder(tmp_path, 'train', color_map={'a': trees.COLORS.tolist()}, label_map={0: 0})
    assert not merged[0][1].any()


def test_grey_masks_beside_a_colour_table(tmp_path):
    """Numbers are not taken for colours; black and white, where the table has them, are."""
    table = {'a': [0, 0, 0], 'b': [255, 255, 255], 'c': [9, 0, 0]}
    mask = trees.picture(0, 2)[1]
    assert np.array_equal(grey(tmp_path, mask * np.uint8(255), color_map=table)[0][1].numpy(), mask)
    with pytest.raises(DatasetError, match='must have colours: .*a.png is grey and has numbers such as 1; if '):
        grey(tmp_path, mask, color_map=table)[0]


def test_colours_that_would_be_cut(tmp_path):
    image_path, mask_path = one_sample(tmp_path)
    trees.save(image_path, np.zeros((8, 8, 3), np.uint8))
    write_png(mask_path, np.full((8, 8, 3), 257), 16, 2)
    with pytest.raises(DatasetError, match='8 bits a channel: .*a.png has 16, of which some would be lost; save it as'):
        SegmentationFolder(tmp_path, 'train', color_map={'a': [1, 1, 1]})[0]


def test_the_advice_on_colours_works(tmp_path):
    labels = trees.picture(3)[1]
    with pytest.raises(DatasetError, match='pass as color_map a text file with a line for each class, such as "road'):
        colored(tmp_path, labels, num_classes=3)[0]
    found = found_colors([tmp_path / 'trainannot' / 'a.png'])
    assert set(found) == set(map(tuple, trees.COLORS.tolist())) and sum(found.values()) == labels.size
    path = trees.write(tmp_path / 'colors.txt', ''.join(
        f'class{index},{red},{green},{blue}\n' for index, (red, green, blue) in enumerate(trees.COLORS)))
    assert np.array_equal(colored(tmp_path, labels, color_map=path)[0][1].numpy(), labels)


def test_photographs_are_no_masks(tmp_path):
    path = trees.save(tmp_path / 'a.png', np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    with pytest.raises(DatasetError, match='A mask must have few colours: with .*a.png there are more than 4096'):
        found_colors([path])


def grey(root, labels: np.ndarray, name: str = 'a.png', **options) -> SegmentationFolder:
    image_path, mask_path = one_sample(root, mask=name)
    trees.save(image_path, np.zeros((*np.squeeze(labels).shape, 3), np.uint8))
    np.save(mask_path, labels) if name.endswith('.npy') else trees.save(mask_path, labels)
    return SegmentationFolder(root, 'train', **options)


@pytest.mark.parametrize('values, classes, options', [
    ((0, 255), (0, 1), dict(num_classes=3)),
    ((0, 128, 255), (0, 1, 2), dict(num_classes=3)), ((3, 7), (0, 1), dict(num_classes=2)),
    ((0, 1, 255), (0, 1, 1), dict(num_classes=1)), ((0, 1, 2, 11), (0, 1, 2, 11), dict(num_classes=11)),
    ((0, 1, 65535), (0, 1, 65535), dict(num_classes=2)), ((-1, 0, 1), (255, 0, 1), dict(num_classes=2)),
    ((0, 1, 70000), (0, 1, 255), dict(num_classes=3)),
])
def test_the_advice_in_messages_works(tmp_path, values, classes, options):
    """What a message advises, one remedy after the other, reads the masks; one of them as they are meant."""
    dtype = np.uint8 if 0 <= min(values) and max(values) < 256 else np.int32
    labels = np.resize(np.array(values), (8, 9)).astype(dtype)
    with pytest.raises(DatasetError) as info:
        grey(tmp_path, labels, 'a.npy', **options)[0]
    advice = str(info.value).split('; ', 1)[1]
    if set(values) == {0, 255}:
        assert advice.startswith(('pass num_classes=1', 'pass label_map'))
        assert not advice.startswith('pass ignore_index=255')
    meant, tried = False, 0
    for part in advice.split(', or '):
        if not part.startswith('pass '):
            continue
        name, value = part.removeprefix('pass ').split(' if ')[0].split('=')
        value = value.strip("'") if name == 'label_map' else int(value)
        # a label that a map has become a class of is not ignored any more
        dataset = SegmentationFolder(tmp_path, 'train', **{**options, name: value})
        mask = dataset[0][1]
        tried += 1
        meant |= torch.equal(mask, torch.from_numpy(np.resize(np.array(classes), (8, 9))).long())
    assert tried and meant, advice


def test_what_a_map_does_not_list_is_counted(tmp_path):
    labels = np.zeros((10, 10), np.uint8)
    labels[0], labels[1, :5], labels[2] = 4, 9, 255
    dataset = grey(tmp_path, labels, label_map='0:0 255:1')
    assert dataset.num_classes == 2 and dataset[0][1].unique().tolist() == [0, 1, 255]
    assert dataset.unlisted_labels() == ({4: pytest.approx(0.1), 9: pytest.approx(0.05)}, 1)
    dataset = grey(tmp_path, labels, label_map='0:0 255:1', ignore_index=4)
    assert dataset.unlisted_labels()[0] == {9: pytest.approx(0.05)}
    with pytest.raises(DatasetError, match='must list labels that the masks have: .*have 0, 4, 9, 255; correct'):
        grey(tmp_path, labels, label_map='1:0 2:1').unlisted_labels()


def test_one_bit_masks_under_a_map_of_255(tmp_path):
    mask = trees.picture(0, 2)[1].astype(bool)
    dataset = grey(tmp_path, mask, label_map='0:0 255:1')
    assert np.array_equal(dataset[0][1].numpy(), mask) and dataset.unlisted_labels() == ({}, 1)


@pytest.mark.parametrize('options, text', [
    (dict(label_map='0:0 1:4', num_classes=3), 'must be below num_classes, 3: it has 1:4; pass num_classes=5'),
    (dict(label_map='0:0 255:1', ignore_index=255), '255 is class 1 of the label map and ignore_index too; leave'),
])
def test_maps_that_contradict(tmp_path, options, text):
    with pytest.raises(DatasetError, match=text):
        grey(tmp_path, np.zeros((8, 8), np.uint8), **options)


ROWS = trees.picture(0)[1]


@pytest.mark.parametrize('labels', [
    ROWS, ROWS.astype(np.int64), ROWS[..., None], ROWS[None], ROWS.astype(np.float64)])
def test_arrays(tmp_path, labels):
    assert np.array_equal(grey(tmp_path, labels, 'a.npy', num_classes=3)[0][1].numpy(), np.squeeze(labels))


def test_boolean_arrays(tmp_path):
    labels = trees.picture(0, 2)[1].astype(bool)
    assert np.array_equal(grey(tmp_path, labels, 'a.npy', num_classes=1)[0][1].numpy(), labels)


@pytest.mark.parametrize('labels, text', [
    (np.zeros((8, 8, 3)), r'an array \(H, W\) of class indices: .*a.npy has the shape \(8, 8, 3\)'),
    (np.full((8, 8), 0.5), 'floating-point numbers that are not whole'),
    (np.full((8, 8), 'a'), 'floating-point numbers that are not whole'),
])
def test_arrays_that_are_no_masks(tmp_path, labels, text):
    one_sample(tmp_path)
    trees.save(tmp_path / 'train' / 'a.png', np.zeros((8, 8, 3), np.uint8))
    np.save(tmp_path / 'trainannot' / 'a.npy', labels)
    with pytest.raises(DatasetError, match=text):
        SegmentationFolder(tmp_path, 'train', 2)[0]
    (tmp_path / 'trainannot' / 'a.npy').write_bytes(b'\x93NUMPY damaged')
    with pytest.raises(DatasetError, match='Every mask must be readable: .*a.npy is not'):
        SegmentationFolder(tmp_path, 'train', 2)[0]
    np.save(tmp_path / 'trainannot' / 'a.npy', np.array([None]), allow_pickle=True)
    with pytest.raises(DatasetError, match='Every mask must be readable'):  # no code runs
        SegmentationFolder(tmp_path, 'train', 2)[0]


def test_a_lookup_takes_little_time():
    """A megapixel in a fraction of what its decoding takes, as a comparison for each class would not."""
    labels = np.random.default_rng(0).integers(0, 34, (1024, 1024), np.uint8)
    table, colors = LabelTable(19, None, 255, LABEL_MAPS['cityscapes']), ColorTable((((0, 0, 1), 0),))
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    for run in (lambda: table(labels), lambda: colors(pixels)):
        times = []
        for _ in range(5):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        assert min(times) < 0.05
