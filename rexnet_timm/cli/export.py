"""`rexnet export`: a trained model as a file that runs without this package, and equals the model.

rexnet export --checkpoint output/train/RUN --format onnx
rexnet export --checkpoint output/train/RUN model.xml --argmax
rexnet export --checkpoint output/train/RUN --format openvino --int8 --calibration DATA
"""
import argparse
import os
from collections.abc import Sequence

from ..deployment.export import export, format_of
from ..deployment.exported import FORMATS, SMALLEST
from ..deployment.load import HUB, load_model
from ..deployment.parity import Comparison
from ..deployment.quantize import CALIBRATED, MEASURED, Int8Report
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .values import number, one_of

__all__ = ['main']

FORMAT = one_of(*FORMATS)
SIDE = number(int, at_least=SMALLEST)
SCALE = number(int, at_least=0)
IMAGES = number(int, at_least=1)
# the options behind the arguments that the library's errors name
FLAGS = {
    'model must': '--checkpoint must', 'format': '--format', 'argmax': '--argmax', 'size': '--size', 'scale': '--scale',
    'half': '--half', 'int8': '--int8', 'calibration': '--calibration',
    'num_calibration_images': '--calibration-images'}


def create_parser(prog: str = 'rexnet export') -> Parser:
    """The parser of `rexnet export`."""
    parser = Parser(
        prog, 'Write a trained model to a file, and run it beside the model: what differs is not kept.')
    add = parser.group('files')
    add('output', metavar='OUTPUT', nargs='?',
        help='file to write, with the ending of its format: ' + ', '.join(
            f'{" or ".join(endings)} ({name})' for name, endings in FORMATS.items()),
        unset='model, with --int8 model-int8, in the folder of the checkpoint')
    add('--checkpoint', metavar='RUN', required=True,
        help='folder of a run, a checkpoint in it, a saved folder, or hf-hub:USER/NAME')
    add('--format', kind=FORMAT, help='kind of file', unset='by the ending of OUTPUT')
    add('--overwrite', kind=bool, help='replace a file that exists')
    add = parser.group('what the file takes and returns')
    add('--normalize', kind=bool, help='uint8 images in, normalised in the file, as onnx and openvino have it')
    add('--no-normalize', kind=bool, help='normalised float32 images in, as torch-export and torchscript have it')
    add('--argmax', kind=bool, help='classes out, as uint8, in place of logits')
    add('--size', kind=SIDE, nargs=2, metavar=('H', 'W'), help='the one size of images', unset='any from 32 on')
    add('--scale', kind=SCALE, help='scale at which the multi-scale U-Net is cut', unset='its finest')
    add('--half', kind=bool, help='weights in float16')
    add = parser.group('int8')
    add('--int8', kind=bool, help='weights and activations in int8, for onnx and openvino')
    add('--calibration', metavar='DATA',
        help=f'folder of data: {CALIBRATED} tells the ranges of activations, what is lost is measured on {MEASURED}')
    add('--calibration-images', kind=IMAGES, default=128, help=f'images of {CALIBRATED}, spread over it')
    return parser


def _output(args: argparse.Namespace) -> str:
    """The file to write, which is not there yet or may be replaced."""
    path = args.output
    if path is None:
        if args.format is None:
            raise UsageError('--format must be given where OUTPUT, whose ending tells it, is left out.')
        name, folder = args.checkpoint, args.checkpoint
        if name.startswith(HUB):
            folder = '.'
        elif not os.path.isdir(name):
            folder = os.path.dirname(name)
        path = os.path.join(folder, f'model{"-int8" if args.int8 else ""}{FORMATS[args.format][0]}')
    format = format_of(path, args.format)
    files = [path, f'{os.path.splitext(path)[0]}.bin'] if format == 'openvino' else [path]
    there = [file for file in files if os.path.exists(file) and not os.path.isdir(file)]
    if there and not args.overwrite:
        raise UsageError(f'{there[0]!r} exists: name another OUTPUT, or replace it with --overwrite.')
    return path


def _told(path: str, result: Sequence[Comparison] | Int8Report) -> str:
    """What was written."""
    size = os.path.getsize(path)
    if path.lower().endswith('.xml'):
        size += os.path.getsize(f'{os.path.splitext(path)[0]}.bin')
    told = _int8_told(result) if isinstance(result, Int8Report) else _comparisons_told(result)
    return f'{path}: {size / 1e6:.1f} MB; {told}'


def _comparisons_told(comparisons: Sequence[Comparison]) -> str:
    sizes = ', '.join('{1} x {2}'.format(*comparison.size) for comparison in comparisons)
    differences = [comparison.difference for comparison in comparisons if comparison.difference is not None]
    if differences:
        return f'differs from the model by at most {max(differences):.1g} of the deviation of its output at {sizes}'
    pixels = sum(comparison.pixels for comparison in comparisons)
    return f'has the classes of the model at all {pixels} clear pixels at {sizes}'


def _int8_told(report: Int8Report) -> str:
    ratio = report.int8_ms / report.float_ms
    verdict = 'int8 is slower here' if ratio > 1 else f'int8 takes {ratio:.2f} of the time'
    threads = '1 thread' if report.threads == 1 else f'{report.threads} threads'
    return (
        f'int8 by {report.calibrated} images of {CALIBRATED}\n'
        f'{report.score} on the {report.measured} images of {MEASURED}: {report.before:.2f} in float32, '
        f'{report.after:.2f} in int8 ({report.after - report.before:+.2f}); the same class as in the model at '
        f'{report.agreement:.1%} of the {"pixels" if report.score == "mIoU" else "images"}\n'
        f'One image of {report.size[0]} x {report.size[1]}, {threads}: {report.float_ms:.1f} ms in float32, '
        f'{report.int8_ms:.1f} ms in int8: {verdict}')


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet export') -> int:
    """Export from a command line; returns the exit status. Mistakes of the user end with one line."""
    def command() -> None:
        args = create_parser(prog).parse_args(argv)
        if args.normalize and args.no_normalize:
            raise UsageError('--normalize and --no-normalize exclude each other: give one of them.')
        path = _output(args)
        result = export(
            load_model(args.checkpoint), path, args.format, argmax=args.argmax, size=args.size, scale=args.scale,
            normalize=True if args.normalize else False if args.no_normalize else None, half=args.half, int8=args.int8,
            calibration=args.calibration, num_calibration_images=args.calibration_images)
        print(_told(path, result))

    return report_errors(prog, command, FLAGS)
