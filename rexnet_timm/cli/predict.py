"""`rexnet predict`: masks, depth or classes of images, one file for each image.

rexnet predict photo.jpg --checkpoint output/train/RUN
rexnet predict photos/ --checkpoint output/train/RUN --output-type overlay --tile 512
rexnet predict scene.tif --checkpoint output/train/RUN
torchrun --nproc-per-node 2 -m rexnet_timm predict photos/ --checkpoint output/train/RUN
"""
import argparse
import csv
import errno
import glob
import logging
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.description import IMAGE_EXTENSIONS
from ..data.geo import is_scene, require_rasterio
from ..deployment.load import describe, description_of, load_model
from ..deployment.pictures import to_picture
from ..deployment.predict import Prediction, Predictor
from ..errors import is_told
from ..files import atomic_path
from .build import Process, start_process
from .built_in import SETS, add_built_in, built_in_part
from .data_options import FLAGS, add_images, read_as
from .mistakes import UsageError, report_errors, with_flags
from .parsing import Parser
from .progress import Progress
from .values import VIEW, number, one_of, views

__all__ = ['create_parser', 'find_images', 'main', 'predict']

OUTPUT = os.path.join('output', 'predict')
TABLE = 'predictions.csv'
IMAGES = 'images'  # in the output folder: those of a built-in set
TOP = 5  # classes in a row of the table
SCENES = (
    'A TIFF with a georeference, or with more than 89 million pixels, is read and written by windows, whatever its '
    "size (pip install 'rexnet-timm[geo]'), and its result is a .tif that lies where it lies: mask has one band with "
    'the palette of the classes, or metres of depth; prob a float32 band for each class; overlay is RGB. Its bands '
    'must be those of the training, unless --bands says where these are. Where it has no data (nodata value, mask, '
    'alpha) a mask has the ignored label, if that is no class, or else 255, declared as nodata; prob and depth have '
    'NaN, overlays are transparent.')

OUTPUT_TYPE = one_of('mask', 'overlay', 'prob')
DEPTH_FORMAT = one_of('png', 'tiff')
SIDE = number(int, at_least=32)
SHARE = number(float, at_least=0, below=1)

# What the library calls an argument, and the option that sets it
_OPTIONS = {
    **FLAGS, 'tile': '--tile', 'overlap': '--overlap', 'flips': '--tta', 'zooms': '--tta',
    'original_labels': '--original-labels'}
_SYNONYMS = {'model': 'checkpoint', 'weights': 'checkpoint', 'out': 'output', 'gpu': 'device', 'force': 'overwrite'}


def create_parser(prog: str = 'rexnet predict') -> Parser:
    """The parser of `rexnet predict`."""
    parser = Parser(
        prog, 'Predict images with a trained model, and write a file for each.', _SYNONYMS,
        usage='%(prog)s [INPUT ...] --checkpoint RUN [options]', epilog=SCENES)
    add = parser.group('what is predicted')
    add('input', metavar='INPUT', nargs='*',
        help='images: a file, a folder with its subfolders, a pattern such as "photos/*.jpg", or a list in a .txt file '
             'with a path in each line')
    add_built_in(add)
    add('--checkpoint', required=True,
        help="a run's folder, a checkpoint, a folder of save_pretrained, an exported file, or hf-hub:USER/NAME")
    add('--device', help='torch device', unset='the best there is')
    add('--amp', kind=bool, help='run the network in mixed precision')
    add = parser.group('what is written')
    add('--output', default=OUTPUT,
        help=f'folder of the results, each with the name of its image; classifiers write {TABLE} in it')
    add('--output-type', kind=OUTPUT_TYPE, default='mask',
        help='mask: classes as an index PNG with a palette, or depth; overlay: the image painted over with its '
             'classes, or a coloured map of depth; prob: probabilities as .npy, float32 (classes, height, width)')
    add('--depth-format', kind=DEPTH_FORMAT, unset='png',
        help='png: whole millimetres in 16 bits, 65535 for 65.535 m and everything beyond; tiff: metres in float32')
    add('--original-labels', kind=bool,
        help='write masks with the labels, or colours, that those of the training data had, instead of the classes')
    add('--no-legend', kind=bool,
        help='write overlays at the size of their images, without the names of the classes, or the range of depth, '
             'below them')
    add('--overwrite', kind=bool, help='replace results that exist; without it nothing runs if there is one')
    add_images(parser.group('how images are read, where they are not as in training'), 'as in training')
    add = parser.group('how it is predicted')
    add('--tile', kind=SIDE, nargs='+', metavar='N',
        unset='the whole image at once; 512 above 4096 x 4096 pixels, and by windows',
        help='largest height and width of the windows in which an image is run, one number or two')
    add('--overlap', kind=SHARE, default=0.25, help='share of a tile that it has in common with the next')
    add('--tta', kind=VIEW, nargs='+',
        help='mean with mirrored and zoomed copies: h is left and right, v up and down, hv both, flips all three; a '
             'number is a zoom, for masks')
    return parser


