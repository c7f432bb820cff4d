"""`rexnet train --resume` as a user means it."""
import argparse
import re
from pathlib import Path

import pytest
import torch
import yaml
from running import summary

from rexnet_timm.cli import train
from rexnet_timm.files import load_checkpoint_file
from rexnet_timm.training.updates import Updates

ARGUMENTS = (
    '--dataset synthetic --synthetic-images 8 --model rexnetv1_unet_test --img-size 64 --batch-size 4 --workers 0 '
    '--opt adamw --lr 1e-3 --sched none --warmup-epochs 0 --device cpu').split()


def learn(*arguments: object) -> int:
    return train.main([*ARGUMENTS, *map(str, arguments)])


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run of one epoch."""
    assert learn('--epochs', 1, '--output', tmp_path / 'output', '--experiment', 'run') == 0
    return tmp_path / 'output' / 'run'


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_goes_on_in_its_own_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert learn('--epochs', 3, '--resume', run / 'last.pth.tar') == 0
    assert [row['epoch'] for row in summary(run)] == ['0', '1', '2']
    assert files(tmp_path) == {'output'} and files(tmp_path / 'output') == {'run'}
    assert load_checkpoint_file(run / 'last.pth.tar')['epoch'] == 2


def test_a_run_goes_on_elsewhere_where_asked(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--output', tmp_path, '--experiment', 'other') == 0
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert {'last.pth.tar', 'model_best.pth.tar', 'summary.csv'} <= files(tmp_path / 'other')


def test_the_same_place_of_runs_is_no_other_folder(run):
    # as args.yaml has it, or as the first command is typed again
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--output', run.parent) == 0
    assert [row['epoch'] for row in summary(run)] == ['0', '1'] and files(run.parent) == {'run'}


def test_a_wrong_metric_is_refused_before_anything_is_written(run, capsys):
    before = (run / 'args.yaml').read_bytes()
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--eval-metric', 'top1') == 2
    assert '--eval-metric must be one of loss, miou' in capsys.readouterr().err
    assert (run / 'args.yaml').read_bytes() == before


def test_the_arguments_of_a_run_keep_no_resume(run):
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar') == 0
    assert 'resume' not in yaml.safe_load((run / 'args.yaml').read_text())


def better(run: Path, metric: float) -> None:
    """Make the run's first epoch as good as told."""
    for name in ('last.pth.tar', 'model_best.pth.tar', 'checkpoint-0.pth.tar'):
        content = load_checkpoint_file(run / name)
        content['metric'] = metric
        content['saver'].update(pending=(0, metric), best_metric=None, best_epoch=None, checkpoint_files=[])
        content.pop('args')
        (run / name).unlink()
        torch.save(content, run / name)


def test_a_worse_model_never_replaces_the_best(run):
    better(run, 101.)
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar') == 0
    best = load_checkpoint_file(run / 'model_best.pth.tar')
    assert (best['epoch'], best['metric']) == (0, 101.)
    better_later = load_checkpoint_file(run / 'last.pth.tar')['saver']
    assert (better_later['best_metric'], better_later['best_epoch']) == (101., 0)


def test_a_better_model_replaces_the_best(run):
    better(run, -1.)
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar') == 0
    assert load_checkpoint_file(run / 'model_best.pth.tar')['epoch'] == 1


def test_old_checkpoints_of_the_run_are_still_removed(run):
    assert learn('--epochs', 4, '--resume', run / 'last.pth.tar', '--checkpoint-hist', 2) == 0
    assert sum(name.startswith('checkpoint-') for name in files(run)) == 2


def test_another_metric_ranks_anew(run, caplog):
    best = load_checkpoint_file(run / 'last.pth.tar')['saver']['pending'][1]
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--eval-metric', 'loss') == 0
    assert 'ranked anew: the run so far ranked them by miou, not by loss' in caplog.text
    assert load_checkpoint_file(run / 'last.pth.tar')['saver']['best_metric'] != best


def test_a_changed_rate_is_used(run):
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--lr', '2e-4') == 0
    assert [float(row['lr']) for row in summary(run)] == [1e-3, 2e-4]


