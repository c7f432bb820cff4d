"""What must hold on several processes: exact metrics, and no parameter without a gradient."""
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
import torch
from running import on_ranks

import rexnet_timm
from rexnet_timm.data import (
    SyntheticDepth,
    SyntheticShapes,
    create_depth_transform,
    create_segmentation_loader,
    create_segmentation_transform,
)
from rexnet_timm.training.engine import evaluate, train_one_epoch

RANKS = 2


def create_task(change: str = 'all heads') -> rexnet_timm.SegmentationTask:
    torch.manual_seed(0)
    scales = (0, 2) if change == 'some scales' else range(5)
    model = rexnet_timm.MultiScaleUnet('rexnetv1_test', classes=6, scales=scales)
    if change == 'dropped heads':
        model.drop_heads()
    elif change == 'pruned':
        model.prune_to_scale(2)
    elif change == 'frozen encoder':
        model.freeze_encoder()
    return rexnet_timm.SegmentationTask(model, 6, ignore_index=255, verbose=False)


def create_loader(length: int, is_training: bool, distributed: bool):
    transform = create_segmentation_transform(is_training, 64)
    dataset = SyntheticShapes(length, 64, transform=transform)
    return create_segmentation_loader(dataset, 2, is_training, num_workers=0, distributed=distributed)


def create_depth_task() -> rexnet_timm.DepthTask:
    torch.manual_seed(0)
    return rexnet_timm.DepthTask(rexnet_timm.ReXDepth(0.25, 0.2), verbose=False)


def create_depth_loader(length: int, is_training: bool, distributed: bool):
    dataset = SyntheticDepth(length, 32, transform=create_depth_transform(is_training, 32))
    return create_segmentation_loader(dataset, 2, is_training, num_workers=0, distributed=distributed)


def work(rank: int, *arguments: str) -> None:
    *calls, folder, port = arguments
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=RANKS)
    results = [globals()[job](argument) for job, argument in zip(calls[::2], calls[1::2], strict=True)]
    if rank == 0:
        Path(folder, 'result.json').write_text(json.dumps(results))
    torch.distributed.barrier()  # older releases hang if a peer is gone before
    torch.distributed.destroy_process_group()


def run(calls: Iterable[tuple[str, str]], folder: Path) -> list:
    """What jobs give on the first of the ranks, each of its argument; in turn, as processes take seconds to start."""
    on_ranks(work, *chain.from_iterable(calls), str(folder), ranks=RANKS)
    return json.loads((folder / 'result.json').read_text())


def evaluate_shard(argument: str) -> dict[str, float]:
    return evaluate(create_task(), create_loader(int(argument), False, True), distributed=True)


def depth_shard(argument: str) -> list:
    task = create_depth_task()
    metrics = evaluate(task, create_depth_loader(int(argument), False, True), distributed=True)
    task.prepare_distributed()
    # a parameter without a gradient raises in the second step
    losses = train_one_epoch(task, create_depth_loader(8, True, True), torch.optim.SGD(task.parameters(), lr=0.01))
    return [metrics, losses['loss']]


def train_shard(change: str) -> list[float]:
    task = create_task(change)
    task.prepare_distributed()
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    # a parameter without a gradient raises in the second step
    metrics = train_one_epoch(task, create_loader(12, True, True), optimizer)
    return [metrics['loss'], *(parameter.sum().item() for parameter in parameters)]


def test_metrics_over_ranks_are_those_of_one_process(tmp_path):
    # seven images over two ranks: one is padding and must not count
    several, (of_depth, depth_loss) = run([('evaluate_shard', '7'), ('depth_shard', '7')], tmp_path)
    one = evaluate(create_task(), create_loader(7, False, False))
    assert list(several) == list(one)
    loss, loss_of_one = several.pop('loss'), one.pop('loss')
    assert several == pytest.approx(one, nan_ok=True, abs=1e-9)
    assert loss == pytest.approx(loss_of_one, rel=1e-5)
    assert of_depth == pytest.approx(evaluate(create_depth_task(), create_depth_loader(7, False, False)), rel=1e-5)
    assert 0 < depth_loss < 30


def test_training_needs_no_search_for_unused_parameters(tmp_path):
    changes = ['all heads', 'dropped heads', 'some scales', 'pruned', 'frozen encoder']
    results = run([('train_shard', change) for change in changes], tmp_path)
    for change, (loss, *sums) in zip(changes, results, strict=True):
        before = [parameter.sum().item() for parameter in create_task(change).parameters() if parameter.requires_grad]
        assert 0 < loss < 10, change
        assert len(sums) == len(before) and sums != pytest.approx(before), change
