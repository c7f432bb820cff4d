"""int8 files: what they hold, what is measured of them, and what is refused."""
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from networks import with_statistics
from PIL import Image
from running import write_class_folder

import rexnet_timm
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment import quantize as quantizing
from rexnet_timm.deployment.evaluate import evaluate
from rexnet_timm.deployment.exported import FORMATS, METADATA
from rexnet_timm.deployment.load import describe

NAMES = ('dark', 'middle', 'bright')
PACKAGES = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'openvino': ('onnx', 'onnxscript', 'openvino', 'nncf')}


def need(format: str) -> None:
    for package in PACKAGES[format]:
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """Images in patches of three brightnesses, of two sizes, with their masks: 6 for training, 4 for validation."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    (root / 'classes.txt').write_text('\n'.join(NAMES))
    for split, number in (('train', 6), ('val', 4)):
        for folder in (split, f'{split}annot'):
            (root / folder).mkdir()
        for index in range(number):
            labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16 + index % 2, 20), int)).astype(np.uint8)
            pixels = labels[..., None] * 100 + rng.integers(0, 50, (*labels.shape, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / f'{index}.png')
            Image.fromarray(labels).save(root / f'{split}annot' / f'{index}.png')
    return root


@pytest.fixture(scope='module')
def unet() -> rexnet_timm.MultiScaleUnet:
    torch.manual_seed(0)
    model = with_statistics(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3))
    return describe(model, DataDescription(class_names=NAMES))


@pytest.mark.slow
@pytest.mark.parametrize('format', PACKAGES)
def test_an_int8_file(format, unet, data, tmp_path, monkeypatch, capfd):
    need(format)
    monkeypatch.setattr(quantizing, 'AGREEMENT', 0.5)  # an untrained network is sure of nothing
    whole, path = (tmp_path / f'{name}{FORMATS[format][0]}' for name in ('whole', 'int8'))
    rexnet_timm.export(unet, whole)
    report = rexnet_timm.export(unet, path, int8=True, calibration=data, num_calibration_images=4)
    out, err = capfd.readouterr()
    assert not out and not err, 'the quantisers are quiet'
    assert (report.score, report.calibrated, report.measured, report.size) == ('mIoU', 4, 4, (48, 80))
    assert 0.5 <= report.agreement < 1 and report.int8_ms > 0 and report.float_ms > 0
    float_file, int8_file = rexnet_timm.load_model(whole), rexnet_timm.load_model(path)
    assert evaluate(float_file, data, 'val', batch_size=1)['miou'] == pytest.approx(report.before)
    assert evaluate(int8_file, data, 'val', batch_size=1)['miou'] == pytest.approx(report.after)
    for name in METADATA:
        if hasattr(float_file, name):
            assert getattr(int8_file, name) == getattr(float_file, name)
    assert rexnet_timm.predict(int8_file, np.zeros((50, 70, 3), np.uint8)).mask.shape == (50, 70)
    weights = ['.onnx'] if format == 'onnx' else ['.bin']
    assert all(path.with_suffix(end).stat().st_size < whole.with_suffix(end).stat().st_size for end in weights)
    assert {file.name for file in tmp_path.iterdir()} == {
        f'{name}{end}' for name in ('whole', 'int8') for end in (['.onnx'] if format == 'onnx' else ['.xml', '.bin'])}


@pytest.mark.slow
def test_openvino_has_a_range_for_each_channel_of_a_depthwise_convolution(unet, data, tmp_path, monkeypatch):
    need('openvino')
    import openvino

    monkeypatch.setattr(quantizing, 'AGREEMENT', 0.)
    rexnet_timm.export(unet, tmp_path / 'int8.xml', int8=True, calibration=data, num_calibration_images=2)
    nodes = openvino.Core().read_model(tmp_path / 'int8.xml').get_ops()
    depthwise = [node for node in nodes if node.get_type_name() == 'GroupConvolution']
    assert len(depthwise) == sum(module.groups > 1 for module in unet.modules() if isinstance(module, torch.nn.Conv2d))
    for node in depthwise:
        scale = node.input_value(1).get_node()
        assert scale.get_type_name() == 'Multiply'
        shapes = [list(scale.input_value(index).get_shape()) for index in range(2)]
        channels = shapes[0][0]
        assert [channels, 1, 1, 1, 1] in shapes, 'along the first axis and no other'
    assert not any(node.get_type_name() == 'Sigmoid' and len(node.output(0).get_target_inputs()) == 1 and next(
        iter(node.output(0).get_target_inputs())).get_node().input_value(0) == node.input_value(0) for node in nodes)


@pytest.mark.slow
def test_a_classifier(tmp_path, monkeypatch):
    need('onnx')
    torch.manual_seed(0)
    monkeypatch.setattr(quantizing, 'AGREEMENT', 0.5)
    data = write_class_folder(tmp_path / 'data')
    model = with_statistics(timm.create_model('rexnetv1_test', num_classes=2))
    describe(model, DataDescription(task='classification', class_names=('bright', 'dark'), input_size=(32, 32)))
    report = rexnet_timm.export(model, tmp_path / 'int8.onnx', int8=True, calibration=data)
    assert (report.score, report.calibrated, report.measured) == ('top-1', 24, 10)
    assert evaluate(rexnet_timm.load_model(tmp_path / 'int8.onnx'), data, 'val')['top1'] == report.after


@pytest.mark.slow
def test_a_file_of_other_classes_is_not_kept(unet, data, tmp_path, monkeypatch):
    need('onnx')
    monkeypatch.setattr(quantizing, 'AGREEMENT', 1.1)
    path = tmp_path / 'int8.onnx'
    path.write_bytes(b'the file before')
    with pytest.raises(ValueError, match=r'at 110% of the pixels at least, and has it at \d.*% of those of val in .*'
                                         'It is not kept: raise num_calibration_images'):
        rexnet_timm.export(unet, path, int8=True, calibration=data)
    assert [file.name for file in tmp_path.iterdir()] == ['int8.onnx'] and path.read_bytes() == b'the file before'


def test_formats_and_tasks_without_int8_are_refused(unet, data, tmp_path):
    for suffix in ('.ts', '.pt2'):
        with pytest.raises(ValueError, match='int8 is for onnx and openvino, got the format torch.*: take one of them'):
            rexnet_timm.export(unet, tmp_path / f'model{suffix}', int8=True, calibration=data)
    with pytest.raises(ValueError, match='calibration is for int8 only: set int8, or leave it out'):
        rexnet_timm.export(unet, tmp_path / 'model.ts', calibration=data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('format', PACKAGES)
def test_mistakes_are_told_before_the_work_begins(format, unet, data, tmp_path):
    need(format)
    path = tmp_path / f'model{FORMATS[format][0]}'

    def refused(message: str, model: torch.nn.Module = unet, **options) -> None:
        with pytest.raises(ValueError, match=message):
            rexnet_timm.export(model, path, int8=True, **options)
        assert not list(tmp_path.iterdir())

    refused("int8 needs calibration, the folder of data whose split 'train'")
    refused('int8 and half exclude each other', half=True, calibration=data)
    refused('num_calibration_images must be at least 1, got 0', calibration=data, num_calibration_images=0)
    refused('calibration must be a folder with the splits train, .*gone.* does not exist', calibration=data / 'gone')
    refused('calibration must be a folder with the splits train and val, got list', calibration=[1])
    refused('No folders of images and masks for split "train"', calibration=data / 'train')
    other = describe(rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=5).eval(), DataDescription())
    refused('classes.txt has 3 names, and the model has 5 classes; take the data', other, calibration=data)
    depth = describe(rexnet_timm.ReXDepth(width_mult=0.25, depth_mult=0.2).eval(), DataDescription(task='depth'))
    refused('int8 is for segmentation and classification, and the model is for depth', depth, calibration=data)


@pytest.mark.slow
def test_images_of_other_bands_are_refused(data, tmp_path):
    need('onnx')
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=3, in_channels=4).eval()
    describe(model, DataDescription(
        class_names=NAMES, in_chans=4, mean=(0.5,) * 4, std=(0.25,) * 4))
    with pytest.raises(ValueError, match='4'):
        rexnet_timm.export(model, tmp_path / 'model.onnx', int8=True, calibration=data)
    assert not list(tmp_path.iterdir())


def test_a_missing_quantiser_is_told(unet, data, tmp_path, monkeypatch):
    need('openvino')
    monkeypatch.setitem(sys.modules, 'nncf', None)
    with pytest.raises(ValueError, match=r"need nncf, which cannot be imported here: pip install 'rexnet-timm\[export"):
        rexnet_timm.export(unet, tmp_path / 'model.xml', int8=True, calibration=data)
    assert not list(tmp_path.iterdir())
