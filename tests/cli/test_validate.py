import csv
import json
from pathlib import Path

import hub_cache
import numpy as np
import pytest
from PIL import Image
from running import summary
from trained import trained_run

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.data import DataDescription
from rexnet_timm.deployment.exported import FORMATS
from rexnet_timm.deployment.load import describe


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> Path:
    """A U-Net with random weights, saved."""
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=6, scales=(0, 1, 2)).eval()
    names = ('background', 'disc', 'square', 'triangle', 'ring', 'stripes')
    describe(model, DataDescription(class_names=names)).save_pretrained(folder := tmp_path_factory.mktemp('saved'))
    return folder


def validate(*words: object) -> int:
    return main(['validate', *map(str, words), '--device', 'cpu', '--workers', '0'])


def test_a_built_in_set_is_measured(saved, tmp_path, capsys):
    common = ('--checkpoint', saved, '--dataset', 'synthetic', '--synthetic-images', 24, '--scales')
    assert validate(*common, '--results-file', tmp_path / 'scores.csv') == 0
    results = json.loads((saved / 'validate-test' / 'results.json').read_text())
    assert results['images'] == 3 and list(results['scales']) == ['0', '1', '2']
    with open(tmp_path / 'scores.csv') as file:
        rows = list(csv.DictReader(file))
    assert rows[0]['model'] == str(saved) and float(rows[0]['miou']) == results['miou']
    assert [row['scale'] for row in rows] == ['', '0', '1', '2']
    assert float(rows[3]['miou']) == results['scales']['2']['miou']
    out = capsys.readouterr().out
    assert f'mIoU               {results["miou"]:7.2f}' in out and 'validate-test' in out

    assert validate(*common, '--results-dir', tmp_path / 'other', '--results-file', tmp_path / 'scores.json') == 0
    assert (tmp_path / 'other' / 'per_image.csv').is_file()
    rows = json.loads((tmp_path / 'scores.json').read_text())
    assert [row.get('scale') for row in rows] == [None, 0, 1, 2] and rows[0]['miou'] == results['miou']


def test_a_folder_is_measured(saved, tmp_path, capsys):
    for kind in ('images', 'masks'):
        (tmp_path / 'validation' / kind).mkdir(parents=True)
    for index in range(2):
        Image.fromarray(np.full((40, 44, 3), 90, dtype=np.uint8)).save(tmp_path / f'validation/images/{index}.png')
        Image.fromarray(np.full((40, 44), index, dtype=np.uint8)).save(tmp_path / f'validation/masks/{index}.png')
    assert validate(tmp_path, '--checkpoint', saved, '--split', 'val') == 0
    assert json.loads((saved / 'validate-val' / 'results.json').read_text())['images'] == 2
    (tmp_path / 'classes.txt').write_text('a\nb\n')
    assert validate(tmp_path, '--checkpoint', saved, '--split', 'val', '--overwrite') == 2
    assert 'has 2 names, and the model has 6 classes' in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    ((), 'A folder of data is needed, or --dataset synthetic or synthetic-depth, got neither'),
    (('DIR', '--dataset', 'synthetic'), "got 'DIR' and --dataset synthetic"),
    (('--dataset', 'synthetic', '--split', 'rest'), '--split of --dataset synthetic must be one of train, validation'),
    (('--dataset', 'synthetic-depth'), 'is for depth, and the model of --checkpoint'),
    (('--dataset', 'synthetic', '--tta', 'x'), '--tta must be flips, one of them (h, v, hv), or a zoom from 0.1 to 10'),
    (('--dataset', 'synthetic', '--tile', '64', '64', '64'), '--tile must be one side, or height and width'),
    (('--dataset', 'synthetic', '--overlap', '1'), '--overlap must be at least 0 and below 1, got 1.0'),
    (('--dataset', 'synthetic', '--results-file', 'nowhere/x.csv'), 'for --results-file: create it first'),
    (('nowhere',), 'nowhere does not exist or is no folder'),
])
def test_a_mistake_is_told_in_one_line(saved, words, message, capsys):
    assert validate(*words, '--checkpoint', saved) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1


def test_a_checkpoint_is_needed(capsys):
    assert validate('--dataset', 'synthetic') == 2
    assert '--checkpoint' in capsys.readouterr().err
    assert validate('--dataset', 'synthetic', '--checkpoint', 'nothing') == 2
    assert "There is no checkpoint 'nothing'" in capsys.readouterr().err


