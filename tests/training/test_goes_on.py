"""A run that is stopped after any update and goes on equals the run that is left alone, bit for bit.

A table of settings, each on a network of a few weights in this process: what has been stopped is built anew from
nothing but the file. Whole commands are killed in tests/cli/test_survives.py.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn as nn
from killing import assert_same_runs
from timm.data import Mixup
from timm.layers import DropPath
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from timm.utils import random_seed

from rexnet_timm.training.engine import Precision, fit
from rexnet_timm.training.run_state import RunState
from rexnet_timm.training.saver import Saver, load_newest, plain_history, remove_rest

EPOCHS, BATCHES = 2, 4


class Stopped(BaseException):
    """Ends a run as a kill does: nothing handles it."""


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, a residual block that is dropped at times, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.drop_path = DropPath(0.3)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * 36, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.drop_path(self.block(x)))


class Batches:
    """Batches of this process, new ones in each epoch, since mixing writes into them."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(self.rank)
        for _ in range(BATCHES):
            yield torch.randn(4, 3, 8, 8, generator=generator), torch.randint(2, (4,), generator=generator)


def train(
        folder: Path,
        stop_after: int | None = None,
        opt: str = 'adamw',
        sched: dict[str, Any] | None = None,
        ema: bool = False,
        amp: bool = False,
        mixup: bool = False,
        scaler: bool = False,
        recovery_interval: int = 1,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
) -> None:
    """Train in a folder, going on where there is something to go on from."""
    random_seed(3, rank)
    task = ClassificationTask(Net(), soft_loss if mixup else large_loss if scaler else None, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(task.trainable_module, opt, lr=1e-2, weight_decay=1e-2)
    if ema:
        task.setup_ema(decay=0.8, use_warmup=True)
    updates = -(-BATCHES // options.get('grad_accum_steps', 1))
    schedule = {'sched': 'cosine', 'warmup_epochs': 1, **(sched or {})}
    scheduler, _ = create_scheduler_v2(optimizer, num_epochs=EPOCHS, updates_per_epoch=updates, **schedule)
    precision = Precision.create(torch.device('cpu'), amp)
    if scaler:  # whose scale is at first too high, and grows
        precision = Precision(scaler=torch.amp.GradScaler('cpu', init_scale=2. ** 127, growth_interval=2))
    folder.mkdir(exist_ok=True, parents=True)
    if world_size > 1:
        task.prepare_distributed()
        dist.barrier()  # or one would write before another has looked
    saver = Saver(folder, decreasing=True, max_history=2) if rank == 0 else None
    state = Stopping(
        stop_after, task, optimizer, scheduler, precision.scaler, saver, rank=rank, world_size=world_size)
    if saver is not None:
        remove_rest(folder)
    if found := load_newest(folder):
        path, checkpoint = found
        state.restore(checkpoint, path)
        if saver is not None:
            saver.load_state_dict(plain_history(checkpoint['saver']), path)
    if world_size > 1:
        dist.barrier()
    mix = Mixup(0.2, 1., num_classes=2) if mixup else None
    fit(task, Batches(rank), Batches(rank), optimizer, EPOCHS, lr_scheduler=scheduler, precision=precision,
        mixup_fn=mix, eval_metric='loss', output_dir=folder, recovery_interval=recovery_interval, state=state, seed=5,
        primary=rank == 0, **options)
    if world_size > 1:
        dist.barrier()


def soft_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.sum(-target * output.log_softmax(-1), dim=-1).mean()


def large_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 8 * nn.functional.cross_entropy(output, target)


class Stopping(RunState):
    """Stops after so many checkpoints in the middle of an epoch."""

    def __init__(self, stop_after: int | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left = stop_after

    def save(self) -> None:
        super().save()
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise Stopped


def goes_on(folder: Path, stops: tuple[int, ...], **settings: Any) -> None:
    """Assert that a run that is stopped so often equals the one that is left alone."""
    train(folder / 'alone', **settings)
    for number in stops:
        with pytest.raises(Stopped):
            train(folder / 'stopped', number, **settings)
    train(folder / 'stopped', **settings)
    assert_same_runs(folder / 'alone', folder / 'stopped')


# adahessian wants second derivatives, which the loop does not compute; the others need packages or a GPU
WITHOUT = ('adahessian', 'bnb', 'fused')
OPTIMIZERS = [name for name in timm.optim.list_optimizers() if not name.startswith(WITHOUT)] + ['lookahead_adamw']
FAST = ('sgd', 'adamw', 'lamb', 'muon', 'kron')


@pytest.mark.parametrize('opt', [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS])
def test_every_optimizer(opt, tmp_path):
    with torch.compiler.set_stance('force_eager'):  # kron compiles its steps, for minutes
        goes_on(tmp_path, (6,), opt=opt)


SCHEDULES: dict[str, dict[str, Any]] = {
    'cosine': {}, 'cosine in updates': {'step_on_epochs': False}, 'tanh': {'sched': 'tanh'},
    'step': {'sched': 'step', 'decay_epochs': 1}, 'multistep': {'sched': 'multistep', 'decay_milestones': [1, 2]},
    'poly': {'sched': 'poly'}, 'wsd': {'sched': 'wsd', 'decay_epochs': 1},
    'rsqrt': {'sched': 'rsqrt', 'decay_epochs': 1}, 'constant': {'sched': 'constant'}, 'none': {'sched': 'none'},
    'plateau': {'sched': 'plateau', 'patience_epochs': 0, 'warmup_epochs': 0, 'decay_rate': 0.3},
}


@pytest.mark.parametrize('name', [
    name if name in ('cosine in updates', 'plateau') else pytest.param(name, marks=pytest.mark.slow)
    for name in SCHEDULES])
def test_every_schedule(name, tmp_path):
    goes_on(tmp_path, (2, 4), sched=SCHEDULES[name])


SETTINGS: dict[str, dict[str, Any]] = {
    'average': {'ema': True}, 'bfloat16': {'amp': True}, 'mixup and CutMix': {'mixup': True},
    'accumulation': {'grad_accum_steps': 2}, 'limited gradient': {'clip_grad': 0.1},
    'adaptive limit': {'clip_grad': 0.01, 'clip_mode': 'agc'}, 'channels last': {'channels_last': True, 'opt': 'lamb'},
    'scaler': {'scaler': True},
    'all': {'ema': True, 'amp': True, 'mixup': True, 'grad_accum_steps': 3, 'clip_grad': 1., 'opt': 'lamb',
            'sched': {'step_on_epochs': False}},
}


@pytest.mark.parametrize('name', [
    name if name in ('all', 'scaler') else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS])
def test_every_setting(name, tmp_path):
    goes_on(tmp_path, (1, 2), **SETTINGS[name])


def work(rank: int, world_size: int, folder: str, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=world_size)
    settings = {**settings, 'rank': rank, 'world_size': world_size}
    train(Path(folder, 'alone'), **settings)
    for number in (2, 1):
        with pytest.raises(Stopped):
            train(Path(folder, 'stopped'), number, **settings)
    train(Path(folder, 'stopped'), **settings)
    dist.destroy_process_group()


@pytest.mark.parametrize('world_size, settings', [
    (3, {'ema': True, 'dist_bn': ''}), pytest.param(2, {'grad_accum_steps': 3}, marks=pytest.mark.slow),
    pytest.param(4, {'mixup': True, 'amp': True}, marks=pytest.mark.slow)])
def test_several_processes(world_size, settings, tmp_path):
    multiprocessing.start_processes(
        work, (world_size, str(tmp_path), settings), nprocs=world_size, start_method='fork')
    assert_same_runs(tmp_path / 'alone', tmp_path / 'stopped')
