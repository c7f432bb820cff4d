"""`rexnet train`: train a model of classes, masks or depth.

One process: rexnet train DATA --model rexnetv1_unet_1_0 --num-classes 11
Several:     torchrun --nproc-per-node 2 -m rexnet_timm train DATA --model rexnetv1_unet_1_0 --num-classes 11
"""
import argparse
import glob
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import torch
import torch.nn as nn
import yaml
from timm.models import safe_model_name
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import CheckpointSaver, get_outdir, random_seed

from ..training.engine import Precision, check_metric, fit
from ..training.run_state import RunState, resume
from .arguments import create_train_parser, parse_train_args, repeatable_args, train_args_of, train_flags
from .build import (
    Process,
    create_model,
    create_optimizer,
    learning_rate,
    saved_network,
    start_process,
    synchronize_batch_norm,
)
from .kinds import kind_of
from .parsing import Parser, UsageError, report_errors

__all__ = ['main', 'run', 'train']

_logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> str:
    """Train as the arguments say; returns the folder of the run, in every process."""
    process = start_process(args.device)
    random_seed(args.seed, process.rank)
    if process.primary:
        _logger.info(
            f'{process.world_size} process(es) on {process.device.type}, {args.batch_size} images each and '
            f'{args.grad_accum_steps} batch(es) in an update')

    kind = kind_of(args.model)
    kind.check(args)
    if process.primary:
        refuse_another_run(args)
        warn_of_options_for_others(args, process)
    num_classes = kind.num_classes(args)
    datasets = kind.datasets(args, num_classes)
    model = create_model(args, num_classes, kind.without_effect)
    num_classes = num_classes or model.num_classes
    train_loader, eval_loader = kind.loaders(args, model, datasets, process)
    model.to(process.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    if process.distributed and args.sync_bn:
        model = synchronize_batch_norm(model, process.device)
    lr = learning_rate(args, process.world_size)
    optimizer = create_optimizer(args, model, lr)
    precision = Precision.create(process.device, args.amp, args.amp_dtype)
    task = kind.task(args, model, num_classes, datasets[1], process)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    evaluator = task.create_evaluator()
    eval_metric = args.eval_metric or evaluator.default_metric
    check_metric(task, eval_metric)  # before anything is written
    decreasing = eval_metric in getattr(evaluator, 'decreasing_metrics', ('loss',))  # timm's evaluators do not say

    state = RunState(0)
    if args.resume:
        state = resume(args.resume, task, None if args.no_resume_opt else optimizer, precision.scaler)
    start_epoch = state.epoch if args.start_epoch is None else args.start_epoch
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if process.distributed:
        task.prepare_distributed(
            device_ids=[process.device] if process.device.type == 'cuda' else None,
            broadcast_buffers=not args.no_ddp_bb)

    updates_per_epoch = -(-len(train_loader) // args.grad_accum_steps)
    lr_scheduler, epochs = create_scheduler_v2(
        optimizer, updates_per_epoch=updates_per_epoch, **scheduler_kwargs(args, decreasing))
    if start_epoch >= epochs:  # no mistake: what restarts a job after a crash may restart a finished one
        if process.primary:
            _logger.info(f'Nothing to train: {start_epoch} of {epochs} epochs are done; --epochs asks for more')
        return os.path.dirname(os.path.realpath(args.resume)) if args.resume else ''
    if start_epoch > 0 and lr_scheduler is not None:
        if args.sched_on_updates:
            lr_scheduler.step_update(start_epoch * updates_per_epoch)
        else:
            lr_scheduler.step(start_epoch)

    saver, output_dir = None, None
    if process.primary:
        if start_epoch == 0:
            warn_of_slow_average(args, epochs * updates_per_epoch)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        _logger.info(f'{args.model}: {parameters / 1e6:.2f} M parameters, epochs {start_epoch} to {epochs - 1}')
        output_dir = run_folder(args)
        record = {**repeatable_args(args), 'num_classes': num_classes, 'lr': lr, 'eval_metric': eval_metric}
        with open(os.path.join(output_dir, 'args.yaml'), 'w', encoding='utf-8') as file:
            yaml.safe_dump(record, file, default_flow_style=False)
        # what rebuilds the model and prepares its images, beside the arguments of the run
        record |= {
            'network': saved_network(args, num_classes, kind.without_effect),
            'description': kind.description(args, model, datasets[1]).to_dict()}
        saver = create_saver(args, record, model, optimizer, precision, task, decreasing, output_dir, state)
    output_dir = _same_everywhere(output_dir, process)
    best_metric, best_epoch = fit(
        task, train_loader, eval_loader, optimizer, epochs, start_epoch,
        lr_scheduler=lr_scheduler, precision=precision, eval_metric=eval_metric, saver=saver,
        output_dir=output_dir, world_size=process.world_size, dist_bn=args.dist_bn, primary=process.primary,
        channels_last=args.channels_last, mixup_fn=kind.mixup(args, num_classes, process),
        grad_accum_steps=args.grad_accum_steps, clip_grad=args.clip_grad, clip_mode=args.clip_mode,
        log_interval=args.log_interval, progress=args.progress)
    if process.distributed:
        torch.distributed.barrier()  # the primary process is still writing; older releases hang if a peer is gone then
    if best_metric is not None:
        _logger.info(f'Best {eval_metric} {best_metric:.4g} in epoch {best_epoch}; checkpoints in {output_dir}')
    return output_dir


def _same_everywhere(folder: str | None, process: Process) -> str:
    """What the primary process says."""
    values = [folder]
    if process.distributed:
        torch.distributed.broadcast_object_list(values)
    return values[0]


def refuse_another_run(args: argparse.Namespace) -> None:
    """UsageError for an --experiment that holds a run which this one neither goes on with nor may replace."""
    folder = os.path.join(args.output or os.path.join('output', 'train'), args.experiment)
    if not args.experiment or args.overwrite and not args.resume or not _files_of_run(folder):
        return
    if args.overwrite:
        raise UsageError('--overwrite replaces a run and --resume goes on with one: leave one of them out.')
    if not args.resume or os.path.realpath(os.path.dirname(args.resume)) != os.path.realpath(folder):
        raise UsageError(
            f'{folder!r} holds a run: name another --experiment, replace it with --overwrite, or go on with it by '
            f'--config {os.path.join(folder, "args.yaml")} --resume {os.path.join(folder, "last.pth.tar")}.')


def _files_of_run(folder: str) -> list[str]:
    return [path for pattern in ('args.yaml', 'summary.csv', '*.pth.tar')
            for path in glob.glob(os.path.join(glob.escape(folder), pattern))]


def run_folder(args: argparse.Namespace) -> str:
    """The folder of a run, which is made: that of the resumed checkpoint unless another is asked for."""
    if args.resume and not args.experiment:
        folder = os.path.dirname(os.path.realpath(args.resume))
        # where runs go may be repeated, as the arguments of the run do
        if not args.output or os.path.realpath(args.output) == os.path.dirname(folder):
            return folder
    root = args.output or os.path.join('output', 'train')
    if args.experiment:
        folder = get_outdir(root, args.experiment)
        if args.overwrite:
            for path in _files_of_run(folder):
                os.remove(path)
        return folder
    os.makedirs(root, exist_ok=True)
    name = os.path.join(root, f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(args.model)}')
    for number in itertools.count(1):
        folder = name if number == 1 else f'{name}-{number}'
        try:
            os.mkdir(folder)  # which fails where a run of the same second has made it
        except FileExistsError:
            continue
        return folder


def create_saver(
        args: argparse.Namespace,
        record: dict,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        task: torch.nn.Module,
        decreasing: bool,
        output_dir: str,
        state: RunState,
) -> CheckpointSaver:
    """timm's saver; where the run goes on in its own folder, with the checkpoints that are there and the best one."""
    saver = CheckpointSaver(
        model, optimizer, args=argparse.Namespace(**record), amp_scaler=precision.scaler, checkpoint_dir=output_dir,
        recovery_dir=output_dir, decreasing=decreasing, max_history=args.checkpoint_hist, task=task)
    if state.history and os.path.samefile(os.path.dirname(os.path.abspath(args.resume)), output_dir):
        if state.arguments.get('eval_metric', record['eval_metric']) == record['eval_metric']:
            saver.load_state_dict(state.history)
        else:
            _logger.warning(
                'Checkpoints are ranked anew: the run so far ranked them by %s, not by %s.',
                state.arguments['eval_metric'], record['eval_metric'])
    return saver


def warn_of_options_for_others(args: argparse.Namespace, process: Process) -> None:
    """Say which options need several processes or another device."""
    lacking = {} if process.distributed else dict.fromkeys(('dist_bn', 'no_ddp_bb', 'sync_bn'), 'one process')
    if process.device.type != 'cuda':
        lacking['pin_mem'] = f'--device {process.device.type}'
    for name in sorted(lacking.keys() & set(args.given)):
        _logger.warning('--%s has no effect on %s.', name.replace('_', '-'), lacking[name])


def warn_of_slow_average(args: argparse.Namespace, updates: int) -> None:
    """Say so where the moving average of the weights would still hold much of the initial ones after a run."""
    share = args.model_ema_decay ** updates
    if args.model_ema and not args.model_ema_warmup and share > 0.01:
        # a tenth of the initial variances in BatchNorm is enough for an average that knows nothing
        _logger.warning(
            'The average of the weights, which is what is evaluated, will consist of the initial ones to %.0f %% after '
            '%d updates: add --model-ema-warmup, or lower --model-ema-decay from %g.', 100 * share, updates,
            args.model_ema_decay)


def train(data: str | os.PathLike | None = None, **options: Any) -> str:
    """Train as `rexnet_timm.train` says; returns the folder of the run."""
    parser = create_train_parser()
    try:
        with _log_shown(parser):
            return run(train_args_of({'data': data, **options}))
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (parser.without_flags(error.args[0]),)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


class _InPython(logging.Formatter):
    """Messages with the names of the options as Python has them."""

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser

    def format(self, record: logging.LogRecord) -> str:
        return self.parser.without_flags(super().format(record))


@contextmanager
def _log_shown(parser: Parser) -> Iterator[None]:
    """Show the log of a run where nothing else does, as in a notebook."""
    logger = logging.getLogger(__package__.partition('.')[0])
    if logger.hasHandlers():
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(_InPython(parser))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(argv: Sequence[str] | None = None, prog: str = 'rexnet train') -> int:
    """Train from a command line; returns the exit status. Mistakes of the user end with one line."""
    def command() -> None:
        try:
            run(parse_train_args(argv, prog))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return report_errors(prog, command, train_flags())
