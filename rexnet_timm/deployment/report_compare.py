"""What the page of several runs shows, as plain values for its template."""
import math
import os
import shlex
from collections.abc import Sequence
from typing import Any

from ..models.card import IN_UNITS
from .report_figures import COLORS, Figure, Line, curves
from .report_page import duration, is_number, shortest, shown, title_of
from .run_facts import RunFacts

__all__ = ['comparison_of']

# Options that say nothing of what a run computes
NOT_COMPARED = {
    'allow_changed', 'checkpoint_hist', 'data', 'device', 'dist_timeout', 'experiment', 'log_interval', 'output',
    'overwrite', 'progress', 'recovery_interval', 'report', 'resume', 'workers', 'pin_mem', 'log_tensorboard',
    'log_trackio', 'log_wandb', 'validation_batch_size'}


def comparison_of(runs: Sequence[RunFacts]) -> dict[str, Any]:
    """The values of the template for several runs."""
    names = _distinct([run.folder for run in runs])
    return {
        'title': f'{len(runs)} runs', 'is_comparison': True, 'rows': _compared(runs, names),
        'figures': _overlaid(runs, names), 'differing': _differing(runs), 'names': names,
        'classes': _compared_classes(runs), 'notes': [f'{name}: {note}' for name, run in zip(names, runs, strict=True)
                                                      for note in run.notes],
        'quoted': ' '.join(shlex.quote(shortest(run.folder)) for run in runs)}


def _distinct(folders: Sequence[str]) -> list[str]:
    """The last parts of the paths, as many as tell them apart; numbered where they are the same."""
    parts = [folder.split(os.sep) for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(folders)):
            break
    return [name if names.count(name) == 1 else f'{name} ({index + 1})' for index, name in enumerate(names)]


def _compared(runs: Sequence[RunFacts], names: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        best, seconds = run.best, sum(run.seconds.values())
        parameters = run.start.get('parameters')
        done = int(run.rows[-1]['epoch']) + 1 if run.rows else 0
        machine = run.start.get('machine') if isinstance(run.start.get('machine'), dict) else {}
        rows.append({
            'name': name, 'color': index % COLORS, 'facts': {
                'model': str(run.arguments.get('model', '')), 'task': run.task or '',
                'score': f'{title_of(run.metric)} {shown(run.metric, best[1])}' if best else '-',
                'epoch': str(best[0]) if best else '-',
                'epochs': f'{done} of {run.epochs}' if run.epochs else str(done), 'state': run.state,
                'parameters': f'{parameters / 1e6:.2f} M' if is_number(parameters) else '-',
                'time': duration(seconds) if seconds else '-',
                'an epoch': f'{seconds / len(run.times):.1f} s' if seconds else '-',
                'device': str(machine.get('accelerator') or machine.get('device') or '-')}})
    return rows


def _overlaid(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Figure]:
    def overlaid(title: str, column: str, **options: Any) -> Figure | None:
        return curves(title, [Line(name, run.points(column), index) for index, (run, name) in enumerate(
            zip(runs, names, strict=True)) if run.points(column)], is_named=True, **options)

    metrics = list(dict.fromkeys(run.metric for run in runs if run.metric))
    found = []
    for metric in metrics:
        found.append(overlaid(title_of(metric), f'eval_{metric}', note='' if metric in IN_UNITS else 'Percent.'))
        timed = [_against_time(run, f'eval_{metric}') for run in runs]
        found.append(curves(f'{title_of(metric)} against time', [
            Line(name, points, index) for index, (name, points) in enumerate(zip(names, timed, strict=True)) if points],
            x_label='minutes', is_named=True))
    found += [overlaid('Validation loss', 'eval_loss', may_be_logarithmic=True),
              overlaid('Training loss', 'train_loss', may_be_logarithmic=True), overlaid('Learning rate', 'lr')]
    return [figure for figure in found if figure is not None]


def _against_time(run: RunFacts, column: str) -> list[tuple[float, float]]:
    """Minutes until the end of an epoch and its value; none where the time of an epoch is not known."""
    values, minutes, points = dict(run.points(column)), 0., []
    for row in run.times:
        minutes += sum(row.get(name, math.nan) for name in ('data', 'step', 'validation')) / 60
        if row['epoch'] in values and math.isfinite(minutes):
            points.append((minutes, values[row['epoch']]))
    return points if len(points) == len(values) else []


def _differing(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """The options that are not the same in all runs, with the values of each."""
    names = sorted({name for run in runs for name in run.arguments} - NOT_COMPARED)
    found = []
    for name in names:
        values = [run.arguments.get(name) for run in runs]
        if any(value != values[0] for value in values):
            found.append((name.replace('_', '-'), ['' if value is None else str(value) for value in values]))
    return found


def _compared_classes(runs: Sequence[RunFacts]) -> list[tuple[str, list[float | None]]]:
    """IoU of each class in the best epoch of each run, where the runs have the same classes."""
    of_runs = []
    for run in runs:
        row = next((row for row in run.rows if run.best and row['epoch'] == run.best[0]), {})
        of_runs.append({column.removeprefix('eval_iou_'): value for column, value in row.items()
                        if column.startswith('eval_iou_')})
    if not of_runs[0] or any(of_run.keys() != of_runs[0].keys() for of_run in of_runs):
        return []
    return [(name, [of_run[name] if math.isfinite(of_run[name]) else None for of_run in of_runs])
            for name in of_runs[0]]
