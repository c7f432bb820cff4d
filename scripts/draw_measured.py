#!/usr/bin/env python3
"""mIoU of several runs against their training time, from the files that benchmark.py and rexnet train have written.

    python scripts/draw_measured.py output/benchmark/benchmark.csv --classes pole=2 sign=6 --output docs/measured.png \\
        --runs 'multiscaleunet, dense' output/train/dense-0 output/train/dense-1 \\
        --runs smp.Unet output/train/unet-0 output/train/unet-1

Each --runs names a row of the benchmark and its runs, one for each seed: their folders, or copies of their summary.csv.
Runs are trained side by side and on machines that do other work, so that their own clocks do not compare: an epoch
counts as long as the row's training step takes of the last row's, which was measured in turn with it. The last --runs
is what the others are compared with: time is in epochs of it.

The table has the mIoU after the last epoch and that of the best epoch, the mean and its deviation over the seeds, and
the mIoU of the last --runs at the time when the row's runs have ended. The picture has the mean over the seeds after
each epoch, and their range.
"""
import argparse
import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  the backend comes first

COLORS = ('#0b6e4f', '#e08e1b', '#3a4cc0', '#b3261e', '#7b3fa0', '#5f6b76', '#008b9a', '#a0522d')


@dataclass
class Curves:
    """The runs of one network: a row of values for each seed, a value for each epoch."""

    name: str
    training_ratio: float
    inference_ratio: float
    seeds: list[list[dict[str, float]]]

    def of(self, column: str) -> list[list[float]]:
        return [[row[column] for row in rows] for rows in self.seeds]

    def mean(self, column: str = 'eval_miou') -> list[float]:
        return [statistics.fmean(values) for values in zip(*self.of(column), strict=True)]

    def last(self, column: str) -> str:
        return _mean_of([run[-1] for run in self.of(column)])

    def best(self, column: str = 'eval_miou') -> str:
        return _mean_of([max(run) for run in self.of(column)])

    def times(self, unit: float) -> list[float]:
        return [(epoch + 1) * self.training_ratio / unit for epoch in range(len(self.seeds[0]))]


def _mean_of(values: Sequence[float]) -> str:
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.1f}{spread}'


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def read_curves(benchmark: Path, name: str, runs: Sequence[str]) -> Curves:
    measured = {row['model']: row for row in read_rows(benchmark)}
    if name not in measured:
        raise ValueError(f'{benchmark} must have a row for each --runs, got {name!r}: it has {", ".join(measured)}')
    seeds = [
        [{key: float(value) for key, value in row.items() if value and key.startswith(('eval_', 'epoch'))}
         for row in read_rows(path / 'summary.csv' if path.is_dir() else path)] for path in map(Path, runs)]
    epochs = {len(rows) for rows in seeds}
    if len(epochs) != 1:
        raise ValueError(f'all runs of {name} must have as many epochs, got {sorted(epochs)}')
    return Curves(name, float(measured[name]['training_ratio']), float(measured[name]['inference_ratio']), seeds)


def at_time(curves: Curves, time: float, unit: float) -> float | None:
    """The mean mIoU after the last epoch that has ended by then."""
    ended = [miou for miou, end in zip(curves.mean(), curves.times(unit), strict=True) if end <= time + 1e-9]
    return ended[-1] if ended else None


def print_table(all_curves: Sequence[Curves], classes: dict[str, int]) -> None:
    reference = all_curves[-1]
    unit = reference.training_ratio
    columns = (
        'network', 'seeds', 'mIoU', 'best epoch', *classes, 'training step', 'inference', f'{reference.name} then')
    print(f'| {" | ".join(columns)} |')
    print('|' + '---|' * len(columns))
    for curves in all_curves:
        then = at_time(reference, curves.times(unit)[-1], unit)
        cells = [
            f'`{curves.name}`', str(len(curves.seeds)), curves.last('eval_miou'), curves.best(),
            *(curves.last(f'eval_iou_class {number}') for number in classes.values()),
            f'{curves.training_ratio / unit:.2f}', f'{curves.inference_ratio / reference.inference_ratio:.2f}',
            '' if then is None or curves is reference else f'{then:.1f}']
        print(f'| {" | ".join(cells)} |')


def draw(all_curves: Sequence[Curves], path: Path) -> None:
    reference = all_curves[-1]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=110, layout='constrained')
    for curves, color in zip(all_curves, COLORS, strict=False):
        times, scores = curves.times(reference.training_ratio), list(zip(*curves.of('eval_miou'), strict=True))
        axes.plot(times, curves.mean(), color=color, label=curves.name, linewidth=1.8)
        axes.plot(times[-1], curves.mean()[-1], 'o', color=color)
        axes.fill_between(times, [min(s) for s in scores], [max(s) for s in scores], color=color, alpha=0.15)
    axes.set_xlabel(f'training time, in epochs of {reference.name}')
    axes.set_ylabel('validation mIoU, %')
    axes.set_ylim(bottom=max(0., min(curves.mean()[-1] for curves in all_curves) - 25))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right', frameon=False)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('benchmark', type=Path, help='benchmark.csv')
    parser.add_argument('--runs', nargs='+', action='append', required=True, metavar=('NAME', 'RUN'))
    parser.add_argument('--classes', nargs='*', default=[], metavar='NAME=NUMBER', help='IoU of classes in the table')
    parser.add_argument('--output', type=Path, default=Path('output', 'measured.png'))
    args = parser.parse_args(argv)
    try:
        all_curves = [read_curves(args.benchmark, name, runs) for name, *runs in args.runs]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_table(all_curves, {name: int(number) for name, _, number in (item.partition('=') for item in args.classes)})
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(all_curves, args.output)


if __name__ == '__main__':
    main()
