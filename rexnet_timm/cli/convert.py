"""`rexnet convert`: weights of ReXNetV1 between NAVER's layout and timm's, bit for bit.

rexnet convert rexnetv1_1.0x.pth rexnetv1_1_0.safetensors --to timm
rexnet convert model_best.pth.tar rexnetv1.pth --to naver
"""
import argparse
import os
from collections.abc import Sequence

import torch
from safetensors.torch import save_file

from ..files import load_weights_file
from ..models.layout import check_shapes, timm_to_naver, to_timm_layout
from ..models.weights import model_of
from .parsing import Parser, number, one_of, report_errors

__all__ = ['convert', 'main']

SUFFIXES = ('.safetensors', '.pth', '.pt')


LAYOUT = one_of('naver', 'timm')
POSITIVE = number(float, above=0)


def create_parser(prog: str = 'rexnet convert') -> Parser:
    """The parser of `rexnet convert`."""
    parser = Parser(prog, "Convert weights of ReXNetV1 between NAVER's layout and timm's, bit for bit.")
    add = parser.group('weights')
    add('input', metavar='INPUT',
        help='weights in either layout, bare or in a checkpoint; of one with a moving average that one')
    add('output', metavar='OUTPUT', help=f'file to write, {", ".join(SUFFIXES)} by its name')
    add('--to', kind=LAYOUT, required=True, help='layout of OUTPUT')
    add('--width-mult', kind=POSITIVE, help='width of the network', unset='from the shapes')
    add('--depth-mult', kind=POSITIVE, help='depth of the network', unset='from the names')
    return parser


def convert(args: argparse.Namespace) -> int:
    """Convert as the arguments say; returns the number of entries written.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: A file that is not of this network, or a name that OUTPUT cannot have.
    """
    if not args.output.endswith(SUFFIXES):
        raise ValueError(f'OUTPUT must end in one of {", ".join(SUFFIXES)}, got {args.output!r}.')
    folder = os.path.dirname(os.path.abspath(args.output))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'There is no folder {folder!r} for OUTPUT.')
    state_dict = load_weights_file(args.input)
    model = model_of(state_dict, args.width_mult, args.depth_mult)
    state_dict = to_timm_layout(state_dict, model)
    check_shapes(state_dict, model)
    if args.to == 'naver':
        state_dict = timm_to_naver(state_dict, model)
    # a copy each, since safetensors takes no two tensors of one memory
    state_dict = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()}
    written = f'{args.output}.part'
    if args.output.endswith('.safetensors'):
        save_file(state_dict, written, metadata={'format': 'pt'})
    else:
        torch.save(state_dict, written)
    os.replace(written, args.output)  # whole or not at all, also onto INPUT
    return len(state_dict)


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet convert') -> int:
    """Convert from a command line; returns the exit status. Mistakes of the user end with one line."""
    def command() -> None:
        args = create_parser(prog).parse_args(argv)
        entries = convert(args)
        print(f"{args.output}: {entries} entries in {dict(naver='NAVER', timm='timm')[args.to]}'s layout")

    return report_errors(prog, command)
