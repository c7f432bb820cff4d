"""`rexnet validate`: measure a trained model on a split of the data.

One process: rexnet validate DATA --checkpoint RUN --split test
Several:     torchrun --nproc-per-node 2 -m rexnet_timm validate DATA --checkpoint RUN --split test
"""
import argparse
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data import DataDescription, Layout
from ..data.formats import is_there
from ..deployment.evaluate import evaluate
from ..deployment.load import HUB, describe, description_of, load_model
from ..deployment.results import summary_row, write_rows
from .build import start_process
from .built_in import PARTS, SETS, add_built_in, built_in_part
from .data_options import (
    FLAGS,
    LABELS,
    add_depth_scale,
    add_images,
    add_labels,
    add_layout,
    described,
    described_depth,
    read_as,
)
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .values import VIEW, number, one_of, views

__all__ = ['main', 'run']

COUNT, INDEX = number(int, at_least=1), number(int, at_least=0)
TITLES = {
    'miou': 'mIoU', 'mdice': 'Dice', 'mprecision': 'precision', 'macc': 'recall', 'pixel_acc': 'pixel accuracy',
    'mboundary_iou': 'boundary IoU', 'ece': 'calibration error', 'abs_rel': 'AbsRel', 'rmse': 'RMSE (m)',
    'delta1': 'delta < 1.25', 'delta2': 'delta < 1.25^2', 'delta3': 'delta < 1.25^3', 'top1': 'top 1', 'top5': 'top 5'}
IN_UNITS = ('abs_rel', 'rmse')  # everything else is in percent


def create_parser(prog: str = 'rexnet validate') -> Parser:
    """The parser of `rexnet validate`."""
    parser = Parser(
        prog, 'Measure a trained model on a split of the data.', usage='%(prog)s [DIR] --checkpoint RUN [options]',
        synonyms={'model': 'checkpoint', 'weights': 'checkpoint', 'batch': 'batch_size', 'num_workers': 'workers',
                  'gpu': 'device', 'output': 'results_dir'})
    add = parser.group('data')
    add('data', nargs='?', metavar='DIR', help='folder of the data; the same as --data-dir')
    add('--data-dir', metavar='DIR', help='folder of the data; of masks also a dataset.yaml that describes it')
    add_built_in(add)
    add('--split', default='test', help='part that is measured')
    add('-b', '--batch-size', kind=COUNT, default=8, help='images of one size at once in each process')
    add('-j', '--workers', kind=INDEX, default=min(4, os.cpu_count() or 1), help='loading processes of each process')
    add = parser.group('files of images and masks, or of images and depth, where they are not as in training')
    add_layout(add)
    add_depth_scale(add)
    add_labels(add)
    add_images(add, 'as in training')
    add = parser.group('model')
    add('--checkpoint', required=True, metavar='RUN',
        help='folder of a run, a checkpoint, a folder of save_pretrained, an exported file, or hf-hub:USER/NAME')
    add('--device', help='cpu, cuda, cuda:1, mps', unset='the best there is')
    add('--amp', kind=bool, help='mixed precision')
    add('--tile', kind=number(int, at_least=32), nargs='+', metavar='N',
        help='side, or height and width, of a sliding window', unset='the whole image')
    add('--overlap', kind=number(float, at_least=0, below=1), default=0.25,
        help='share of a tile that the next one covers too')
    add('--tta', kind=VIEW, nargs='+',
        help='flips (h, v, hv, or flips for all three) and zooms (such as 0.75 1.25) whose answers are averaged with '
             'that of the image')
    add('--scales', kind=bool, help='measure each scale of a multi-scale U-Net too')
    add = parser.group('results')
    add('--results-dir', metavar='DIR', help='folder for results.json, per_image.csv and pictures',
        unset='validate-SPLIT in the folder of the run; of a file, validate-SPLIT-FILE beside it')
    add('--results-file', default='', metavar='FILE', help='file for a row of the scores, and one for each scale')
    add('--results-format', kind=one_of('csv', 'json'), help='form of it', unset='by the ending of the name, or csv')
    add('--overwrite', kind=bool, help='replace results that exist; without it nothing runs if there are any')
    add('--worst', kind=COUNT, default=8, help='images on the sheet of the worst ones')
    return parser


def _check_together(args: argparse.Namespace) -> None:
    """Rules that need more than one value."""
    if args.data is not None and args.data_dir is not None \
            and os.path.abspath(args.data) != os.path.abspath(args.data_dir):
        raise UsageError(f'The folder of the data is given twice: {args.data!r} and --data-dir {args.data_dir!r}.')
    folder = args.data if args.data is not None else args.data_dir
    if bool(args.dataset) == (folder is not None):
        found = f'got {folder!r} and --dataset {args.dataset}' if folder is not None else 'got neither'
        raise UsageError(f'A folder of data is needed, or --dataset {" or ".join(SETS)}, {found}.')
    if args.dataset and args.split not in PARTS:
        raise UsageError(f'--split of --dataset {args.dataset} must be one of {", ".join(PARTS)}, got {args.split!r}.')
    if args.tile is not None and len(args.tile) > 2:
        raise UsageError(f'--tile must be one side, or height and width, got {" ".join(map(str, args.tile))}.')


def _check_task(args: argparse.Namespace, model: Any, description: DataDescription) -> None:
    """Refuse options that the model's task does not have."""
    description.require_known_task()
    options = (('--tile', args.tile), ('--tta', args.tta), ('--scales', args.scales))
    given = ', '.join(flag for flag, value in options if value)
    if given and description.task != 'segmentation':
        raise ValueError(
            f'{given} is for segmentation, and the model of --checkpoint {args.checkpoint} is for {description.task}: '
            'leave it out.')
    if args.scales and len(getattr(model, 'scales', ())) < 2:
        raise ValueError(
            f'--scales needs a multi-scale U-Net with several scales, and the model of --checkpoint {args.checkpoint} '
            'has one: leave it out.')


