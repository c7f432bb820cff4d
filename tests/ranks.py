"""Calls a function in several processes: python ranks.py RANKS MODULE FUNCTION ARGUMENT ...

Exits with the status of the first process that failed; the others are ended then, as they would wait for it.
"""
import importlib
import multiprocessing
import sys
from multiprocessing.connection import wait


def call(rank: int, module: str, function: str, *arguments: str) -> None:
    getattr(importlib.import_module(module), function)(rank, *arguments)


def main(ranks: str, *arguments: str) -> int:
    context = multiprocessing.get_context('spawn')
    processes = [context.Process(target=call, args=(rank, *arguments), daemon=True) for rank in range(int(ranks))]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode:
                for other in running.values():
                    other.kill()
                return process.exitcode if process.exitcode > 0 else 128 - process.exitcode
    return 0


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
