"""Tests of the loader: sharding, seeds, collation, and the errors of batches that cannot train."""
import re
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from PIL import Image
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
from rexnet_timm.data.loader import EvaluationBatches, collate_segmentation

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


class OfSizes(Dataset):
    """Samples of given sizes, whose image is 1 + their index and whose mask is 1."""

    ignore_label = 9

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        self.shapes = sizes
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(index)
        return torch.full((1, *self.shapes[index]), 1.0 + index), torch.ones(self.shapes[index], dtype=torch.long)


class TellsSizes(OfSizes):
    def sample_sizes(self) -> list[tuple[int, int]]:
        return self.shapes


SIZES = [(64, 64), (40, 33), (64, 64), (20, 60), (33, 40), (64, 64), (64, 64), (40, 33)]


@pytest.mark.parametrize('sizes', [[(8, 8)], [(8, 8)] * 7, [(8, 8)] * 8, [(8, 8), (9, 8), (8, 9)] * 33, SIZES])
@pytest.mark.parametrize('batch_size', [1, 3, 64])
@pytest.mark.parametrize('num_replicas', [1, 2, 3, 8])
def test_evaluation_covers_every_sample_exactly_once(sizes, batch_size, num_replicas):
    counted, numbers = [], []
    for rank in range(num_replicas):
        batches = EvaluationBatches(sizes, batch_size, num_replicas, rank)
        for batch in batches:
            assert 1 <= len(batch) <= batch_size and len({sizes[index] for index in batch}) == 1
        counted += [index for batch in batches for index in batch][:batches.num_valid_samples]
        numbers.append(len(batches))
    assert sorted(counted) == list(range(len(sizes)))
    assert len(set(numbers)) == 1 and numbers[0] > 0  # or the collectives of a distributed model would hang


def test_processes_share_the_samples_evenly():
    assert [EvaluationBatches([(8, 8)] * 20, 64, 4, rank).num_valid_samples for rank in range(4)] == [5, 5, 5, 5]


@pytest.mark.parametrize('data', [OfSizes, TellsSizes])
@pytest.mark.parametrize('batch_size', [1, 2, 4, 64])
def test_a_sample_is_evaluated_at_a_size_of_its_own(data, batch_size):
    """Whatever else is in the batch: the size is the sample's, rounded up, and padding is 0 and ignored."""
    loader = create_segmentation_loader(data(SIZES), batch_size, is_training=False, num_workers=0, size_divisor=16)
    number, seen_sizes = 0, {}
    for images, masks in loader:
        number += 1
        assert len(images) <= batch_size and images.shape[2:] == masks.shape[1:]
        assert torch.equal(masks == 9, images[:, 0] == 0)
        for image, mask in zip(images, masks, strict=True):
            index = int(image.max()) - 1
            height, width = SIZES[index]
            assert (mask[:height, :width] == 1).all() and (mask == 1).sum() == height * width
            assert index not in seen_sizes
            seen_sizes[index] = tuple(mask.shape)
    # by hand: multiples of 16, at least 32
    assert seen_sizes == dict(enumerate(
        [(64, 64), (48, 48), (64, 64), (32, 64), (48, 48), (64, 64), (64, 64), (48, 48)]))
    assert len(loader) == number


@pytest.mark.parametrize('data', [OfSizes, TellsSizes])
@pytest.mark.parametrize('batch_size', [1, 3, 8])
def test_predictions_are_those_of_each_image_by_itself(data, batch_size):
    """With a model that looks at the whole picture, as squeeze-and-excitation does."""
    torch.manual_seed(0)
    pictures = [torch.randn(3, *size) for size in SIZES]
    dataset = data(SIZES)
    dataset.__class__ = type('Pictures', (data,), {
        '__getitem__': lambda self, index: (pictures[index], torch.full(SIZES[index], index))})
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())
    with torch.no_grad():
        # by hand: below 32 filled up with zeros
        alone = [picture[None] * gate(nn.functional.pad(picture[None], (0, 0, 0, max(0, 32 - picture.shape[1]))))
                 for picture in pictures]
        for images, masks in create_segmentation_loader(dataset, batch_size, is_training=False, num_workers=0):
            for result, mask in zip(images * gate(images), masks, strict=True):
                expected = alone[int(mask[0, 0])][0]
                torch.testing.assert_close(result[:, :expected.shape[1], :expected.shape[2]], expected)


def test_known_sizes_fill_batches():
    loader = create_segmentation_loader(TellsSizes(SIZES), 4, is_training=False, num_workers=0)
    assert [len(images) for images, _ in loader] == [4, 1, 2, 1]
    assert [index for batch in loader.sampler for index in batch] == [
        int(image.max()) - 1 for images, _ in loader for image in images]
    dataset = TellsSizes(SIZES)
    assert len(create_segmentation_loader(dataset, 4, is_training=False, num_workers=0)) == 4
    assert dataset.read == []


def test_unknown_sizes_are_read_once():
    dataset = OfSizes(SIZES)
    loader = create_segmentation_loader(dataset, 3, is_training=False, num_workers=0)
    assert sum(1 for _ in loader) == 7  # of 3, 3 and 2 samples with 2, 3 and 2 sizes
    assert len(loader) == 7
    assert dataset.read == list(range(8))
    assert len(create_segmentation_loader(dataset, 3, is_training=False, num_workers=0)) == 7


