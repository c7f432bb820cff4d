"""The loop and the tasks, on one process; several are in test_distributed.py."""
import math
import re
import time

import pytest
import timm
import torch
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, TrainingTask

import rexnet_timm
from rexnet_timm.files import load_checkpoint_file
from rexnet_timm.training.engine import Precision, evaluate, fit, train_one_epoch
from rexnet_timm.training.run_state import RunState
from rexnet_timm.training.saver import Saver

ENCODER = 'rexnetv1_test'


def segmentation_batches(number: int = 4, batch_size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images whose bright pixels are class 1."""
    torch.manual_seed(0)
    batches = []
    for _ in range(number):
        target = torch.rand(batch_size, 1, 4, 4).gt(0.5).repeat_interleave(16, 2).repeat_interleave(16, 3)
        batches.append((target * 2. - 1 + 0.1 * torch.randn(batch_size, 3, 64, 64), target[:, 0].long()))
    return batches


def classification_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    batches = []
    for _ in range(4):
        target = torch.randint(2, (8,))
        batches.append((target[:, None, None, None] * 2. - 1 + 0.1 * torch.randn(8, 3, 64, 64), target))
    return batches


def segmentation_task(**kwargs) -> rexnet_timm.SegmentationTask:
    torch.manual_seed(0)
    model = rexnet_timm.MultiScaleUnet(ENCODER, classes=2)
    return rexnet_timm.SegmentationTask(model, 2, ignore_index=255, verbose=False, **kwargs)


def classification_task() -> ClassificationTask:
    torch.manual_seed(0)
    return ClassificationTask(timm.create_model(ENCODER, num_classes=2), torch.nn.CrossEntropyLoss(), verbose=False)


def optimizer_of(task: TrainingTask) -> torch.optim.Optimizer:
    return torch.optim.AdamW(task.get_trainable_module().parameters(), lr=3e-3)


def test_the_task_returns_the_loss_of_every_scale():
    result = segmentation_task()(*segmentation_batches(1)[0])
    assert list(result) == ['loss', *(f'loss_scale_{scale}' for scale in range(5)), 'output']
    weights = [2. ** -scale for scale in range(5)]
    parts = [result[f'loss_scale_{scale}'] for scale in range(5)]
    expected = sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)
    torch.testing.assert_close(result['loss'].detach(), expected)
    assert result['output'].shape == (4, 2, 64, 64)


def test_segmentation_learns():
    task, batches = segmentation_task(), segmentation_batches()
    optimizer = optimizer_of(task)
    for epoch in range(6):
        metrics = train_one_epoch(task, batches, optimizer, epoch)
    assert metrics['loss'] < 0.3 and metrics['loss_scale_0'] < 0.3
    assert evaluate(task, batches)['miou'] > 90


def test_the_time_spent_waiting_for_data_is_told(caplog):
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.1)
                yield batch

    task = segmentation_task()
    with caplog.at_level('INFO'):
        train_one_epoch(task, Slow(segmentation_batches(3)), optimizer_of(task), 7, progress=True)
        train_one_epoch(task, segmentation_batches(3), optimizer_of(task), 8)
        train_one_epoch(task, segmentation_batches(1), optimizer_of(task), 9, primary=False)
    told = [re.match(r'Train (\d) took ([\d.]+) s, of which ([\d.]+) s \((\d+)%\) were spent waiting for data', message)
            for message in caplog.messages]
    (seven, eight) = [tuple(map(float, match.groups())) for match in told if match]
    assert seven[0] == 7 and 0.3 <= seven[2] <= seven[1] and seven[3] == pytest.approx(100 * seven[2] / seven[1], abs=9)
    assert eight[0] == 8 and eight[2] < 0.1


def test_timms_classification_task_trains_in_the_same_loop():
    task, batches = classification_task(), classification_batches()
    optimizer = optimizer_of(task)
    for epoch in range(12):
        train_one_epoch(task, batches, optimizer, epoch)
    assert evaluate(task, batches)['top1'] > 95


def test_accumulated_steps_equal_one_large_step():
    torch.manual_seed(0)
    batches = [(torch.randn(2, 6), torch.randint(3, (2,))) for _ in range(5)]
    weights = []
    # the last update of the accumulating run is of one batch
    for steps, loader in ((2, batches), (1, [_join(batches[:2]), _join(batches[2:4]), batches[4]])):
        torch.manual_seed(0)
        task = ClassificationTask(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), verbose=False)
        train_one_epoch(task, loader, torch.optim.SGD(task.parameters(), lr=0.5), grad_accum_steps=steps)
        weights.append(task.trainable_module.weight.detach())
    torch.testing.assert_close(*weights)


def _join(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def test_evaluation_leaves_out_the_padding_of_a_sampler():
    class Sampler:
        num_valid_samples = 6

    class Loader(list):
        sampler = Sampler()

    batches = segmentation_batches(2)
    task = segmentation_task()
    padded = evaluate(task, Loader(batches))
    exact = evaluate(task, [batches[0], tuple(part[:2] for part in batches[1])])
    assert padded == pytest.approx(exact)


def test_a_diverging_loss_says_what_to_do():
    batches = [(torch.full((2, 3, 64, 64), float('nan')), torch.zeros(2, 64, 64, dtype=torch.long))] * 3
    task = segmentation_task()
    with pytest.raises(FloatingPointError, match=(
            r'NaN or infinite in 2 updates in a row, until batch 1 of epoch 3. There is no checkpoint yet. Lower')):
        train_one_epoch(task, batches, optimizer_of(task), epoch=3, max_skipped=2)


def test_fit_follows_the_schedule_and_writes_summary_and_checkpoints(tmp_path):
    task, batches = segmentation_task(), segmentation_batches()
    optimizer = optimizer_of(task)
    scheduler, epochs = create_scheduler_v2(optimizer, 'cosine', num_epochs=4)
    state = RunState(task, optimizer, scheduler, saver=Saver(tmp_path))
    best, best_epoch = fit(
        task, batches, batches, optimizer, epochs, lr_scheduler=scheduler, state=state, output_dir=tmp_path)
    rows = (tmp_path / 'summary.csv').read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith('epoch,train_loss,train_loss_scale_0')
    rates = [float(row.rsplit(',', 1)[1]) for row in rows[1:]]
    expected = [3e-3 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert rates == pytest.approx(expected)
    assert load_checkpoint_file(tmp_path / 'model_best.pth.tar')['metric'] == best
    assert load_checkpoint_file(tmp_path / 'last.pth.tar')['epoch'] == 3 >= best_epoch


def test_an_unknown_metric_names_the_known_ones():
    task, batches = segmentation_task(), segmentation_batches(1)
    with pytest.raises(ValueError, match="one of loss, miou, .* got 'top1'"):
        fit(task, batches, batches, optimizer_of(task), 1, eval_metric='top1')


def test_precision_on_the_cpu_is_bfloat16_and_says_so(caplog):
    caplog.set_level('INFO')
    precision = Precision.create(torch.device('cpu'), amp=True)
    assert precision.scaler is None and 'bfloat16: float16 needs a gradient scaler' in caplog.text
    with precision.autocast():
        assert (torch.randn(2, 2) @ torch.randn(2, 2)).dtype == torch.bfloat16
    assert Precision.create(torch.device('cpu')).scaler is None
    caplog.clear()
    assert Precision.create(torch.device('cpu'), amp=True, primary=False).scaler is None and not caplog.text
    with pytest.raises(ValueError, match="'float16' or 'bfloat16', got 'int8'"):
        Precision.create(torch.device('cpu'), amp=True, amp_dtype='int8')


def test_training_in_bfloat16_learns():
    task, batches = segmentation_task(), segmentation_batches()
    optimizer, precision = optimizer_of(task), Precision.create(torch.device('cpu'), amp=True)
    for epoch in range(6):
        train_one_epoch(task, batches, optimizer, epoch, precision=precision, channels_last=True)
    assert evaluate(task, batches, precision, channels_last=True)['miou'] > 90


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_a_checkpoint_that_carries_code_is_refused_and_does_not_run(tmp_path):
    torch.save({'state_dict': {}, 'epoch': 0, 'code': Payload(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match="evil.pth' must hold tensors and plain values only, and does not"):
        load_checkpoint_file(tmp_path / 'evil.pth')
    assert not (tmp_path / 'ran').exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint '.*gone.pth'"):
        load_checkpoint_file(tmp_path / 'gone.pth')
    (tmp_path / 'text.pth').write_text('nothing')
    with pytest.raises(ValueError, match='text.pth'):
        load_checkpoint_file(tmp_path / 'text.pth')
