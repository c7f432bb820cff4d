"""`rexnet shards`: a data set of masks or depth as a few large tar files, which training and validation read.

rexnet shards DATA OUT
rexnet shards OUT --verify
"""
import argparse
from collections.abc import Sequence

from ..data.stream import DEFAULT_SIZE, verify_shards, write_shards
from .data_options import (
    FLAGS,
    IGNORE_INDEX,
    add_depth_scale,
    add_images,
    add_labels,
    add_layout,
    described,
    described_depth,
)
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .progress import Progress
from .values import number, one_of

__all__ = ['create_parser', 'main', 'run']

EPILOG = (
    "The shards are tar files of WebDataset's form: KEY.jpg and KEY.mask.png (or KEY.depth.png) follow each other, "
    'with the bytes of the files. "rexnet train OUT" and "rexnet validate OUT" take them as they take DATA.')


def create_parser(prog: str = 'rexnet shards') -> Parser:
    """The parser of `rexnet shards`."""
    parser = Parser(
        prog, 'Write a data set into a few large files.', {'output': 'out', 'size': 'shard_size'},
        usage='%(prog)s DATA OUT [options]', epilog=EPILOG)
    add = parser.group('shards')
    add('data', metavar='DATA', help='folder of the data, or a dataset.yaml; with --verify folder of shards')
    add('out', metavar='OUT', nargs='?', help='folder of the shards, which is made')
    add('--task', kind=one_of('segmentation', 'depth'), default='segmentation', help='what lies beside the images')
    add('--shard-size', kind=number(int, at_least=1), default=DEFAULT_SIZE, metavar='MIB',
        help='size from which on a shard is full, in MiB')
    add('--overwrite', kind=bool, help='replace the shards that are in OUT')
    add('--verify', kind=bool, help='write nothing, and compare the shards in DATA with the sums in their manifest')
    add_layout(parser.group('files of images and masks, or of images and depth'))
    add = parser.group('what their numbers mean')
    add('--ignore-index', kind=IGNORE_INDEX, help='label of the masks that does not count', unset='that of the data')
    add_labels(add)
    add_depth_scale(add)
    add_images(add)
    return parser


def run(args: argparse.Namespace) -> None:
    """Write or verify as the arguments say.

    Raises:
        ValueError: Options that do not fit, shards that exist, or data that cannot be used.
        OSError: A file that cannot be written.
    """
    if args.verify == (args.out is not None):
        raise UsageError(
            'OUT is needed, the folder of the shards.' if args.out is None
            else f'--verify reads the shards in {args.data!r} and writes none: leave {args.out!r} out.')
    if args.verify:
        with Progress(unit='file') as bar:
            number_of_files = verify_shards(args.data, lambda name: bar.update())
        print(f'{number_of_files} files in {args.data} are as they were written')
        return
    is_depth = args.task == 'depth'
    data = described_depth(args, args.data) if is_depth else described(args, args.data, args.ignore_index)
    with Progress(unit='image') as bar:

        def progress(split: str, done: int, of: int) -> None:
            if done == 1:
                bar.begin(split, of)
            bar.update()

        manifest = write_shards(data, args.out, args.shard_size * 2 ** 20, args.overwrite, progress)
    for name, part in manifest['splits'].items():
        size = sum(shard['bytes'] for shard in part['shards']) / 2 ** 20
        print(f'{name}: {part["samples"]} images in {len(part["shards"])} shards, {size:.1f} MiB')
    print(f'Shards in {args.out}')


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet shards') -> int:
    """Write shards from a command line; returns the exit status. Mistakes of the user end with one line."""
    return report_errors(
        prog, lambda: run(create_parser(prog).parse_args(argv)), {**FLAGS, 'overwrite': '--overwrite'})
