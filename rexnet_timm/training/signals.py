"""Signals that ask a run to stop: it finishes its update, saves, and ends; a second one ends it at once."""
import os
import signal
import threading
import time
from types import FrameType

import torch
import torch.distributed as dist

__all__ = ['StopRequest', 'Stopped']

# A launcher passes on what the terminal has sent to every process already: within so many seconds it is one signal
_TOGETHER = 1.5


class Stopped(KeyboardInterrupt):
    """A run has stopped as a signal asked it to. The text is one line.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class StopRequest:
    """A context in which SIGTERM and SIGINT are noted, to be asked for at the updates of a run.

    The loading processes that a loader forks in it inherit the handlers, and so live until the update is done. Outside
    of the main thread, where Python sets no handlers, signals do what they did.

    Args:
        world_size: Number of processes, which agree on the request; all of them ask as often.

    Attributes:
        number: Of the signal that this process has received; 0 for none.
    """

    def __init__(self, world_size: int = 1) -> None:
        self.number = 0
        self._world_size = world_size
        self._since = 0.
        self._process = os.getpid()
        self._before: dict[int, object] = {}
        self._pipe: tuple[int, int] | None = None
        self._former_pipe = -1
        self._group: dist.ProcessGroup | None = None

    def __enter__(self) -> 'StopRequest':
        if self._world_size > 1 and dist.get_backend() != 'gloo':
            self._group = dist.new_group(backend='gloo')  # of the CPU, so that no step waits for its device
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
            self._watch()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._former_pipe)
            os.close(self._pipe[1])  # which ends the thread
            self._pipe = None
            _open.discard(self)

    def _watch(self) -> None:
        """Have a thread end the process at a second signal, of which Python tells nothing while it waits for others."""
        self._pipe = reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._former_pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        _open.add(self)
        threading.Thread(target=_end_at_second, args=(reading,), name='signals', daemon=True).start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._since = int(number), now
            if os.getpid() == self._process and int(os.environ.get('RANK') or 0) == 0:
                os.write(2, b'\nStopping after this update; a second signal ends at once.\n')
        elif now - self._since > _TOGETHER and os.getpid() != self._process:
            os._exit(128 + number)

    def agreed(self) -> int:
        """The number of the signal that any process has received, 0 for none; every process asks together."""
        if self._world_size == 1:
            return self.number
        number = torch.tensor(self.number)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)


_open: set[StopRequest] = set()


def _leave_pipe() -> None:
    """A process that is forked meanwhile must not write its signals into the pipe of this one."""
    if _open:
        signal.set_wakeup_fd(-1)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_leave_pipe)


def _end_at_second(reading: int) -> None:
    """Read the numbers of signals from a pipe, and end the process at a second one that was sent on its own."""
    first = None
    while numbers := os.read(reading, 16):
        for number in numbers:
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif now - first > _TOGETHER:
                os._exit(128 + number)
    os.close(reading)
