"""`rexnet export` from a command line."""
import argparse
import logging
import sys
from pathlib import Path

import pytest
import torch

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.cli import export as command
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.exported import FORMATS
from rexnet_timm.deployment.quantize import Int8Report
from rexnet_timm.models.factory import network_of


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """The folder of a run, as `rexnet train` leaves it."""
    folder = tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    arguments = {'encoder_name': 'rexnetv1_test', 'classes': 2, 'scales': [0, 2]}
    model = rexnet_timm.MultiScaleUnet(**arguments)
    description = DataDescription(class_names=('ground', 'road'), mean=(0.5,) * 3, std=(0.25,) * 3)
    args = argparse.Namespace(
        network=network_of('smp', 'multiscaleunet', arguments), description=description.to_dict())
    torch.save({'state_dict': model.state_dict(), 'args': args}, folder / 'model_best.pth.tar')
    return folder


def refused(capsys: pytest.CaptureFixture, *args: object) -> str:
    """The one line that the command ends with."""
    assert main(['export', *map(str, args)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('rexnet export: error: ')
    return line


def test_a_run_becomes_a_file(run, tmp_path, capsys):
    path = tmp_path / 'model.ts'
    assert main(['export', '--checkpoint', str(run), str(path), '--normalize', '--argmax', '--scale', '2']) == 0
    told = capsys.readouterr().out
    assert told.startswith(f'{path}: ') and 'clear pixels at 64 x 96, 97 x 65, 160 x 160' in told
    network = rexnet_timm.load_model(path)
    assert network.takes_uint8 and network.returns_classes and network.class_names == ['ground', 'road']
    # an output that exists
    before = path.read_bytes()
    assert f"'{path}' exists: name another OUTPUT, or replace it with --overwrite" in refused(
        capsys, '--checkpoint', run, path)
    assert path.read_bytes() == before
    assert main(['export', '--checkpoint', str(run), str(path), '--overwrite', '--size', '64', '96']) == 0
    assert 'of the deviation of its output at 64 x 96\n' in capsys.readouterr().out
    network = rexnet_timm.load_model(path)
    assert (network.takes_uint8, network.returns_classes, network.size) == (False, False, (64, 96))


def test_the_file_goes_beside_the_checkpoint(run, capsys):
    for name in (run, run / 'model_best.pth.tar'):
        assert main(['export', '--checkpoint', str(name), '--format', 'torchscript', '--overwrite']) == 0
        assert capsys.readouterr().out.startswith(f'{run / "model.ts"}: ')
    (run / 'model.ts').unlink()


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_the_exporters_are_quiet(format, run, tmp_path, capfd, caplog):
    for package in ('onnx', 'onnxscript', 'onnxruntime' if format == 'onnx' else 'openvino'):
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")
    caplog.set_level(logging.INFO)
    path = tmp_path / f'model{FORMATS[format][0]}'
    assert main(['export', '--checkpoint', str(run), str(path)]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f'{path}: ') and out.count('\n') == 1 and not err
    assert not [record for record in caplog.records if record.name.startswith(('onnx', 'torch'))]


def test_mistakes_are_one_line(run, tmp_path, capsys):
    start = ('--checkpoint', run)
    path = tmp_path / 'model.ts'
    assert '--format must be given where OUTPUT' in refused(capsys, *start)
    assert '--format must be one of onnx, openvino, torch-export, torchscript, got' in refused(
        capsys, *start, '--format', 'onx')
    assert "a file of onnx must end in .onnx, got 'model.ts'" in refused(capsys, *start, 'model.ts', '--format', 'onnx')
    assert '--normalize and --no-normalize exclude each other' in refused(
        capsys, *start, path, '--normalize', '--no-normalize')
    assert '--size must be at least 32, got 16' in refused(capsys, *start, path, '--size', '16', '64')
    assert '--scale must be one of (0, 2), the scales with a head, got 1' in refused(capsys, *start, path, '--scale', 1)
    assert '--int8 is for onnx and openvino, got the --format torchscript: take one of them' in refused(
        capsys, *start, path, '--int8', '--calibration', tmp_path)
    assert '--calibration is for --int8 only: set --int8, or leave it out' in refused(
        capsys, *start, path, '--calibration', tmp_path)
    assert '--calibration-images must be at least 1, got 0' in refused(
        capsys, *start, path, '--int8', '--calibration-images', 0)
    assert 'There is no checkpoint' in refused(capsys, '--checkpoint', tmp_path / 'gone.pth', path)
    assert 'There is no folder' in refused(capsys, *start, tmp_path / 'no' / 'model.ts')
    assert main(['export', *map(str, start), str(path)]) == 0
    capsys.readouterr()
    assert 'this one is an exported file already' in refused(capsys, '--checkpoint', path, tmp_path / 'again.ts')
    assert [file.name for file in tmp_path.iterdir()] == ['model.ts']


@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_a_missing_extra_is_one_line(format, run, tmp_path, capsys, monkeypatch):
    for package in ('onnx', 'openvino'):
        monkeypatch.setitem(sys.modules, package, None)
    line = refused(capsys, '--checkpoint', run, '--format', format)
    assert 'onnx' in line and line.endswith("pip install 'rexnet-timm[export]'")
    assert not list(run.glob('model.[ox]*'))


@pytest.mark.parametrize('int8_ms, verdict', [(9., 'int8 takes 0.60 of the time'), (18., 'int8 is slower here')])
def test_what_int8_costs_and_gains_is_told(int8_ms, verdict, run, tmp_path, capsys, monkeypatch):
    path, given = tmp_path / 'model.onnx', {}

    def export(model, path, format, **options):
        given.update(options)
        path = Path(path)
        path.write_bytes(b'0' * 200_000)
        return Int8Report('mIoU', 57.3, 57.05, 32, 101, 0.987, (180, 240), 1, 15., int8_ms)

    monkeypatch.setattr(command, 'export', export)
    words = ('--int8', '--calibration', 'DATA', '--calibration-images', '32')
    # by itself it takes another name than the file in float32
    assert main(['export', '--checkpoint', str(run), '--format', 'onnx', *words]) == 0
    assert capsys.readouterr().out.startswith(f'{run / "model-int8.onnx"}: ')
    (run / 'model-int8.onnx').unlink()
    assert main(['export', '--checkpoint', str(run), str(path), *words]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f'{path}: 0.2 MB; int8 by 32 images of train',
        'mIoU on the 101 images of val: 57.30 in float32, 57.05 in int8 (-0.25); the same class as in the model at '
        '98.7% of the pixels',
        f'One image of 180 x 240, 1 thread: 15.0 ms in float32, {int8_ms:.1f} ms in int8: {verdict}']
    assert (given['int8'], given['calibration'], given['num_calibration_images']) == (True, 'DATA', 32)
