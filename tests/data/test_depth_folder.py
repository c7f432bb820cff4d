"""Depth from files: each kind of file against the metres that were written, layouts, sparse maps, mistakes."""
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from PIL import Image
from torchvision import tv_tensors

from rexnet_timm.data import DatasetError, DepthFolder, Layout, create_depth_transform, describe_depth
from rexnet_timm.data.depth_folder import read_depth
from rexnet_timm.data.resizing import ResizeDepth


def kitti(path: Path, metres: np.ndarray) -> None:
    Image.fromarray(np.rint(metres * 256).astype(np.uint16)).save(path)


def millimetres(path: Path, metres: np.ndarray) -> None:
    Image.fromarray(np.rint(metres * 1000).astype(np.uint16)).save(path)


def float_tiff(path: Path, metres: np.ndarray) -> None:
    Image.fromarray(np.where(metres > 0, metres, np.nan).astype(np.float32)).save(path)


def array(path: Path, metres: np.ndarray) -> None:
    np.save(path, np.where(metres > 0, metres, -np.inf)[None])


@pytest.mark.parametrize('ending, write, scale, error', [
    ('.png', kitti, 256, 0.5 / 256), ('.png', millimetres, 1000, 0.5e-3), ('.tif', float_tiff, None, 1e-5),
    ('.npy', array, None, 1e-5), ('.tiff', kitti, 256, 0.5 / 256),
])
def test_files_read_as_the_metres_that_were_written(ending, write, scale, error, tmp_path):
    root = trees.depth(tmp_path, '{split}/images/{name}.png', f'{{split}}/depth/{{name}}{ending}', write)
    dataset = DepthFolder(root, 'validation', scale)
    assert len(dataset) == 3 and dataset.ignore_label == 0 and dataset.sample_sizes() == [trees.SIZE] * 3
    for index in range(3):
        image, depth = dataset[index]
        pixels, metres = trees.depth_picture(100 + index)
        assert isinstance(depth, tv_tensors.Mask) and depth.dtype == torch.float32
        assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1))
        assert np.array_equal(depth.numpy() > 0, metres > 0)  # what has no measurement is 0
        assert np.abs(depth.numpy() - metres).max() <= error
    share, counted, nearest, farthest, number = dataset.measured(2.5, 100.)
    known = np.concatenate([trees.depth_picture(100 + index)[1].ravel() for index in range(3)])
    assert share == pytest.approx((known > 0).mean()) and number == 3
    assert (nearest, farthest) == pytest.approx((known[known > 0].min(), known.max()), abs=error)
    assert counted == pytest.approx((known > 2.5).sum() / (known > 0).sum())


@pytest.mark.parametrize('images, depth', [
    ('{split}/{name}.jpg', '{split}_depth/{name}.png'), ('{split}/rgb/{name}.png', '{split}/depth/{name}_depth.png'),
    ('images/{split}/{name}.png', 'depths/{split}/{name}.png'), ('rgb/{name}.jpg', 'depth/{name}.png'),
])
def test_layouts_are_found(images, depth, tmp_path):
    root = trees.depth(tmp_path, images, depth, kitti)
    description = describe_depth(root, depth_scale=256)
    assert description.task == 'depth' and description.source.name_of('validation')
    sizes = [len(DepthFolder(description, split)) for split in ('train', 'validation')]
    assert sizes == ([3, 3] if '{split}' in images else [5, 1])


