"""`rexnet check`: read a data set of masks whole, say what it holds and what is wrong, and how to train on it.

rexnet check DATA
rexnet check DATA --num-classes 11 --ignore-index 11 --write
"""
import argparse
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data import DatasetError, write_dataset_yaml
from ..data.check import Check, check_data
from ..data.facts import Reading, shown_of
from ..data.formats.dataset_yaml import FILE_NAME, is_dataset_yaml
from ..data.plan import Plan
from ..data.statistics import SplitStatistics
from ..deployment.pictures import sample_sheet
from ..files import atomic_path
from .arguments import create_train_parser
from .data_options import FLAGS, IGNORE_INDEX, IMAGES, LABELS, add_images, add_labels, add_layout, described
from .mistakes import UsageError, report_errors, with_flags
from .parsing import Parser
from .planned import MODEL, check_model, default_folder, planned, words_of, write_colors
from .progress import progress_bar
from .values import number

__all__ = ['check', 'main', 'run']

COUNT = number(int, at_least=1)
REPORT, SHEET = 'check.json', 'check.png'
STATUS = {'note': 0, 'warning': 1, 'error': 2}
_MOST_LINES = 40  # of classes in a table


def create_parser(prog: str = 'rexnet check') -> Parser:
    """The parser of `rexnet check`."""
    parser = Parser(
        prog, 'Read a data set of masks whole, say what it holds and what is wrong, and how to train on it.',
        usage='%(prog)s DIR [options]',
        synonyms={'classes': 'num_classes', 'output': 'results_dir', 'num_workers': 'workers', 'gpu': 'device'})
    add = parser.group('data')
    add('data', nargs='?', metavar='DIR', help='folder of the data, or a dataset.yaml; the same as --data-dir')
    add('--data-dir', metavar='DIR', help='folder of the data, or a dataset.yaml')
    add('--train-split', default='train', help='part that is trained on')
    add('--val-split', default='validation', help='part that is validated on')
    add('--num-classes', kind=COUNT, help='classes of the labels, 1 for binary masks', unset='what the masks tell')
    add('--ignore-index', kind=IGNORE_INDEX, help='label of the masks that does not count', unset='what the masks tell')
    add('--in-chans', kind=COUNT, help='channels that images are read with', unset='those of the images')
    add('-j', '--workers', kind=COUNT, default=min(16, os.cpu_count() or 1), help='files that are read at a time')
    add_layout(parser.group('files of images and masks'))
    add_labels(parser.group('labels'))
    add_images(parser.group('images'))
    add = parser.group('training')
    add('--model', default=MODEL, help='model that the batch size is for')
    add('--encoder-name', help='encoder of an SMP architecture')
    add('--device', help='cpu, cuda, cuda:1, mps', unset='the best there is')
    add = parser.group('results')
    add('--results-dir', metavar='DIR', help=f'folder for {REPORT} and {SHEET}', unset='output/check/NAME of the data')
    add('--results-file', metavar='FILE', help='another file for the report, as JSON')
    add('--samples', kind=number(int, at_least=1, at_most=64), default=8, help=f'samples on {SHEET}')
    add('--write', nargs='?', const='', metavar='FILE',
        help=f'write what was found as a {FILE_NAME}; without FILE beside the data')
    add('--overwrite', kind=bool, help='replace files of --write, --results-dir and --results-file')
    return parser


def _folder(args: argparse.Namespace) -> str:
    if args.data is not None and args.data_dir is not None \
            and os.path.abspath(args.data) != os.path.abspath(args.data_dir):
        raise UsageError(f'The folder of the data is given twice: {args.data!r} and --data-dir {args.data_dir!r}.')
    folder = args.data if args.data is not None else args.data_dir
    if folder is None:
        raise UsageError('A folder of data is needed, as in "rexnet check DATA".')
    return folder


