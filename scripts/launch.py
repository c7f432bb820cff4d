#!/usr/bin/env python3
"""torchrun without its traceback: a process that fails has already said why. Takes torchrun's arguments.

Of several processes that failed, the one is told that was the first to, and that did not end only because of another.
"""
import logging
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import main as torchrun

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
LEFT_ALONE = 4  # exit status of a process that ends since another one has ended or hangs


def describe(rank: int, failure: ProcessFailure) -> str:
    """What became of a process."""
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        memory = ', often by the system for lack of memory' if name == 'SIGKILL' else ''
        return f'Process {rank} was ended by {name}{memory}.'
    return f'Process {rank} ended with exit status {failure.exitcode}.'


def main(argv: list[str]) -> int:
    """Run torchrun; returns the exit status of the process that failed first, 128 and the number after a signal."""
    # its log repeats the failure of every process at length
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        torchrun(argv)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: (item[1].exitcode == LEFT_ALONE, item[1].timestamp))
        rank, failure = failures[0]
        if failure.exitcode not in STOPPED:  # as it has said
            print(describe(rank, failure), file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:  # the processes have had their time to save
        return 128 + int(error.sigval)
    except RendezvousError as error:
        reason = ': '.join(filter(None, (type(error).__name__, str(error))))
        print(f'The processes did not meet ({reason}): check --rdzv-endpoint, the network '
              'between the hosts, and that as many of them start as --nnodes says.', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
