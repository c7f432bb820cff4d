"""Going on from a checkpoint."""
from pathlib import Path

import pytest
import torch
from test_engine import optimizer_of, segmentation_batches, segmentation_task
from timm.utils import CheckpointSaver

from rexnet_timm.files import load_checkpoint_file
from rexnet_timm.training.engine import fit, train_one_epoch
from rexnet_timm.training.run_state import RunState
from rexnet_timm.training.saver import Saver, plain_history


def state_of(task, optimizer, folder: Path | None = None) -> RunState:
    return RunState(task, optimizer, saver=Saver(folder) if folder else None)


def resume(path: Path, task, optimizer=None, **options) -> RunState:
    state = state_of(task, optimizer or optimizer_of(task))
    state.restore(load_checkpoint_file(path), str(path), with_optimizer=optimizer is not None, **options)
    return state


@pytest.fixture(scope='module')
def last(tmp_path_factory) -> Path:
    """The last checkpoint of two epochs without a moving average."""
    folder = tmp_path_factory.mktemp('run')
    task, batches = segmentation_task(), segmentation_batches(1)
    optimizer = optimizer_of(task)
    fit(task, batches, batches, optimizer, 2, state=state_of(task, optimizer, folder))
    return folder / 'last.pth.tar'


def changed(last: Path, path: Path, **entries) -> Path:
    """The checkpoint with other entries; those that are None are left out."""
    content = {**torch.load(last, weights_only=True), **entries}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_resuming_continues_as_if_nothing_had_happened(tmp_path):
    batches = segmentation_batches()
    task = segmentation_task()
    optimizer = optimizer_of(task)
    task.setup_ema(decay=0.9)
    fit(task, batches, batches, optimizer, 2, state=state_of(task, optimizer, tmp_path))
    whole = train_one_epoch(task, batches, optimizer, 2)

    other = segmentation_task()
    other.setup_ema(decay=0.9)
    other_optimizer = optimizer_of(other)
    assert resume(tmp_path / 'last.pth.tar', other, other_optimizer).epoch == 2
    assert train_one_epoch(other, batches, other_optimizer, 2) == pytest.approx(whole, rel=1e-4)
    averages = [t.get_trainable_module(ema=True).module.encoder.stem.conv.weight for t in (task, other)]
    torch.testing.assert_close(*averages)


def test_an_average_that_is_new_starts_from_the_loaded_weights(last):
    task = segmentation_task()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(1.)  # far from the weights of the checkpoint
    task.setup_ema(decay=0.9)
    resume(last, task)
    weights = torch.load(last, weights_only=True)['state_dict']
    average = task.get_trainable_module(ema=True).module.state_dict()
    assert average.keys() == weights.keys()
    assert all(torch.equal(average[key], weights[key]) for key in weights)


def test_a_changed_option_of_the_optimizer_is_used(last):
    task = segmentation_task()
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-5, weight_decay=0.5, betas=(0.5, 0.9))
    resume(last, task, optimizer, keep_options=True)
    (group,) = optimizer.param_groups
    assert (group['lr'], group['weight_decay'], group['betas']) == (1e-5, 0.5, (0.5, 0.9))
    assert 'initial_lr' not in group
    saved = torch.load(last, weights_only=True)['optimizer']['state'][0]['exp_avg']
    assert torch.equal(optimizer.state[next(task.parameters())]['exp_avg'], saved)


def test_another_optimizer_is_refused_and_can_be_left_out(last):
    task = segmentation_task()
    with pytest.raises(ValueError, match=(
            r"last.pth.tar' was trained by another optimizer, .* 'lr', 'weight_decay', this run has 1 "
            r"group\(s\) with 'lr', 'momentum', 'weight_decay'. Take the optimizer .* without its "
            r'state \(no_resume_opt')):
        resume(last, task, torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9))
    assert resume(last, task, None).epoch == 2


@pytest.mark.parametrize('state', [None, {}, {'state': {}}, 'text'])
def test_a_missing_state_of_the_optimizer_is_told(state, last, tmp_path):
    path = changed(last, tmp_path / 'changed.pth', optimizer=state)
    task = segmentation_task()
    with pytest.raises(ValueError, match="changed.pth' holds no state of an optimizer. Take the optimizer"):
        resume(path, task, optimizer_of(task))


def test_the_history_of_the_checkpoints_goes_on(last):
    history = plain_history(load_checkpoint_file(last)['saver'])
    assert [name for name, _ in history['checkpoint_files']] == ['checkpoint-0.pth.tar']
    assert history['pending'][0] == 1
    saver = Saver(last.parent)
    saver.load_state_dict(history, last)
    ranked = saver.state_dict(None, None)
    metrics = [metric for _, metric in ranked['checkpoint_files']]
    assert len(metrics) == 2 and saver.best_metric == max(metrics)


def test_timms_saver_goes_on_with_the_history(last, tmp_path):
    task = segmentation_task()
    theirs = CheckpointSaver(
        task, optimizer_of(task), checkpoint_dir=str(last.parent), recovery_dir=str(last.parent), task=task)
    assert theirs.load_state_dict_from_checkpoint(str(last))
    ours = Saver(last.parent)
    ours.load_state_dict(plain_history(load_checkpoint_file(last)['saver']), last)
    assert (theirs.best_metric, theirs.best_epoch) == (ours.best_metric, ours.best_epoch)


def test_a_history_does_not_lead_out_of_its_folder():
    files = [
        ('checkpoint-0.pth.tar', 1.), ('../other/model.pth', 2.), ('/etc/passwd', 3.), ('..', 4.), ('', 5.),
        ('a\\b', 6.), ('only a name',), 7, (8, 8.), ('notes.txt', 9.), ('../checkpoint-1.pth.tar', 1.)]
    history = plain_history({
        'checkpoint_files': files, 'best_epoch': 0, 'best_metric': 1., 'pending': ('../../x', 2.)})
    assert history['checkpoint_files'] == [('checkpoint-0.pth.tar', 1.)]
    assert history['pending'] == (None, None)


@pytest.mark.parametrize('history', [None, 7, [], 'text', {'checkpoint_files': 3, 'pending': 4}])
def test_what_is_no_history_is_none(history):
    assert not any(value for value in plain_history(history).values() if value != (None, None))


def test_files_that_are_no_training_checkpoints_are_refused(tmp_path):
    torch.save({'weight': torch.zeros(1)}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='weights and no training state .* as an initial checkpoint'):
        resume(tmp_path / 'weights.pth', segmentation_task())
    torch.save({'state_dict': {'weight': torch.zeros(1)}, 'epoch': 1, 'arch': 'resnet18'}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="does not fit this run: it was trained as 'resnet18'"):
        resume(tmp_path / 'other.pth', segmentation_task())
