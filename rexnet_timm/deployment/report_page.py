"""What the page of a run shows, as plain values for its template."""
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..models.card import IN_UNITS, SCORES
from .built_in import SETS
from .pictures import confusion_picture
from .report_figures import Figure, Line, curves, stacked
from .run_facts import ARGUMENTS, FINISHED, RUNNING, STOPPED, RunFacts
from .run_images import DEFAULT_SPLIT, Validation, data_uri

__all__ = ['duration', 'is_number', 'page_of', 'shortest', 'shown', 'title_of']

MOST_CELLS = 24  # classes up to which the confusions are a table
MOST_CONFUSIONS = 8
TITLES = {
    **SCORES, 'macc': 'mean recall', 'mprecision': 'mean precision', 'delta2': 'delta < 1.25^2',
    'delta3': 'delta < 1.25^3', 'loss': 'loss'}
GROUPS = (('miou', 'mdice', 'macc', 'pixel_acc'), ('abs_rel',), ('rmse',), ('delta1', 'delta2', 'delta3'),
          ('top1', 'top5'))
OF_CLASS = {
    'iou': 'IoU', 'dice': 'Dice', 'precision': 'precision', 'recall': 'recall', 'boundary_iou': 'boundary IoU'}


def page_of(run: RunFacts, images: Validation, data: str | os.PathLike | None = None) -> dict[str, Any]:
    """The values of the template for a run; `data` is where its data are now, None the place that it had them in."""
    return {
        'title': run.name, 'is_comparison': False, 'run': run, 'folder': shortest(run.folder),
        'quoted': shlex.quote(shortest(run.folder)), 'data': _data_of(run, images, data), 'arguments_file': ARGUMENTS,
        'state': _state(run), 'notes': list(run.notes), 'tiles': _tiles(run), 'figures': _figures(run),
        'images': images, 'classes': _classes(run, images), 'of_class': OF_CLASS, 'scores': _scores(images),
        'number_of_images': images.results.get('images'),
        'confusion': _confusion(images), 'options': sorted(run.arguments.items()), 'starts': _starts(run),
        'task': run.task, 'checkpoint': run.checkpoint and shortest(run.checkpoint)}


def _data_of(run: RunFacts, images: Validation, data: str | os.PathLike | None) -> dict[str, Any]:
    """What a command needs to name the data and the part that the page is of: {'folder', 'options', 'split'}."""
    arguments, folder, options = run.arguments, 'DATA', {}
    if data is not None:
        folder = shlex.quote(os.fspath(data))
    elif isinstance(arguments.get('dataset'), str) and arguments['dataset']:
        options = {'dataset': arguments['dataset'], **(
            {name: arguments[name] for name, default in (('synthetic_images', 512), ('seed', 42))
             if arguments.get(name, default) != default} if arguments['dataset'] in SETS else {})}
    elif isinstance(arguments.get('data_dir'), str) and arguments['data_dir'] and not images.problem:
        folder = shlex.quote(arguments['data_dir'])
    return {'folder': folder, 'split': images.split or DEFAULT_SPLIT, 'options': [
        (name.replace('_', '-'), shlex.quote(str(value))) for name, value in options.items()]}


def _state(run: RunFacts) -> str:
    """How far the run is, as a sentence."""
    done = int(run.rows[-1]['epoch']) + 1 if run.rows else 0
    of = f'{done} of {run.epochs} epochs are done' if run.epochs else f'{done} epochs are done'
    if run.state == FINISHED:
        return f'Finished: {of}.'
    if run.state == RUNNING:
        return f'In progress: {of}.'
    if run.state == STOPPED:
        end = run.start.get('end')
        why = f'It ended with: {end}' if isinstance(end, str) else 'Its process was killed, or its machine stopped.'
        return f'Stopped: {of}. {why}'
    return f'{of[0].upper()}{of[1:]}.'


def _tiles(run: RunFacts) -> list[tuple[str, str, str]]:
    """Headline numbers: title, value, and what is said of it."""
    found = []
    if run.best is not None:
        epoch, value = run.best
        found.append((f'best {title_of(run.metric)}', shown(run.metric, value), f'epoch {epoch}'))
        last = run.points(f'eval_{run.metric}')[-1]
        found.append((f'last {title_of(run.metric)}', shown(run.metric, last[1]), f'epoch {last[0]:.0f}'))
    parameters = run.start.get('parameters')
    if isinstance(parameters, int):
        found.append(('parameters', f'{parameters / 1e6:.2f} M', str(run.arguments.get('model', ''))))
    seconds = sum(run.seconds.values())
    if seconds:
        found.append(('time', duration(seconds), f'{seconds / len(run.times):.1f} s an epoch'))
    memory = max((row['memory'] for row in run.times if row.get('memory')), default=0)
    if memory:
        found.append(('memory', f'{memory / 1e9:.2f} GB', 'at most'))
    images = [run.start.get(f'{part}_images') for part in ('training', 'validation')]
    if all(isinstance(number, int) for number in images):
        found.append(('images', f'{images[0]} + {images[1]}', 'training + validation'))
    return found