def test_another_optimizer_is_one_line(run, capsys):
    resume = ['--epochs', 2, '--resume', run / 'last.pth.tar', '--opt', 'sgd']
    assert learn(*resume) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if 'error' in line]
    assert 'begun with --opt adamw, and this command has --opt sgd' in line and '--no-resume-opt' in line
    assert learn(*resume, '--no-resume-opt') == 0


def test_an_average_can_be_switched_on(run):
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar', '--model-ema', '--model-ema-decay', '0.999999') == 0
    first = load_checkpoint_file(run / 'checkpoint-0.pth.tar')['state_dict']
    average = load_checkpoint_file(run / 'last.pth.tar')['state_dict_ema']
    key = 'encoder.stem.conv.weight'
    torch.testing.assert_close(average[key], first[key], rtol=0, atol=1e-6)


def test_a_constant_rate_trains_on(run):
    assert learn('--epochs', 3, '--resume', run / 'last.pth.tar') == 0
    assert {float(row['lr']) for row in summary(run)} == {1e-3}


def test_a_run_is_not_written_over_unasked(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    again = ('--epochs', 1, '--output', run.parent, '--experiment', 'run')
    assert learn(*again) == 2
    error = capsys.readouterr().err
    assert f"'{run}' holds a run: name another --experiment, replace it with --overwrite, or go on with it by" in error
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    remedy = re.search(r'go on with it by (.*)\.$', error, re.MULTILINE)[1]
    assert learn(*again, *remedy.split(), '--epochs', '2') == 0
    assert [row['epoch'] for row in summary(run)] == ['0', '1']
    (run / 'notes.txt').write_text('mine')
    assert learn(*again, '--overwrite') == 0
    assert files(run) == {
        'args.yaml', 'checkpoint-0.pth.tar', 'last.pth.tar', 'model_best.pth.tar', 'notes.txt', 'predictions',
        'progress.png', 'run.json', 'summary.csv', 'times.csv'}
    assert files(run / 'predictions') == {'epoch-0.png'}
    assert 'overwrite' not in yaml.safe_load((run / 'args.yaml').read_text())


def test_to_go_on_and_to_replace_exclude_each_other(run, tmp_path, capsys):
    assert learn('--epochs', 1, '--output', tmp_path, '--experiment', 'other') == 0
    arguments = ('--epochs', 2, '--resume', run / 'last.pth.tar', '--output', tmp_path, '--experiment', 'other')
    assert learn(*arguments) == 2
    assert "other' holds a run" in capsys.readouterr().err
    assert learn(*arguments, '--overwrite') == 2
    assert '--overwrite replaces a run and --resume goes on with one' in capsys.readouterr().err
    assert len(summary(tmp_path / 'other')) == 1


AUTO = ('--resume', 'auto')


def test_the_same_command_begins_goes_on_and_ends(tmp_path, caplog):
    caplog.set_level('INFO')
    again = ('--epochs', 1, '--output', tmp_path, *AUTO)
    assert learn(*again) == 0
    (folder,) = tmp_path.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert learn(*again, '--workers', 1, '--log-interval', 3) == 0  # which change nothing
    assert 'Nothing to train: 1 of 1 epochs are done' in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert learn(*again, '--seed', 1) == 0  # another run
    assert len(list(tmp_path.iterdir())) == 2


def test_the_newest_of_the_same_runs_goes_on(tmp_path):
    for name in ('first', 'second'):
        assert learn('--epochs', 1, '--output', tmp_path, '--experiment', name) == 0
        (tmp_path / name / 'last.pth.tar').unlink()
        (tmp_path / name / 'checkpoint-0.pth.tar').unlink()
        (tmp_path / name / 'model_best.pth.tar').unlink()
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'args.yaml').write_text('{')
    assert learn('--epochs', 1, '--output', tmp_path, *AUTO) == 0  # it had not come to a checkpoint
    assert 'last.pth.tar' in files(tmp_path / 'second') and 'last.pth.tar' not in files(tmp_path / 'first')


class Stopped(BaseException):
    """Ends a run in the middle of its epoch."""


@pytest.fixture
def begun(tmp_path, monkeypatch) -> list[object]:
    """A command whose run has done one of two batches."""
    command = ['--epochs', 1, '--output', tmp_path, '--experiment', 'run', '--recovery-interval', 1, *AUTO]

    with monkeypatch.context() as patched:
        patched.setattr('rexnet_timm.training.engine.Updates.step', stopping_step())
        with pytest.raises(Stopped):
            learn(*command)
    assert 'recovery-0-1.pth.tar' in files(tmp_path / 'run')
    return command


