import csv
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import trees
from networks import with_statistics
from PIL import Image
from running import on_ranks, write_class_folder
from torch import nn

import rexnet_timm
from rexnet_timm.data import DataDescription, SegmentationFolder, SyntheticDepth, SyntheticShapes
from rexnet_timm.data.loader import create_segmentation_loader
from rexnet_timm.data.transforms import create_segmentation_transform
from rexnet_timm.deployment.evaluate import evaluate
from rexnet_timm.deployment.load import describe
from rexnet_timm.deployment.predict import predict
from rexnet_timm.grid import enlarge
from rexnet_timm.training.engine import evaluate as evaluate_task
from rexnet_timm.training.metrics import ConfusionMatrix

NAMES = ('background', 'disc', 'square', 'triangle', 'ring', 'stripes')


def unet(classes: int = 6, names: tuple[str, ...] = NAMES, **description) -> nn.Module:
    torch.manual_seed(0)
    model = with_statistics(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=classes, scales=(0, 1, 2)))
    return describe(model, DataDescription(class_names=names, **description))


class Brightness(nn.Module):
    """Three classes by the red channel: dark, middle, bright; no parameter, and any size."""
    takes_uint8 = True

    def __init__(self, **description) -> None:
        super().__init__()
        self.description = DataDescription(class_names=('dark', 'middle', 'bright'), **description)
        self.shapes = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        middles = torch.tensor([0., 128., 255.])[None, :, None, None]
        return -(x[:, :1].float() - middles).abs() / 20


