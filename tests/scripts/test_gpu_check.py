"""The check of a CUDA device, on the CPU: its steps in small, what fails, hangs or does not fit the budget."""
import json

import pytest
import torch
from running import ROOT, load_script


@pytest.fixture
def check(monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))  # of the steps, which are processes
    return load_script('gpu_check')


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'scripts'))  # where its neighbour benchmark.py lies
    return load_script('gpu_steps')


def results(folder) -> dict[str, dict]:
    return {step['step']: step for step in json.loads((folder / 'gpu-check.json').read_text())['steps']}


def test_every_step_is_known_to_both(check, steps):
    assert list(check.STEPS) == list(steps.STEPS)


def test_what_the_budget_does_not_reach_is_skipped_and_said(check, tmp_path, capsys):
    assert check.main(['--device', 'cpu', '--budget', '1', '--output', str(tmp_path)]) == 0
    found = results(tmp_path)
    assert list(found) == list(check.STEPS) and {step['result'] for step in found.values()} == {'skipped'}
    assert found['losses']['reason'] == '1 s of the budget of 1 s were left, and it needs about 15 s'
    assert f'0 passed, 0 failed, {len(found)} skipped' in capsys.readouterr().out
    lines = (tmp_path / 'gpu-check.md').read_text().splitlines()
    assert len(lines) == 2 + len(found) and len({line.count('|') for line in lines}) == 1


@pytest.mark.parametrize('budget, result, text', [(60, 'failed', ''), (0.2, 'skipped', ', with the budget')])
def test_a_step_that_hangs_is_ended_and_the_rest_goes_on(budget, result, text, check, tmp_path, monkeypatch):
    monkeypatch.setattr(check, 'STEPS', {'losses': 0.1, 'models': 100})
    status = check.main(['--device', 'cpu', '--budget', str(budget), '--output', str(tmp_path)])
    found = results(tmp_path)
    assert status == (result == 'failed')
    assert found['losses']['result'] == result and found['models']['result'] == 'skipped'
    assert found['losses']['reason'].endswith(f'not finished{text}')


def test_mistakes_are_told(check, tmp_path, capsys):
    for args, text in (
            (['--data', str(tmp_path / 'no')], '--data must be a folder, and there is none'),
            ([] if torch.cuda.is_available() else ['--device', 'cuda'], 'torch finds no CUDA device here'),
            (['--steps', 'all'], "invalid choice: 'all'")):
        if args:
            with pytest.raises(SystemExit) as exit:
                check.main([*args, '--output', str(tmp_path / 'out')])
            assert exit.value.code == 2 and text in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_difference_is_a_share_of_the_largest_value(steps):
    expected = [torch.tensor([1., -4.]), torch.tensor([1e-12])]
    assert steps.difference(expected, expected) == 0
    assert steps.difference([torch.tensor([1., -3.9]), expected[1]], expected) == pytest.approx(0.1 / 4)
    assert steps.difference([expected[0], torch.tensor([3e-12])], expected) == pytest.approx(2e-12 / 4e-6)  # rounding
    assert 'fault' not in steps.checked({'difference': 0.9}, 1)
    for wrong in (1.1, float('nan')):
        assert 'may be 1' in steps.checked({'difference': wrong}, 1)['fault']


def test_a_device_that_computes_otherwise_is_found(steps, tmp_path, monkeypatch):
    settings = steps.Settings(torch.device('cpu'), tmp_path)
    monkeypatch.setitem(steps.NETWORKS, 'rexnetv1_lite_1_0', lambda: torch.nn.Conv2d(3, 2, 1))
    good = next(steps.parity_of_models(settings))
    assert good['difference'] == 0 and 'fault' not in good
    convolve = torch.nn.Conv2d.forward
    calls = iter(range(100))
    monkeypatch.setattr(
        torch.nn.Conv2d, 'forward', lambda self, x: convolve(self, x) + (1e-3 if next(calls) > 3 else 0))
    assert 'may be 1e-05' in next(steps.parity_of_models(settings))['fault']


@pytest.mark.slow
def test_a_failing_step_is_recorded_with_its_error_and_the_rest_goes_on(check, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert check.main([
        '--device', 'cpu', '--data', str(tmp_path / 'empty'), '--steps', 'training', 'environment', '--output',
        str(tmp_path)]) == 1
    found = results(tmp_path)
    assert found['training']['result'] == 'failed' and found['environment']['result'] == 'passed'
    assert found['training']['reason'].startswith('RuntimeError: rexnet train ended with an error')
    assert 'rexnet train: error: ' in (tmp_path / 'training.log').read_text()
    assert '| training |  |  |  |  |  | **failed**, ' in (tmp_path / 'gpu-check.md').read_text()
    assert '1 passed, 1 failed, 0 skipped' in capsys.readouterr().out


# They start processes of their own, for which a step has to be one.
APART = ('environment', 'lean', 'benchmark', 'benchmark-amp')
HERE = ('models', 'losses', 'training-steps', 'large-image', 'training', 'two-processes', 'compile')


def test_every_step_is_tried_in_small(steps):
    assert {*APART, *HERE} == set(steps.STEPS)


@pytest.mark.slow
def test_steps_pass_in_small(check, tmp_path):
    assert check.main(['--device', 'cpu', '--budget', '1800', '--steps', *APART, '--output', str(tmp_path)]) == 0
    found = results(tmp_path)
    assert {name: step['reason'] for name, step in found.items() if step['result'] != 'passed'} == {}
    rows = {name: step['rows'] for name, step in found.items()}
    table = [*rows['benchmark'], *rows['benchmark-amp']]  # in small each has two of the five
    assert [row['case'].split(', 64 x 64')[0] for row in table] == [
        'multiscaleunet, light', 'multiscaleunet, dense', 'smp.FPN', 'smp.DeepLabV3Plus']
    assert all(row['training_ms'] > row['inference_ms'] > 0 for row in table)
    assert ['AMP' in row['case'] for row in table] == [False, False, True, True]
    assert {row['case'] for row in rows['lean']} >= {
        'gradients, on and off, float64', 'multiscaleunet, light, REXNET_LEAN=1, 64 x 64, batch 2'}
    assert rows['lean'][0]['difference'] > 0  # the two are computed in different ways
    number = sum(len(step['rows']) + 1 for step in found.values())
    assert len((tmp_path / 'gpu-check.md').read_text().splitlines()) == 2 + number


@pytest.mark.slow
@pytest.mark.parametrize('name', HERE)
def test_a_step_passes_in_small(name, steps, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    assert steps.main([name, '--device', 'cpu', '--output', str(tmp_path)]) == 0
    rows = json.loads((tmp_path / f'{name}.json').read_text())['rows']
    assert rows and [row for row in rows if 'fault' in row or 'skipped' in row] == []
    if name == 'training-steps':
        assert len(rows) == 6 and all(row['loss_last'] < row['loss_first'] for row in rows)
    if name == 'large-image':
        assert rows[1]['inference_ms'] > 0
    if name == 'training':
        assert rows[0]['miou'] >= 0
