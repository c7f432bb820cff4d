"""The scripts that are no commands, on small data."""
import csv
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trees
from PIL import Image
from running import ROOT, distributed, load_script

from rexnet_timm.cli import train


@pytest.mark.parametrize('number', ['0', 'two', ''])
def test_the_launcher_wants_a_number_of_processes(number, tmp_path):
    result = distributed(number, cwd=tmp_path)
    assert result.returncode == 2
    assert f"whole number of at least 1, got '{number}'" in result.stderr


@pytest.mark.slow
def test_the_demo_trains_draws_measures_and_predicts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # it can be repeated
        assert load_script('demo').main('--epochs 1 --images 16 --image-size 64 --output out'.split()) == 0
        printed = capsys.readouterr().out
        assert [line.split()[2] for line in printed.splitlines() if line.startswith('$ ')] == [
            'train', 'validate', 'predict']
        assert 'segmentation, split test: 2 images' in printed and '2 of 2 images predicted in out/masks' in printed
    with Image.open('out/predictions.png') as picture:
        colors = picture.convert('RGB').getcolors(maxcolors=1 << 24)
        assert picture.width > 7 * 192 and len(colors) > 100


MODELS = ['multiscaleunet, light', 'smp.Unet']
FUSED = 'multiscaleunet, light, fused'


def run_benchmark(models: list[str], size: int, output: Path, *options: str) -> tuple[str, list[dict[str, str]]]:
    """What the script prints, and the rows that it writes; it starts processes, and so has to be one."""
    result = subprocess.run(
        [sys.executable, str(ROOT / 'scripts' / 'benchmark.py'), '--models', *models, '--sizes', str(size),
         '--output', str(output), *'--batch-sizes 2 --rounds 2 --device cpu'.split(), *options],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True, timeout=300, capture_output=True, text=True)
    with open(output / 'benchmark.csv') as file:
        return result.stdout, list(csv.DictReader(file))


@pytest.mark.slow
def test_the_benchmark_measures_memory(tmp_path):
    _, (ours, peer) = run_benchmark(MODELS, 256, tmp_path)
    assert 0 < float(ours['memory_mib']) < float(peer['memory_mib'])
    assert float(peer['memory_ratio']) == 1


@pytest.mark.slow
def test_the_benchmark_measures_every_model_and_writes_its_files(tmp_path):
    names = [FUSED, *MODELS]
    printed, rows = run_benchmark(names, 64, tmp_path, '--no-memory')
    assert [row['model'] for row in rows] == names
    fused, ours, peer = (
        {key: float(value) for key, value in row.items() if value and key.endswith(('_ms', '_ratio', 'gmacs'))}
        for row in rows)
    assert fused['inference_ms'] > 0 and not any(key.startswith('training') for key in fused)
    assert fused['gmacs'] == ours['gmacs']
    assert f'| `{FUSED}` | 3.' in printed
    assert peer['training_ratio'] == peer['inference_ratio'] == 1
    assert ours['training_ratio'] == pytest.approx(ours['training_ms'] / peer['training_ms'])
    assert ours['training_ms'] > ours['inference_ms'] > 0 and ours['gmacs'] < peer['gmacs']
    assert f'| `{MODELS[0]}` | 3.' in printed
    with Image.open(tmp_path / 'benchmark-64-2.png') as picture:
        assert picture.width == 900


