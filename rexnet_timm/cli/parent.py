"""Processes that do not outlive their launcher."""
import os
import signal
import threading
import time

__all__ = ['end_with_launcher']

_EVERY = 1.  # seconds
_GRACE = 60.  # in which a process may finish its update and save


def end_with_launcher() -> None:
    """Stop this process, as SIGTERM does, when the launcher that started it is gone; of others nothing is watched.

    A launcher that is killed tells its processes nothing, and these would go on, and hold their memory and ports.
    """
    if 'TORCHELASTIC_RUN_ID' in os.environ and hasattr(os, 'getppid'):
        threading.Thread(target=_watch, args=(os.getppid(),), name='launcher', daemon=True).start()


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(128 + signal.SIGTERM)