def run(args: argparse.Namespace, in_python: bool = False) -> dict[str, Any]:
    """Check as the arguments say, and print it; returns the report, as `as_json` makes it.

    Args:
        args: Those of `create_parser`.
        in_python: Whether what is printed has the names and the call of Python, not those of the command line.

    Raises:
        ValueError: A folder that is no data set, options that contradict each other, or a file that is there.
    """
    folder = _folder(args)
    description = described(args, folder, args.ignore_index)
    target = _written_to(args, folder)
    results_dir = args.results_dir or default_folder(folder)
    _check_results(args, results_dir)
    check_model(args)
    check = check_data(
        description, args.train_split, args.val_split, num_classes=args.num_classes, in_chans=args.in_chans,
        threads=args.workers, progress=progress_bar)
    os.makedirs(results_dir, exist_ok=True)
    color_file = write_colors(results_dir, check) if check.colors_are_proposed else args.color_map
    plan = planned(args, folder, check, color_file)
    has_errors = check.level == 'error'
    if target is not None and not has_errors and check.meaning is not None:
        write_dataset_yaml(check.written(), target)
    is_written = target is not None and not has_errors and check.meaning is not None
    words = [] if has_errors else _command(args, folder, check, plan, target if is_written else None)
    report = as_json(folder, check, plan, words)
    for path in filter(None, (os.path.join(results_dir, REPORT), args.results_file)):
        _write_json(path, report)
    sheet = draw_sheet(check, args.samples)
    if sheet is not None:
        with atomic_path(os.path.join(results_dir, SHEET)) as part:
            sheet.save(part)
    print(as_text(folder, check, plan, words, in_python))
    made = [REPORT, *([SHEET] if sheet is not None else [])]
    print(f'\n{" and ".join(made)} in {results_dir}' + (f'; description in {target}' if is_written else ''))
    if target is not None and not is_written:
        print(f'{target} is not written, since there are errors.')
    return report


