"""`rexnet report`: what a run has done, as one HTML file; of several runs, how they compare.

rexnet report output/train/RUN
rexnet report output/train/A output/train/B --output comparison.html
"""
import argparse
import logging
import os
from collections.abc import Sequence

import torch

from ..deployment.report import report, require_packages
from ..deployment.run_facts import read_run
from ..errors import first_lines
from .build import start_process
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .values import number

__all__ = ['main', 'report_after', 'require_report', 'run']

_logger = logging.getLogger(__name__)

COUNT, INDEX = number(int, at_least=1), number(int, at_least=0)
# What the library says of its arguments, whose names are English words, and what is typed
_OPTIONS = {
    'leave out data and split': 'leave out --data-dir and --split', 'output must': '--output must',
    'another output': 'another --output', 'pass overwrite': 'pass --overwrite', 'split of a': '--split of a'}


def create_parser(prog: str = 'rexnet report') -> Parser:
    """The parser of `rexnet report`."""
    parser = Parser(
        prog, 'Write what a run has done into one HTML file that needs no other; of several runs, how they compare.',
        usage='%(prog)s RUN [RUN ...] [options]',
        synonyms={'checkpoint': 'runs', 'run': 'runs', 'model': 'runs', 'batch': 'batch_size', 'gpu': 'device',
                  'num_workers': 'workers', 'data': 'data_dir', 'out': 'output', 'val_split': 'split'})
    add = parser.group('files')
    add('runs', nargs='+', metavar='RUN', help='folder of a run, or a checkpoint in it, finished or not')
    add('--output', metavar='FILE', help='file to write',
        unset='report.html in the folder of the run; of several, comparison.html beside the first')
    add('--overwrite', kind=bool, help='replace a file that is no report')
    add = parser.group('validation images')
    add('--data-dir', metavar='DIR', help='where the data are now', unset='where the run had them')
    add('--split', help='part whose images are shown', unset='that on which the run was validated')
    add('--no-validation', kind=bool, help='show only what is in the folder of the run, which is fast')
    add('--images', kind=INDEX, default=4, help='images that are shown of the best and of the worst')
    add('-b', '--batch-size', kind=COUNT, default=8, help='images of one size at once')
    add('-j', '--workers', kind=INDEX, default=0, help='loading processes')
    add('--device', help='cpu, cuda, cuda:1, mps', unset='the best there is')
    return parser


def run(args: argparse.Namespace) -> str:
    """Write the report that the arguments ask for; returns its path.

    Raises:
        ValueError: No run, a file that is no report and may not be replaced, or a missing package.
    """
    if args.no_validation and (args.data_dir or args.split):
        raise UsageError('--no-validation looks at no images: leave out --data-dir and --split.')
    require_packages()
    process = start_process(args.device)
    if process.distributed:
        raise UsageError('A report is written by one process: start it without torchrun.')
    for source in args.runs:
        read_run(source)  # so that a wrong name is told at once, and nothing else
    if not args.no_validation and len(args.runs) == 1:
        _logger.info('The model is run on the validation images; --no-validation leaves that out.')
    path = report(
        args.runs if len(args.runs) > 1 else args.runs[0], args.output, data=args.data_dir, split=args.split,
        validate=not args.no_validation, num_images=args.images, batch_size=args.batch_size, workers=args.workers,
        device=process.device, overwrite=args.overwrite)
    print(f'{path}: {os.path.getsize(path) / 1e6:.2f} MB')
    return path


def require_report(is_asked: bool) -> None:
    """Raise ValueError where a report is asked for and a package for it is missing, before the work."""
    if is_asked:
        require_packages()


def report_after(folder: str, device: torch.device) -> None:
    """Write the report of a run that has ended; one that fails leaves the run as it is."""
    try:
        path = report(folder, device=device)
    except Exception as error:  # the run is complete, and worth more
        _logger.debug('', exc_info=True)
        _logger.warning(
            'The run is complete, and its report could not be written (%s: %s): "rexnet report %s" tries again.',
            type(error).__name__, first_lines(error, 1), folder)
    else:
        _logger.info('Report: %s', path)


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet report') -> int:
    """Write a report from a command line: exit status 0, or 2 after a mistake of the user."""
    return report_errors(prog, lambda: run(create_parser(prog).parse_args(argv)), _OPTIONS)