def stopping_step():
    step, calls = Updates.step, []

    def stopping(self: Updates) -> bool:
        calls.append(self)
        if len(calls) == 2:
            raise Stopped
        return step(self)

    return stopping


@pytest.mark.parametrize('changed, message', [
    (('--seed', 1), 'begun with --seed 42, and this command has --seed 1: give what it was begun with, or allow the '
                    'change with --allow-changed seed.'),
    (('--batch-size', 2), 'begun with --batch-size 4, and this command has --batch-size 2'),
    (('--opt', 'sgd'), 'give what it was begun with, or go on without the state of the optimizer (--no-resume-opt)'),
    (('--rex-width-mult', 0.5), 'begun with no --rex-width-mult, and this command has --rex-width-mult 0.5: give what '
                                'it was begun with, or begin another run from its weights with --initial-checkpoint.'),
    (('--synthetic-images', 12), 'allow the change with --allow-changed synthetic-images training-images.'),
])
def test_what_must_not_change_is_refused_by_name(changed, message, begun, capsys):
    assert learn(*begun, *changed) == 2
    assert message in capsys.readouterr().err


def test_a_number_of_processes_that_has_changed_is_refused(begun, tmp_path, capsys):
    path = tmp_path / 'run' / 'recovery-0-1.pth.tar'
    content = load_checkpoint_file(path)
    content['run']['facts']['processes'] = 2
    content['args'] = argparse.Namespace(**vars(content['args']))
    torch.save(content, path)
    assert learn(*begun) == 2
    assert 'begun with 2 processes, and this command has 1 processes' in capsys.readouterr().err
    assert learn(*begun, '--allow-changed', 'processes') == 0


def test_a_change_that_is_allowed_begins_the_epoch_anew(begun, tmp_path, caplog):
    caplog.set_level('INFO')
    assert learn(*begun, '--batch-size', 2, '--allow-changed', 'batch-size') == 0
    assert 'The run was begun with --batch-size 4 and goes on with --batch-size 2.' in caplog.text
    assert 'recovery-0-1.pth.tar, going on with epoch 0\n' in caplog.text and 'Train 0 [   4/4]' in caplog.text


def test_an_unchanged_run_goes_on_with_its_batch(begun, tmp_path, caplog):
    caplog.set_level('INFO')
    assert learn(*begun, '--smoothness', 1) == 0  # of depth only
    assert 'recovery-0-1.pth.tar, going on with epoch 0, batch 1\n' in caplog.text
    assert files(tmp_path / 'run') == {
        'args.yaml', 'checkpoint-0.pth.tar', 'last.pth.tar', 'model_best.pth.tar', 'predictions', 'progress.png',
        'run.json', 'summary.csv', 'times.csv'}


def test_what_may_be_allowed_is_listed(capsys):
    assert learn('--resume', 'auto', '--allow-changed', 'sed') == 2
    assert '--allow-changed must be one of batch-size, ' in capsys.readouterr().err


def test_an_older_checkpoint_does_not_replace_newer_ones(run, tmp_path, capsys):
    assert learn('--epochs', 2, '--resume', run / 'last.pth.tar') == 0
    older = ('--epochs', 3, '--resume', run / 'checkpoint-0.pth.tar')
    assert learn(*older) == 2
    assert "checkpoint-0.pth.tar' is older than " in capsys.readouterr().err
    assert learn(*older, '--output', tmp_path, '--experiment', 'branch') == 0
    assert [row['epoch'] for row in summary(tmp_path / 'branch')] == ['1', '2']


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(run, caplog):
    again = ('--output', run.parent, '--experiment', 'run', *AUTO)
    assert learn('--epochs', 2, *again) == 0
    data = bytearray((run / 'last.pth.tar').read_bytes())
    data[len(data) // 2] ^= 1
    (run / 'last.pth.tar').write_bytes(data)
    assert learn('--epochs', 2, *again) == 0
    assert "last.pth.tar' is damaged: its content is not what was written" in caplog.text
    assert [row['epoch'] for row in summary(run)] == ['0', '1']
    assert load_checkpoint_file(run / 'last.pth.tar')['epoch'] == 1
