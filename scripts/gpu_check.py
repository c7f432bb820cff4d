#!/usr/bin/env python3
"""Whether everything works on this machine's CUDA device, and how fast, in one command of at most eight minutes.

    python scripts/gpu_check.py --data CAMVID

Its steps (gpu_steps.py) compare the networks and the losses with the CPU's, train in float32, float16 and bfloat16,
with the lean layers and without, compiled and not, measure the networks beside SMP's, predict a large image, and train
for a few epochs, on CamVid where it is given, and on two devices where there are two. Each is a process of its own, so
that the rest goes on where one fails or hangs. What the budget does not reach is skipped and said.

gpu-check.json and gpu-check.md are written, after every step, and NAME.log of each. The exit status is 1 if a step
failed. On a machine without CUDA the same steps run in small, to test themselves: their times mean nothing.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rexnet_timm.files import atomic_path

Step = dict[str, Any]

# In their order, with the seconds that each is expected to need: it is skipped where fewer are left, and fails where it
# takes three times as many.
STEPS = {
    'environment': 15, 'models': 30, 'losses': 15, 'training-steps': 40, 'lean': 50, 'benchmark': 90,
    'benchmark-amp': 80, 'large-image': 20, 'training': 50, 'two-processes': 40, 'compile': 60}
PATIENCE = 3
COLUMNS = {
    'training_ms': ('training ms', '{:.1f}'), 'inference_ms': ('inference ms', '{:.1f}'),
    'memory_mib': ('peak MiB', '{:.0f}'), 'difference': ('difference', '{:.1e}')}


def run_step(name: str, args: argparse.Namespace, seconds: float) -> Step:
    """Run a step in a process of its own, for as many seconds at most.

    Returns:
        'step'; 'result', one of 'passed', 'failed' and 'skipped'; 'seconds'; 'rows' of what it did; 'reason', why it
        did not pass.
    """
    command = [
        sys.executable, str(Path(__file__).with_name('gpu_steps.py')), name, '--device', args.device, '--output',
        str(args.output), *(['--data', args.data] if args.data else [])]
    result, log = args.output / f'{name}.json', args.output / f'{name}.log'
    result.unlink(missing_ok=True)
    start = time.perf_counter()
    with open(log, 'w') as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    found = json.loads(result.read_text()) if result.exists() else {'rows': [], 'error': ''}
    step = {'step': name, 'seconds': time.perf_counter() - start, 'rows': found['rows']}
    if status is None:
        by_budget = seconds < PATIENCE * STEPS[name]
        return step | {'result': 'skipped' if by_budget else 'failed', 'reason': (
            f'it was ended after {seconds:.0f} s, not finished{", with the budget" * by_budget}')}
    if status:
        error = found['error'] or f'the process ended with exit status {status}'
        return step | {'result': 'failed', 'reason': f'{error} ({log} has more)'}
    faults = [f'{row["case"]}: {row["fault"]}' for row in found['rows'] if 'fault' in row]
    if faults:
        return step | {'result': 'failed', 'reason': '; '.join(faults)}
    skipped = [row['skipped'] for row in found['rows'] if 'skipped' in row]
    if skipped:
        return step | {'result': 'skipped', 'reason': skipped[0]}
    return step | {'result': 'passed', 'reason': ''}


def _end(process: subprocess.Popen) -> None:
    # with the processes that it has started, which are of its session
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run_steps(args: argparse.Namespace) -> list[Step]:
    """Run the steps in their order as far as the budget goes, and write after each what there is."""
    start, steps = time.perf_counter(), []
    for name in args.steps:
        left, needed = args.budget - (time.perf_counter() - start), STEPS[name]
        if left < needed:
            reason = f'{max(0, left):.0f} s of the budget of {args.budget:g} s were left, and it needs about {needed} s'
            steps.append({'step': name, 'result': 'skipped', 'seconds': 0., 'rows': [], 'reason': reason})
        else:
            steps.append(run_step(name, args, min(PATIENCE * needed, left)))
        step = steps[-1]
        print(f'{name:<16} {step["result"]:<8} {step["seconds"]:5.0f} s  {step["reason"]}', flush=True)
        write_results(args, steps)
    return steps


def write_results(args: argparse.Namespace, steps: Sequence[Step]) -> None:
    """Write gpu-check.json and gpu-check.md."""
    report = {'device': args.device, 'data': args.data, 'budget': args.budget, 'steps': list(steps)}
    for name, text in (('gpu-check.json', json.dumps(report, indent=1)), ('gpu-check.md', table(steps))):
        with atomic_path(args.output / name) as part:
            Path(part).write_text(f'{text}\n')


def table(steps: Sequence[Step]) -> str:
    """All steps and their rows as one Markdown table."""
    titles = ['step', 'case', *(title for title, _ in COLUMNS.values()), 'result', 'notes']
    lines = [titles, ['---'] * len(titles)]
    for step in steps:
        verdict = f'**{step["result"]}**' if step['result'] != 'passed' else 'passed'
        lines.append([step['step'], '', *[''] * len(COLUMNS), f'{verdict}, {step["seconds"]:.0f} s', step['reason']])
        for row in step['rows']:
            numbers = [form.format(row[key]) if key in row else '' for key, (_, form) in COLUMNS.items()]
            lines.append(['', row['case'], *numbers, '**failed**' if 'fault' in row else '', row.get('note', '')])
    return '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |' for cells in lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', choices=['cuda', 'cpu'],
                        help='device (default here: %(default)s)')
    parser.add_argument('--data', metavar='DIR', help='folder of CamVid, to train on (default: the built-in set)')
    parser.add_argument('--budget', type=float, default=480., metavar='SECONDS',
                        help='seconds in all (default: %(default)g)')
    parser.add_argument('--steps', nargs='+', default=list(STEPS), choices=list(STEPS), metavar='STEP',
                        help=f'some of {", ".join(STEPS)} (default: all)')
    parser.add_argument('--output', type=Path, default=Path('output', 'gpu_check'),
                        help='folder (default: %(default)s)')
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('torch finds no CUDA device here: leave out --device to try the steps on the CPU, in small')
    if args.data and not Path(args.data).is_dir():
        parser.error(f'--data must be a folder, and there is none {args.data!r}')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; returns 1 if one failed."""
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.output / 'train', ignore_errors=True)  # of a check before
    small = '' if args.device == 'cuda' else ', which has no CUDA: in small, to test the steps themselves'
    print(f'Checking {args.device}{small}', flush=True)
    steps = run_steps(args)
    counts = {name: sum(step['result'] == name for step in steps) for name in ('passed', 'failed', 'skipped')}
    print(f'\n{", ".join(f"{number} {name}" for name, number in counts.items())}: {args.output / "gpu-check.md"}')
    return int(counts['failed'] > 0)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without ending its step
    sys.exit(main())
