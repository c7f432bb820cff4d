#!/usr/bin/env python3
"""Time and mIoU of a trained multi-scale U-Net, cut at every scale and stopping where it is confident.

    python scripts/scales.py output/train/RUN --output output/scales

RUN is the folder of a run of `rexnet train`; its best weights are taken, its data and settings are those of its
args.yaml unless they are given again, as `rexnet train` takes them. Images go through one at a time, each through every
row of the table in turn, so that a machine whose speed drifts treats all the same. A table is printed; scales.csv and a
picture of mIoU against time are written.
"""
import argparse
import copy
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import rexnet_timm
from rexnet_timm.cli.arguments import parse_train_args, train_flags
from rexnet_timm.cli.build import create_model, start_process
from rexnet_timm.cli.kinds import kind_of
from rexnet_timm.cli.mistakes import UsageError, report_errors
from rexnet_timm.deployment.pictures import draw_curve
from rexnet_timm.training.metrics import ConfusionMatrix

# logits of a batch of one image, and the scale that they are from
Predict = Callable[[torch.Tensor], tuple[torch.Tensor, int]]


def cut_at(model: rexnet_timm.MultiScaleUnet, scale: int) -> Predict:
    pruned = copy.deepcopy(model).prune_to_scale(scale).drop_heads()
    return lambda image: (pruned(image), scale)


def confident_at(model: rexnet_timm.MultiScaleUnet, threshold: float) -> Predict:
    def predict(image: torch.Tensor) -> tuple[torch.Tensor, int]:
        logits, used = model.forward_confident(image, threshold)
        return logits, int(used)
    return predict


class Row:
    """What a way to predict took and got right."""

    def __init__(self, predict: Predict, num_classes: int, ignore_index: int | None, device: torch.device):
        self.predict = predict
        self.device = device
        self.matrix = ConfusionMatrix(num_classes, ignore_index, device)
        self.seconds: list[float] = []
        self.scales: list[int] = []

    def update(self, image: torch.Tensor, target: torch.Tensor) -> None:
        start = time.perf_counter()
        logits, scale = self.predict(image)
        if self.device.type == 'cuda':
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)
        self.scales.append(scale)
        self.matrix.update(logits.argmax(1), target)

    def summary(self) -> dict[str, float]:
        """mIoU in percent, milliseconds of an image, and the mean scale; the first image warms up and is not timed."""
        seconds = self.seconds[1:] or self.seconds
        return {
            'miou': self.matrix.summary()['miou'], 'ms': 1e3 * sum(seconds) / len(seconds),
            'mean_scale': sum(self.scales) / len(self.scales)}


@torch.inference_mode()
def measure(args: argparse.Namespace, thresholds: Sequence[float]) -> list[dict[str, float | str]]:
    """A row for each scale and each threshold."""
    process, kind = start_process(args.device), kind_of(args.model)
    device, num_classes = process.device, kind.num_classes(args)
    datasets = kind.datasets(args, num_classes)
    model = create_model(args, num_classes)
    if not isinstance(model, rexnet_timm.MultiScaleUnet) or num_classes < 2:
        raise UsageError(
            f'The run must be one of a multi-scale U-Net of two classes or more, got --model {args.model}.')
    model.to(device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format).eval()
    _, loader = kind.loaders(args, model, datasets, process)
    ways = {f'cut at scale {scale}': cut_at(model, scale) for scale in model.scales}
    ways |= {f'confidence {threshold:g}': confident_at(model, threshold) for threshold in thresholds}
    rows = {name: Row(way, num_classes, loader.dataset.ignore_label, device) for name, way in ways.items()}
    for image, target in loader:
        image, target = image.to(device), target.to(device)
        if args.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        for row in rows.values():
            row.update(image, target)
    return [{'prediction': name, **row.summary()} for name, row in rows.items()]


def print_table(rows: Sequence[dict[str, float | str]]) -> None:
    """A Markdown table; the time is relative to that of the first row, the finest scale, too."""
    print('| prediction | mIoU | ms an image | of the full time | mean scale |')
    print('|---|---|---|---|---|')
    for row in rows:
        print(f'| {row["prediction"]} | {row["miou"]:.2f} | {row["ms"]:.1f} | {row["ms"] / rows[0]["ms"]:.2f} '
              f'| {row["mean_scale"]:.2f} |')


def run(argv: Sequence[str] | None) -> list[dict[str, float | str]]:
    """Measure, print and write; returns the rows."""
    parser = argparse.ArgumentParser(
        prog='scales.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('run', help='folder of a run of rexnet train')
    parser.add_argument('--thresholds', type=float, nargs='+', default=[0.84, 0.86, 0.88, 0.9, 0.92], metavar='X',
                        help='mean probability from which on a scale is sure enough')
    parser.add_argument('--output', type=Path, default=Path('output', 'scales'), metavar='DIR')
    own, others = parser.parse_known_args(argv)
    for name in ('args.yaml', 'model_best.pth.tar'):
        if not os.path.isfile(os.path.join(own.run, name)):
            raise FileNotFoundError(f'{own.run!r} must be the folder of a run of rexnet train, and has no {name}.')
    args = parse_train_args(['--config', os.path.join(own.run, 'args.yaml'), *others])
    args = argparse.Namespace(**{
        **vars(args), 'initial_checkpoint': os.path.join(own.run, 'model_best.pth.tar'), 'validation_batch_size': 1,
        'resume': '', 'pretrained': False})

    rows = measure(args, own.thresholds)
    print_table(rows)
    own.output.mkdir(parents=True, exist_ok=True)
    draw_curve(rows, own.output / 'scales.png')
    with open(own.output / 'scales.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status. Mistakes of the user end with one line on standard error."""
    return report_errors('scales.py', lambda: run(argv), train_flags())


if __name__ == '__main__':
    sys.exit(main())