def test_any_layout_can_be_said(tmp_path):
    """KITTI's trees of raw images and of annotated depth, by templates and by the lists of Eigen's split."""
    root = trees.depth(
        tmp_path, 'raw/{split}/drive/image_02/data/{name}.png',
        'data_depth_annotated/{split}/drive/image_02/data/{name}.png', kitti)
    layout = Layout(image_dir='raw/{split}', mask_dir='data_depth_annotated/{split}')
    assert len(DepthFolder(root, 'train', 256, layout=layout)) == 3
    names = [f'drive/image_02/data/train{index:02}.png' for index in range(3)]
    lines = [f'raw/train/{name} data_depth_annotated/train/{name} 721.5377' for name in names[:2]]
    trees.write(root / 'train.txt', '\n'.join([*lines, f'raw/train/{names[2]} None 721.5377']))
    listed = DepthFolder(root, 'train', 256, layout=Layout(split_file='{split}.txt'))
    assert [path.name for path, _ in map(listed.paths, range(len(listed)))] == ['train00.png', 'train01.png']
    lines = [f'raw/train/{name} {name} 721.5377' for name in names]  # each below a folder of its own
    trees.write(root / 'train.txt', '\n'.join(lines))
    layout = Layout(split_file='{split}.txt', image_dir='.', mask_dir='data_depth_annotated/train')
    listed = DepthFolder(root, 'train', 256, layout=layout)
    assert len(listed) == 3 and listed.paths(0)[1].is_relative_to(root / 'data_depth_annotated')
    trees.write(root / 'train.txt', '\n'.join(names))
    with pytest.raises(DatasetError, match='names images only needs the folder .* by image_dir and depth_dir'):
        DepthFolder(root, 'train', 256, layout=Layout(split_file='{split}.txt'))


def test_a_dataset_yaml_says_the_scale(tmp_path):
    trees.depth(tmp_path / 'set', 'a/{split}/{name}.png', 'b/{split}/{name}.png', millimetres)
    text = 'root: set\nimage_dir: a/{split}\nmask_dir: b/{split}\ndepth_scale: 1000'
    path = trees.write(tmp_path / 'depth.yaml', text)
    assert DepthFolder(path, 'val')[0][1].max() < 61 and DepthFolder(path, 'val', 500)[0][1].max() > 61
    trees.write(path, 'root: set\ndepth_scale: -1')
    with pytest.raises(DatasetError, match='depth_scale must be a number above 0, what the files have .* got -1'):
        describe_depth(path)


# Sparse depth through the transforms.


