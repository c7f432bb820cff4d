"""Mistakes of the user, and what else ends a command, as one line and an exit status."""
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping

from ..errors import DatasetError, is_told, sample_error_message
from ..extensions import NotImportedError
from ..training.signals import Stopped
from .faults import FULL, fault_of, what_is_safe

__all__ = ['IMPORT', 'LEFT_ALONE', 'UsageError', 'report_errors', 'with_flags']

_logger = logging.getLogger(__name__)
# of gloo and of NCCL, which raise plain RuntimeErrors, where another process has ended, and where it hangs
_LOST_CONNECTION = r'Connection (closed|reset) by peer|Broken pipe|remote process exited|Connection refused'
_WAITED = r'[Tt]imed out|Timeout at NCCL|collective operation timeout'
IMPORT = '--import'  # with which a name is found that another package registers
LEFT_ALONE = 4  # exit status of a process that ends since another one has ended or hangs


class UsageError(ValueError):
    """A mistake in the words of a command or in a recipe. The text is one line that names the option."""


def report_errors(prog: str, command: Callable[[], object], flags: Mapping[str, str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 after a fault of the machine, 2 after a mistake, 130 after Ctrl+C.

    A run that a signal has stopped ends with 128 and the number of the signal.

    A mistake is told in one line on standard error: DatasetError, any other ValueError that a check raised (see
    `errors.is_told`), FloatingPointError, and OSError that names a file. Of several processes, which fail in the same
    way, only the first tells it; a DatasetError may have met only one of them, which tells it. A process that loses
    its connection since another one ended says so. Everything else is a fault of the program and is raised.

    Args:
        prog: The command, as it is typed.
        command: What is run.
        flags: From what the library's errors say to what the user types: from the name of an argument to the option
            that sets it, and from a call to the words in its place.
    """
    is_of_this_process = False
    try:
        command()
    except Stopped as stopped:
        status, text = 128 + stopped.number, f'{stopped} The same command with --resume auto goes on.'
    except KeyboardInterrupt:
        status, text = 130, 'interrupted'
    except (RuntimeError, MemoryError) as error:
        _logger.debug('', exc_info=True)
        fault = fault_of(error)
        if fault is not None:  # which may have met only this process
            print(f'{prog}: error: {fault}{what_is_safe(error)}', file=sys.stderr)
            return 1
        if not (int(os.environ.get('WORLD_SIZE') or 1) > 1 and re.search(f'{_LOST_CONNECTION}|{_WAITED}', str(error))):
            raise
        rank, waited = os.environ.get('RANK'), re.search(_WAITED, str(error))
        why = 'it has waited for another one longer than --dist-timeout' if waited else \
            'another process of the run has ended'
        print(f'{prog}: process {rank} stops, since {why}.', file=sys.stderr)
        return LEFT_ALONE
    except (ValueError, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, FileNotFoundError):
            if error.errno is None:
                raise
            print(f'{prog}: error: {fault_of(error)}{what_is_safe(error)}', file=sys.stderr)
            return 1
        if isinstance(error, ValueError) and not isinstance(error, (DatasetError, UsageError)) and not is_told(error):
            raise
        _logger.debug('', exc_info=True)
        status, text = 2, f'error: {_one_line(error, flags or {})}{what_is_safe(error)}'
        # in the middle of a run, where all have agreed on what they do, a mistake is met by one
        is_of_this_process = hasattr(error, 'what_is_safe') and not isinstance(error, FloatingPointError)
        if isinstance(error, DatasetError):
            print(f'{prog}: {text}', file=sys.stderr)
            return status
    else:
        return 0
    if int(os.environ.get('RANK') or 0) == 0 or is_of_this_process:
        print(f'{prog}: {text}', file=sys.stderr)
    return status


def _one_line(error: Exception, flags: Mapping[str, str]) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        full = ' It was left as it was: free space there, or name another place.' * (error.errno in FULL)
        return f'{os.fspath(error.filename)!r}: {error.strerror}.{full}'
    if isinstance(error, NotImportedError):
        return error.text(f'pass {" ".join(f"{IMPORT} {module}" for module in error.importable)}')
    text = '; '.join(line.strip() for line in sample_error_message(error).splitlines() if line.strip())
    return text if isinstance(error, UsageError) else with_flags(text, flags)


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """The text with options in place of the arguments' names, except in quoted words, in paths and in calls."""
    for words in (words for words in flags if not words.isidentifier()):
        # a name that is an English word too stands for the argument where a rule begins with it
        start = r'(?:^|(?<=[.;:] ))' if words.endswith(' must') else ''
        text = re.sub(start + re.escape(words), flags[words], text)
    left = r"""(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|\w\([^()]*=[^()]*\)"""
    names = '|'.join(name for name in flags if name.isidentifier())
    # nothing that is a part of a longer name, of a path, or of a call
    name = rf'(?<![\w./\\=-])({names})(=None\b|=|(?![\w/\\(-]|\.\w))' if names else '(?!)()()'

    def replace(match: re.Match) -> str:
        if match[1] is None:
            return match[0]
        return f'no {flags[match[1]]}' if match[2] == '=None' else flags[match[1]] + (' ' if match[2] else '')

    return re.sub(f'{left}|{name}', replace, text)
