"""Tests of the built-in synthetic set: determinism, exact labels, and that colour alone does not decide a class."""
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from rexnet_timm.data import SyntheticShapes


def test_samples():
    dataset = SyntheticShapes(12, image_size=(96, 64))
    assert len(dataset) == 12
    for image, mask in dataset:
        assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8 and image.shape == (3, 96, 64)
        assert isinstance(mask, tv_tensors.Mask) and mask.dtype == torch.int64 and mask.shape == (96, 64)
        assert image.is_contiguous()
    assert dataset.class_names == ['background', 'disc', 'square', 'triangle', 'ring', 'stripes']
    assert dataset.ignore_label == 255


def test_determined_by_seed_and_index_in_any_order():
    first = SyntheticShapes(8, image_size=64, seed=3)
    later = SyntheticShapes(100, image_size=64, seed=3)
    for index in (7, 0, 4):
        for one, other in zip(first[index], later[index], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], SyntheticShapes(8, image_size=64, seed=4)[0][0])


def test_global_random_state_is_neither_read_nor_moved():
    dataset = SyntheticShapes(2, image_size=64)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = np.random.rand(), torch.rand(()).item()
    np.random.seed(0)
    torch.manual_seed(0)
    before = dataset[0][0]
    assert (np.random.rand(), torch.rand(()).item()) == expected
    assert torch.equal(before, dataset[0][0])


@pytest.mark.parametrize('num_workers', [1, 2])
def test_same_samples_from_workers(num_workers):
    dataset = SyntheticShapes(6, image_size=64)
    loader = DataLoader(dataset, batch_size=2, num_workers=num_workers)
    images = torch.cat([images for images, _ in loader])
    assert torch.equal(images, torch.stack([dataset[index][0].as_subclass(torch.Tensor) for index in range(6)]))


def test_every_class_occurs_and_labels_are_exact():
    dataset = SyntheticShapes(60)
    counts = sum(torch.bincount(mask.flatten(), minlength=6) for _, mask in dataset)
    assert len(counts) == 6  # nothing between or beyond the labels: outlines are not anti-aliased into the mask
    share = counts / counts.sum()
    assert share[0] > 0.5
    assert (share[1:] > 0.01).all()


def test_labels_lie_on_what_is_drawn():
    """Across a label's edge the colour changes more than beside it, so masks and images belong together."""
    across, beside = [], []
    for image, mask in SyntheticShapes(30):
        steps = (image[:, :, 2:].float() - image[:, :, :-2].float()).abs().mean(0)
        edge = mask[:, 2:] != mask[:, :-2]
        across.append(steps[edge].mean())
        beside.append(steps[~edge].mean())
    assert torch.stack(across).mean() > 2.5 * torch.stack(beside).mean()


def test_colour_hints_but_does_not_decide():
    """Told where the objects are, the best class for each of 512 colours is better than the commonest, yet poor."""
    images, masks = zip(*SyntheticShapes(300, image_size=64), strict=True)
    color = (torch.stack([image.as_subclass(torch.Tensor) for image in images]) // 32).long()
    color = (color[:, 0] * 8 + color[:, 1]) * 8 + color[:, 2]
    label = torch.stack([mask.as_subclass(torch.Tensor) for mask in masks])

    def count(part: slice) -> torch.Tensor:
        return torch.bincount((color[part] * 6 + label[part]).flatten(), minlength=512 * 6).view(512, 6)[:, 1:]

    held_out = count(slice(150, 300))
    by_color = held_out.gather(1, count(slice(0, 150)).argmax(1, keepdim=True)).sum() / held_out.sum()
    commonest = held_out.sum(0).max() / held_out.sum()
    assert commonest < by_color < 0.75


def test_fewer_classes():
    masks = [mask for _, mask in SyntheticShapes(10, image_size=64, num_classes=3)]
    assert torch.stack(masks).unique().tolist() == [0, 1, 2]
    assert SyntheticShapes(1, num_classes=3).class_names == ['background', 'disc', 'square']


def test_transform():
    assert SyntheticShapes(1, transform=lambda image, mask: (image.shape, mask.shape))[0] == ((3, 128, 128), (128, 128))


@pytest.mark.parametrize('arguments, text', [
    ({'length': 0}, 'length must be at least 1, got 0'),
    ({'length': 1, 'image_size': 16}, r'numbers of at least 32, got \(16, 16\)'),
    ({'length': 1, 'image_size': (64, 64, 3)}, r'got \(64, 64, 3\)'),
    ({'length': 1, 'num_classes': 7}, r'num_classes must be from 2 to 6 \(background, .*stripes\), got 7'),
    ({'length': 1, 'num_classes': 1}, 'num_classes must be from 2 to 6'),
    ({'length': 1, 'seed': -1}, 'seed must be at least 0, got -1'),
])
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        SyntheticShapes(**arguments)


def test_index_out_of_range():
    with pytest.raises(IndexError, match='index must be from 0 to 3, got 4'):
        SyntheticShapes(4)[4]


def test_fast_enough_to_be_drawn_while_training():
    dataset = SyntheticShapes(40)
    times = []
    for index in range(40):
        start = time.process_time()
        dataset[index]
        times.append(time.process_time() - start)
    assert sorted(times)[len(times) // 2] < 0.02  # seconds; a few times what it takes, for slow machines