def title_of(metric: str | None) -> str:
    return TITLES.get(metric or '', metric or 'metric')


def shown(metric: str | None, value: Any) -> str:
    if not is_number(value):
        return '-'
    if metric in IN_UNITS or metric == 'loss':
        return f'{value:.4f}'
    return f'{value:.1f} %' if metric in TITLES else f'{value:.4g}'


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f'{seconds:.1f} s'
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes} min {seconds:02} s'


def _figures(run: RunFacts) -> list[Figure]:
    columns = run.columns
    found = [curves('Loss', [
        Line(name, run.points(column), index) for index, (name, column) in enumerate(
            (('training', 'train_loss'), ('validation', 'eval_loss')))], may_be_logarithmic=True,
        note=_skipped(run, ('train_loss', 'eval_loss')))]
    scales = [column for column in columns if column.startswith('train_loss_')]
    found.append(curves('Training loss of each scale', [
        Line(column.removeprefix('train_loss_').replace('_', ' '), run.points(column), index)
        for index, column in enumerate(scales)], may_be_logarithmic=True,
        note='Before the weights of the scales.' if scales else ''))
    for group in _groups(columns, run.metric):
        best = run.best if run.metric in group and len(run.rows) > 1 else None
        title = ' and '.join(title_of(name) for name in group) if len(group) < 3 else 'Validation scores'
        title = 'Factors of depth' if 'delta1' in group else title
        unit = '' if group[0] in IN_UNITS or group[0] not in TITLES else 'Percent. '
        found.append(curves(
            title, [Line(title_of(name), run.points(f'eval_{name}'), index) for index, name in enumerate(group)],
            best=best, note=f'{unit}The ring is the best epoch, whose checkpoint is kept.' if best else unit))
    found.append(curves('Learning rate', [Line('rate', run.points('lr'))]))
    found.append(_time_figure(run.times))
    return [figure for figure in found if figure is not None]


def _groups(columns: Sequence[str], metric: str | None) -> list[list[str]]:
    """Scores of a unit that are drawn together; that which ranks is in the first."""
    names = [column.removeprefix('eval_') for column in columns if column.startswith('eval_')]
    names = [name for name in names if name != 'loss' and not name.startswith('iou_')]
    groups = [[name for name in group if name in names] for group in GROUPS]
    known = {name for group in groups for name in group}
    groups += [[name] for name in names if name not in known and not name.endswith('_err')]
    return sorted(filter(None, groups), key=lambda group: metric not in group)


def _skipped(run: RunFacts, columns: Sequence[str]) -> str:
    bad = sorted({int(epoch) for column in columns for epoch, value in run.points(column) if not math.isfinite(value)})
    return f'Not a finite number in epoch {", ".join(map(str, bad[:8]))}.' if bad else ''


def _time_figure(times: Sequence[Mapping[str, float]]) -> Figure | None:
    rows = [row for row in times if all(is_number(row.get(name)) for name in ('data', 'step', 'validation'))]
    names = {'step': 'training steps', 'data': 'waiting for data', 'validation': 'validation'}
    sums = {name: sum(row[name] for row in rows) for name in names}
    total = sum(sums.values()) or 1
    minutes = sum(sums.values()) > 120 * max(1, len(rows))
    said = ', '.join(f'{title} {sums[name] / total:.0%}' for name, title in names.items())
    said = said[:1].upper() + said[1:]
    most = max((row.get('batches', 0) for row in rows), default=0)
    parts = [int(row['epoch']) for row in rows if row.get('batches', most) < most]
    if parts:
        said += f'. Without what a process did that stopped within epoch {", ".join(map(str, parts[:8]))}'
    return stacked(
        'Time of each epoch', [row['epoch'] for row in rows],
        [(title, [row[name] / (60 if minutes else 1) for row in rows]) for name, title in names.items()],
        'minutes' if minutes else 'seconds', f'{said}.')


def _scores(images: Validation) -> list[tuple[str, str]]:
    return [(title_of(name), shown(name, images.results[name])) for name in TITLES
            if is_number(images.results.get(name))]


def _classes(run: RunFacts, images: Validation) -> dict[str, Any]:
    """Scores and pixels of each class: {'rows', 'columns': names of the scores, 'main': of the bar, 'of': what they are
    of, 'unit': what is counted}; without rows where nothing is known."""
    results, source = images.results, f'the {images.split} images, by the shown checkpoint'
    names = _names(results)
    of_class = results.get('classes') if isinstance(results.get('classes'), dict) else {}
    if not of_class and _matrix(images) is not None:
        of_class = _of_matrix(names, _matrix(images))
    if not of_class and run.best is not None:
        row = next(row for row in run.rows if row['epoch'] == run.best[0])
        of_class = {column.removeprefix('eval_iou_'): {'iou': value} for column, value in row.items()
                    if column.startswith('eval_iou_')}
        source = f'the validation of epoch {run.best[0]}'
    names = names or list(of_class)
    columns = [key for key in OF_CLASS if any(key in _of(of_class, name) for name in names)]
    pixels = dict(images.pixels)
    if not pixels and all('pixels' in _of(of_class, name) for name in names) and names:
        pixels = {'validation': [_of(of_class, name)['pixels'] for name in names]}
    sums = {part: sum(filter(is_number, counts)) or 1 for part, counts in pixels.items()}
    rows = [{
        'name': name, 'color': images.colors[index] if index < len(images.colors) else None,
        'scores': [_of(of_class, name).get(key) if is_number(_of(of_class, name).get(key)) else None
                   for key in columns],
        'pixels': {part: 100 * counts[index] / sums[part] if index < len(counts) and is_number(counts[index]) else None
                   for part, counts in pixels.items()},
    } for index, name in enumerate(names)] if columns or pixels else []
    unit = 'images' if run.task == 'classification' else 'pixels'
    return {'rows': rows, 'columns': columns, 'of': source, 'unit': unit, 'parts': list(pixels),
            'counted': {part: numbers for part, numbers in images.counted.items() if numbers[0] < numbers[1]}}


