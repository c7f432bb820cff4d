#!/usr/bin/env python3
"""One process against several on the cores of this machine, at the same global batch: images a second, and gradients.

python scripts/scaling.py --processes 2 --batch-size 8 --img-size 128 --steps 10
"""
import argparse
import os
import sys
import tempfile
import time

import timm
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

import rexnet_timm  # noqa: F401


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='rexnetv1_unet_1_0')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--batch-size', type=int, default=8, help='images of a step, over all processes')
    parser.add_argument('--img-size', type=int, default=128)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--cores', type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    if args.batch_size % args.processes:
        parser.error(f'--batch-size must be a multiple of --processes, got {args.batch_size} and {args.processes}.')
    return args


def batch(args: argparse.Namespace, rank: int, world_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of this process of one global batch, whatever the number of processes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, generator=generator)
    masks = torch.randint(0, 5, (args.batch_size, args.img_size, args.img_size), generator=generator)
    part = slice(rank * args.batch_size // world_size, (rank + 1) * args.batch_size // world_size)
    return images[part], masks[part]


def step(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> None:
    loss_of = nn.CrossEntropyLoss()
    output = model(images)
    loss_of(output[0] if isinstance(output, (list, tuple)) else output, masks).backward()


def work(rank: int, world_size: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(max(1, args.cores // world_size))
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet-{world_size}', rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=5, **({'scales': (0,)} if 'unet' in args.model else {}))
    model = DistributedDataParallel(model.train()) if world_size > 1 else model.train()
    data, found = batch(args, rank, world_size), {}
    for mode in ('fixed', 'own'):  # statistics of BatchNorm: given, and of the images of each process
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(mode == 'own')
        model.zero_grad()
        step(model, *data)
        found[mode] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    dist.barrier()
    start = time.perf_counter()
    for _ in range(args.steps):
        model.zero_grad()
        step(model, *data)
    dist.barrier()
    found['rate'] = args.steps * args.batch_size / (time.perf_counter() - start)
    if rank == 0:
        torch.save(found, f'{folder}/found-{world_size}.pt')
    dist.destroy_process_group()


def difference(one: torch.Tensor, several: torch.Tensor) -> float:
    """Of gradients, as a share of their length."""
    return float((one - several).norm() / one.norm())


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for world_size in (1, args.processes):
            torch.multiprocessing.spawn(work, (world_size, args, folder), nprocs=world_size)
            found.append(torch.load(f'{folder}/found-{world_size}.pt', weights_only=True))
    one, several = found
    print(f'{args.model}, {args.batch_size} images of {args.img_size} x {args.img_size} a step, {args.cores} cores')
    print(f'bytes of gradients a step: {4 * one["own"].numel()}')
    print(f'images a second: {one["rate"]:.2f} on 1 process, {several["rate"]:.2f} on {args.processes}')
    print(f'difference of gradients: {difference(one["fixed"], several["fixed"]):.1e} with given statistics of '
          f'BatchNorm, {difference(one["own"], several["own"]):.1e} with those of each process')
    return 0


if __name__ == '__main__':
    sys.exit(main())
