"""One run in a folder at a time."""
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .mistakes import UsageError

__all__ = ['NAME', 'folder_lock', 'refuse_folder_in_use']

NAME = 'lock'


@contextmanager
def folder_lock(folder: str) -> Iterator[None]:
    """Hold the folder of a run for this process.

    The lock belongs to the process: it ends with it however it ends, and the loading processes do not share it. The
    file in the folder says who holds it. Where the system or the file system has no such locks, nothing is held.

    Raises:
        UsageError: Another process holds it; the text names the process.
    """
    path = os.path.join(folder, NAME)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    while True:
        file = open(path, 'a+', encoding='utf-8')
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip()[:200] or 'another process'
            file.close()
            raise UsageError(
                f'{folder!r} is in use by {holder}: wait until that run ends, stop it, or name another '
                '--experiment.') from error
        except OSError:  # of a file system without locks
            break
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()  # its holder has removed it meanwhile
    try:
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
        yield
    finally:
        with suppress(OSError):  # the folder may have gone
            os.unlink(path)
        file.close()


def refuse_folder_in_use(folder: str) -> None:
    """Raise UsageError where another process holds a folder, before its files are read, which that one replaces."""
    if os.path.exists(os.path.join(folder, NAME)):
        with folder_lock(folder):
            pass