def test_options_of_segmentation_are_refused_for_depth(tmp_path, capsys):
    main(['train', '--dataset', 'synthetic-depth', '--model', 'rexdepth_1_0', '--rex-width-mult', '0.25',
          '--rex-depth-mult', '0.2', '--img-size', '32', '--synthetic-images', '8', '-b', '4', '--epochs', '1',
          '--warmup-epochs', '0', '--device', 'cpu', '-j', '0', '--output', str(tmp_path), '--experiment', 'run'])
    run = tmp_path / 'run'
    common = ('--dataset', 'synthetic-depth', '--synthetic-images', 8, '--checkpoint', run)
    assert validate(*common, '--split', 'validation') == 0
    results = json.loads((run / 'validate-validation' / 'results.json').read_text())
    assert results['abs_rel'] == pytest.approx(float(summary(run)[-1]['eval_abs_rel']), rel=1e-4)
    capsys.readouterr()
    assert validate(*common, '--tta', 'h', '--scales') == 2
    assert '--tta, --scales is for segmentation' in capsys.readouterr().err


def test_the_validation_of_a_run_is_repeated(tmp_path):
    main(['train', '--dataset', 'synthetic', '--model', 'multiscaleunet', '--encoder-name', 'rexnetv1_test',
          '--img-size', '32', '--synthetic-images', '16', '-b', '4', '--epochs', '1', '--warmup-epochs', '0',
          '--device', 'cpu', '-j', '0', '--output', str(tmp_path), '--experiment', 'run'])
    run = tmp_path / 'run'
    assert validate('--dataset', 'synthetic', '--synthetic-images', 16, '--checkpoint', run,
                    '--split', 'validation') == 0
    results = json.loads((run / 'validate-validation' / 'results.json').read_text())
    row = summary(run)[-1]
    for name in ('miou', 'pixel_acc', 'iou_background'):
        assert results[name] == pytest.approx(float(row[f'eval_{name}']), rel=1e-6)
    assert results['class_names'][1] == 'disc'


def test_a_published_model_has_its_results_below_the_working_folder(saved, tmp_path, monkeypatch):
    hub_cache.store('someone/validated', {path.name: path.read_bytes() for path in saved.iterdir() if path.is_file()})
    monkeypatch.chdir(tmp_path)
    assert validate(
        '--checkpoint', 'hf-hub:someone/validated', '--dataset', 'synthetic', '--synthetic-images', 8) == 0
    assert (tmp_path / 'someone_validated' / 'validate-test' / 'results.json').is_file()


def test_flips_are_all_three(saved, tmp_path):
    results = []
    for number, words in enumerate((('flips',), ('h', 'v', 'hv'), ('h',))):
        folder = tmp_path / str(number)
        assert validate('--checkpoint', saved, '--dataset', 'synthetic', '--synthetic-images', 8, '--tta', *words,
                        '--results-dir', folder) == 0
        results.append((folder / 'results.json').read_text())
    assert results[0] == results[1] != results[2]


def test_results_stay_unless_overwritten(saved, tmp_path, capsys):
    common = ('--checkpoint', saved, '--dataset', 'synthetic', '--synthetic-images', 8)
    words = (*common, '--results-dir', tmp_path / 'out')
    assert validate(*words) == 0
    (tmp_path / 'out' / 'results.json').write_text('mine')
    assert validate(*words) == 2
    assert 'exists: pass --overwrite to replace it, or another --results-dir.' in capsys.readouterr().err
    assert (tmp_path / 'out' / 'results.json').read_text() == 'mine'
    assert validate(*words, '--overwrite') == 0
    assert json.loads((tmp_path / 'out' / 'results.json').read_text())['images'] == 1


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_an_exported_file_scores_as_its_network(format, tmp_path):
    for package in ('onnx', 'onnxscript', 'onnxruntime' if format == 'onnx' else 'openvino'):
        pytest.importorskip(package, reason="the export extra is not installed: pip install 'rexnet-timm[export]'")
    run, file = trained_run('segmentation'), tmp_path / f'model{FORMATS[format][0]}'
    assert main(['export', '--checkpoint', str(run), str(file)]) == 0
    for more in ((), ('--tta', 'flips', '--tile', '96', '80')):
        common = ('--dataset', 'synthetic', '--synthetic-images', 64, '--overwrite', *more)
        assert validate('--checkpoint', file, *common) == 0
        assert validate('--checkpoint', run, *common, '--results-dir', tmp_path / 'network') == 0
        ours, theirs = (
            json.loads((tmp_path / folder / 'results.json').read_text())
            for folder in (f'validate-test-{file.name}', 'network'))
        assert ours['images'] == theirs['images'] == 8 and ours['class_names'] == theirs['class_names']
        for name in ('miou', 'mdice', 'pixel_acc', 'mboundary_iou', 'ece'):
            assert ours[name] == pytest.approx(theirs[name], abs=0.05), name
