"""Samples that cannot be used: named before the first epoch, or left out as far as `--skip-bad-samples` allows."""
import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..data import DatasetError, SegmentationFolder
from ..data.health import BadSample, bad_samples
from ..deployment.results import write_rows
from .build import Process
from .mistakes import UsageError
from .progress import progress_bar

__all__ = ['leave_out_bad', 'write_bad']

_logger = logging.getLogger(__name__)
FILE = 'bad_samples.csv'
_MOST_TOLD = 8


def leave_out_bad(args: argparse.Namespace, datasets: Sequence[Any], process: Process) -> list[BadSample]:
    """Look at all samples, and leave out of the data sets those that cannot be used; returns these.

    Without `--skip-bad-samples` headers are looked at, and the first bad one is an error; with it every file is read
    whole. It is decided once, by the first process for all, before there are loaders, so that every process divides the
    same samples, and what is evaluated does not depend on their number.

    Raises:
        DatasetError: More bad samples than allowed, or none left.
    """
    folders = [dataset for dataset in datasets if isinstance(dataset, SegmentationFolder)]
    found: list[Any] = [None]
    if process.primary:
        whole = args.skip_bad_samples > 0
        found = [[bad_samples(dataset, whole, progress=progress_bar) for dataset in folders]]
    if process.distributed:
        torch.distributed.broadcast_object_list(found)
    bad = [sample for part in found[0] for sample in part]
    if len(bad) > args.skip_bad_samples:
        text, rest = bad[0].reason, len(bad) - 1
        if rest:
            more = 'another sample cannot' if rest == 1 else f'{rest} other samples cannot'
            text += f' And {more} be used: "rexnet check {args.data_dir}" lists all, and --skip-bad-samples ' \
                f'{len(bad)} leaves them out.'
        # told once: a UsageError only by the first process
        raise (DatasetError if process.primary else UsageError)(text)
    for dataset, part in zip(folders, found[0], strict=True):
        if part:
            dataset.leave_out([sample.index for sample in part])
    if bad and process.primary:
        _logger.warning('%d samples cannot be used and are left out, of %d that --skip-bad-samples allows:', len(bad),
                        args.skip_bad_samples)
        for sample in bad[:_MOST_TOLD]:
            _logger.warning('  %s: %s', sample.split, sample.reason)
        if len(bad) > _MOST_TOLD:
            _logger.warning('  and %d more, in %s of the run', len(bad) - _MOST_TOLD, FILE)
    return bad


def write_bad(folder: str, bad: Sequence[BadSample]) -> None:
    """List what was left out in the folder of a run."""
    if bad:
        write_rows(os.path.join(folder, FILE), [
            {'split': sample.split, 'image': sample.image, 'mask': sample.mask, 'reason': sample.reason}
            for sample in bad])