def test_small_images_are_padded_for_evaluation_only():
    dataset = OfSizes([(20, 60)] * 2)
    images, masks = next(iter(create_segmentation_loader(dataset, 2, is_training=False, num_workers=0)))
    assert images.shape == (2, 1, 32, 60) and (masks[:, 20:] == 9).all() and (images[:, :, 20:] == 0).all()
    images, _ = next(iter(create_segmentation_loader(dataset, 2, is_training=False, num_workers=0, min_size=64)))
    assert images.shape == (2, 1, 64, 64)
    images, _ = next(iter(create_segmentation_loader(dataset, 2, is_training=True, num_workers=0)))
    assert images.shape == (2, 1, 20, 60)


def test_padded_depth_does_not_count():
    """The loader of depth pads with its own mark of pixels without depth."""
    samples = [(torch.ones(3, 24, 40), torch.full((24, 40), 5.0)), (torch.ones(3, 40, 24), torch.full((40, 24), 5.0))]
    loader = create_segmentation_loader(samples, 2, is_training=False, num_workers=0, ignore_label=0)
    for _, depth in loader:
        assert depth.dtype == torch.float32 and depth.shape in ((1, 32, 40), (1, 40, 32))
        assert (depth == 5).sum() == 24 * 40 and (depth == 0).sum() == 8 * 40


def test_folder_tells_the_sizes_of_its_samples(tmp_path):
    """From headers, as displayed; a transform that resizes makes them one."""
    for folder in ('val', 'valannot'):
        (tmp_path / folder).mkdir()
    for stem, (height, width) in zip('abcd', [(64, 48), (40, 96), (64, 48), (64, 48)], strict=True):
        Image.new('RGB', (width, height), (255, 255, 255)).save(tmp_path / 'val' / f'{stem}.png')
        Image.new('L', (width, height), 1).save(tmp_path / 'valannot' / f'{stem}.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (96, 40), (255, 255, 255)).save(tmp_path / 'val' / 'e.jpg', exif=exif)
    Image.new('L', (40, 96), 1).save(tmp_path / 'valannot' / 'e.png')
    dataset = SegmentationFolder(tmp_path, 'val', 2, transform=create_segmentation_transform(False))
    assert dataset.sample_sizes() == [(64, 48), (40, 96), (64, 48), (64, 48), (96, 40)]
    loader = create_segmentation_loader(dataset, 2, is_training=False, num_workers=0)
    assert [tuple(masks.shape) for _, masks in loader] == [(1, 40, 96), (1, 96, 40), (2, 64, 48), (1, 64, 48)]
    assert len(loader) == 4
    dataset.transform = create_segmentation_transform(False, (32, 40))
    assert dataset.sample_sizes() == [(32, 40)] * 5
    assert [len(masks) for _, masks in create_segmentation_loader(dataset, 2, False, num_workers=0)] == [2, 2, 1]


def test_damaged_headers_are_named_before_the_evaluation(tmp_path):
    for folder in ('val', 'valannot'):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'a.png').write_bytes(b'no image')
    with pytest.raises(DatasetError, match='val/a.png is not'):
        create_segmentation_loader(SegmentationFolder(tmp_path, 'val', 3), 1, is_training=False)


def test_evaluation_loader_is_in_order_and_complete():
    loader = create_segmentation_loader(Numbered(7), 3, is_training=False, num_workers=0)
    assert seen(loader) == list(range(7))
    assert evaluation_sample_limit(loader) == 7 and len(loader) == 3


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
    transform = create_segmentation_transform(True, 48, rotation=20, elastic=3, balanced_share=0.5)
    dataset = SyntheticShapes(8, image_size=64, transform=transform)
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
    (8, 1, None, r'The model needs at least 2 images in the training batch .* got batch_size 1; pass batch_size=2 or'),
    (3, 4, None, r'at least one whole batch: the part has 3 samples, batch_size is 4; pass a batch_size from 2 to 3'),
    (1, 2, None, r'at least 2 samples, as many as the model needs in a batch, got 1; add data'),
    (1, 2, False, r'at least 2 samples, as many as the model needs in a batch, got 1; add data'),
    (9, 4, False, r'9 samples in batches of 4 leave 1 over; pass another batch_size, or drop_last=True'),
])
def test_batches_that_cannot_train_are_refused(length, batch_size, drop_last, text):
    arguments = {'is_training': True, 'num_workers': 0, 'drop_last': drop_last}
    with pytest.raises(ValueError, match=text):
        create_segmentation_loader(Numbered(length), batch_size, **arguments, min_batch_size=2)
    if length >= batch_size or drop_last is False:  # a model that can train on one image does
        loader = create_segmentation_loader(Numbered(length), batch_size, **arguments)
        assert len(seen(loader)) == length and len(loader) == len(list(loader))


@pytest.mark.parametrize('min_batch_size', [1, 2, 3])
def test_batch_sizes_that_the_message_names_work(min_batch_size):
    for length in range(1, 8):
        for batch_size in range(1, 9):
            try:
                loader = create_segmentation_loader(
                    Numbered(length), batch_size, True, num_workers=0, min_batch_size=min_batch_size)
                assert all(len(images) >= min_batch_size for images, _ in loader) and len(loader) > 0
            except ValueError as error:
                named = re.search(r'batch_size(?:=| from )(\d+)', str(error))
                if named and length >= min_batch_size:
                    create_segmentation_loader(
                        Numbered(length), int(named[1]), True, num_workers=0, min_batch_size=min_batch_size)
                else:
                    assert length < min_batch_size


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
    with pytest.raises(ValueError, match='drop_last is for training'):
        create_segmentation_loader(Numbered(8), 2, is_training=False, drop_last=True)
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
        path = tmp_path / folder / 'a.png'
        Image.effect_noise((64, 64), 50).save(path)
        path.write_bytes(path.read_bytes()[:1000])  # the header is whole
    loader = create_segmentation_loader(SegmentationFolder(tmp_path, 'val', 3), 1, is_training=False)
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
