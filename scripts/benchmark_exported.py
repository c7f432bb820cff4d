"""Time of exported files: each network written in the same way, and run in onnxruntime and OpenVINO, float32 and int8.

    python scripts/benchmark.py --exported --output output/benchmark

Batch 1, uint8 images in, logits out. Each network is exported for one size by `rexnet_timm.export`, and made int8 by
the quantiser behind it, calibrated on random images: weights are random too, which time does not ask. All files of a
size and a number of threads are loaded at once and take their turns in every round. Ratios are to the better engine of
the reference, in the same precision.
A Markdown table of each size and number of threads is printed, and benchmark-exported.csv is written.
"""
import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import rexnet_timm
from rexnet_timm.deployment.exported import FORMATS, load_exported
from rexnet_timm.deployment.parity import example_images
from rexnet_timm.deployment.quantize import quantize
from rexnet_timm.deployment.results import write_rows
from rexnet_timm.deployment.timing import time_in_turns

__all__ = ['add_arguments', 'run']

ENGINES = {'onnxruntime': 'onnx', 'openvino': 'openvino'}
PRECISIONS = ('float32', 'int8')
NUM_CALIBRATION_IMAGES = 8

Row = dict[str, float | str]


class _Pooled(torch.nn.Module):
    """An encoder by itself, its last feature averaged so that it has one small output."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)[-1].mean((2, 3))


def _with_one_output(model: torch.nn.Module) -> torch.nn.Module:
    return model if hasattr(model, 'encoder') else _Pooled(model)


def write(
        model: torch.nn.Module, folder: Path, engines: Sequence[str], precisions: Sequence[str],
        size: tuple[int, int]) -> dict[tuple[str, str], Path]:
    """Export a network for one size, in every engine's format and precision; returns the files."""
    files = {}
    for engine in engines:
        whole, int8 = (folder / f'{precision}{FORMATS[ENGINES[engine]][0]}' for precision in PRECISIONS)
        rexnet_timm.export(model, whole, size=size)
        files[engine, 'float32'] = whole
        if 'int8' not in precisions:
            continue
        description = load_exported(whole).description
        images = example_images((NUM_CALIBRATION_IMAGES, *size), description, True).split(1)
        content = quantize(str(whole), [image.numpy for image in images])
        if isinstance(content, bytes):
            int8.write_bytes(content)
        else:
            import openvino
            openvino.save_model(content, int8, compress_to_fp16=False)
        files[engine, 'int8'] = int8
    return {key: file for key, file in files.items() if key[1] in precisions}


def measure(
        models: Mapping[str, Callable[[], torch.nn.Module]], engines: Sequence[str], precisions: Sequence[str],
        size: tuple[int, int], threads: Sequence[int], rounds: int, reference: str) -> list[Row]:
    """A row for each network, engine, precision and number of threads, at one size."""
    rows: list[Row] = []
    with TemporaryDirectory() as root:
        files = {}
        for index, (name, create) in enumerate(models.items()):
            print(f'\r{size[0]} x {size[1]}: writing {name}    ', end='', file=sys.stderr)
            folder = Path(root, str(index))
            folder.mkdir()
            torch.manual_seed(0)
            written = write(_with_one_output(create()).eval(), folder, engines, precisions, size)
            files.update({(name, *key): file for key, file in written.items()})
        for number in threads:
            rows += _measure_loaded(files, size, number, rounds, reference)
    return rows


def _measure_loaded(
        files: Mapping[tuple[str, str, str], Path], size: tuple[int, int], threads: int, rounds: int, reference: str,
) -> list[Row]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # which loading takes over
    try:
        networks = {key: load_exported(file) for key, file in files.items()}
    finally:
        torch.set_num_threads(before)
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)

    def tell(number: int) -> None:
        print(f'\r{size[0]} x {size[1]}, threads {threads}: round {number} of {rounds}    ', end='', file=sys.stderr)

    seconds = time_in_turns(
        {key: (lambda network=network: network(image)) for key, network in networks.items()}, rounds, tell)
    print(file=sys.stderr)
    rows = []
    for (name, engine, precision), values in seconds.items():
        first, _, third = statistics.quantiles(values, n=4)
        rows.append({
            'model': name, 'engine': engine, 'precision': precision, 'height': size[0], 'width': size[1],
            'threads': threads, 'ms': 1e3 * statistics.median(values), 'ms_quartile_1': 1e3 * first,
            'ms_quartile_3': 1e3 * third, 'megabytes': _size(files[name, engine, precision]) / 1e6})
    by_key = {(row['model'], row['engine'], row['precision']): row for row in rows}
    for (name, engine, precision), row in by_key.items():
        references = [other['ms'] for key, other in by_key.items() if (key[0], key[2]) == (reference, precision)]
        if references:
            row['ratio'] = row['ms'] / min(references)
        if precision == 'int8' and (name, engine, 'float32') in by_key:
            row['of_float32'] = row['ms'] / by_key[name, engine, 'float32']['ms']
    return rows


def _size(file: Path) -> int:
    files = [file, file.with_suffix('.bin')] if file.suffix == '.xml' else [file]
    return sum(path.stat().st_size for path in files)


def print_table(rows: Sequence[Row], reference: str) -> None:
    """A Markdown table of one size and number of threads: milliseconds, and the ratios."""
    columns = list(dict.fromkeys((row['engine'], row['precision']) for row in rows))
    first = rows[0]
    threads = '1 thread' if first['threads'] == 1 else f'{first["threads"]} threads'
    ratio = f', ratio to the better engine of {reference} in the same precision' if 'ratio' in first else ''
    print(f'\n{first["height"]} x {first["width"]}, {threads}: ms{ratio}; of int8 the ratio to float32 too\n')
    print(f'| model | {" | ".join(f"{engine} {precision}" for engine, precision in columns)} |')
    print('|---' * (len(columns) + 1) + '|')
    for name in dict.fromkeys(row['model'] for row in rows):
        of_model = {(row['engine'], row['precision']): row for row in rows if row['model'] == name}
        print(f'| `{name}` | {" | ".join(_cell(of_model[column]) for column in columns)} |')


def _cell(row: Row) -> str:
    ratio = f', {row["ratio"]:.2f}' if 'ratio' in row else ''
    of_float = f', {row["of_float32"]:.2f} of float32' if 'of_float32' in row else ''
    return f'{row["ms"]:.1f}{ratio}{of_float}'


def _size_of(text: str) -> tuple[int, int]:
    height, width = text.split('x')
    return int(height), int(width)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument('--engines', nargs='+', default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument('--precisions', nargs='+', default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument('--exported-sizes', nargs='+', type=_size_of, default=[(384, 384), (360, 480)], metavar='HxW')
    parser.add_argument('--exported-threads', nargs='+', type=int, default=[1, 2])


def run(args: argparse.Namespace, models: Mapping[str, Callable[[], torch.nn.Module]], reference: str) -> list[Row]:
    """Measure, print and write what `scripts/benchmark.py --exported` asks for; returns the rows."""
    rows = []
    for size in args.exported_sizes:
        group = measure(models, args.engines, args.precisions, size, args.exported_threads, args.rounds, reference)
        for _, part in itertools.groupby(group, lambda row: row['threads']):
            print_table(list(part), reference)
        rows += group
    write_rows(args.output / 'benchmark-exported.csv', rows)
    return rows
