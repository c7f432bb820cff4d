"""`rexnet train`: train a model of classes, masks or depth.

One process: rexnet train DATA --model rexnetv1_unet_1_0 --num-classes 11
Several:     torchrun --nproc-per-node 2 -m rexnet_timm train DATA --model rexnetv1_unet_1_0 --num-classes 11
"""
import argparse
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import yaml
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import TrainingTask
from timm.utils import random_seed, unwrap_model

from ..data import DataDescription
from ..data.health import BadSample
from ..data.parquet import no_stream
from ..deployment.run_pictures import RunPictures, default_interval
from ..files import atomic_path
from ..training.engine import Precision, check_metric, fit
from ..training.log_writers import TOOLS, LogWriters, require_tools
from ..training.record import RunRecord
from ..training.run_state import RunState
from ..training.saver import Saver, plain_history
from ..training.signals import StopRequest
from .arguments import create_train_parser, parse_train_args, repeatable_args, train_args_of, train_flags
from .bad_samples import leave_out_bad, write_bad
from .build import (
    Process,
    create_model,
    create_optimizer,
    learning_rate,
    saved_network,
    start_process,
    synchronize_batch_norm,
)
from .epoch_pictures import EpochPictures
from .faults import safe_after
from .kinds import Batches, Kind, kind_of
from .lock import folder_lock
from .mistakes import report_errors
from .parsing import Parser
from .planned import with_plan
from .progress import is_shown_live
from .report import report_after, require_report
from .resume import AUTO, Changes, Origin, changes_of, facts_of, find_origin, from_primary, make_folder

__all__ = ['main', 'run', 'train']

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Parts:
    """What a run trains, and with what."""
    kind: Kind
    num_classes: int
    model: nn.Module
    train_loader: Batches
    eval_loader: Batches
    eval_set: Any
    bad_samples: list[BadSample]  # which have been left out
    lr: float
    optimizer: torch.optim.Optimizer
    precision: Precision
    task: TrainingTask
    eval_metric: str
    decreasing: bool  # whether a lower metric is better


def run(args: argparse.Namespace, command: str = '') -> str:
    """Train as the arguments say; returns the folder of the run, in every process.

    Args:
        args: Of `parse_train_args`.
        command: What was typed, for the record of the run.
    """
    require_report(args.report)
    process = start_process(args.device, args.dist_timeout)
    with ExitStack() as stack:
        folder = _run(args, process, command, stack)
    if args.report and process.distributed:
        torch.distributed.destroy_process_group()  # the report is the work of one
    if args.report and process.primary:
        report_after(folder, process.device)
    return folder


