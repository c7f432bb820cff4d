"""NaN and infinity: the update is left out and told, and nothing of them is saved."""
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn as nn
from killing import assert_same
from timm.task import ClassificationTask
from torch.utils.data import Dataset

from rexnet_timm.data import create_segmentation_loader
from rexnet_timm.files import load_checkpoint_file
from rexnet_timm.training.engine import Precision, fit, train_one_epoch
from rexnet_timm.training.run_state import RunState
from rexnet_timm.training.saver import Saver


class Net(nn.Module):
    """A convolution with BatchNorm, whose statistics a bad batch would spoil for good."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def create(loss: nn.Module | None = None) -> tuple[ClassificationTask, torch.optim.Optimizer]:
    torch.manual_seed(0)
    task = ClassificationTask(Net(), loss or nn.CrossEntropyLoss(), verbose=False)
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01)
    task.setup_ema(decay=0.9, use_warmup=True)
    return task, optimizer


def batches(number: int, bad: tuple[int, ...] = (), value: float = float('nan')) -> list:
    generator = torch.Generator().manual_seed(1)
    made = [(torch.randn(4, 3, 8, 8, generator=generator), torch.randint(2, (4,), generator=generator))
            for _ in range(number)]
    for index in bad:
        made[index][0][0, 0, 0, 0] = value
    return made


def state_of(task: ClassificationTask, optimizer: torch.optim.Optimizer) -> dict:
    return {**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True), 'optimizer': optimizer.state_dict()}


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bad_batch_leaves_no_trace(value, caplog):
    task, optimizer = create()
    metrics = train_one_epoch(task, batches(4, bad=(1, 2), value=value), optimizer)
    assert caplog.text.count('is NaN or infinite, and the update is left out') == 2
    assert 'Epoch 0, batch 2: the loss is NaN or infinite, and the update is left out (2 in a row, 2 in all).' in \
        caplog.text
    other, other_optimizer = create()
    good = batches(4)
    assert metrics == train_one_epoch(other, [good[0], good[3]], other_optimizer)
    assert_same(state_of(task, optimizer), state_of(other, other_optimizer))


def test_a_bad_batch_spoils_only_its_own_update():
    task, optimizer = create()
    train_one_epoch(task, batches(6, bad=(3,)), optimizer, grad_accum_steps=2)
    other, other_optimizer = create()
    good = batches(6)
    train_one_epoch(other, [*good[:2], *good[4:]], other_optimizer, grad_accum_steps=2)
    assert_same(state_of(task, optimizer), state_of(other, other_optimizer))


class RootLoss(nn.Module):
    """Finite, with an infinite gradient."""

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - output.detach()).abs().sum().sqrt()


def test_a_gradient_that_is_not_finite_is_told_as_such(caplog):
    task, optimizer = create(RootLoss())
    before = {name: value.clone() for name, value in task.trainable_module.state_dict().items()}
    train_one_epoch(task, batches(1), optimizer)
    assert 'Epoch 0, batch 0: a gradient is NaN or infinite' in caplog.text
    assert_same(before, dict(task.trainable_module.state_dict()))


class Files(Dataset):
    """Images of files, one of them with NaN."""

    ignore_label = 9

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3, 8, 8), float('nan') if index == 4 else float(index)), torch.tensor([[index % 2]])

    def paths(self, index: int) -> tuple[Path, Path]:
        return Path(f'image{index}.png'), Path(f'mask{index}.png')


class FirstLabel(nn.Module):
    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target[:, 0, 0])


def test_the_files_of_the_batch_are_named(caplog):
    task, optimizer = create(FirstLabel())
    loader = create_segmentation_loader(Files(), 2, is_training=True, num_workers=0)
    with pytest.raises(FloatingPointError, match=r'in 1 updates in a row, until batch \d of epoch 0. Its images: '):
        train_one_epoch(task, loader, optimizer, max_skipped=1)
    names = caplog.text.split('Its images: ')[1].split('\n')[0].rstrip('.')
    assert len(names.split(', ')) == 2 and 'image4.png' in names


def test_overflow_of_float16_is_left_to_the_scaler(caplog):
    caplog.set_level('INFO')
    task, optimizer = create(lambda output, target: 100 * nn.functional.cross_entropy(output, target))
    scaler = torch.amp.GradScaler('cpu', init_scale=2. ** 127)
    train_one_epoch(task, batches(6), optimizer, precision=Precision(nullcontext, scaler))
    assert 'batch 0: float16 overflowed; the scale of the gradients is lowered' in caplog.text
    assert 'WARNING' not in caplog.text and 0 < scaler.get_scale() < 2. ** 127


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2)
    task, optimizer = create()
    task.prepare_distributed(broadcast_buffers=False)
    state = RunState(task, optimizer, rank=rank, world_size=2)
    train_one_epoch(task, batches(3, bad=(1,) if rank else ()), optimizer, state=state)
    torch.save((state.skipped.total, dict(task.trainable_module.module.named_parameters())), f'{folder}/{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()


def test_all_processes_leave_out_the_same_update(tmp_path):
    multiprocessing.start_processes(work, (str(tmp_path),), nprocs=2, start_method='fork')
    (skipped, first), (skipped_too, second) = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert skipped == skipped_too == 1
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)


def test_the_checkpoint_before_the_bad_numbers_is_kept_and_named(tmp_path):
    task, optimizer = create()
    state = RunState(task, optimizer, saver=Saver(tmp_path))
    made = batches(8, bad=(2, 3, 4, 5))
    with pytest.raises(FloatingPointError, match=(
            f"in 4 updates in a row, until batch 5 of epoch 0. The last good checkpoint is '{tmp_path}/recovery-0-2")):
        fit(task, made, made, optimizer, 1, eval_metric='loss', state=state, recovery_interval=1, max_skipped=4)
    assert {path.name for path in tmp_path.iterdir()} == {'recovery-0-1.pth.tar', 'recovery-0-2.pth.tar'}


def spoil(task: ClassificationTask) -> None:
    with torch.no_grad():
        task.trainable_module.body[0].weight[0, 0, 0, 0] = float('nan')


@pytest.mark.parametrize('save', [RunState.save, lambda state: state.save_epoch(1.)], ids=['recovery', 'epoch'])
def test_weights_that_are_not_finite_are_not_saved(save, tmp_path):
    task, optimizer = create()
    state = RunState(task, optimizer, saver=Saver(tmp_path))
    fit(task, batches(2), batches(2), optimizer, 1, eval_metric='loss', state=state)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    spoil(task)
    with pytest.raises(FloatingPointError, match=(
            r'1 of \d+ entries hold NaN or infinite ones \(body.0.weight\). Nothing of them is saved. The last good '
            f"checkpoint is '{tmp_path}/last.pth.tar'. Lower the learning rate")):
        save(state)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_weights_that_are_not_finite_are_told_on_load(tmp_path):
    task, optimizer = create()
    RunState(task, optimizer, saver=Saver(tmp_path)).save()
    content = load_checkpoint_file(tmp_path / 'recovery-0-0.pth.tar')
    content['state_dict']['body.0.weight'][0] = float('inf')
    with pytest.raises(ValueError, match=r"'a.pth': Weights must be finite .* \(body.0.weight\): the training"):
        RunState(task, optimizer).restore(content, 'a.pth')
