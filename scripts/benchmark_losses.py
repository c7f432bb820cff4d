#!/usr/bin/env python3
"""Time and memory of the ways in which MultiScaleLoss meets a target.

    python scripts/benchmark_losses.py --size 256 --batch-size 4

Forward and backward of only the loss, on the logits of scales 0 to 4, each way in turn in every round; medians, and
ratios to cross entropy at scale 0 only. Memory is the highest point of what a step allocates beyond the logits and the
target, gradients included, as torch's profiler counts it on the CPU.
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rexnet_timm import MultiScaleLoss
from rexnet_timm.training.losses import TARGETS

CLASSES = 11
IGNORED = 255


class Way:
    """One way to compute the loss."""

    def __init__(self, scales: int, target_mode: str, size: int, batch_size: int):
        torch.manual_seed(0)
        self.loss = MultiScaleLoss(nn.CrossEntropyLoss(ignore_index=IGNORED), target=target_mode)
        self.outputs = [
            torch.randn(batch_size, CLASSES, -(-size // 2 ** scale), -(-size // 2 ** scale), requires_grad=True)
            for scale in range(scales)
        ]
        self.target = torch.randint(CLASSES, (batch_size, size, size))
        self.seconds: list[float] = []

    def step(self) -> None:
        for output in self.outputs:
            output.grad = None
        self.loss(self.outputs, self.target).backward()

    def time(self) -> None:
        start = time.perf_counter()
        self.step()
        self.seconds.append(time.perf_counter() - start)

    def peak_memory(self) -> float:
        """MiB at the highest point of a step over what it began with."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'trace.json')
            profiler.export_chrome_trace(path)
            with open(path) as file:
                events = [event for event in json.load(file)['traceEvents'] if event['name'] == '[memory]']
        level = highest = 0
        for event in sorted(events, key=lambda event: event['ts']):
            level += event['args']['Bytes']
            highest = max(highest, level)
        return highest / 2 ** 20


def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """Measure and print; returns {way: (milliseconds, MiB)}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=21, help='counted rounds, after two that are not')
    args = parser.parse_args(argv)

    ways = {'scale 0 only': Way(1, 'nearest', args.size, args.batch_size)}
    ways |= {f'scales 0 to 4, {mode}': Way(5, mode, args.size, args.batch_size) for mode in TARGETS}
    for _ in range(args.rounds + 2):
        for way in ways.values():
            way.time()
    results = {
        name: (1e3 * statistics.median(way.seconds[2:]), way.peak_memory()) for name, way in ways.items()}
    reference = results['scale 0 only']
    print(f'{args.size} x {args.size}, batch {args.batch_size}, {CLASSES} classes, torch {torch.__version__}, '
          f'{torch.get_num_threads()} threads, medians of {args.rounds} rounds\n')
    print('| target | ms | ratio | MiB | ratio |')
    print('|---|---|---|---|---|')
    for name, (milliseconds, memory) in results.items():
        print(f'| {name} | {milliseconds:.1f} | {milliseconds / reference[0]:.2f} | {memory:.1f} '
              f'| {memory / reference[1]:.2f} |')
    return results


if __name__ == '__main__':
    main()
    sys.exit(0)