def _folder(args: argparse.Namespace, description: DataDescription) -> DataDescription | str:
    """What is validated on: a folder described by the options, and else as the model knows its data."""
    folder = args.data if args.data is not None else args.data_dir
    if description.task == 'classification' or not is_there(folder):
        return folder
    if description.task == 'depth':
        return described_depth(args, folder, description)
    data = described(args, folder, otherwise=Layout(**description.layout))
    is_labelled = any(getattr(args, name) is not None for name in LABELS)
    return data if is_labelled else data.labelled_as(description)


def _results_dir(args: argparse.Namespace) -> str:
    if args.results_dir:
        return args.results_dir
    name, folder = f'validate-{_file_name(args.split)}', args.checkpoint
    if folder.startswith(HUB):
        folder = _file_name(folder.removeprefix(HUB))
    elif not os.path.isdir(folder):  # a file beside others, each with results of its own
        folder, file = os.path.split(folder)
        name = f'{name}-{_file_name(file)}'
    return os.path.join(folder, name)


def _file_name(text: str) -> str:
    return re.sub(r'[^\w.-]+', '_', text)


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse places where results cannot be written, before the work, which would be lost."""
    folder = _results_dir(args)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f'--results-dir must be a folder, and {folder!r} is a file: name another one.')
    if args.results_file:
        parent = os.path.dirname(os.path.abspath(args.results_file))
        if not os.path.isdir(parent):
            raise UsageError(f'There is no folder {parent!r} for --results-file: create it first.')
        if os.path.isdir(args.results_file):
            raise UsageError(f'--results-file must be a file, and {args.results_file!r} is a folder: name one in it.')
        if os.path.lexists(args.results_file) and not args.overwrite:
            raise UsageError(
                f'{args.results_file!r} exists: pass --overwrite to replace it, or another --results-file.')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Validate as the arguments say; returns the results of `evaluate`.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: Data or options that do not fit the model.
    """
    _check_together(args)
    process = start_process(args.device)
    model = load_model(args.checkpoint, process.device)
    description = read_as(args, description_of(model))
    describe(model, description)
    _check_task(args, model, description)
    _check_outputs(args)
    data = built_in_part(args, args.split, model, description) if args.dataset else _folder(args, description)
    flips, zooms = views(args.tta or ())
    results = evaluate(
        model, data, args.split, batch_size=args.batch_size, workers=args.workers, amp=args.amp,
        tile=None if args.tile is None else (args.tile[0], args.tile[-1]), overlap=args.overlap,
        flips=flips, zooms=zooms, scales=args.scales, results_dir=_results_dir(args), num_worst=args.worst,
        overwrite=args.overwrite,
        tell=lambda results: print(table(results), flush=True))
    if process.primary:
        if args.results_file:
            write_rows(args.results_file, _rows(args, model, results), args.results_format)
        print(f'Results in {_results_dir(args)}')
    if process.distributed:
        torch.distributed.barrier()  # the primary process is still writing; older releases hang if a peer is gone then
    return results


def _rows(args: argparse.Namespace, model: Any, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of the scores, and one for each scale."""
    parameters = sum(parameter.numel() for parameter in model.parameters()) if hasattr(model, 'parameters') else 0
    first = {'model': args.checkpoint, 'param_count': round(parameters / 1e6, 2)}
    rows = [{**first, **summary_row(results)}]
    for scale, scores in results.get('scales', {}).items():
        rows.append({**rows[0], 'scale': scale, **summary_row(scores)})
    return rows


def table(results: Mapping[str, Any]) -> str:
    """The results in a few lines."""
    lines = [f'{results["task"]}, split {results["split"]}: {results["images"]} images']
    for key, title in TITLES.items():
        if key in results:
            lines.append(f'{title:<18} {_shown(results[key], key not in IN_UNITS)}')
    if 'classes' in results:
        width = max(5, *(len(name) for name in results['classes']))
        columns = ('iou', 'dice', 'precision', 'recall', 'boundary_iou')
        lines.append(f'\n{"class":<{width}} {"IoU":>7} {"Dice":>7} {"prec.":>7} {"recall":>7} {"b. IoU":>7}')
        for name, scores in results['classes'].items():
            lines.append(f'{name:<{width}} ' + ' '.join(_shown(scores[key]) for key in columns))
    if 'scales' in results:
        lines.append(f'\n{"scale":<6} {"mIoU":>7} {"b. IoU":>7} {"pixels":>7}')
        for scale, scores in results['scales'].items():
            values = (scores[key] for key in ('miou', 'mboundary_iou', 'pixel_acc'))
            lines.append(f'{scale:<6} ' + ' '.join(map(_shown, values)))
    return '\n'.join(lines)


def _shown(value: float, in_percent: bool = True) -> str:
    return f'{"-":>7}' if value != value else f'{value:7.2f}' if in_percent else f'{value:7.4f}'


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet validate') -> int:
    """Validate from a command line; returns the exit status. Mistakes of the user end with one line."""
    parser = create_parser(prog)

    def command() -> None:
        try:
            run(parser.parse_args(argv))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return report_errors(prog, command, {
        **FLAGS, 'batch_size': '--batch-size', 'flips': '--tta', 'zooms': '--tta', 'overwrite': '--overwrite',
        'results_dir': '--results-dir', 'name one of them as the split': 'name one of them by --split',
        'take another split': 'take another --split'})