def cells_by_hand(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The measured pixel of each cell that is nearest to its centre, one cell after the other."""
    result = np.zeros(size, np.float32)
    half = Fraction(1, 2)
    pixels = [[half + place for place in range(length)] for length in depth.shape]
    steps = [Fraction(old, new) for old, new in zip(depth.shape, size, strict=True)]
    for y in range(size[0]):
        for x in range(size[1]):
            best = None
            for i, row in enumerate(pixels[0]):
                for j, column in enumerate(pixels[1] if row // steps[0] == y else ()):
                    if column // steps[1] != x or not depth[i, j]:
                        continue
                    distance = (row - (y + half) * steps[0]) ** 2 + (column - (x + half) * steps[1]) ** 2
                    if best is None or distance < best:
                        best, result[y, x] = distance, depth[i, j]
    return result


@pytest.mark.parametrize('size, resized', [((19, 62), (7, 20)), ((15, 24), (5, 8)), ((12, 20), (10, 16))])
def test_resizing_keeps_measurements_and_invents_none(size, resized):
    rng = np.random.default_rng(0)
    depth = (rng.uniform(1, 80, size) * (rng.random(size) < 0.15)).astype(np.float32)
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    _, shrunk = ResizeDepth(resized)(image, tv_tensors.Mask(torch.from_numpy(depth)))
    np.testing.assert_array_equal(shrunk.numpy(), cells_by_hand(depth, resized))
    assert np.isin(shrunk.numpy(), depth).all()
    centres = depth[np.ix_(*(((np.arange(new) + 0.5) * old / new).astype(int)
                             for old, new in zip(size, resized, strict=True)))]
    assert (shrunk.numpy() > 0).sum() > (centres > 0).sum()
    kept = np.where(centres > 0, shrunk.numpy() == centres, True)
    assert kept.all()  # what nearest neighbours give stays


def test_dense_depth_is_resized_by_nearest_neighbour():
    torch.manual_seed(0)
    depth, image = torch.rand(37, 91) + 1, torch.zeros(3, 37, 91, dtype=torch.uint8)
    _, resized = ResizeDepth((16, 50))(tv_tensors.Image(image), tv_tensors.Mask(depth))
    rows, columns = (torch.arange(new).add(0.5).mul(old / new).long() for new, old in ((16, 37), (50, 91)))
    torch.testing.assert_close(resized.as_subclass(torch.Tensor), depth[rows][:, columns])
    larger = ResizeDepth((74, 182))(tv_tensors.Image(image), tv_tensors.Mask(depth))[1]
    torch.testing.assert_close(larger.as_subclass(torch.Tensor), depth.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_flips_turn_image_and_depth_together():
    pixels, metres = trees.depth_picture(0)
    sample = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)), tv_tensors.Mask(torch.from_numpy(metres))
    transform = create_depth_transform(True, trees.SIZE, mean=(0.,) * 3, std=(1.,) * 3, hflip=1., color_jitter=0.)
    image, depth = transform(*sample)
    assert np.array_equal(depth.numpy(), metres[:, ::-1].astype(np.float32))
    np.testing.assert_allclose(image.numpy(), pixels[:, ::-1].transpose(2, 0, 1) / 255, atol=1e-6)


# Mistakes.


def wrong(root: Path, name: str) -> Path:
    save = {
        'colour': lambda path: trees.save(path, np.zeros((40, 48, 3), np.uint8)),
        'jpeg': lambda path: Image.fromarray(np.zeros((40, 48), np.uint8)).save(path, 'JPEG'),
        'cut': lambda path: path.write_bytes(path.read_bytes()[:60]),
        'size': lambda path: kitti(path, np.ones((20, 24))),
        'shape': lambda path: np.save(path, np.ones((4, 5, 6))),
        'object': lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    }[name]
    ending = '.npy' if name in ('shape', 'object') else '.png'
    trees.depth(root, 'train/images/{name}.png', f'train/depth/{{name}}{ending}', array if ending == '.npy' else kitti)
    save(root / f'train/depth/train00{ending}')
    return root


@pytest.mark.parametrize('name, message', [
    ('colour', 'one number a pixel: .*train00.png has mode RGB, as pictures in colour have; save the depth itself'),
    ('jpeg', 'without loss: .*train00.png is a JPEG file'), ('cut', 'Every depth map must be readable: .*train00.png'),
    ('size', r'Image and depth map must have the same size: .*train00.png is 48 x 40 but .* is 24 x 20 .*; resize the '
             'depth map by nearest neighbour'),
    ('shape', r'an array \(H, W\) of numbers: .*train00.npy has the shape \(4, 5, 6\)'),
    ('object', 'Every depth map must be readable: .*train00.npy is not .*Python objects'),
])
def test_files_that_cannot_be_used_are_named(name, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        DepthFolder(wrong(tmp_path, name), 'train', 256)[0]


def test_whole_numbers_need_their_unit_before_training(tmp_path):
    root = trees.depth(tmp_path, '{split}/images/{name}.png', '{split}/depth/{name}.png', kitti)
    with pytest.raises(DatasetError, match='needs its unit: .* values up to 15360 of 16 bits; pass depth_scale=256'):
        DepthFolder(root, 'train')
    with pytest.raises(ValueError, match='depth_scale must be above 0, what the files have for a metre, got 0'):
        DepthFolder(root, 'train', 0)


def test_images_without_depth_and_folders_without_it_are_told(tmp_path):
    root = trees.depth(tmp_path, '{split}/images/{name}.png', '{split}/depth/{name}.png', kitti)
    (root / 'train/depth/train01.png').unlink()
    with pytest.raises(DatasetError, match=re.escape('Each image must have a depth map of the same stem: 1 of 3 ')):
        DepthFolder(root, 'train', 256)
    with pytest.raises(DatasetError, match='No folders of images and depth maps for split "test": .* "train", or "val"'
                                           '|Take the split "train" or "val"'):
        DepthFolder(root, 'test', 256)
    for path in (root / 'val/depth').iterdir():
        kitti(path, np.zeros((40, 48)))
    with pytest.raises(DatasetError, match='measured somewhere: the 3 depth maps looked at, such as .* have none'):
        DepthFolder(root, 'val', 256).measured(1, 80)


def test_inverted_grey_is_refused(tmp_path):
    path = tmp_path / 'a.tif'
    Image.fromarray(np.ones((4, 4), np.uint8)).save(path, tiffinfo={262: 0})
    with pytest.raises(DatasetError, match='inverted grey'):
        read_depth(path, 256)