def _of(of_class: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of_class.get(name)
    return found if isinstance(found, Mapping) else {}


def _names(results: Mapping[str, Any]) -> list[str]:
    """Names of the classes, as the scores have them."""
    of_class, names = results.get('classes'), results.get('class_names')
    if isinstance(of_class, dict):
        return [str(name) for name in of_class]
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def _of_matrix(names: Sequence[str], counts: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall and number of images of each class of images, in percent."""
    hits = counts.diagonal()
    with np.errstate(invalid='ignore'):
        precision, recall = 100 * hits / counts.sum(0), 100 * hits / counts.sum(1)
    return {name: {'precision': float(precision[i]), 'recall': float(recall[i]), 'pixels': float(counts[i].sum())}
            for i, name in enumerate(names)}


def _matrix(images: Validation) -> np.ndarray | None:
    """The confusions of classes, where the results have them whole."""
    names = _names(images.results)
    try:
        counts = np.asarray(images.results.get('confusion', []), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    is_whole = counts.shape == (len(names),) * 2 and len(names) > 0 and np.isfinite(counts).all()
    return counts if is_whole and counts.min() >= 0 else None


def _confusion(images: Validation) -> dict[str, Any] | None:
    """{'names', 'rows': shares of each true class or None, 'picture', 'most': the greatest confusions}."""
    counts, names = _matrix(images), _names(images.results)
    if counts is None:
        return None
    sums = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(sums, 1)
    pairs = [(shares[i, j], i, j) for i in range(len(names)) for j in range(len(names))
             if i != j and shares[i, j] >= 0.0005]  # what is shown as 0.0 % is no confusion to look at
    most = [(names[i], names[j], 100 * share) for share, i, j in sorted(pairs, reverse=True)[:MOST_CONFUSIONS]]
    rows = [list(map(float, row)) if total > 0 else None for row, total in zip(shares, sums[:, 0], strict=True)]
    picture = None
    if len(names) > MOST_CELLS:
        picture = data_uri(confusion_picture(counts, [_printable(name) for name in names]), False, widest=None)
    return {'names': names, 'rows': rows, 'picture': picture, 'most': most}


def _printable(text: str) -> str:
    return ''.join(char if char.isprintable() else ' ' for char in text)[:60]


def _starts(run: RunFacts) -> list[dict[str, Any]]:
    """The starts of the run, the latest first, each as texts by title."""
    found = []
    for start in reversed(run.starts):
        machine, git, versions = (
            part if isinstance(part := start.get(name), dict) else {} for name in ('machine', 'git', 'versions'))
        memory = machine.get('memory')
        facts = {
            'begun': _time(start.get('time')), 'from epoch': start.get('epoch'), 'ended': _time(start.get('ended')),
            'end': start.get('end'), 'folder': start.get('place'), 'processes': start.get('processes'),
            'device': ' '.join(str(part) for part in (machine.get('device'), machine.get('accelerator')) if part),
            'processor': machine.get('processor'), 'cores': machine.get('cores'), 'threads': machine.get('threads'),
            'memory': f'{memory / 1e9:.0f} GB' if is_number(memory) else None,
            'host': machine.get('host'), 'system': machine.get('system'),
            'versions': ', '.join(f'{name} {version}' for name, version in versions.items()),
            **{f'git state of {"rexnet_timm" if name == "rexnet_timm" else "the folder"}': _git(state)
               for name, state in git.items() if isinstance(state, dict)}}
        facts = {title: str(value) for title, value in facts.items() if value not in (None, '')}
        found.append({'command': str(start.get('command') or '').split(' '), 'facts': facts})
    return found


def _time(text: Any) -> str | None:
    return text.replace('T', ' ') if isinstance(text, str) else None


def _git(state: Mapping[str, Any]) -> str:
    changed = state.get('changed')
    more = f', {changed} file{"s" * (changed != 1)} changed' if is_number(changed) and changed else ', no file changed'
    return f'{str(state.get("commit", ""))[:12]} on {state.get("branch", "")}{more}'


def shortest(path: str) -> str:
    """A path as it is typed from the current folder, where it lies below that."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
