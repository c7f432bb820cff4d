"""docs/shipping.md: its programs, which know nothing of this package, find what the model finds; what it says holds."""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import trees
from pages import DOCS, blocks_of
from PIL import Image
from trained import trained_run

import rexnet_timm
from rexnet_timm.deployment.exported import METADATA

TEXT = (DOCS / 'shipping.md').read_text()
PROGRAMS = {block.said['file']: block.code for block in blocks_of(DOCS / 'shipping.md') if 'file' in block.said}
PACKAGES = {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'xml': ('onnx', 'onnxscript', 'openvino')}


def need(ending: str) -> None:
    for package in PACKAGES.get(ending, ()):
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")


def run_program(name: str, file, image, cwd) -> str:
    """What a program of the page prints, in a Python that reads neither PYTHONPATH nor the current folder."""
    (cwd / name).write_text(PROGRAMS[name])
    result = subprocess.run(
        [sys.executable, '-I', str(cwd / name), str(file), str(image)], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_programs_know_nothing_of_this_package():
    assert list(PROGRAMS) == ['segment.py', 'segment_openvino.py', 'segment_torch.py']
    for code in PROGRAMS.values():
        assert not re.search(r'import.*rexnet_timm|from rexnet_timm', code) and len(code.splitlines()) <= 28


def test_all_that_a_file_tells_is_listed():
    listed = re.findall(r'^\| (`[a-z0-9_`, ]+`) \|', TEXT[TEXT.index('## What the file tells'):], re.MULTILINE)
    assert {name for names in listed for name in re.findall(r'\w+', names)} == set(METADATA)


@pytest.mark.slow
@pytest.mark.parametrize('ending, program', [
    ('onnx', 'segment.py'), ('xml', 'segment_openvino.py'), ('pt2', 'segment_torch.py'), ('ts', 'segment_torch.py')])
def test_a_program_finds_what_the_model_finds(ending, program, tmp_path):
    need(ending)
    model = rexnet_timm.load_model(trained_run('segmentation'))
    file, photo = tmp_path / f'model.{ending}', tmp_path / 'photo.png'
    rexnet_timm.export(model, file)
    trees.save(photo, trees.picture(3, size=(75, 104))[0])
    told = dict(line.split(': ') for line in run_program(program, file, photo, tmp_path).splitlines())
    mask = rexnet_timm.predict(model, photo).mask
    assert list(told) == model.class_names
    for index, name in enumerate(model.class_names):
        assert float(told[name].rstrip('%')) == pytest.approx(100 * (mask == index).mean(), abs=0.2)
    if program == 'segment.py':
        picture = Image.open(tmp_path / 'mask.png')
        assert (np.array(picture) == mask).mean() > 0.999
        colors = np.array(model.colors, np.uint8)[np.array(picture)]
        assert np.array_equal(np.array(picture.convert('RGB')), colors)


@pytest.mark.slow
def test_a_binary_mask_and_a_file_of_classes(tmp_path):
    need('onnx')
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=1).eval()
    rexnet_timm.export(model, tmp_path / 'classes.onnx', argmax=True)
    trees.save(tmp_path / 'photo.png', trees.picture(3)[0])
    rexnet_timm.export(model, tmp_path / 'binary.onnx')
    run_program('segment.py', tmp_path / 'binary.onnx', tmp_path / 'photo.png', tmp_path)
    mask = rexnet_timm.predict(model, tmp_path / 'photo.png').mask
    assert (np.array(Image.open(tmp_path / 'mask.png')) == mask).mean() > 0.999
    with pytest.raises(AssertionError, match="told\\['output'\\] == 'logits'"):  # as the program says of itself
        run_program('segment.py', tmp_path / 'classes.onnx', tmp_path / 'photo.png', tmp_path)


@pytest.mark.slow
def test_pixels_that_are_normalised_already_are_refused(tmp_path):
    need('onnx')
    import onnxruntime

    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=2).eval()
    rexnet_timm.export(model, tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    with pytest.raises(Exception, match='uint8'):  # onnxruntime's classes of errors have no public names
        session.run(None, {'images': np.zeros((1, 3, 64, 64), np.float32)})
