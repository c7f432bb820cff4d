"""Tests of the built-in depth set: determinism, exact depth, and that the place in the picture does not tell it."""
import math
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from rexnet_timm.data import SyntheticDepth, create_depth_transform, create_segmentation_loader
from rexnet_timm.data.synthetic_depth import _Scene

PLAIN = {'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)}


def test_samples():
    dataset = SyntheticDepth(20, image_size=(48, 64))
    assert len(dataset) == 20 and dataset.ignore_label == 0
    for image, depth in dataset:
        assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8 and image.shape == (3, 48, 64)
        assert isinstance(depth, tv_tensors.Mask) and depth.dtype == torch.float32 and depth.shape == (48, 64)
        metres = depth[depth != 0]
        assert 0.9 < metres.min() and metres.max() < 60 and len(metres) > 0.3 * depth.numel()
        assert image.float().std() > 10


def test_determined_by_seed_and_index_in_any_order():
    first, later = SyntheticDepth(8, 64, seed=3), SyntheticDepth(100, 64, seed=3)
    for index in (7, 0, 4):
        for one, other in zip(first[index], later[index], strict=True):
            assert torch.equal(one, other)
    for part in (0, 1):
        assert not torch.equal(first[0][part], first[1][part])
        assert not torch.equal(first[0][part], SyntheticDepth(8, 64, seed=4)[0][part])


def test_global_random_state_is_neither_read_nor_moved():
    dataset = SyntheticDepth(2, image_size=64)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = np.random.rand(), torch.rand(()).item()
    np.random.seed(0)
    torch.manual_seed(0)
    before = dataset[0][0]
    assert (np.random.rand(), torch.rand(()).item()) == expected
    assert torch.equal(before, dataset[0][0])


def test_same_samples_from_workers():
    dataset = SyntheticDepth(4, image_size=64)
    depths = torch.cat([depths for _, depths in DataLoader(dataset, batch_size=2, num_workers=2)])
    assert torch.equal(depths, torch.stack([dataset[index][1].as_subclass(torch.Tensor) for index in range(4)]))


def empty_scene(size: tuple[int, int] = (65, 65)) -> _Scene:
    return _Scene(np.random.default_rng(0), size)


def hit_points(scene: _Scene) -> np.ndarray:
    """Points (3, number) of the pixels that see something."""
    hit = np.isfinite(scene.depth)
    return scene.depth[hit] * scene.rays[:, hit]


def test_the_ground_is_a_plane_at_the_height_of_the_camera():
    scene = empty_scene()
    depth = scene.add_ground()
    below = np.isfinite(depth)
    assert 0.2 < below.mean() < 0.8
    np.testing.assert_allclose((depth * scene.rays[1])[below], scene.camera_height, rtol=1e-4)


def test_the_points_of_a_sphere_are_its_radius_from_its_centre():
    scene = empty_scene()
    scene.add_sphere(0.4, 6., 0.8)
    points = hit_points(scene) - np.array([[0.4], [scene.camera_height - 0.8], [6.]])
    assert points.shape[1] > 100
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), 0.8, rtol=1e-3)
    assert (points[2] < 0.05).all()  # the near side


def test_the_points_of_a_box_lie_on_its_faces():
    scene, half_sides, yaw = empty_scene((64, 64)), (0.7, 0.5, 0.9), 0.4
    scene.add_box(0.2, 5., half_sides, yaw)
    x, y, z = hit_points(scene) - np.array([[0.2], [scene.camera_height - 0.5], [5.]])
    assert len(x) > 100
    across, along = math.cos(yaw) * x - math.sin(yaw) * z, math.sin(yaw) * x + math.cos(yaw) * z
    place = np.abs([across, y, along]) / np.array(half_sides)[:, None]  # 1 on a face
    np.testing.assert_allclose(place.max(0), 1, rtol=1e-3)
    assert len(set(place.argmax(0).tolist())) > 1  # more than one face is seen


def test_nearer_things_hide_farther_ones_in_any_order():
    depths = []
    for order in (0, 1):
        scene = empty_scene()
        for z in ((4., 8.) if order else (8., 4.)):
            scene.add_sphere(0., z, 0.9)
        depths.append(scene.depth)
    np.testing.assert_array_equal(*depths)


def test_a_smaller_picture_shows_the_same_scene():
    large, small = (SyntheticDepth(6, size, seed=2) for size in ((96, 96), (32, 32)))
    for index in range(6):
        middle, depth = large[index][1][1::3, 1::3], small[index][1]  # the middle of each 3 x 3 pixels
        same = torch.isclose(middle.as_subclass(torch.Tensor), depth.as_subclass(torch.Tensor), rtol=1e-3)
        assert same.float().mean() > 0.99


