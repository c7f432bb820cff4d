#!/usr/bin/env python3
"""torchrun without its traceback: a process that fails has already said why. Takes torchrun's arguments."""
import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

if __name__ == '__main__':
    # its log repeats the failure of every process at length
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    try:
        torchrun(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(f'Process {rank} ended with exit status {failure.exitcode}.')
