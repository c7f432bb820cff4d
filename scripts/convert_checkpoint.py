#!/usr/bin/env python3
""" Convert weights of ReXNetV1 between NAVER's layout and timm's, bit for bit.

python scripts/convert_checkpoint.py rexnetv1_1.0x.pth rexnetv1_1_0.safetensors --to timm
python scripts/convert_checkpoint.py model_best.pth.tar rexnetv1.pth --to naver
"""
import argparse
import os
import sys
from collections.abc import Sequence

import torch
from safetensors.torch import save_file

from rexnet_timm.files import load_weights_file
from rexnet_timm.models.layout import check_shapes, timm_to_naver, to_timm_layout
from rexnet_timm.models.weights import model_of

SUFFIXES = ('.safetensors', '.pth', '.pt')


def create_parser() -> argparse.ArgumentParser:
    """The parser of this script."""
    parser = argparse.ArgumentParser(
        prog='convert_checkpoint.py', allow_abbrev=False,
        description="Convert weights of ReXNetV1 between NAVER's layout and timm's, bit for bit.")
    parser.add_argument('input', metavar='INPUT',
                        help='weights in either layout, bare or in a checkpoint; of one with a moving average that one')
    parser.add_argument('output', metavar='OUTPUT', help=f'file to write, {", ".join(SUFFIXES)} by its name')
    parser.add_argument('--to', required=True, choices=('naver', 'timm'), help='layout of OUTPUT')
    parser.add_argument('--width-mult', type=float, metavar='X', help='width of the network (default: from the shapes)')
    parser.add_argument('--depth-mult', type=float, metavar='X', help='depth of the network (default: from the names)')
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status. Mistakes of the user end with one line on standard error."""
    args = create_parser().parse_args(argv)
    try:
        entries = convert(args)
    except (ValueError, OSError) as error:
        print(f'convert_checkpoint.py: error: {error}', file=sys.stderr)
        return 2
    print(f"{args.output}: {entries} entries in {dict(naver='NAVER', timm='timm')[args.to]}'s layout")
    return 0


if __name__ == '__main__':
    sys.exit(main())