def find_images(inputs: Sequence[str], output: str | os.PathLike) -> dict[Path, Path]:
    """The images of INPUT, each with its path below the output folder.

    Images of a folder or pattern keep their path below it, those of a list theirs below the folder that all have in
    common, and single files their name. What lies in the output folder is no input of a folder or pattern.

    Raises:
        FileNotFoundError: No such file or folder.
        UsageError: A folder, pattern or list without images.
    """
    found: dict[Path, Path] = {}
    for word in inputs:
        path = Path(word)
        if path.is_dir():
            images = _below(path, [path / name for name in glob.glob('**', root_dir=path, recursive=True)], output)
        elif path.is_file():
            images = _listed(path) if path.suffix.lower() == '.txt' else {path: Path(path.name)}
        elif glob.has_magic(word):
            fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
            images = _below(fixed, [Path(name) for name in glob.glob(word, recursive=True)], output)
        else:
            raise FileNotFoundError(f'There is no image, folder, list or pattern {word!r}: check the path.')
        if not images:
            raise UsageError(
                f'INPUT must have images, and {word!r} has none that end in {", ".join(IMAGE_EXTENSIONS)}.')
        found.update(images)
    return found


def _below(folder: Path, paths: Sequence[Path], output: str | os.PathLike) -> dict[Path, Path]:
    images = sorted(path for path in paths if path.suffix.lower() in IMAGE_EXTENSIONS and path.is_file())
    if _is_in(output, folder):  # where results of an earlier call may lie
        images = [path for path in images if not _is_in(path, output)]
    return {path: path.relative_to(folder) for path in images}


def _listed(path: Path) -> dict[Path, Path]:
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f'A list of images must be UTF-8 text: {str(path)!r} is not; save it as UTF-8.') from error
    images = [Path(line.strip()) for line in lines if line.strip()]
    # as they stand, or else from where the list lies
    images = [image if image.exists() else path.parent / image for image in images]
    if not images:
        return {}
    whole = {image: os.path.abspath(image) for image in images}
    common = os.path.commonpath([os.path.dirname(name) for name in whole.values()])
    return {image: Path(os.path.relpath(name, common)) for image, name in whole.items()}


