"""`rexnet app`: a local page on which a trained model can be tried.

rexnet app --checkpoint output/train/RUN
rexnet app --checkpoint output/train/RUN --port 8000 --open
"""
import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..data.headers import max_pixels
from ..deployment.app import LOOPBACK, MEGABYTE, PORTS, is_loopback, serve
from ..deployment.load import HUB, load_model
from ..deployment.predict import Predictor
from .build import start_process
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .values import Kind, number

__all__ = ['create_parser', 'main', 'run']

SIDE = number(int, at_least=32)
SHARE = number(float, at_least=0, below=1)
PORT = number(int, at_least=1, at_most=65535)
MEGABYTES = number(float, above=0, at_most=1000)
# What the library calls an argument, and the option that sets it
_OPTIONS = {'tile': '--tile', 'overlap': '--overlap', 'host must': '--host must', 'port must': '--port must'}
_SYNONYMS = {
    'model': 'checkpoint', 'weights': 'checkpoint', 'gpu': 'device', 'server_name': 'host', 'server_port': 'port',
    'browser': 'open', 'max_pixels': 'max_megapixels', 'max_bytes': 'max_megabytes', 'max_size': 'max_megabytes'}


def create_parser(prog: str = 'rexnet app') -> Parser:
    """The parser of `rexnet app`."""
    parser = Parser(
        prog, 'Open a local page on which a trained model can be tried with images. Ctrl-C ends it.', _SYNONYMS)
    add = parser.group('model')
    add('--checkpoint', required=True, metavar='RUN',
        help="a run's folder, a checkpoint, a folder of save_pretrained, an exported file, or hf-hub:USER/NAME")
    add('--device', help='torch device', unset='the best there is')
    add('--tile', kind=SIDE, nargs='+', metavar='N', unset='the whole image at once',
        help='largest height and width of the windows in which an image is run, one number or two; takes less memory')
    add('--overlap', kind=SHARE, default=0.25, help='share of a tile that it has in common with the next')
    add = parser.group('page')
    add('--host', default=LOOPBACK,
        help='name or address to listen at; 0.0.0.0 lets in everybody who reaches this machine, without a password')
    add('--port', kind=PORT, help='port to listen at', unset=f'the first free one from {PORTS[0]}')
    add('--open', kind=bool, help='open the page in the browser of this machine')
    add('--max-megabytes', kind=MEGABYTES, default=20, help='largest file that may be uploaded')
    add('--max-megapixels', kind=_megapixels(), default=16, help='largest image that is run')
    return parser


def _megapixels() -> Kind:
    """The kind of the largest image that is run: up to what is read at all."""
    limit = max_pixels()
    if limit is None:
        return number(float, above=0)
    return number(float, above=0, at_most=limit / 1e6, note=', the most that is read')


def run(args: argparse.Namespace, prog: str = 'rexnet app') -> None:
    """Serve the page until Ctrl-C, or until the process is told to end.

    Raises:
        FileNotFoundError: No such checkpoint.
        ValueError: Options that do not fit the model, a host or port that cannot be had, or Gradio is missing.
    """
    if args.tile is not None and len(args.tile) > 2:
        raise UsageError(f'--tile must be one number or two, height and width, got {len(args.tile)}.')
    process = start_process(args.device)
    if process.distributed:
        raise UsageError('The page runs in one process: start it without torchrun.')
    model = load_model(args.checkpoint, process.device)
    predictor = Predictor(
        model, tile=tuple(args.tile * 2)[:2] if args.tile else None, overlap=args.overlap, keep_probabilities=False)
    name = args.checkpoint.removeprefix(HUB) if args.checkpoint.startswith(HUB) \
        else os.path.basename(os.path.abspath(args.checkpoint))
    facts = f'{type(model).__name__}, {predictor.task}, on {predictor.device.type}.'
    with _terminated_as_interrupted(), serve(
            predictor, name, facts, host=args.host, port=args.port, max_bytes=round(args.max_megabytes * MEGABYTE),
            max_pixels=round(args.max_megapixels * 1e6), open_browser=args.open) as address:
        with suppress(KeyboardInterrupt):
            if not is_loopback(args.host):
                print(f'{prog}: warning: everybody who reaches {args.host} can use the page: it has no authentication.',
                      file=sys.stderr)
            print(f'{prog}: {name} is on {address} until Ctrl-C', flush=True)
            threading.Event().wait()
    print(f'{prog}: ended')


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """The signal that ends processes does what Ctrl-C does, so that the temporary folder is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet app') -> int:
    """Serve from a command line: exit status 0 after Ctrl-C, 2 after a mistake of the user."""
    return report_errors(prog, lambda: run(create_parser(prog).parse_args(argv), prog), _OPTIONS)
