"""Faults of the machine during a run: full disks, lost files, dead processes, exhausted memory.

`fault_of` tells which errors are such faults, for every command; `safe_after` adds what a training has left.
"""
import errno
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from ..errors import first_lines, sample_error_message
from ..training.record import RECORD

__all__ = ['FULL', 'fault_of', 'safe_after', 'what_is_safe']

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, or what the user may have of it
_LOCK = 'lock'  # of the run in the folder, which holds it
_NO_MEMORY = r"can't allocate memory|not enough memory|[Oo]ut of memory|Cannot allocate memory|alloc.* failed"
_WRITER = r'PytorchStreamWriter failed|unexpected pos \d+ vs \d+|file write failed|inline_container'


def fault_of(error: BaseException) -> str | None:
    """What happened, as a sentence with its remedy, where an error is a fault of the machine; None for another."""
    text = str(error)
    if isinstance(error, OSError):
        place = '' if error.filename is None else f' ({os.fspath(error.filename)!r})'
        if error.errno in FULL:
            return f'The disk is full{place}, or a limit on files is reached: free space there.'
        if error.errno == errno.ENOMEM:
            return _memory('')
        return f'{error.strerror or first_lines(error)}{place}.'
    if isinstance(error, MemoryError):
        return _memory(sample_error_message(error) if text.startswith('Caught') else text)
    if isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and re.search(_NO_MEMORY, text)):
        return _memory(sample_error_message(error))
    if isinstance(error, RuntimeError) and text.startswith('DataLoader worker'):
        return (
            f'A loading process has died ({first_lines(error, 1).rstrip(".")}), often because the system lacked '
            'memory: lower --workers or --batch-size.')
    if isinstance(error, RuntimeError) and re.search(_WRITER, text):
        return 'A checkpoint could not be written whole: the disk is probably full; free space there.'
    return None


def _memory(text: str) -> str:
    first = re.split(r'(?<=[.!?])\s', text.strip().splitlines()[0], maxsplit=1)[0] if text.strip() else ''
    return f'The memory is exhausted{f" ({first[:200]})" if first else ""}: lower --batch-size or --workers.'


@contextmanager
def safe_after(folder: str | None) -> Iterator[None]:
    """Let an error of a run carry what is safe in its folder, as `what_is_safe` tells it.

    Where the run has written nothing but its arguments and its record, its folder goes, so that it is in nobody's way.

    Args:
        folder: Of the run, in the process that writes in it; None in the others.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        error.what_is_safe = '' if folder is None else _what_is_safe(folder)
        if folder is not None:
            if not _checkpoints(folder):
                _remove_arguments(folder)
        raise


def what_is_safe(error: BaseException) -> str:
    """What `safe_after` left with an error, with a space before; empty for nothing."""
    text = getattr(error, 'what_is_safe', '')
    return f' {text}' if text else ''


def _checkpoints(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), '*.pth.tar')), key=os.path.getmtime)


def _what_is_safe(folder: str) -> str:
    with suppress(OSError):
        found = _checkpoints(folder)
        last = os.path.join(folder, 'last.pth.tar')
        if found:
            return f'{(last if last in found else found[-1])!r} is whole: the same command with --resume auto goes on.'
    return 'No checkpoint had been saved yet.'


def _remove_arguments(folder: str) -> None:
    with suppress(OSError):
        for name in ('args.yaml', RECORD, _LOCK):
            with suppress(FileNotFoundError):
                os.remove(os.path.join(folder, name))
        os.rmdir(folder)  # unless there is more in it
