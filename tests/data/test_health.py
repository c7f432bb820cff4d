"""Bad samples, found by their headers or by reading them."""
import numpy as np
import pytest
import trees
from PIL import Image
from test_check import masks, noise

from rexnet_timm.data import DatasetError, SegmentationFolder
from rexnet_timm.data.health import bad_samples


def folder(root, number: int = 8) -> SegmentationFolder:
    masks(root, [noise(3, seed) for seed in range(number)])
    return SegmentationFolder(root, 'train', 3)


def test_headers_tell_sizes_modes_and_pages(tmp_path):
    dataset = folder(tmp_path)
    images, labels = tmp_path / 'train' / 'images', tmp_path / 'train' / 'masks'
    trees.save(labels / '0001.png', noise(3, 0, (24, 30)))
    pages = [Image.fromarray(noise(200, seed)) for seed in range(2)]
    pages[0].save(images / '0002.png', save_all=True, append_images=pages[1:])
    (images / '0003.png').write_bytes(b'')
    Image.new('CMYK', (31, 24)).save(labels / '0004.png', 'TIFF')
    whole = (images / '0005.png').read_bytes()
    (images / '0005.png').write_bytes(whole[:len(whole) // 2])  # of which the header is whole
    trees.save(labels / '0006.png', np.full((24, 31), 7, np.uint8))
    assert [sample.index for sample in bad_samples(dataset, threads=3)] == [1, 2, 3, 4]
    found = bad_samples(dataset, whole=True, threads=3)
    assert [sample.index for sample in found] == [1, 2, 3, 4, 5, 6]
    for sample in found:  # what is told is what a loader would have met
        with pytest.raises(DatasetError) as error:
            dataset[sample.index]
        assert str(error.value) == sample.reason
        assert (sample.image, sample.mask) == tuple(map(str, dataset.paths(sample.index)))


def test_arrays_and_drawn_masks(tmp_path):
    dataset = folder(tmp_path)
    labels = tmp_path / 'train' / 'masks'
    for path in labels.iterdir():
        np.save(path.with_suffix('.npy'), noise(3))
        path.unlink()
    np.save(labels / '0001.npy', noise(3, 0, (9, 9)))
    np.save(labels / '0002.npy', np.zeros((2, 3, 4, 5)))
    dataset = SegmentationFolder(tmp_path, 'train', 3)
    assert [sample.index for sample in bad_samples(dataset)] == [1, 2]
    drawn = SegmentationFolder(trees.coco(tmp_path / 'coco'), 'train')
    trees.save(tmp_path / 'coco' / 'train2017' / '000000000001.jpg', trees.picture(0, size=(48, 40))[0])
    (sample,) = bad_samples(drawn)
    assert sample.index == 1 and 'Image and mask must have the same size' in sample.reason
    assert not bad_samples(SegmentationFolder(trees.yolo_of_outlines(tmp_path / 'yolo'), 'train'))


def test_samples_are_left_out(tmp_path):
    dataset = folder(tmp_path)
    names = [dataset.paths(index)[0].name for index in range(8)]
    dataset.leave_out([0, 5])
    assert [dataset.paths(index)[0].name for index in range(len(dataset))] == [*names[1:5], *names[6:]]
    assert len(dataset.sample_sizes()) == 6 and dataset[0][0].shape == (3, 24, 31)
    with pytest.raises(DatasetError, match='At least one sample must be usable, and none of the split train'):
        dataset.leave_out(range(6))