def test_edges_of_depth_are_edges_of_the_image():
    across, beside = [], []
    for image, depth in SyntheticDepth(20):
        steps = (image[:, :, 1:].float() - image[:, :, :-1].float()).abs().mean(0)
        edge = (depth[:, 1:] - depth[:, :-1]).abs() > 0.3 * depth[:, 1:].clamp(min=1)
        across.append(steps[edge])
        beside.append(steps[~edge])
    assert torch.cat(across).mean() > 2 * torch.cat(beside).mean()


def test_the_place_in_the_picture_does_not_tell_the_depth():
    """The best guess that does not look at the image, the mean of log depth at each pixel, is a poor one."""
    depth = torch.stack([depth.as_subclass(torch.Tensor) for _, depth in SyntheticDepth(120, (48, 64))])
    valid = depth > 0
    train, held_out = slice(0, 80), slice(80, 120)
    log_depth = torch.where(valid, depth, 1).log()
    guess = (log_depth[train].sum(0) / valid[train].sum(0).clamp(min=1)).exp()
    error = ((guess - depth[held_out]).abs() / depth[held_out])[valid[held_out]]
    assert error.mean() > 0.3


def test_transform_mirrors_image_and_depth_together():
    dataset = SyntheticDepth(1, 64)
    image, depth = dataset[0]
    dataset.transform = create_depth_transform(True, 64, **PLAIN, hflip=1., color_jitter=0.)
    mirrored, mirrored_depth = dataset[0]
    assert mirrored_depth.dtype == mirrored.dtype == torch.float32
    assert type(mirrored_depth) is type(mirrored) is torch.Tensor
    torch.testing.assert_close(mirrored * 255, image.as_subclass(torch.Tensor).flip(-1).float())
    assert torch.equal(mirrored_depth, depth.as_subclass(torch.Tensor).flip(-1))


def test_transform_changes_colours_and_no_depth():
    dataset = SyntheticDepth(1, 64)
    depth = dataset[0][1].as_subclass(torch.Tensor)
    plain = create_depth_transform(False, **PLAIN)(*dataset[0])
    torch.manual_seed(0)
    jittered = create_depth_transform(True, 64, **PLAIN, hflip=0.)(*dataset[0])
    assert torch.equal(plain[1], depth) and torch.equal(jittered[1], depth)
    assert (plain[0] - jittered[0]).abs().mean() > 0.01


def test_transform_resizes_without_inventing_depth():
    image, depth = SyntheticDepth(1, 96)[0]
    small, small_depth = create_depth_transform(False, (40, 52), **PLAIN)(image, depth)
    assert small.shape == (3, 40, 52) and small_depth.shape == (40, 52)
    assert set(small_depth.unique().tolist()) <= set(depth.unique().tolist())


def test_transform_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r'form a batch: pass img_size'):
        create_depth_transform(True)
    with pytest.raises(ValueError, match='hflip must be from 0 to 1, got 2'):
        create_depth_transform(True, 64, hflip=2)


def test_the_loader_pads_with_no_depth():
    class Narrow(SyntheticDepth):
        def __getitem__(self, index):
            return tuple(part[..., :24] for part in super().__getitem__(index))

    dataset = Narrow(2, 64, transform=create_depth_transform(False))
    images, depths = next(iter(create_segmentation_loader(dataset, 2, is_training=False, num_workers=0)))
    assert images.shape == (2, 3, 64, 32) and depths.dtype == torch.float32
    assert (depths[:, :, 24:] == 0).all() and (depths[:, :, :24] > 0).any()


@pytest.mark.parametrize('arguments, text', [
    ({'length': 0}, 'length must be at least 1, got 0'),
    ({'length': 1, 'image_size': 16}, r'numbers of at least 32, got \(16, 16\)'),
    ({'length': 1, 'seed': -1}, 'seed must be at least 0, got -1'),
])
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        SyntheticDepth(**arguments)


def test_index_out_of_range():
    with pytest.raises(IndexError, match='index must be from 0 to 3, got 4'):
        SyntheticDepth(4)[4]


def test_fast_enough_to_be_drawn_while_training():
    dataset = SyntheticDepth(20)
    times = []
    for index in range(20):
        start = time.process_time()
        dataset[index]
        times.append(time.process_time() - start)
    assert sorted(times)[len(times) // 2] < 0.06  # seconds; a few times what it takes, for slow machines