def folder(root: Path, wrong: int = 30, ignored: int | None = None) -> Path:
    """Images of three sizes whose masks Brightness finds, except for `wrong` pixels of the second."""
    (root / 'test' / 'images').mkdir(parents=True)
    (root / 'test' / 'masks').mkdir()
    (root / 'classes.txt').write_text('dark\nmiddle\nbright\n')
    rng = np.random.default_rng(0)
    for index, size in enumerate(((40, 50), (33, 47), (40, 50), (20, 64))):
        labels = np.kron(rng.integers(0, 3, (-(-size[0] // 10), -(-size[1] // 10))), np.ones((10, 10), int))
        labels = labels[:size[0], :size[1]].astype(np.uint8)
        pixels = np.array([0, 128, 255], dtype=np.uint8)[labels][..., None].repeat(3, 2)
        if index == 1:
            labels.flat[:wrong] = (labels.flat[:wrong] + 1) % 3
        if ignored is not None:
            labels[:4] = ignored
        Image.fromarray(pixels).save(root / 'test' / 'images' / f'{index}.png')
        Image.fromarray(labels).save(root / 'test' / 'masks' / f'{index}.png')
    return root


def test_each_image_is_taken_at_its_own_size_and_counted_once(tmp_path):
    model, root = Brightness(), folder(tmp_path / 'data')
    results = evaluate(model, root, batch_size=8, results_dir=tmp_path / 'out')
    assert {shape[2:] for shape in model.shapes} == {(40, 50), (33, 47), (32, 64)}  # at least 32
    assert [(row['image'], row['height'], row['width']) for row in results['per_image']] == [
        ('0.png', 40, 50), ('1.png', 33, 47), ('2.png', 40, 50), ('3.png', 20, 64)]
    pixels = 2 * 40 * 50 + 33 * 47 + 20 * 64
    assert sum(map(sum, results['confusion'])) == pixels
    assert results['pixel_acc'] == pytest.approx(100 * (1 - 30 / pixels))
    assert results['per_image'][0]['miou'] == results['per_image'][0]['mboundary_iou'] == 100
    assert results['per_image'][1]['pixel_acc'] == pytest.approx(100 * (1 - 30 / (33 * 47)))
    assert results['class_names'] == ['dark', 'middle', 'bright'] and results['images'] == 4

    saved = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert saved['miou'] == results['miou'] and saved['classes']['middle']['iou'] == results['iou_middle']
    with open(tmp_path / 'out' / 'per_image.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['image'] for row in rows] == ['0.png', '1.png', '2.png', '3.png']
    assert float(rows[1]['miou']) == results['per_image'][1]['miou']
    for name in ('confusion.png', 'worst.png'):
        assert Image.open(tmp_path / 'out' / name).width > 200
    assert sorted(os.listdir(tmp_path / 'out')) == [
        'confusion.png', 'example.png', 'per_image.csv', 'results.json', 'worst.png']


def test_ignored_pixels_and_absent_classes_do_not_count(tmp_path):
    root = folder(tmp_path, wrong=0, ignored=255)
    results = evaluate(Brightness(ignore_index=255), root)
    assert results['miou'] == results['pixel_acc'] == results['mboundary_iou'] == 100
    assert results['per_image'][3]['labelled'] == 16 * 64
    for path in (root / 'test' / 'masks').iterdir():
        Image.fromarray(np.full(Image.open(path).size[::-1], 255, dtype=np.uint8)).save(path)
    with pytest.raises(ValueError, match='must have a labelled pixel, got none'):
        evaluate(Brightness(ignore_index=255), root)


def test_scores_are_those_of_training_and_of_torch():
    model = unet()
    results = evaluate(model, SyntheticShapes(5, (50, 70), seed=3), batch_size=2)
    dataset = SyntheticShapes(5, (50, 70), seed=3, transform=create_segmentation_transform(False))
    task = rexnet_timm.SegmentationTask(model, 6, class_names=list(NAMES), verbose=False)
    expected = evaluate_task(task, create_segmentation_loader(dataset, 5, False, num_workers=0))
    for name in ('miou', 'mdice', 'macc', 'pixel_acc', 'iou_disc'):
        assert results[name] == pytest.approx(expected[name], nan_ok=True)
    images, targets = (torch.stack(part) for part in zip(*(dataset[index] for index in range(5)), strict=True))
    with torch.no_grad():
        probabilities = model(images).softmax(1)
    top, prediction = probabilities.max(1)
    error = 0.
    for low in range(15):
        inside = (top > low / 15) & (top <= (low + 1) / 15)
        if inside.any():
            share = (prediction == targets)[inside].float().mean()
            error += inside.float().mean().item() * abs(share - top[inside].mean()).item()
    assert results['ece'] == pytest.approx(100 * error, rel=1e-4)


def test_each_scale_is_enlarged_on_its_grid():
    model = unet()
    dataset = SyntheticShapes(3, (45, 61), seed=1)
    results = evaluate(model, dataset, scales=True, batch_size=3)
    assert list(results['scales']) == [0, 1, 2]
    assert results['scales'][0]['confusion'] == results['confusion']
    prepare = create_segmentation_transform(False)
    images, targets = (torch.stack(part) for part in zip(*(prepare(*dataset[i]) for i in range(3)), strict=True))
    for scale in (1, 2):
        with torch.no_grad():
            logits = enlarge(model.forward_scales(images)[scale], scale, (45, 61))
        matrix = ConfusionMatrix(6)
        matrix.update(logits.argmax(1), targets)
        assert results['scales'][scale]['confusion'] == matrix.counts.tolist()
    with pytest.raises(ValueError, match='scales needs a multi-scale U-Net'):
        evaluate(Brightness(), dataset, scales=True)


def test_tiles_flips_and_zooms_are_those_of_infer(tmp_path, monkeypatch):
    calls = []

    def infer(network, images, **options):
        calls.append((tuple(images.shape), options))
        return network(images).softmax(1).flip(-1) if 'h' in options['flips'] else network(images).softmax(1)

    module = ModuleType('rexnet_timm.deployment.inference')
    module.infer = infer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    root = folder(tmp_path)
    plain = evaluate(Brightness(), root)
    assert not calls
    tiled = evaluate(Brightness(), root, tile=(32, 40), overlap=0.5, zooms=(1., 0.5))
    assert {shape[2:] for shape, _ in calls} == {(40, 50), (33, 47), (20, 64)}  # infer pads by itself
    assert calls[0][1] == dict(tile=(32, 40), overlap=0.5, flips=(), zooms=(1., 0.5))
    assert tiled['confusion'] == plain['confusion'] and tiled['ece'] == pytest.approx(plain['ece'])
    assert evaluate(Brightness(), root, flips=('h',))['miou'] < plain['miou']
    calls.clear()
    model = unet()
    results = evaluate(model, SyntheticShapes(2, (45, 61)), tile=(64, 64), scales=True)
    assert len(calls) == 4  # the model's own output, and each scale
    expected = evaluate(model, SyntheticShapes(2, (45, 61)), scales=True)
    assert results['scales'][2]['confusion'] == expected['scales'][2]['confusion']


def test_a_binary_mask_has_two_classes():
    model = unet(1, ('background', 'disc'))
    results = evaluate(model, SyntheticShapes(3, 40, num_classes=2))
    with torch.no_grad():
        image, target = create_segmentation_transform(False)(*SyntheticShapes(3, 40, num_classes=2)[0])
        found = model(image[None])[0, 0] > 0
    truth = target == 1
    expected = (found & truth).sum() / (found | truth).sum()
    assert results['per_image'][0]['iou_disc'] == pytest.approx(100 * expected.item())
    assert len(results['confusion']) == 2


@pytest.mark.parametrize('names, message', [
    (('dark', 'middle'), r'classes.txt has 3 names, and the model has 2 classes'),
    (('dark', 'bright', 'middle'), "names them in another order; class 1 is 'middle' there and 'bright' in the model"),
    (('dark', 'grey', 'bright'), "names them otherwise; class 1 is 'middle' there and 'grey' in the model"),
])
def test_other_classes_are_refused(tmp_path, names, message):
    model = Brightness()
    describe(model, DataDescription(class_names=names))
    with pytest.raises(ValueError, match=message):
        evaluate(model, folder(tmp_path))


def test_placeholders_are_no_names(tmp_path):
    model = Brightness()
    describe(model, DataDescription(class_names=('class 0', 'class 1', 'class 2')))
    assert evaluate(model, folder(tmp_path))['images'] == 4
    with pytest.raises(ValueError, match='The data set has 6, and the model has 3'):
        evaluate(model, SyntheticShapes(2, 40))


def test_a_wrong_call_is_refused(tmp_path):
    with pytest.raises(ValueError, match='does not exist or is no folder'):
        evaluate(Brightness(), tmp_path / 'nothing')
    with pytest.raises(ValueError, match='batch_size must be at least 1, got 0'):
        evaluate(Brightness(), folder(tmp_path), batch_size=0)
    depth = describe(rexnet_timm.ReXDepth(0.25, 0.2), DataDescription(task='depth'))
    with pytest.raises(ValueError, match='No folders of images and depth maps for split "test"'):
        evaluate(depth, tmp_path)
    with pytest.raises(ValueError, match='are for segmentation, and the model is for depth'):
        evaluate(depth, SyntheticDepth(1), flips=('h',))


def test_errors_of_sparse_depth_are_those_of_an_oracle(tmp_path):
    """AbsRel, RMSE and deltas in metres over the measured pixels of all images, at the images' own sizes."""
    class Brightness(torch.nn.Module):
        def forward(self, x):
            return {('disp', 0): (x.mean(1, keepdim=True) * 0.3).clamp(0.01, 0.9)}

    sizes = [(40, 48), (30, 56), (40, 48)]
    root, errors = tmp_path / 'set', []
    for index, size in enumerate(sizes):
        pixels, metres = trees.depth_picture(index, size)
        metres = np.rint(metres * 256) / 256
        trees.save(root / f'test/images/{index}.png', pixels)
        (root / 'test/depth').mkdir(exist_ok=True)
        Image.fromarray((metres * 256).astype(np.uint16)).save(root / f'test/depth/{index}.png')
        disparity = np.clip(pixels.mean(-1) / 255 * 0.3, 0.01, 0.9)
        predicted = 1 / (1 / 50 + disparity * (1 / 1 - 1 / 50))
        counts = (metres >= 1) & (metres <= 50)  # neither holes nor what is farther
        errors.append(np.stack([predicted[counts], metres[counts]]))
    predicted, metres = np.concatenate(errors, axis=1)
    ratio = np.maximum(predicted / metres, metres / predicted)
    expected = {
        'abs_rel': np.mean(np.abs(predicted - metres) / metres), 'rmse': np.sqrt(np.mean((predicted - metres) ** 2)),
        **{f'delta{power}': 100 * np.mean(ratio < 1.25 ** power) for power in (1, 2, 3)}}
    known = DataDescription(
        task='depth', min_depth=1., max_depth=50., depth_scale=256, mean=(0.,) * 3, std=(1.,) * 3)
    for batch_size in (1, 8):
        results = evaluate(describe(Brightness(), known), root, batch_size=batch_size)
        assert {name: results[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert [row['pixels'] for row in results['per_image']] == [part.shape[1] for part in errors]


def test_depth_is_predicted_at_the_size_of_the_training_and_measured_at_that_of_the_image(tmp_path):
    class Rows(torch.nn.Module):
        """Disparity from the size that it sees: rows and columns are as in training, or the answer is wrong."""
        def forward(self, x):
            assert tuple(x.shape[-2:]) == (32, 64)
            return {('disp', 0): torch.linspace(0.2, 0.8, 32)[None, None, :, None].expand(len(x), 1, 32, 64)}

    root = trees.depth(tmp_path, '{split}/images/{name}.png', '{split}/depth/{name}.npy', np.save, size=(64, 96))
    known = DataDescription(task='depth', min_depth=1., max_depth=100., input_size=(32, 64))
    model = describe(Rows(), known)
    results = evaluate(model, root, 'val')
    rows = np.interp((np.arange(64) + 0.5) / 2 - 0.5, np.arange(32), np.linspace(0.2, 0.8, 32))[:, None]
    depth = np.repeat(1 / (0.01 + rows * 0.99), 96, axis=1)
    truth = [trees.depth_picture(100 + index, (64, 96))[1] for index in range(3)]
    expected = np.concatenate([(np.abs(depth - metres) / np.where(metres, metres, 1))[metres > 0] for metres in truth])
    assert results['abs_rel'] == pytest.approx(expected.mean(), rel=1e-5)
    np.testing.assert_allclose(predict(model, root / 'val/images/val00.png').depth, depth, rtol=1e-5)


def test_a_network_that_chooses_the_class_has_no_calibration(tmp_path):
    class Chooses(Brightness):
        def forward(self, x):
            return super().forward(x).argmax(1).to(torch.uint8)

    expected, results = (evaluate(model, folder(tmp_path / str(index))) for index, model in enumerate((
        Brightness(), Chooses())))
    assert results['confusion'] == expected['confusion'] and math.isnan(results['ece'])


def test_a_network_of_one_size_gets_padded_images(tmp_path):
    model, root = Brightness(), folder(tmp_path)
    expected = evaluate(model, root)
    model.size, model.shapes = (48, 64), []
    assert evaluate(model, root)['confusion'] == expected['confusion']
    assert {shape[2:] for shape in model.shapes} == {(48, 64)}
    model.size = (32, 64)
    with pytest.raises(ValueError, match='takes images of 32 x 64 only, got 40 x 50'):
        evaluate(model, root)


def test_depth_is_measured_by_its_own_metrics(tmp_path):
    torch.manual_seed(0)
    model = describe(
        with_statistics(rexnet_timm.ReXDepth(0.25, 0.2)), DataDescription(task='depth', min_depth=0.5, max_depth=60.))
    dataset = SyntheticDepth(3, (40, 56), seed=2)
    results = evaluate(model, dataset, results_dir=tmp_path)
    prepare = create_segmentation_transform(False)
    image, depth = dataset[0]
    with torch.no_grad():
        disparity = model(prepare(image, depth)[0][None])['disp', 0][0, 0]
    predicted = 1 / (1 / 60 + disparity * (1 / 0.5 - 1 / 60))
    depth = depth.as_subclass(torch.Tensor)
    valid = (depth >= 0.5) & (depth <= 60)
    expected = ((predicted - depth).abs() / depth)[valid].mean().item()
    assert results['per_image'][0]['abs_rel'] == pytest.approx(expected, rel=1e-4)
    pixels = [row['pixels'] for row in results['per_image']]
    assert results['abs_rel'] == pytest.approx(
        np.average([row['abs_rel'] for row in results['per_image']], weights=pixels))
    assert sorted(os.listdir(tmp_path)) == ['example.png', 'per_image.csv', 'results.json', 'worst.png']


class MeanColor(nn.Module):
    """Two classes of images, bright and dark."""
    num_classes = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def test_classes_of_images_have_top1_and_top5(tmp_path):
    root = write_class_folder(tmp_path / 'data')
    (root / 'validation' / 'dark' / '0.jpg').rename(root / 'validation' / 'bright' / 'x.jpg')  # one wrong label
    model = describe(MeanColor(), DataDescription(
        task='classification', class_names=('bright', 'dark'), mean=(0.5,) * 3, std=(0.25,) * 3, input_size=(32, 32)))
    results = evaluate(model, root, 'validation', results_dir=tmp_path / 'out')
    assert (results['top1'], results['top1_err'], results['top5']) == (90, 10, 100)
    assert results['confusion'] == [[5, 1], [0, 4]]
    assert [row['top1'] for row in results['per_image'] if row['image'].endswith('x.jpg')] == [0]
    with pytest.raises(ValueError, match="no part 'test' .* has the folders train, validation"):
        evaluate(model, root)
    model = describe(MeanColor(), DataDescription(task='classification', class_names=('a', 'b')))
    with pytest.raises(ValueError, match="class 0 is 'bright' there and 'a' in the model"):
        evaluate(model, root, 'validation')


def shard(rank: int, data: str, out: str, port: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    results = evaluate(Brightness(), SegmentationFolder(data, 'test', 3), batch_size=1, results_dir=out)
    Path(out, f'{rank}.json').write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_several_processes_count_each_image_once(tmp_path):
    root, out = folder(tmp_path / 'data'), tmp_path / 'out'
    for path in (root / 'test').glob('*/3.png'):
        path.unlink()  # three images for two processes
    out.mkdir()
    on_ranks(shard, str(root), str(out))
    expected = json.loads(json.dumps(evaluate(Brightness(), root)))
    assert [json.loads((out / f'{rank}.json').read_text()) for rank in range(2)] == [expected, expected]


def test_a_task_in_training_is_measured_as_after_an_epoch():
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2)
    task = rexnet_timm.SegmentationTask(model, 2, ignore_index=255, verbose=False)
    batches = [(torch.randn(2, 3, 64, 64), torch.randint(2, (2, 64, 64))) for _ in range(2)]
    assert rexnet_timm.evaluate(task, batches) == evaluate_task(task, batches)
