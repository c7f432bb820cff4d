"""`rexnet convert`: weights of ReXNetV1 between NAVER's layout and timm's, and of EfficientNet to timm's, bit for bit.

rexnet convert rexnetv1_1.0x.pth rexnetv1_1_0.safetensors --to timm
rexnet convert model_best.pth.tar rexnetv1.pth --to naver
rexnet convert efficientnet-lite0-57934424.pth tf_efficientnet_lite0.safetensors --to timm
"""
import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..files import SUFFIXES, WeightsError, load_weights_file, save_weights, some
from ..models.layout import check_shapes, timm_to_naver, to_timm_layout
from ..models.other_layouts import efficientnet_to_timm, is_efficientnet
from ..models.weights import model_of
from .mistakes import UsageError, report_errors
from .parsing import Parser
from .values import number, one_of

__all__ = ['convert', 'main']

LAYOUT = one_of('naver', 'timm')
POSITIVE = number(float, above=0)


def create_parser(prog: str = 'rexnet convert') -> Parser:
    """The parser of `rexnet convert`."""
    parser = Parser(prog, (
        "Convert weights of ReXNetV1 between NAVER's layout and timm's, or of EfficientNet from EfficientNet-PyTorch's "
        "to timm's, bit for bit."))
    add = parser.group('weights')
    add('input', metavar='INPUT',
        help='weights in either layout, bare or in a checkpoint; of one with a moving average that one')
    add('output', metavar='OUTPUT', help=f'file to write, {", ".join(SUFFIXES)} by its name')
    add('--overwrite', kind=bool, help='replace OUTPUT where it exists')
    add('--to', kind=LAYOUT, required=True, help='layout of OUTPUT')
    add('--width-mult', kind=POSITIVE, help='width of the network', unset='from the shapes')
    add('--depth-mult', kind=POSITIVE, help='depth of the network', unset='from the names')
    return parser


def convert(args: argparse.Namespace) -> int:
    """Convert as the arguments say; returns the number of entries written.

    Raises:
        FileNotFoundError: No such file or folder.
        OSError: OUTPUT cannot be written.
        ValueError: A file that is not of this network, a name that OUTPUT cannot have, or an OUTPUT that exists.
    """
    if os.path.lexists(args.output) and not os.path.isdir(args.output) and not args.overwrite:
        raise UsageError(f'{args.output!r} exists: name another OUTPUT, or replace it with --overwrite.')
    state_dict = load_weights_file(args.input)
    if any('decoder.' in key for key in state_dict) and any('encoder.' in key for key in state_dict):
        raise WeightsError(
            f'Weights of a backbone are converted, and {args.input!r} holds a network of masks or depth, for which '
            'NAVER has no layout: leave it as it is, or write it for others by rexnet share.')
    try:
        state_dict = _efficientnet(args, state_dict) if is_efficientnet(state_dict) else _rexnet(args, state_dict)
    except WeightsError as error:
        raise WeightsError(f'{args.input!r}: {error}') from error
    save_weights(args.output, state_dict)
    return len(state_dict)


def _rexnet(args: argparse.Namespace, state_dict: dict[str, Any]) -> dict[str, Any]:
    model = model_of(state_dict, args.width_mult, args.depth_mult)
    state_dict = to_timm_layout(state_dict, model)
    check_shapes(state_dict, model)
    return timm_to_naver(state_dict, model) if args.to == 'naver' else state_dict


def _efficientnet(args: argparse.Namespace, state_dict: dict[str, Any]) -> dict[str, Any]:
    if args.to != 'timm' or args.width_mult is not None or args.depth_mult is not None:
        raise WeightsError(
            "NAVER's layout, width_mult and depth_mult are of ReXNetV1, and the file is of EfficientNet: convert it to "
            "timm's layout, without these.")
    renamed = efficientnet_to_timm(state_dict)
    unknown = [key for key in renamed if key.startswith('_')]
    if unknown:
        raise WeightsError(
            f"{len(unknown)} of {len(renamed)} entries have no place in timm's EfficientNet: {some(unknown)}. Get the "
            'file again, or remove them.')
    return renamed


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet convert') -> int:
    """Convert from a command line; returns the exit status. Mistakes of the user end with one line."""
    def command() -> None:
        args = create_parser(prog).parse_args(argv)
        entries = convert(args)
        print(f"{args.output}: {entries} entries in {dict(naver='NAVER', timm='timm')[args.to]}'s layout")

    return report_errors(prog, command, dict(width_mult='--width-mult', depth_mult='--depth-mult'))
