"""Processes that are killed, at a time or at a file operation, and whether what they leave equals what was to be."""
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rexnet_timm.files import load_checkpoint_file

OPERATIONS = ('fsync', 'link', 'replace', 'unlink')


def assert_same(a: Any, b: Any, where: str = '') -> None:
    """Equal in every bit, all the way down."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        bits = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in (a, b)]
        assert torch.equal(*bits), f'{where} differs in {int((bits[0] != bits[1]).sum())} bytes'
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f'{where}/{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f'{where}/{index}')
    elif hasattr(a, '__dict__'):
        assert_same(vars(a), vars(b), where)
    else:
        assert a == b or a != a and b != b, f'{where}: {a} and {b}'


def assert_same_runs(alone: Path, stopped: Path, without: Sequence[str] = ()) -> None:
    """Assert that two folders hold the same run: the same files, summaries, pictures, and every bit of
    every checkpoint.

    Args:
        alone: Folder of a run.
        stopped: Folder of the other.
        without: Arguments of the runs that differ, such as their folder.
    """
    names = sorted(path.name for path in alone.iterdir())
    assert names == sorted(path.name for path in stopped.iterdir())
    assert (alone / 'summary.csv').read_bytes() == (stopped / 'summary.csv').read_bytes()
    pictures = [{str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*.png')}
                for folder in (alone, stopped)]
    assert pictures[0] == pictures[1]
    for name in names:
        if name.endswith('.tar'):
            contents = [load_checkpoint_file(folder / name) for folder in (alone, stopped)]
            for content in contents:
                for argument in without:
                    vars(content['args']).pop(argument)
            assert_same(*contents, name)


def assert_whole(folder: Path, since: Sequence[str] = ()) -> None:
    """Assert that every checkpoint that is there is whole, and that the files that have been there are.

    Args:
        folder: Of a run that may have been killed.
        since: Names that a run had written.
    """
    for name in {'last.pth.tar', 'model_best.pth.tar', 'summary.csv', 'args.yaml'} & set(since):
        assert (folder / name).exists(), f'{name} is gone'
    for path in folder.glob('[!.]*.pth.tar'):
        load_checkpoint_file(path)
    if (folder / 'summary.csv').exists():
        assert (folder / 'summary.csv').read_text().endswith('\n')


def die_at(number: int, written: Path) -> None:
    """Have this process kill itself before its file operation of a number from 1 on, or half-way through a write.

    The names that files get are noted in `written`, a line each.
    """
    count = 0

    def is_due() -> bool:
        nonlocal count
        count += 1
        return count == number

    def counted(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_due():
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if function is replace:
                with open(written, 'a') as file:
                    file.write(os.path.basename(args[1]) + '\n')
            return result
        return call

    save, replace = torch.save, os.replace

    def save_half(content: Any, file: Any, **kwargs: Any) -> None:
        if not hasattr(file, 'name') or not is_due():  # what other processes are sent goes through it too
            return save(content, file, **kwargs)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[:buffer.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half
    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def fork(work: Callable[[], Any], log: Path) -> int:
    """Start a process that does some work, with its output in a file; returns its number."""
    number = os.fork()
    if number:
        return number
    status = 1
    sys.stdout = sys.stderr = open(log, 'a', buffering=1)
    try:
        status = int(work() or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ends(numbers: Sequence[int], after: float | None = None) -> list[int]:
    """How processes of `fork` end, all killed after some seconds, or when one of them is gone: exit status, or -9."""
    deadline = time.monotonic() + (600 if after is None else after)
    left, statuses = set(numbers), {}
    while left:
        for number in list(left):
            done, status = os.waitpid(number, os.WNOHANG)
            if done:
                left.discard(number)
                statuses[number] = os.waitstatus_to_exitcode(status)
        is_killed = any(status == -signal.SIGKILL for status in statuses.values())
        if left and (time.monotonic() > deadline or is_killed):
            for number in left:
                os.kill(number, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[number] for number in numbers]
