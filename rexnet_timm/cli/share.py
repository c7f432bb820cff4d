"""`rexnet share`: a trained model as a folder for others, with its card and scores, and its upload to the Hub.

rexnet share --checkpoint output/train/RUN
rexnet share --checkpoint output/train/RUN --push-to-hub USER/NAME --private
"""
import argparse
import glob
import logging
import os
from collections.abc import Sequence
from typing import Any

import yaml

from ..deployment.load import CHECKPOINTS, HUB, load_model
from ..deployment.results import RESULTS
from ..deployment.share import WEIGHTS, share
from ..plain_text import load_yaml
from .mistakes import UsageError, report_errors
from .parsing import Parser

__all__ = ['main', 'run']

_logger = logging.getLogger(__name__)

FOLDER = 'shared'
USAGE = """```bash
rexnet predict photo.jpg --checkpoint FOLDER
rexnet export model.onnx --checkpoint FOLDER
```"""
# The options behind the arguments that the library's errors name
FLAGS = {
    'overwrite': '--overwrite', 'repo_id': '--push-to-hub', 'model must': '--checkpoint must',
    'another folder': 'another OUTPUT'}


def create_parser(prog: str = 'rexnet share') -> Parser:
    """The parser of `rexnet share`."""
    parser = Parser(
        prog, 'Write a trained model into a folder for others, with its card and scores, and upload it.',
        usage='%(prog)s [OUTPUT] --checkpoint RUN [options]',
        synonyms={'repo_id': 'push_to_hub', 'hub_model_id': 'push_to_hub', 'force': 'overwrite', 'model': 'checkpoint'})
    add = parser.group('files')
    add('output', metavar='OUTPUT', nargs='?',
        help='folder to write: weights, configuration and card, which rexnet, timm and '
             'segmentation_models_pytorch read', unset=f'{FOLDER} in the folder of the run')
    add('--checkpoint', required=True, metavar='RUN',
        help='folder of a run, a checkpoint in it, a saved folder, or hf-hub:USER/NAME')
    add('--overwrite', kind=bool, help='replace files that exist')
    add = parser.group('card')
    add('--results', metavar='DIR', help='folder of rexnet validate, for the scores and a picture, or its results.json',
        unset='that of the test split in the folder of the run, or else the newest one, of these weights')
    add('--no-picture', kind=bool, help='leave out the picture, which shows an image of the validation')
    add('--data-name', metavar='NAME', help='the data that the model was trained on', unset='as the folder was called')
    add('--license', metavar='NAME', unset='none is named',
        help="the Hub's name of the licence of the weights, such as mit, which the data of the training may decide")
    add = parser.group('upload')
    add('--push-to-hub', metavar='USER/NAME',
        help='repository of the Hugging Face Hub, which is made where there is none; only what OUTPUT gets is uploaded')
    add('--private', kind=bool, help='make it a private one')
    return parser


def _run_folder(checkpoint: str) -> str | None:
    if checkpoint.startswith(HUB):
        return None
    return checkpoint if os.path.isdir(checkpoint) else os.path.dirname(checkpoint) or '.'


def _results(checkpoint: str) -> str | None:
    """The results of the test split, or else the newest ones, of the weights that a checkpoint stands for.

    Results beside a run may also be of another file in it, or of weights that later training has replaced.
    """
    folder = _run_folder(checkpoint)
    best = _weights_file(folder) if folder else None
    if best is None:
        return None
    weights = best if os.path.isdir(checkpoint) else checkpoint
    found = []
    for path in glob.glob(os.path.join(glob.escape(folder), 'validate-*', RESULTS)):
        name = os.path.basename(os.path.dirname(path))  # validate-SPLIT of the folder, validate-SPLIT-FILE of a file
        if name.endswith(f'-{os.path.basename(weights)}') or '.' not in name and os.path.samefile(weights, best):
            found.append(path)
    fresh = [path for path in found if os.path.getmtime(path) >= os.path.getmtime(weights)]
    if found and not fresh:
        _logger.warning('%s is older than %s and is left out: rexnet validate measures it anew.', found[0], weights)
    test = os.path.join(folder, 'validate-test', RESULTS)
    return test if test in fresh else max(fresh, key=os.path.getmtime, default=None)


def _weights_file(folder: str) -> str | None:
    """The file that the folder of a run, or a saved one, stands for."""
    files = (os.path.join(folder, name) for name in (*CHECKPOINTS, WEIGHTS))
    return next(filter(os.path.isfile, files), None)


def _training(folder: str | None) -> dict[str, Any]:
    """The arguments of a run, where its folder has them."""
    path = os.path.join(folder or '', 'args.yaml')
    if folder is None or not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding='utf-8') as file:
            arguments = load_yaml(file.read())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f'{path!r} must be the arguments of a run in YAML, and is damaged: remove it.') from error
    return arguments if isinstance(arguments, dict) else {}


def _data_name(args: argparse.Namespace, training: dict[str, Any]) -> str | None:
    """What the data is called, without where it lies."""
    if args.data_name:
        return args.data_name
    if training.get('dataset'):
        return f'the set {training["dataset"]}'
    folder = training.get('data_dir')
    return os.path.basename(os.path.abspath(folder)) if folder else None


def run(args: argparse.Namespace) -> str:
    """Share as the arguments say; returns the folder.

    Raises:
        FileNotFoundError: No such checkpoint or results.
        ValueError: As `rexnet_timm.share`.
    """
    if args.private and not args.push_to_hub:
        raise UsageError('--private is for --push-to-hub, which is not given: name the repository by it.')
    source = _run_folder(args.checkpoint)
    if args.output is None and source is None:
        raise UsageError(f'OUTPUT is needed, the folder to write, since {args.checkpoint} has none.')
    output = args.output or os.path.join(source, FOLDER)
    model = load_model(args.checkpoint)
    training, results = _training(source), args.results or _results(args.checkpoint)
    written = share(
        model, output, results=results, with_picture=not args.no_picture,
        dataset=_data_name(args, training), training=training, usage=USAGE, license=args.license,
        repo_id=args.push_to_hub, private=args.private or None, overwrite=args.overwrite)
    scores = f'scores of {results}' if results else 'no scores: rexnet validate makes them, for --results'
    print(f'{output}: {", ".join(written)}; {scores}')
    if args.push_to_hub:
        print(f'Uploaded: rexnet predict photo.jpg --checkpoint {HUB}{args.push_to_hub}')
    return output


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet share') -> int:
    """Share from a command line; returns the exit status. Mistakes of the user end with one line."""
    return report_errors(prog, lambda: run(create_parser(prog).parse_args(argv)), FLAGS)