def _is_in(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a path, links followed, lies below a folder."""
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ''))


def _views(words: Sequence[str | float], task: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Flips and zooms of --tta. UsageError for those that the task does not have."""
    flips, zooms = views(words)
    if task == 'depth' and not set(flips) <= {'h'}:
        raise UsageError('--tta may turn no image of depth upside down, since depth depends on that: take h.')
    if task != 'segmentation' and len(zooms) > 1:
        raise UsageError(f'--tta has zooms for masks only, and this is a model of {task}: leave them out.')
    return flips, zooms


def _ending(args: argparse.Namespace, task: str) -> str:
    """How the names of the results end. UsageError for options that the task does not have."""
    if args.depth_format and (task != 'depth' or args.output_type != 'mask'):
        raise UsageError(
            f'--depth-format is for maps of depth, and this is {args.output_type} of a model of {task}: leave it out.')
    if task == 'classification' and args.output_type != 'mask':
        raise UsageError(f'--output-type is for masks and depth, and a classifier writes {TABLE}: leave it out.')
    if task == 'depth' and args.output_type == 'prob':
        raise UsageError('--output-type prob is for classes, and depth has no probabilities: take mask or overlay.')
    if args.original_labels and (task != 'segmentation' or args.output_type != 'mask'):
        raise UsageError(
            f'--original-labels is for masks, and this is {args.output_type} of a model of {task}: leave it out.')
    if args.no_legend and args.output_type != 'overlay':
        raise UsageError(f'--no-legend is for overlays, and this is {args.output_type}: leave it out.')
    if args.output_type == 'prob':
        return '.npy'
    return '.tif' if args.depth_format == 'tiff' else '.png'


def _scenes(args: argparse.Namespace, images: Collection[Path], task: str) -> set[Path]:
    """The images that are read by windows. UsageError for options that they do not have, ValueError for no rasterio."""
    scenes = {path for path in images if is_scene(path)}
    if not scenes:
        return scenes
    logging.getLogger('rasterio').setLevel(logging.CRITICAL)  # of what it logs, our errors tell
    first = min(scenes)
    require_rasterio(first)
    if args.depth_format == 'png':
        raise UsageError(f'--depth-format png has no georeference, and {first} needs a TIFF: take tiff.')
    if task == 'depth' and args.output_type == 'overlay':
        raise UsageError(
            f'--output-type overlay of depth needs the nearest and the farthest of a whole image, and {first} is '
            'read by windows: take mask.')
    return scenes


def _check_names(targets: dict[Path, Path]) -> None:
    """Raise UsageError where two images would be written to one file."""
    first: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in first:
            # the folders below one that is named are kept
            folder = '' if first[target].parent == source.parent else 'name the folder that holds both, '
            raise UsageError(
                f'Each image must have a name of its own: {first[target]} and {source} would both be written to '
                f'{target}; rename one, {folder}or give each an --output of its own.')
        first[target] = source


def _check_targets(targets: Collection[Path], sources: Collection[Path], output: str, overwrite: bool) -> None:
    """Raise UsageError where a result would replace something that it must not, or leave the output folder."""
    if os.path.exists(output) and not os.path.isdir(output):
        raise UsageError(f'--output must be a folder, and {output!r} is a file.')
    images = {os.path.realpath(source) for source in sources}
    for target in targets:
        if not _is_in(target, output):
            raise UsageError(f'Results stay in --output, and {target} leads out of {output!r}: remove that link.')
        if os.path.realpath(target) in images:
            raise UsageError(f'No result may replace an image, and {target} is one: choose another --output.')
    there = [str(target) for target in targets if os.path.lexists(target)]
    if there and not overwrite:
        raise UsageError(
            f'{len(there)} of {len(targets)} results exist, such as {there[0]}: pass --overwrite, or another --output.')


def _reason(error: Exception) -> str | None:
    """What went wrong with one image, on one line; None for an error that is not the image's or the disk's."""
    if isinstance(error, OSError) and error.filename is not None:
        return f'{error.filename}: {error.strerror}'
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f'{error.strerror}: free space for the results'
    # torch has a class of this error for accelerators only
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return 'the image does not fit into memory: pass --tile 512, or a smaller one'
    if isinstance(error, ValueError) and is_told(error):
        return ' '.join(str(error).split())
    return None


def _write(prediction: Prediction, target: Path, args: argparse.Namespace) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if args.output_type != 'overlay':
        prediction.save(target, args.original_labels)
        return
    picture = prediction.overlay(1. if prediction.depth is not None else 0.5, legend=not args.no_legend)
    with atomic_path(target) as part:
        picture.save(part)


def _write_scene(predictor: Predictor, source: Path, target: Path, output_type: str, is_silent: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Progress(unit='window', desc=source.name, disable=is_silent) as bar:

        def progress(done: int, number: int) -> None:
            bar.total = number
            bar.update(done - bar.n)

        predictor.write(source, target, output_type, None if is_silent else progress)


def _write_table(rows: list[list[Any]], path: Path, num_classes: int) -> None:
    head = ['file', 'class', 'score']
    for place in range(2, min(num_classes, TOP) + 1):
        head += [f'class_{place}', f'score_{place}']
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as part, open(part, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([head, *rows])


def predict(args: argparse.Namespace, prog: str = 'rexnet predict') -> int:
    """Predict as the arguments say; returns the exit status, 1 where an image failed.

    Raises:
        FileNotFoundError: No such input or checkpoint.
        ValueError: Options that do not fit the model, or results that exist.
    """
    if args.tile is not None and len(args.tile) > 2:
        raise UsageError(f'--tile must be one number or two, height and width, got {len(args.tile)}.')
    if bool(args.input) == bool(args.dataset):
        found = f'got {args.input[0]!r} and --dataset {args.dataset}' if args.input else 'got neither'
        raise UsageError(f'INPUT is needed, or else --dataset {" or ".join(SETS)} for built-in images, {found}.')
    process = start_process(args.device)
    images = find_images(args.input, args.output) if args.input else {}
    model = load_model(args.checkpoint, process.device)
    describe(model, read_as(args, description_of(model)))
    description_of(model).require_known_task()
    task, output = description_of(model).task, Path(args.output)
    ending, (flips, zooms) = _ending(args, task), _views(args.tta or (), task)
    scenes = _scenes(args, images, task)
    if args.original_labels:
        description_of(model).in_files(np.zeros((1, 1), np.int64))  # before any image: labels that can be written
    predictor = Predictor(
        model, tile=tuple(args.tile * 2)[:2] if args.tile else None, overlap=args.overlap,
        flips=flips, zooms=zooms, keep_probabilities=args.output_type == 'prob')
    if args.output_type == 'prob' and predictor.returns_classes:
        raise UsageError('--output-type prob needs logits, and this file returns classes: export it with logits.')
    built_in = built_in_part(args, 'test', model, description_of(model)) if args.dataset else ()
    for index in range(len(built_in)):
        images[output / IMAGES / f'{index:03}.png'] = Path(f'{index:03}.png')
    table = output / TABLE if task == 'classification' else None
    targets = {
        source: table or output / name.with_suffix('.tif' if source in scenes else ending)
        for source, name in images.items()}
    if not table:
        _check_names(targets)
    written = {*targets.values(), *(targets if args.dataset else ())}
    _check_targets(written, () if args.dataset else targets, args.output, args.overwrite)
    if process.distributed:
        torch.distributed.barrier()  # no process looks for results after another has begun to write them
    if process.primary:
        _write_images(built_in, list(images))
    if process.distributed:
        torch.distributed.barrier()  # every process reads them
    part = list(targets.items())[process.rank::process.world_size]
    results = _predict_all(args, predictor, part, scenes, process, prog)
    if process.distributed:
        gathered = [None] * process.world_size
        torch.distributed.all_gather_object(gathered, results)
        results = sum((part for part, _ in gathered), []), sum(failed for _, failed in gathered)
    rows, failed = results
    if process.primary:
        if table and rows:
            order = {str(source): place for place, source in enumerate(targets)}
            _write_table(sorted(rows, key=lambda row: order[row[0]]), table, (len(rows[0]) - 1) // 2)
        is_png = (task, ending, args.output_type) == ('depth', '.png', 'mask') and len(scenes) < len(targets)
        unit = ', depth in millimetres' if is_png else ''
        print(f'{len(targets) - failed} of {len(targets)} images predicted in {args.output}{unit}')
    return 1 if failed else 0


def _write_images(dataset: Sequence[tuple[torch.Tensor, Any]], paths: Sequence[Path]) -> None:
    """Write the images of a built-in set, so that they can be looked at beside their results."""
    for index in range(len(dataset)):
        paths[index].parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(paths[index]) as part:
            to_picture(dataset[index][0]).save(part)


def _predict_all(
        args: argparse.Namespace,
        predictor: Predictor,
        targets: Sequence[tuple[Path, Path]],
        scenes: Collection[Path],
        process: Process,
        prog: str,
) -> tuple[list[list[Any]], int]:
    """Predict the images of this process; returns rows of the table of a classifier, and how many images failed."""
    rows, failed = [], 0
    bar = Progress(targets, unit='image', leave=True, disable=not process.primary)
    for source, target in bar:
        try:
            with torch.autocast(process.device.type, enabled=args.amp):
                if source in scenes and predictor.task != 'classification':
                    output = 'labels' if args.original_labels else args.output_type
                    _write_scene(predictor, source, target, output, bar.disable)
                    continue
                prediction = predictor(source)
            if predictor.task == 'classification':
                rows.append([str(source), *(word for name, score in prediction.top(TOP) for word in (name, score))])
            else:
                _write(prediction, target, args)
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            reason = with_flags(reason, _OPTIONS)
            failed += 1
            bar.write(f'{prog}: {reason if str(source) in reason else f"{source}: {reason}"}', file=sys.stderr)
    return rows, failed


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet predict') -> int:
    """Predict from a command line: exit status 0, 1 where an image failed, 2 after a mistake of the user."""
    status = 0

    def command() -> None:
        nonlocal status
        try:
            status = predict(create_parser(prog).parse_args(argv), prog)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return report_errors(prog, command, _OPTIONS) or status
