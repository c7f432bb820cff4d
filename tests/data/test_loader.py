""" Tests of the loader: sharding, seeds, collation, and the errors of batches that cannot train. """
from pathlib import Path

import pytest
import torch
from timm.task import evaluation_sample_limit
from torch.utils.data import Dataset

from rexnet_timm.data import (
    DatasetError,
    SegmentationFolder,
    SyntheticShapes,
    create_segmentation_loader,
    create_segmentation_transform,
    sample_error_message,
)
from rexnet_timm.data.loader import collate_segmentation, create_segmentation_sampler

CAMVID = Path(__file__).parents[3] / 'shared' / 'data' / 'camvid'


class Numbered(Dataset):
    """Samples whose image is their index and whose mask has a random label."""

    ignore_label = 9

    def __init__(self, length: int, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.length = length
        self.fails_at = fails_at
        self.error = error

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == self.fails_at:
            raise self.error
        return torch.full((3, 4, 4), float(index)), torch.randint(0, 2 ** 40, (4, 4))


def seen(loader) -> list[int]:
    return [int(value) for images, _ in loader for value in images[:, 0, 0, 0]]


def epoch(loader, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader.sampler.set_epoch(number)
    images, masks = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(masks)


@pytest.mark.parametrize('length', [1, 7, 8, 101])
@pytest.mark.parametrize('num_replicas', [2, 3])
def test_evaluation_covers_every_sample_exactly_once(length, num_replicas):
    counted, lengths = [], []
    for rank in range(num_replicas):
        sampler = create_segmentation_sampler(
            range(length), False, distributed=True, num_replicas=num_replicas, rank=rank)
        indices = list(sampler)
        lengths.append(len(indices))
        counted += indices[:sampler.num_valid_samples]
    assert sorted(counted) == list(range(length))
    assert len(set(lengths)) == 1  # as many batches in every process, or collectives would hang


def test_training_shards_cover_all_and_follow_seed_and_epoch():
    def shards(seed: int, number: int) -> list[list[int]]:
        samplers = [create_segmentation_sampler(range(20), True, True, seed, num_replicas=2, rank=r) for r in range(2)]
        for sampler in samplers:
            sampler.set_epoch(number)
        return [list(sampler) for sampler in samplers]

    first = shards(0, 0)
    assert sorted(first[0] + first[1]) == list(range(20))
    assert first == shards(0, 0)
    assert first != shards(0, 1)
    assert first != shards(1, 0)


def test_evaluation_loader_is_in_order_and_complete():
    loader = create_segmentation_loader(Numbered(7), 3, is_training=False, num_workers=0)
    assert seen(loader) == list(range(7))
    assert evaluation_sample_limit(loader) is None


def test_training_loader_shuffles_whole_batches():
    loader = create_segmentation_loader(Numbered(9), 4, is_training=True, num_workers=0)
    images, _ = epoch(loader, 0)
    assert len(images) == 8 and len(images[:, 0, 0, 0].unique()) == 8
    assert not torch.equal(images, epoch(loader, 1)[0])
    assert loader.dataset.dataset.length == 9


def test_samples_follow_seed_and_epoch_whatever_the_workers():
    """Order and randomness are those of (seed, epoch, index): worker counts and what ran before do not matter."""
    results = []
    for num_workers in (0, 1, 2):
        torch.manual_seed(num_workers)
        loader = create_segmentation_loader(Numbered(12), 4, is_training=True, num_workers=num_workers, seed=5)
        results.append((epoch(loader, 0), epoch(loader, 1)))
    for result in results[1:]:
        for number in (0, 1):
            assert torch.equal(result[number][0], results[0][number][0])
            assert torch.equal(result[number][1], results[0][number][1])

    resumed = create_segmentation_loader(Numbered(12), 4, is_training=True, num_workers=2, seed=5)
    assert torch.equal(epoch(resumed, 1)[1], results[0][1][1])
    # Per sample, the randomness of another epoch or seed is another.
    by_index = dict(zip(results[0][0][0][:, 0, 0, 0].tolist(), results[0][0][1], strict=True))
    next_epoch = dict(zip(results[0][1][0][:, 0, 0, 0].tolist(), results[0][1][1], strict=True))
    other = epoch(create_segmentation_loader(Numbered(12), 4, is_training=True, num_workers=0, seed=6), 0)
    other_seed = dict(zip(other[0][:, 0, 0, 0].tolist(), other[1], strict=True))
    for index, mask in by_index.items():
        assert not torch.equal(mask, next_epoch[index])
        assert not torch.equal(mask, other_seed[index])


def test_sampling_leaves_the_random_state_alone():
    loader = create_segmentation_loader(Numbered(8), 4, is_training=True, num_workers=0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch(loader, 0)
    assert torch.equal(torch.rand(3), expected)


def test_augmented_synthetic_batches_do_not_depend_on_workers():
    dataset = SyntheticShapes(8, image_size=64, transform=create_segmentation_transform(True, 48))
    results = [
        epoch(create_segmentation_loader(dataset, 4, is_training=True, num_workers=num_workers), 2)
        for num_workers in (0, 2)
    ]
    assert results[0][0].shape == (8, 3, 48, 48) and results[0][0].dtype == torch.float32
    assert results[0][1].shape == (8, 48, 48) and results[0][1].dtype == torch.int64
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_collate_pads_to_the_largest():
    samples = [(torch.ones(3, 4, 6), torch.ones(4, 6, dtype=torch.long)),
               (torch.ones(3, 5, 2), torch.ones(5, 2, dtype=torch.long))]
    images, masks = collate_segmentation(samples, ignore_label=11)
    assert images.shape == (2, 3, 5, 6) and masks.shape == (2, 5, 6) and masks.dtype == torch.long
    assert masks[0, :4].eq(1).all() and masks[0, 4:].eq(11).all()
    assert masks[1, :, :2].eq(1).all() and masks[1, :, 2:].eq(11).all()
    assert torch.equal(images[:, 0] == 0, masks == 11)


@pytest.mark.skipif(not CAMVID.is_dir(), reason='the CamVid images are not beside the checkout')
def test_camvid_batches():
    arguments = {'num_classes': 11, 'ignore_index': 11}
    training = SegmentationFolder(
        CAMVID, 'train', **arguments,
        transform=create_segmentation_transform(True, (160, 224), ignore_label=11))
    images, masks = next(iter(create_segmentation_loader(training, 4, is_training=True, num_workers=2)))
    assert images.shape == (4, 3, 160, 224) and masks.shape == (4, 160, 224)
    assert images.abs().max() < 4 and images.std() > 0.3
    assert 0 <= masks.min() and masks.max() <= 11 and len(masks.unique()) > 4
    validation = SegmentationFolder(CAMVID, 'val', **arguments, transform=create_segmentation_transform(False))
    images, masks = next(iter(create_segmentation_loader(validation, 4, is_training=False)))
    assert images.shape == (4, 3, 180, 240) and masks.shape == (4, 180, 240)


@pytest.mark.parametrize('length, batch_size, drop_last, text', [
    (8, 1, None, r'at least 2 images in the batch of each process, got batch_size 1: .* pass --batch-size 2 or more'),
    (3, 4, None, r'at least one whole batch: the part has 3 samples, batch_size is 4; pass a smaller --batch-size'),
    (1, 2, False, r'at least one whole batch: the part has 1 samples'),
    (9, 4, False, r'No training batch may have a single image: 9 samples in batches of 4 leave one over; '),
])
def test_batches_that_cannot_train_are_refused(length, batch_size, drop_last, text):
    with pytest.raises(ValueError, match=text):
        create_segmentation_loader(Numbered(length), batch_size, is_training=True, drop_last=drop_last)


def test_small_batches_can_be_evaluated():
    assert seen(create_segmentation_loader(Numbered(3), 1, is_training=False, num_workers=0)) == [0, 1, 2]
    assert seen(create_segmentation_loader(Numbered(3), 8, is_training=False, num_workers=0)) == [0, 1, 2]
    loader = create_segmentation_loader(Numbered(6), 4, is_training=True, num_workers=0, drop_last=False)
    assert [len(images) for images, _ in loader] == [4, 2]


def test_other_refusals():
    with pytest.raises(ValueError, match='distributed=True needs a process group, and none is initialised; start'):
        create_segmentation_loader(Numbered(8), 2, is_training=False, distributed=True)
    with pytest.raises(ValueError, match='range has no ignore_label; pass ignore_label'):
        create_segmentation_loader(range(8), 2, is_training=False)
    with pytest.raises(ValueError, match='batch_size must be at least 1, got 0'):
        create_segmentation_loader(Numbered(8), 0, is_training=False)
    with pytest.raises(ValueError, match='seed must be at least 0, got -1'):
        create_segmentation_loader(Numbered(8), 2, is_training=True, seed=-1)


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('is_training', [True, False])
def test_sample_error_message(num_workers, is_training):
    dataset = Numbered(4, fails_at=2, error=DatasetError('masks/a.png: DatasetError: has labels 7; remedy'))
    with pytest.raises(DatasetError) as info:
        seen(create_segmentation_loader(dataset, 2, is_training, num_workers=num_workers))
    assert sample_error_message(info.value) == 'masks/a.png: DatasetError: has labels 7; remedy'


def test_sample_error_message_of_a_damaged_file_read_by_a_worker(tmp_path):
    """The decoder's own error is the cause of ours and is part of the worker's text; it must not be what is shown."""
    for folder in ('val', 'valannot'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'a.png').write_bytes(b'no image')
    loader = create_segmentation_loader(SegmentationFolder(tmp_path, 'val', 2), 1, is_training=False)
    with pytest.raises(DatasetError) as info:
        next(iter(loader))
    message = sample_error_message(info.value)
    assert message.startswith('Every image must be readable: ') and message.endswith('replace or remove the file.')
    assert '\n' not in message and 'val/a.png' in message


def test_sample_error_message_of_other_errors():
    assert sample_error_message(RuntimeError('out of memory')) == 'out of memory'


def test_sizes_are_padded_to_multiples():
    samples = [
        (torch.ones(3, 33, 40), torch.ones(33, 40).long()), (torch.ones(3, 30, 64), torch.ones(30, 64).long())]
    images, masks = collate_segmentation(samples, ignore_label=7, size_divisor=32)
    assert images.shape == (2, 3, 64, 64) and masks.shape == (2, 64, 64)
    assert (masks[0, 33:] == 7).all() and (masks[0, :, 40:] == 7).all() and (masks[0, :33, :40] == 1).all()
    assert (images[1, :, 30:] == 0).all()