def check(data: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Check as `rexnet_timm.check` says."""
    parser = create_parser()
    try:
        given = parser.read_values({'data': data, **options})
        report = run(argparse.Namespace(**{**vars(parser.parse_args([])), **given}), in_python=True)
        return json.loads(json.dumps(report))  # what a reader of check.json has, lists for tuples
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (parser.without_flags(error.args[0]),)
        raise


def _check_results(args: argparse.Namespace, folder: str) -> None:
    """Refuse places where results cannot be written, before the work. The default folder is this command's own."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f'--results-dir must be a folder, and {folder!r} is a file: name another one.')
    parent = os.path.dirname(os.path.abspath(args.results_file)) if args.results_file else '.'
    if not os.path.isdir(parent):
        raise UsageError(f'There is no folder {parent!r} for --results-file: create it first.')
    if args.results_file and os.path.isdir(args.results_file):
        raise UsageError(f'--results-file must be a file, and {args.results_file!r} is a folder: name one in it.')
    files = [*([args.results_file] if args.results_file else []),
             *(os.path.join(folder, name) for name in (REPORT, SHEET) if args.results_dir)]
    for path in files:
        if os.path.lexists(path) and not args.overwrite:
            raise UsageError(f'{path!r} exists: pass --overwrite to replace it, or name another place.')


def _written_to(args: argparse.Namespace, folder: str) -> str | None:
    """Where --write writes, checked before anything is read."""
    if args.write is None:
        return None
    beside = folder if os.path.isdir(folder) else os.path.dirname(os.path.abspath(folder))
    path = args.write or os.path.join(beside, FILE_NAME)
    if Path(path).suffix.lower() not in ('.yaml', '.yml'):
        raise UsageError(f'--write must be a file ending in .yaml, got {path!r}: name {FILE_NAME!r} in a folder.')
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise UsageError(f'There is no folder {parent!r} for --write: create it first.')
    if not os.access(parent, os.W_OK):
        raise UsageError(f'--write cannot write into {parent!r}: name a file elsewhere, such as --write {FILE_NAME}.')
    if os.path.lexists(path):
        if not is_dataset_yaml(Path(path)):
            raise UsageError(f'{path!r} is a file of another program: name another one, as --write my.yaml.')
        if not args.overwrite:
            raise UsageError(f'{path!r} exists: pass --overwrite to replace it, or name another file.')
    return path


def _command(args: argparse.Namespace, folder: str, check: Check, plan: Plan, target: str | None) -> list[str]:
    """The words of the command to train, which its own parser takes."""
    data, options = folder, dict(plan.values)
    if args.num_classes is not None:
        options = {'num_classes': args.num_classes, **options}
    layout: list[str] = []
    if target is None:
        layout = words_of({name: value for name in (*check.description.layout, *LABELS, *IMAGES, 'ignore_index')
                           if (value := getattr(args, name, None)) is not None and name not in options})
    else:  # the file says what labels are, and where files lie
        beside = os.path.join(folder, FILE_NAME)
        data = folder if os.path.isdir(folder) and os.path.abspath(target) == os.path.abspath(beside) else target
        options = {name: value for name, value in options.items() if name not in ('ignore_index', *LABELS, *IMAGES)
                   and (name, value == 1) != ('num_classes', False)}
    splits = {name: value for name, value in (('train_split', args.train_split), ('val_split', args.val_split))
              if value != create_parser().get_default(name)}
    model = {name: value for name in ('model', 'encoder_name', 'in_chans') if (value := getattr(args, name))}
    return ['rexnet', 'train', data, *words_of(model), *layout, *words_of(splits), *words_of(options)]


def as_text(folder: str, check: Check, plan: Plan, words: Sequence[str], in_python: bool = False) -> str:
    """The report in lines."""
    flags = {} if in_python else {
        **FLAGS, 'val_share': '--val-share', 'color_map': '--color-map', 'class_weights': '--class-weights'}
    parts = [f'{folder} is read as {check.description.source}']
    parts += [_split_text(check, split) for split in check.splits.values()]
    levels = {'error': 'ERROR', 'warning': 'Warning', 'note': 'Note'}
    findings = [f'{levels[finding.level]}: {with_flags(finding.text, flags)}' for finding in check.findings]
    parts.append('\n'.join(findings) or 'Nothing is wrong.')
    if words:
        parts.append('\n'.join(f'{_option(name, plan.values[name], in_python)}: {with_flags(reason, flags)}'
                               for name, reason in plan.reasons.items()))
        parts.append(f'To train:\n\n{_call(words) if in_python else _folded(words)}')
    return '\n\n'.join(parts)


def _option(name: str, value: Any, in_python: bool) -> str:
    return f'{name}={value!r}' if in_python else shlex.join(words_of({name: value}))


def _call(words: Sequence[str]) -> str:
    """The command to train as a call of Python."""
    options = create_train_parser().given(words[2:])
    data = options.pop('data')
    return f"rexnet_timm.train({', '.join([repr(data), *(f'{name}={value!r}' for name, value in options.items())])})"


def _folded(words: Sequence[str], width: int = 110) -> str:
    """A command over several lines, broken before options."""
    lines, line = [], shlex.quote(words[0])
    for index, word in enumerate(words[1:], 1):
        upcoming = [word]
        for other in words[index + 1:]:  # an option stays with its values
            if other.startswith('--'):
                break
            upcoming.append(other)
        if word.startswith('--') and len(line) + len(shlex.join(upcoming)) + 1 > width:
            lines.append(line)
            line = f'    {shlex.quote(word)}'
        else:
            line += f' {shlex.quote(word)}'
    return ' \\\n'.join([*lines, line])


def _split_text(check: Check, split: SplitStatistics) -> str:
    bad = f', of which {split.num_bad} cannot be used' if split.num_bad else ''
    lines = [f'{split.name}: {split.pairs} pair{"s" * (split.pairs != 1)}{bad}']
    if split.sizes:
        common = split.sizes.most_common(3)
        shown = ', '.join(f'{width} x {height} ({number})' for (height, width), number in common)
        sides = [[size[axis] for size in split.sizes] for axis in (0, 1)]
        more = f', and others from {min(sides[1])} x {min(sides[0])} to {max(sides[1])} x {max(sides[0])}'
        lines.append(f'  sizes   {shown}{more * (len(split.sizes) > 3)}')
        kinds = ', '.join(f'{" ".join(filter(None, (form, mode)))}, {channels} of {bits} bits ({number})'
                          for (form, mode, bits, channels), number in split.image_kinds.most_common(4))
        lines.append(f'  images  {kinds}')
    if split.mask_kinds:
        kinds = ', '.join(f'{f"{mode}, " * bool(mode)}{bits} bits ({number})'
                          for (mode, bits), number in split.mask_kinds.most_common(4))
        lines.append(f'  masks   {kinds}')
    if split.mean is not None:
        mean, std = (_values(values / _highest(split)) for values in (split.mean, split.std))
        lines.append(f'  mean    {mean}   std {std}' + ('' if _highest(split) == 1 else ', where 255 is 1'))
    if split.colored:
        lines.append(f'  colours {len(split.colors)} in {split.colored} masks')
    return '\n'.join([*lines, *_table(check, split)])


def _table(check: Check, split: SplitStatistics) -> list[str]:
    """A line for each class that the split has."""
    names, classes = check.class_names, check.classes(split.name)
    if not names or not classes:
        return []
    total = sum(found.pixels for found in classes.values())
    width = max(len(names[index]) for index in classes if index < len(names)) if classes else 5
    head = f'  {"class":<{max(5, width)}} {"pixels":>8} {"images":>7} {"objects":>8} {"smallest":>9} {"typical":>8}'
    lines = []
    for index, found in list(classes.items())[:_MOST_LINES]:
        name = names[index] if index < len(names) else str(index)
        lines.append(f'  {name:<{max(5, width)}} {found.pixels / total:>8.2%} {found.images:>7} {found.objects:>8} '
                     f'{found.smallest:>9} {found.typical:>8.0f}')
    rest = len(classes) - len(lines)
    return [head, *lines, *([f'  and {rest} more classes, in {REPORT}'] if rest else [])]


def _values(values: np.ndarray) -> str:
    return ' '.join(f'{value:.4g}' for value in values)


def _highest(split: SplitStatistics) -> float:
    return 255. if set(split.dtypes) == {'uint8'} else 1.


def as_json(folder: str, check: Check, plan: Plan, words: Sequence[str]) -> dict[str, Any]:
    """The report as plain values."""
    names = check.class_names
    return {
        'data': folder, 'format': check.description.source.format, 'level': check.level,
        'class_names': names,
        'splits': {name: _split_json(check, split) for name, split in check.splits.items()},
        'findings': [{'level': finding.level, 'kind': finding.kind, 'text': finding.text, 'files': list(finding.files)}
                     for finding in check.findings],
        'plan': {name: {'value': plan.values[name], 'reason': plan.reasons[name]} for name in plan.values},
        'command': shlex.join(words) if words else None,
    }


def _split_json(check: Check, split: SplitStatistics) -> dict[str, Any]:
    names = check.class_names
    return {
        'pairs': split.pairs,
        'bad': [{'image': image, 'mask': mask, 'reason': reason} for image, mask, reason in split.bad],
        'num_bad': split.num_bad,
        'sizes': [{'height': height, 'width': width, 'images': number}
                  for (height, width), number in split.sizes.most_common()],
        'images': [{'format': form, 'mode': mode, 'bits': bits, 'channels': channels, 'images': number}
                   for (form, mode, bits, channels), number in split.image_kinds.most_common()],
        'masks': [{'mode': mode, 'bits': bits, 'masks': number}
                  for (mode, bits), number in split.mask_kinds.most_common()],
        'turned': split.turned, 'large': split.large,
        'values': dict(split.dtypes),
        'mean': None if split.mean is None else (split.mean / _highest(split)).tolist(),
        'std': None if split.std is None else (split.std / _highest(split)).tolist(),
        'labels': {str(label): pixels for label, pixels in sorted((split.stored + split.bits).items())},
        'colors': [{'color': list(color), 'pixels': pixels} for color, pixels in split.colors.most_common(1024)],
        'classes': {names[index] if index < len(names) else str(index): {
            'pixels': found.pixels, 'images': found.images, 'objects': found.objects, 'smallest': found.smallest,
            'typical': found.typical} for index, found in check.classes(split.name).items()},
    }


def _write_json(path: str, report: Mapping[str, Any]) -> None:
    with atomic_path(path) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(report, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write('\n')


def draw_sheet(check: Check, most: int) -> Image.Image | None:
    """Samples with their masks: those that show each class once, then others spread over the split; None for none."""
    reading, names = Reading(check.description), check.class_names
    if not names:
        return None
    shown: list[tuple[str, int]] = []
    for name, split in check.splits.items():
        shown += [(name, index) for index in split.shown]
    spread = [(name, index) for name, split in check.splits.items()
              for index in np.linspace(0, max(0, split.pairs - 1), most).astype(int).tolist()]
    rows = []
    for name, index in dict.fromkeys([*shown[:max(1, most - 2)], *spread[::len(check.splits) or 1], *spread]):
        if len(rows) == most:
            break
        try:
            image, labels, file = shown_of(check.samples[name][index], reading)
        except DatasetError:
            continue
        classes = np.full(labels.shape, -1)
        for label in np.unique(labels).tolist():
            index_of = check.class_of(label)
            if index_of is not None:
                classes[labels == label] = index_of
        caption = f'{name}: {file}, {image.shape[-1]} x {image.shape[-2]}'
        rows.append((caption, torch.from_numpy(image), torch.from_numpy(classes)))
    return sample_sheet(rows, names, check.description.palette(len(names))) if rows else None


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet check') -> int:
    """Check from a command line; returns the exit status: 0, 1 with warnings, 2 with errors or mistakes of the user."""
    parser, status = create_parser(prog), [0]

    def command() -> None:
        status[0] = STATUS[run(parser.parse_args(argv))['level']]

    return report_errors(prog, command, FLAGS) or status[0]
