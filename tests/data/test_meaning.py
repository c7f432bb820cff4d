"""What labels stand for, by what was counted: a table of cases, and the values that follow for training."""
from collections import Counter

import numpy as np
import pytest
from test_check import both, checked, kinds, masks, noise, text_of

from rexnet_timm.data import DataDescription, SegmentationFolder, describe_data
from rexnet_timm.data.check import check_data
from rexnet_timm.data.meaning import meaning_of, proposed_colors
from rexnet_timm.data.plan import plan_of


def meaning(labels, num_classes=None, both_ways=0, **said):
    return meaning_of(DataDescription(**said), num_classes, dict.fromkeys(labels, 10), both_ways)


# labels in the files; what is said; classes, ignored label, map, foreground, and the level of what is told
UNKNOWN = [
    ([0, 1], (1, None, (), 1), None),
    ([0, 255], (1, None, (), 255), 'note'),
    ([255], (1, None, (), 255), 'note'),
    ([0], (1, None, (), 1), None),
    ([0, 1, 2], (3, None, (), 1), None),
    ([0, 1, 2, 255], (3, 255, (), 1), 'warning'),
    ([0, 1, 2, 65535], (3, 65535, (), 1), 'warning'),
    ([-1, 0, 1, 2], (3, -1, (), 1), 'warning'),
    ([0, 1, 3], (4, None, (), 1), None),
    ([0, 8, 15], (3, None, ((0, 0), (8, 1), (15, 2)), 1), 'warning'),
    ([0, 8, 15, 255], (3, None, ((0, 0), (8, 1), (15, 2)), 1), 'warning'),
    ([5, 7], (2, None, ((5, 0), (7, 1)), 1), 'warning'),
    ([0, 127, 255], (3, None, ((0, 0), (127, 1), (255, 2)), 1), 'warning'),
    ([0, 85, 170, 255], (4, None, ((0, 0), (85, 1), (170, 2), (255, 3)), 1), 'warning'),
    ([0, 100, 255], (2, None, ((0, 0), (100, 1)), 1), 'warning'),
    ([-1, 0, 1, 255], (2, None, ((0, 0), (1, 1)), 1), 'warning'),
    (range(300), (300, 65535, (), 1), None),
]


@pytest.mark.parametrize('labels, expected, level', UNKNOWN, ids=[str(list(case[0])[:5]) for case in UNKNOWN])
def test_labels_of_which_nothing_is_said(labels, expected, level):
    found = meaning(labels)
    assert (found.num_classes, found.ignore_index, found.label_map, found.foreground) == expected
    levels = [finding.level for finding in found.findings]
    assert set(levels) == ({level} if level else set())


def test_one_and_white():
    assert meaning([0, 1, 255]).label_map == ((0, 0), (1, 1), (255, 1))
    assert meaning([0, 1, 255], both_ways=3).ignore_index == 255
    assert meaning([0, 1, 255], num_classes=1, both_ways=3).ignore_index == 255
    assert meaning([0, 1, 255], ignore_index=255).ignore_index == 255


@pytest.mark.parametrize('labels, number, expected', [
    ([0, 1, 2], 3, (3, None, ())), ([0, 1, 2, 3], 3, (3, 3, ())), ([0, 1, 2, 255], 3, (3, 255, ())),
    ([0, 255], 1, (1, None, ())), ([0, 255], 2, (2, None, ())), ([4, 9, 30], 3, (3, None, ((4, 0), (9, 1), (30, 2)))),
    ([0, 1], 5, (5, None, ())), ([0, 9], 1, (1, None, ((0, 0), (9, 1)))),
])
def test_a_number_of_classes_that_is_said(labels, number, expected):
    found = meaning(labels, number)
    assert (found.num_classes, found.ignore_index, found.label_map) == expected
    assert not any(finding.level == 'error' for finding in found.findings)


def test_labels_out_of_range_are_an_error():
    for found in (meaning([0, 1, 2, 3, 4, 9], 3), meaning([0, 1, 2, 3, 4, 9], class_names=('a', 'b', 'c'))):
        (finding,) = found.findings
        assert finding.level == 'error' and 'Labels must be 0 to 2' in finding.text
        assert 'pass num_classes=10 if they are classes' in finding.text


def test_masks_of_something_else_have_no_meaning():
    assert meaning([]) is None and meaning(range(2000)) is None


