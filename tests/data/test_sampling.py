"""Training batches from any place on, of masks and of classes."""
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from rexnet_timm.data import create_class_loader, create_segmentation_loader
from rexnet_timm.data.sampling import SeededSamples, TrainingSampler


class Noted(Dataset):
    """Random images, with a note of what has been read."""

    ignore_label = 9

    def __init__(self) -> None:
        self.read: list[int] = []
        self.transform = None

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int):
        self.read.append(index)
        if self.transform is None:
            return torch.rand(3, 4, 4), torch.full((4, 4), index)
        return self.transform(Image.new('RGB', (40, 40), (20 * index, 0, 250 - 20 * index))), index


def class_loader(dataset: Dataset, num_workers: int = 0, **kwargs):
    return create_class_loader(
        dataset, (3, 32, 32), 3, (0.5,) * 3, (0.5,) * 3, num_workers, scale=(0.3, 1.), hflip=0.5,
        auto_augment='rand-m9-mstd0.5', interpolation='random', **kwargs)


def mask_loader(dataset: Dataset, num_workers: int = 0):
    return create_segmentation_loader(dataset, 3, is_training=True, num_workers=num_workers)


def batches(loader, epoch: int, first: int = 0) -> list:
    loader.sampler.start_at(epoch, first)
    return list(loader)


def assert_equal(some: list, others: list) -> None:
    assert len(some) == len(others)
    for pair, other in zip(some, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, other, strict=True))


@pytest.mark.parametrize('create', [mask_loader, class_loader])
def test_a_loader_starts_at_a_batch_without_reading_those_before(create):
    dataset = Noted()
    loader = create(dataset)
    whole = batches(loader, 3)
    dataset.read.clear()
    assert_equal(batches(loader, 3, 2), whole[2:])
    assert len(dataset.read) == 6 and len(loader) == 4
    assert batches(loader, 3, 4) == []
    assert_equal(batches(loader, 3), whole)
    loader.sampler.set_epoch(3)
    assert_equal(list(loader), whole)


def test_the_names_of_a_batch_are_those_of_its_samples():
    dataset = Noted()
    loader = mask_loader(dataset)
    whole = batches(loader, 1)
    assert loader.sampler.samples_of(2) == whole[2][1][:, 0, 0].tolist()
    assert loader.dataset.name(4) == 'sample 4'
    dataset.paths = lambda index: (Path(f'{index}.png'), None)
    assert loader.dataset.name(4) == '4.png'


@pytest.mark.parametrize('num_workers', [1, 2])
def test_workers_that_live_on_change_nothing(num_workers):
    alone, helped = class_loader(Noted()), class_loader(Noted(), num_workers)
    drawn = []
    for epoch in (0, 1, 0):
        drawn.append(batches(alone, epoch))
        assert_equal(drawn[-1], batches(helped, epoch))
    assert_equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0][0], drawn[1][0][0])


def test_classes_come_normalised_and_shuffled_by_the_seed():
    loader = class_loader(Noted(), seed=1)
    images, classes = zip(*batches(loader, 0), strict=True)
    assert images[0].dtype == torch.float32 and images[0].shape == (3, 3, 32, 32) and classes[0].dtype == torch.int64
    assert -1 <= torch.cat(images).min() < -0.5 and 0.5 < torch.cat(images).max() <= 1
    assert sorted(torch.cat(classes).tolist()) == list(range(12)) != torch.cat(classes).tolist()
    others = torch.cat([classes for _, classes in batches(class_loader(Noted(), seed=2), 0)])
    assert not torch.equal(torch.cat(classes), others)


def test_processes_share_an_epoch():
    samplers = [TrainingSampler(Noted(), 2, 3, rank, seed=4) for rank in range(3)]
    assert sorted(index for sampler in samplers for _, index in sampler) == list(range(12))
    assert all(len(sampler) == 4 for sampler in samplers)


def test_a_sample_is_random_by_its_place_alone():
    samples = SeededSamples(Noted(), 7)
    torch.manual_seed(0)
    first = torch.rand(2)
    torch.manual_seed(0)
    images = [samples[place][0] for place in ((0, 1), (0, 2), (1, 1), (0, 1))]
    assert torch.equal(images[0], images[3])
    assert not torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert torch.equal(torch.rand(2), first)
