"""The command `rexnet`, also as `python -m rexnet_timm`: one subcommand for each step from data to a shipped model."""
import importlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from timm.utils import setup_default_logging

from .errors import near_names
from .version import __version__

__all__ = ['main']

# name: what it does, in the order of use; each is a module of `cli` with a `main(argv)`
COMMANDS = {
    'check': 'read a data set of masks whole, and say how to train on it',
    'shards': 'write a data set into a few large files, for training',
    'train': 'train a model of classes, masks or depth',
    'validate': 'measure a trained model on a split of the data',
    'report': 'show what a run has done in one HTML file, or compare runs',
    'predict': 'predict images: masks, depth or classes',
    'export': 'write a trained model to ONNX, OpenVINO, or a format of torch',
    'app': 'try a trained model on a local page',
    'share': 'write a trained model into a folder for others, and upload it',
    'convert': "convert weights of ReXNetV1 between NAVER's layout and timm's",
}


def _help() -> str:
    commands = '\n'.join(f'  {name:<10} {text}' for name, text in COMMANDS.items())
    return f"""usage: rexnet COMMAND ...

ReXNetV1 and the multi-scale U-Net, from a folder of images to a shipped model.

{commands}

"rexnet COMMAND --help" lists what a command takes.
"rexnet --version" tells the release.
With several processes: torchrun --nproc-per-node N -m rexnet_timm COMMAND ...
"""


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show the log until the block ends, each line once, whatever showed it before or will: a notebook, a second call.
    """
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    if not any(getattr(handler, 'stream', None) in (sys.stdout, sys.stderr) for handler in before):
        setup_default_logging()
    root.setLevel(logging.INFO)
    own = [handler for handler in root.handlers if handler not in before]
    logging.getLogger('matplotlib').setLevel(logging.WARNING)  # which tells when it has looked for fonts
    try:
        yield
    finally:
        for handler in own:
            root.removeHandler(handler)
        root.setLevel(level)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv else ''
    if name in ('-h', '--help', 'help'):
        print(_help(), end='')
        return 0
    if name == '--version':
        print(f'rexnet_timm {__version__}')
        return 0
    if name not in COMMANDS:
        problem = f'there is no command {name!r}.{near_names(name, COMMANDS)}' if name else 'a command is needed.'
        print(f'rexnet: error: {problem} "rexnet --help" lists them.', file=sys.stderr)
        return 2
    with _log_shown():
        return importlib.import_module(f'.cli.{name}', __package__).main(argv[1:])


if __name__ == '__main__':
    sys.exit(main())