def test_a_proposal_reads_the_masks_as_it_says(tmp_path):
    """What is proposed is what the data set then reads."""
    for index, labels in enumerate(([0, 255], [0, 8, 15, 255], [0, 1, 2, 255], [0, 127, 255], [0, 3])):
        root = both(tmp_path / str(index), [np.array(labels, np.uint8)[noise(len(labels), seed)] for seed in range(3)])
        check = checked(root)
        values = plan_of(check).values
        options = {name: values[name] for name in ('num_classes', 'ignore_index', 'label_map') if name in values}
        options.setdefault('num_classes', len(check.class_names))
        dataset = SegmentationFolder(root, 'train', **options)
        read = np.stack([dataset[number][1].numpy() for number in range(3)])
        counted = {index: found.pixels for index, found in check.classes('train').items()}
        assert counted == {index: number for index, number in Counter(read.ravel().tolist()).items()
                           if index != dataset.ignore_label}


def test_the_highest_label_is_suspected_where_it_looks_like_void(tmp_path):
    def made(high: int) -> list[np.ndarray]:
        mask = np.arange(6, dtype=np.uint8).repeat(8)[None].repeat(40, 0)
        mask[np.random.default_rng(0).random(mask.shape) < 0.15] = high
        return [mask] * 3

    assert 'Label 6, the highest, is in 6 of 6 images' in text_of(checked(both(tmp_path / 'a', made(6))), 'void')
    said = checked(tmp_path / 'a', num_classes=6)
    assert 'label 6, one above the classes' in text_of(said, 'void') and plan_of(said).values['ignore_index'] == 6
    assert not [f for f in checked(both(tmp_path / 'b', made(0))).findings if f.kind == 'void']


def test_a_colour_table_of_many_colours_leaves_out_the_rare_ones():
    common = {(value, 0, 0): 10_000 for value in range(20)}
    blurred = {(value, 1, other): 1 for value in range(100) for other in range(4)}
    table, left_out = proposed_colors({**common, **blurred})
    assert [color for color, _ in table] == sorted(common) and 0 < left_out < 0.01
    assert proposed_colors({(9, 9, 9): 1, (0, 0, 0): 1}) == ((((0, 0, 0), 0), ((9, 9, 9), 1)), 0)


def test_crops_follow_the_shorter_side(tmp_path):
    for side, size in ((40, 64), (170, 160), (180, 192), (900, 512)):
        root = masks(tmp_path / str(side), [np.eye(side, side + 9, dtype=np.uint8)] * 2)
        assert plan_of(checked(root)).values['img_size'] == size


def test_zooms_follow_small_objects(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    assert plan_of(checked(masks(tmp_path / 'a', [mask] * 2))).values['scale'] == (0.5, 2.0)
    mask[4:14, 4:14] = 2  # 100 pixels, 25 at half the size
    plan = plan_of(checked(masks(tmp_path / 'b', [mask] * 2)))
    assert plan.values['scale'] == (0.75, 1.5) and 'class 2' in plan.reasons['scale']


def test_weights_follow_the_pixels_and_are_not_proposed(tmp_path):
    mask = np.zeros((40, 100), np.uint8)
    mask[:, 40:60], mask[:20, 99:] = 1, 2  # 3180, 800 and 20 pixels
    check = checked(both(tmp_path / 'a', [mask] * 2), num_classes=4)
    told = text_of(check, 'uneven')
    assert told.startswith('class 0 has 159 times the pixels of class 2. No class_weights are proposed for that: ')
    assert ' would be 0.5 1 4 1, ' in told  # of 0.5016, 1, 6.3 and a class without pixels
    assert 'class_weights' not in plan_of(check).values
    mask[:, 60:] = 2
    assert ('note', 'uneven') not in kinds(checked(both(tmp_path / 'b', [mask] * 2)))


def test_names_and_maps_that_are_said_stay(tmp_path):
    root = both(tmp_path, [noise(3, seed) for seed in range(3)])
    (tmp_path / 'classes.txt').write_text('sky\nroad\ncar\n')
    check = checked(root)
    assert check.class_names == ['sky', 'road', 'car'] and 'num_classes' not in plan_of(check).values
    (tmp_path / 'classes.txt').unlink()
    check = check_data(describe_data(root, label_map='0:1 1:0'))
    assert check.is_mapped and 'label_map' not in plan_of(check).values and len(check.class_names) == 2