def _run(args: argparse.Namespace, process: Process, command: str, stack: ExitStack) -> str:
    random_seed(args.seed, process.rank)
    if process.primary:
        _logger.info(
            f'{process.world_size} process(es) on {process.device.type}, {args.batch_size} images each and '
            f'{args.grad_accum_steps} batch(es) in an update')

    kind = kind_of(args.model, args.task)
    kind.check(args)
    require_tools(_log_tools(args))
    origin = find_origin(args, process)
    if process.primary:
        warn_of_options_for_others(args, process)
    if args.auto and kind.takes_plan(args):
        stored = getattr((origin.checkpoint or {}).get('args'), '__dict__', None)
        args = with_plan(args, process, stored)
    args, parts = _build(args, kind, process)
    record = {
        **repeatable_args(args), 'num_classes': parts.num_classes, 'lr': parts.lr, 'eval_metric': parts.eval_metric}
    facts = facts_of(parts.train_loader, process)
    changes = changes_of(args, origin.checkpoint, record, facts) if origin.checkpoint else None

    updates_per_epoch = -(-len(parts.train_loader) // args.grad_accum_steps)
    lr_scheduler, epochs = create_scheduler_v2(
        parts.optimizer, updates_per_epoch=updates_per_epoch, **scheduler_kwargs(args, parts.decreasing))
    # what rebuilds the model and prepares its images, beside the arguments of the run
    description = kind.description(args, parts.model, parts.eval_set)
    arguments = argparse.Namespace(
        **record, network=saved_network(args, parts.num_classes, kind.without_effect),
        description=description.to_dict())
    state = RunState(
        parts.task, parts.optimizer, lr_scheduler, parts.precision.scaler, arguments=arguments, facts=facts,
        rank=process.rank, world_size=process.world_size)
    if origin.checkpoint:
        _restore(args, state, origin, changes, updates_per_epoch)
    elif args.start_epoch:
        _start_at(args, state, args.start_epoch, updates_per_epoch)

    is_finished = state.epoch >= epochs  # no mistake: what restarts a job after a crash may restart a finished one
    if is_finished and origin.folder is None:
        folder = os.path.dirname(os.path.realpath(origin.path)) if origin.path else ''
    else:
        folder = from_primary(process, lambda: make_folder(
            args, origin, lambda folder: stack.enter_context(folder_lock(folder))))
        if process.primary:
            state.saver = _create_saver(args, parts, origin, folder)
    if is_finished:
        if process.primary:
            _logger.info(f'Nothing to train: {state.epoch} of {epochs} epochs are done; --epochs asks for more')
        return folder
    if process.primary:
        if state.epoch == 0:
            warn_of_slow_average(args, epochs * updates_per_epoch)
        parameters = sum(parameter.numel() for parameter in parts.model.parameters())
        _logger.info(f'{args.model}: {parameters / 1e6:.2f} M parameters, epochs {state.epoch} to {epochs - 1}')
        with atomic_path(os.path.join(folder, 'args.yaml')) as part, open(part, 'w', encoding='utf-8') as file:
            yaml.safe_dump(record, file, default_flow_style=False)
        write_bad(folder, parts.bad_samples)
    stack.enter_context(safe_after(folder if process.primary else None))
    stack.enter_context(_recorded(command, parts, state, process, folder, epochs, origin.folder is not None))
    stop = stack.enter_context(StopRequest(process.world_size))
    log = stack.enter_context(LogWriters(_log_tools(args) if process.primary else (), folder, record))
    tell = _after_epoch(args, parts, description, folder, (state.epoch, epochs), log) if process.primary else None
    best_metric, best_epoch = fit(
        parts.task, parts.train_loader, parts.eval_loader, parts.optimizer, epochs, lr_scheduler=lr_scheduler,
        precision=parts.precision, eval_metric=parts.eval_metric, output_dir=folder, dist_bn=args.dist_bn,
        primary=process.primary, channels_last=args.channels_last, recovery_interval=args.recovery_interval,
        state=state, mixup_fn=kind.mixup(args, parts.num_classes, process), grad_accum_steps=args.grad_accum_steps,
        clip_grad=args.clip_grad, clip_mode=args.clip_mode, log_interval=args.log_interval,
        progress=args.progress and is_shown_live(), seed=args.seed, max_skipped=args.max_skipped, stop=stop, log=tell)
    if process.distributed:
        torch.distributed.barrier()  # the primary process is still writing; older releases hang if a peer is gone then
    if best_metric is not None:
        _logger.info(f'Best {parts.eval_metric} {best_metric:.4g} in epoch {best_epoch}; checkpoints in {folder}')
    return folder


def _recorded(
        command: str, parts: _Parts, state: RunState, process: Process, folder: str, epochs: int, goes_on: bool,
) -> AbstractContextManager:
    """Notes this start of the run in its folder, and its end."""
    if not process.primary:
        return nullcontext()
    facts = {
        'command': command, 'place': os.getcwd(), 'epoch': state.epoch, 'epochs': epochs, 'task': parts.kind.name,
        'decreasing': parts.decreasing, 'processes': process.world_size,
        'parameters': sum(parameter.numel() for parameter in parts.model.parameters()),
        'training_images': _length(parts.train_loader.dataset), 'validation_images': _length(parts.eval_set)}
    return RunRecord(folder, facts, process.device, goes_on)


def _length(dataset: Any) -> int | None:
    return len(dataset) if hasattr(dataset, '__len__') else None


def _after_epoch(
        args: argparse.Namespace,
        parts: _Parts,
        description: DataDescription,
        folder: str,
        span: tuple[int, int],
        log: LogWriters,
) -> Callable[[int, Mapping[str, float]], None]:
    """What gives the numbers of an epoch to the logs, and then draws; `span` is where the run begins and ends."""
    start, end = span
    every = default_interval(end) if args.picture_interval is None else args.picture_interval
    draw = EpochPictures(
        RunPictures(folder, parts.eval_set, description, every, end, start),
        lambda: unwrap_model(parts.task.get_eval_model(ema=parts.task.has_ema())), log)

    def tell(epoch: int, values: Mapping[str, float]) -> None:
        log.add(epoch, values)
        draw(epoch)

    return tell


def _log_tools(args: argparse.Namespace) -> list[str]:
    return [tool for tool in TOOLS if getattr(args, f'log_{tool}')]


def _build(args: argparse.Namespace, kind: Kind, process: Process) -> tuple[argparse.Namespace, _Parts]:
    """The arguments with what the data say where they say nothing, and data, model, optimizer and task of them."""
    num_classes = kind.num_classes(args)
    datasets = kind.datasets(args, num_classes)
    bad = leave_out_bad(args, datasets, process)
    args = kind.completed(args, datasets)
    model = create_model(args, num_classes, kind.without_effect)
    num_classes = num_classes or model.num_classes
    train_loader, eval_loader = kind.loaders(args, model, datasets, process)
    model.to(process.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    if process.distributed and args.sync_bn:
        model = synchronize_batch_norm(model, process.device)
    lr = learning_rate(args, process.world_size)
    optimizer = create_optimizer(args, model, lr)
    precision = Precision.create(process.device, args.amp, args.amp_dtype, process.primary)
    task = kind.task(args, model, num_classes, datasets[1], process)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    evaluator = task.create_evaluator()
    eval_metric = args.eval_metric or evaluator.default_metric
    check_metric(task, eval_metric)  # before anything is written
    decreasing = eval_metric in getattr(evaluator, 'decreasing_metrics', ('loss',))  # timm's evaluators do not say
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if process.distributed:
        with warnings.catch_warnings():
            # newer torch has another name, which sends buffers once even where each process is to keep its own
            warnings.filterwarnings('ignore', '.*broadcast_buffers.*', FutureWarning)
            task.prepare_distributed(
                device_ids=[process.device] if process.device.type == 'cuda' else None,
                broadcast_buffers=not args.no_ddp_bb)
    return args, _Parts(
        kind, num_classes, model, train_loader, eval_loader, datasets[1], bad, lr, optimizer, precision, task,
        eval_metric, decreasing)


def _restore(
        args: argparse.Namespace, state: RunState, origin: Origin, changes: Changes, updates_per_epoch: int) -> None:
    """Go on from a checkpoint."""
    # one of timm's own does not tell with what it was written
    keep_options = changes.of_optimizer or args.no_resume_opt or 'run' not in origin.checkpoint
    state.restore(
        origin.checkpoint, origin.path, with_optimizer=not args.no_resume_opt, keep_options=keep_options,
        same_batches=not changes.of_batches)
    if args.resume != AUTO and args.start_epoch not in (None, state.epoch):  # with auto, that of the first start
        _start_at(args, state, args.start_epoch, updates_per_epoch)
    elif keep_options:
        _set_rate(args, state, updates_per_epoch)
    if state.rank == 0:
        batch = f', batch {state.batch}' if state.batch else ''
        _logger.info('Resumed %s, going on with epoch %d%s', origin.path, state.epoch, batch)


def _start_at(args: argparse.Namespace, state: RunState, epoch: int, updates_per_epoch: int) -> None:
    state.begin_epoch(epoch)
    _set_rate(args, state, updates_per_epoch)


def _set_rate(args: argparse.Namespace, state: RunState, updates_per_epoch: int) -> None:
    """Have the schedule set the rate of the place in the run."""
    if state.lr_scheduler is None or (state.epoch, state.batch) == (0, 0):
        return
    if args.sched_on_updates:
        state.lr_scheduler.step_update(state.epoch * updates_per_epoch + state.batch // args.grad_accum_steps)
    else:
        state.lr_scheduler.step(state.epoch)


def _create_saver(args: argparse.Namespace, parts: _Parts, origin: Origin, folder: str) -> Saver:
    """The saver; where the run goes on in its own folder, with the checkpoints that are there and the best one."""
    saver = Saver(folder, parts.decreasing, args.checkpoint_hist)
    if origin.checkpoint is None or origin.folder is None:
        return saver
    stored = getattr(origin.checkpoint.get('args'), '__dict__', {}).get('eval_metric', parts.eval_metric)
    history = plain_history(origin.checkpoint.get('saver'))
    if stored != parts.eval_metric:
        _logger.warning(
            'Checkpoints are ranked anew: the run so far ranked them by %s, not by %s.', stored, parts.eval_metric)
        history = {}
    saver.load_state_dict(history, origin.path)
    return saver


def warn_of_options_for_others(args: argparse.Namespace, process: Process) -> None:
    """Say which options need several processes or another device."""
    lacking = {} if process.distributed else dict.fromkeys(
        ('dist_bn', 'dist_timeout', 'no_ddp_bb', 'sync_bn'), 'one process')
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
    if data is not None and not isinstance(data, (str, os.PathLike)):
        raise ValueError(no_stream(data) if not hasattr(data, '__len__') else (
            f'data must be the path of the data, got {type(data).__name__}: pass the folder of its files.'))
    parser = create_train_parser()
    try:
        with _log_shown(parser):
            words = ([] if data is None else [repr(data)]) + [f'{name}={value!r}' for name, value in options.items()]
            return run(train_args_of({'data': data, **options}), f'rexnet_timm.train({", ".join(words)})')
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
            words = sys.argv[1:] if argv is None else argv
            run(parse_train_args(words, prog), shlex.join([*prog.split(), *words]))
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    return report_errors(prog, command, train_flags())
