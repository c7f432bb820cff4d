#!/usr/bin/env python3
""" Train a model of classes, masks or depth. `python scripts/train.py --help` lists the arguments.

One process: python scripts/train.py DATA --model rexnetv1_unet_1_0 --num-classes 11
Several:     scripts/distributed_train.sh 2 DATA --model rexnetv1_unet_1_0 --num-classes 11
"""
import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime

import torch
import yaml
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import CheckpointSaver, get_outdir, init_distributed_device, random_seed, setup_default_logging

import rexnet_timm  # noqa: F401 - registers the models
from rexnet_timm.cli import build
from rexnet_timm.cli.arguments import parse_train_args, repeatable_args
from rexnet_timm.data import DatasetError, sample_error_message
from rexnet_timm.training.engine import Precision, fit
from rexnet_timm.training.run_state import resume

_logger = logging.getLogger('train')


def run(args: argparse.Namespace) -> tuple[float | None, int | None]:
    """Train as the arguments say; returns the best metric and its epoch on the primary process."""
    args.device = args.device or build.default_device()
    device = init_distributed_device(args)
    random_seed(args.seed, args.rank)
    primary = args.rank == 0
    if primary:
        _logger.info(
            f'{args.world_size} process(es) on {device.type}, {args.batch_size} images each '
            f'and {args.grad_accum_steps} batch(es) in an update')

    model = build.create_model(args)
    train_loader, eval_loader = build.create_loaders(args, model, device)
    model.to(device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)
    if args.distributed and args.sync_bn:
        model = build.synchronize_batch_norm(model, device)
    optimizer = build.create_optimizer(args, model)
    precision = Precision.create(device, args.amp, args.amp_dtype)
    task = build.create_task(args, model, eval_loader.dataset, device)
    mixup_fn = build.create_mixup(args, model)
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup)
    evaluator = task.create_evaluator()
    args.eval_metric = args.eval_metric or evaluator.default_metric
    decreasing = args.eval_metric in getattr(evaluator, 'decreasing_metrics', ('loss',))  # timm's evaluators do not say

    start_epoch = 0
    if args.resume:
        start_epoch = resume(args.resume, task, None if args.no_resume_opt else optimizer, precision.scaler)
    if args.start_epoch is not None:
        start_epoch = args.start_epoch
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if args.distributed:
        task.prepare_distributed(
            device_ids=[device] if device.type == 'cuda' else None, broadcast_buffers=not args.no_ddp_bb)

    updates_per_epoch = -(-len(train_loader) // args.grad_accum_steps)
    lr_scheduler, epochs = create_scheduler_v2(
        optimizer, updates_per_epoch=updates_per_epoch, **scheduler_kwargs(args, decreasing))
    if start_epoch >= epochs:  # no mistake: what restarts a job after a crash may restart a finished one
        if primary:
            _logger.info(f'Nothing to train: {start_epoch} of {epochs} epochs are done; --epochs asks for more')
        return None, None
    if start_epoch > 0:
        if args.sched_on_updates:
            lr_scheduler.step_update(start_epoch * updates_per_epoch)
        else:
            lr_scheduler.step(start_epoch)

    saver, output_dir = None, None
    if primary:
        if start_epoch == 0:
            build.warn_of_slow_average(args, epochs * updates_per_epoch)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        _logger.info(f'{args.model}: {parameters / 1e6:.2f} M parameters, epochs {start_epoch} to {epochs - 1}')
        experiment = args.experiment or f'{datetime.now():%Y%m%d-%H%M%S}-{args.model}'
        output_dir = get_outdir(args.output or os.path.join('output', 'train'), experiment)
        with open(os.path.join(output_dir, 'args.yaml'), 'w') as file:
            yaml.safe_dump(repeatable_args(args), file, default_flow_style=False)
        saver = CheckpointSaver(
            model, optimizer, args=args, amp_scaler=precision.scaler, checkpoint_dir=output_dir,
            recovery_dir=output_dir, decreasing=decreasing, max_history=args.checkpoint_hist, task=task)
    best_metric, best_epoch = fit(
        task, train_loader, eval_loader, optimizer, epochs, start_epoch,
        lr_scheduler=lr_scheduler, precision=precision, eval_metric=args.eval_metric, saver=saver,
        output_dir=output_dir, world_size=args.world_size, dist_bn=args.dist_bn, primary=primary,
        channels_last=args.channels_last, mixup_fn=mixup_fn, grad_accum_steps=args.grad_accum_steps,
        clip_grad=args.clip_grad, clip_mode=args.clip_mode, log_interval=args.log_interval, progress=args.progress)
    if args.distributed:
        torch.distributed.barrier()  # the primary process is still writing; older releases hang if a peer is gone then
    if best_metric is not None:
        _logger.info(f'Best {args.eval_metric} {best_metric:.4g} in epoch {best_epoch}; checkpoints in {output_dir}')
    return best_metric, best_epoch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status. Mistakes of the user end with one line on standard error."""
    try:
        run(parse_train_args(argv))
    except DatasetError as error:
        print(f'train.py: error: {sample_error_message(error)}', file=sys.stderr)
        return 2
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        _logger.debug('', exc_info=True)
        if int(os.environ.get('RANK', 0)) == 0:  # the others fail alike
            print(f'train.py: error: {error}', file=sys.stderr)
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


if __name__ == '__main__':
    setup_default_logging()
    sys.exit(main())