@pytest.mark.slow
def test_the_benchmark_of_exported_files_measures_every_engine_and_precision(tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf'):
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")
    result = subprocess.run(
        [sys.executable, str(ROOT / 'scripts' / 'benchmark.py'), '--exported', '--models', *MODELS, '--output',
         str(tmp_path), *'--exported-sizes 64x96 --exported-threads 1 --rounds 2'.split()],
        env={**os.environ, 'PYTHONPATH': str(ROOT)}, check=True, timeout=600, capture_output=True, text=True)
    with open(tmp_path / 'benchmark-exported.csv') as file:
        rows = list(csv.DictReader(file))
    assert {(row['model'], row['engine'], row['precision']) for row in rows} == set(
        itertools.product(MODELS, ('onnxruntime', 'openvino'), ('float32', 'int8'))) and len(rows) == 8
    for precision in ('float32', 'int8'):
        of_precision = [row for row in rows if row['precision'] == precision]
        reference = min(float(row['ms']) for row in of_precision if row['model'] == MODELS[1])
        for row in of_precision:
            assert float(row['ms']) > 0 and float(row['ratio']) == pytest.approx(float(row['ms']) / reference)
    for row in rows:
        whole = next(float(other['ms']) for other in rows if other['precision'] == 'float32'
                     and (other['model'], other['engine']) == (row['model'], row['engine']))
        assert (float(row['of_float32']) == pytest.approx(float(row['ms']) / whole)
                if row['precision'] == 'int8' else not row['of_float32'])
    assert '| model | onnxruntime float32 | onnxruntime int8 | openvino float32 | openvino int8 |' in result.stdout
    assert result.stdout.count('of float32') >= 4


def test_the_benchmark_of_losses_measures_every_way(capsys):
    results = load_script('benchmark_losses').main('--size 64 --batch-size 2 --rounds 2'.split())
    assert len(results) == 6
    alone, nearest, upsampled = (
        results[name] for name in ('scale 0 only', 'scales 0 to 4, nearest', 'scales 0 to 4, upsample'))
    # logits of scale 0, their softmax and gradient at the least: float32, 2 images, 11 classes
    assert alone[1] > 2 * 2 * 11 * 64 * 64 * 4 / 2 ** 20
    assert alone[1] < nearest[1] < upsampled[1]
    assert '| scales 0 to 4, upsample |' in capsys.readouterr().out


def test_the_benchmark_of_the_loader_measures_each_pipeline(tmp_path, capsys):
    trees.beside(tmp_path, 'train/images/{name}.jpg', 'train/masks/{name}.png', splits=('train',), images=8)
    rows = load_script('benchmark_loader').main([
        str(tmp_path), *'--num-classes 3 --img-size 32 --batch-size 4 --rounds 2 --workers 0 1 --json'.split(),
        str(tmp_path / 'rows.json')])
    assert [(row['workers'], row['pipeline']) for row in rows] == [
        (0, 'rexnet'), (0, 'decoding'), (1, 'rexnet'), (1, 'decoding')]
    assert all(row['images_per_s'] > 0 for row in rows) and rows[0]['rexnet_faster'] == 1
    assert json.loads((tmp_path / 'rows.json').read_text()) == rows and 'images/s' in capsys.readouterr().out


def test_runs_are_drawn_against_their_training_time(tmp_path, capsys):
    pytest.importorskip('matplotlib', reason="the report extra is not installed: pip install 'rexnet-timm[report]'")
    benchmark = tmp_path / 'benchmark.csv'
    benchmark.write_text('model,training_ratio,inference_ratio\nfast,0.5,0.4\nslow,1.25,1.0\n')
    for name, mious in (('fast-0', (20, 42)), ('fast-1', (50, 44)), ('slow-0', (35, 60))):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'summary.csv').write_text('epoch,train_loss,eval_miou,eval_iou_class 1\n' + ''.join(
            f'{epoch},1.0,{miou},{miou / 2}\n' for epoch, miou in enumerate(mious)))
    arguments = [str(benchmark), '--classes', 'pole=1', '--runs', 'fast', str(tmp_path / 'fast-0'),
                 str(tmp_path / 'fast-1' / 'summary.csv'), '--output', str(tmp_path / 'measured.png'), '--runs']
    draw_measured = load_script('draw_measured')
    draw_measured.main([*arguments, 'slow', str(tmp_path / 'slow-0')])
    lines = capsys.readouterr().out.splitlines()
    # two epochs of the fast one take 0.8 of one of the slow one, within which the slow one has ended none
    assert lines[2:] == ['| `fast` | 2 | 43.0 ± 1.4 | 46.0 ± 5.7 | 21.5 ± 0.7 | 0.40 | 0.40 |  |',
                         '| `slow` | 1 | 60.0 | 60.0 | 30.0 | 1.00 | 1.00 |  |']
    with Image.open(tmp_path / 'measured.png') as picture:
        assert len(picture.convert('RGB').getcolors(maxcolors=1 << 24)) > 10
    with pytest.raises(SystemExit):
        draw_measured.main([*arguments, 'other', str(tmp_path / 'slow-0')])
    assert "got 'other': it has fast, slow" in capsys.readouterr().err


def test_what_is_measured_is_what_its_files_hold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    page = (ROOT / 'docs' / 'experiments.md').read_text()
    (command,) = re.findall(r'python scripts/draw_measured\.py (.*?)\n```', page, re.DOTALL)
    words = shlex.split(command.replace('\\\n', ' '))
    load_script('draw_measured').main([*words[:-1], str(tmp_path / 'measured.png')])
    assert len(capsys.readouterr().out.splitlines()) == 5
    files = [str(path.relative_to(ROOT)) for path in (ROOT / 'docs' / 'measured').glob('*-?.csv')]
    assert len(files) > 5 and {word for word in words if re.search(r'-\d\.csv$', word)} <= set(files)
    for name in files:
        with open(name) as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        values = [rows[-1]['eval_miou'], max(row['eval_miou'] for row in rows),
                  *(rows[-1][f'eval_iou_class {number}'] for number in (2, 6, 9, 10))]
        assert f'| {name[-5]} | {" | ".join(f"{value:.1f}" for value in values)} |' in page


def test_the_scales_of_a_run_are_measured(tmp_path, capsys):
    assert train.main([
        '--dataset', 'synthetic', '--synthetic-images', '16', '--model', 'rexnetv1_unet_test', '--img-size', '64',
        '--batch-size', '8', '--epochs', '1', '--workers', '0', '--device', 'cpu', '--output', str(tmp_path),
        '--experiment', 'run']) == 0
    scales = load_script('scales')
    capsys.readouterr()
    assert scales.main([str(tmp_path / 'run'), '--thresholds', '0', '1', '--output', str(tmp_path / 'out')]) == 0
    assert '| confidence 1 |' in capsys.readouterr().out
    with open(tmp_path / 'out' / 'scales.csv') as file:
        rows = {row['prediction']: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    # sure of nothing is the finest scale, sure of everything the coarsest
    assert rows['confidence 1']['miou'] == rows['cut at scale 0']['miou']
    assert rows['confidence 0']['miou'] == rows['cut at scale 4']['miou']
    assert float(rows['confidence 0']['mean_scale']) == 4
    with Image.open(tmp_path / 'out' / 'scales.png') as picture:
        assert len(picture.convert('RGB').getcolors(maxcolors=1 << 24)) > 2


def test_scales_of_what_is_no_run_is_told(tmp_path, capsys):
    assert load_script('scales').main([str(tmp_path)]) == 2
    assert 'must be the folder of a run of rexnet train, and has no args.yaml' in capsys.readouterr().err


@pytest.mark.parametrize('script, command', [
    ('train', 'train'), ('validate', 'validate'), ('predict', 'predict'), ('export', 'export'), ('share', 'share'),
    ('convert_checkpoint', 'convert')])
def test_a_door_leads_to_its_command(script, command, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['script', '--help'])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / 'scripts' / f'{script}.py'), run_name='__main__')
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: rexnet {command}')
