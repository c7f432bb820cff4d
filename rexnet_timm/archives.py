"""Zip archives of others, checked before they are read: what they hold is no larger than they are.

torch stores what it saves as it is. A compressed entry, one that lies within another, or a tensor that shows few stored
numbers as many is therefore no work of torch.save, and would take a memory that the size of the file does not tell.
"""
import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import torch

__all__ = ['ArchiveError', 'check_pickle', 'check_saved', 'check_stored', 'check_tensors']

# A file may hold a tensor under several names, such as a weight that two layers share
_MOST_TIMES = 8
_PICKLES = 5  # one after the other at the start of a file in the format before torch 1.6
_SLACK = 2 ** 20  # of bytes, for what is small anyway
# What a pickle may call and torch allows, that makes something as large as a number in it says
_MAKES_LARGE = ('builtins bytearray', '__builtin__ bytearray')


class ArchiveError(Exception):
    """An archive that holds more than it should; the text says what, as the end of a sentence that names the file."""


def check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ArchiveError for entries that are compressed, or that together are larger than the file.

    Args:
        archive: The open archive.
        size: Bytes of its file.
    """
    entries = archive.infolist()
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise ArchiveError(
            f'has compressed entries, such as {packed.filename[:100]!r}, which torch never writes and which may fill '
            'any memory')
    total = sum(entry.file_size for entry in entries)
    if total > size:
        raise ArchiveError(f'says that it holds {total} bytes, which is more than its own {size}')


def check_pickle(file: BinaryIO) -> None:
    """Raise ArchiveError for a pickle that asks for a memory beyond its own size; nothing of it is run.

    Args:
        file: Read from its place to the end of the pickle.
    """
    # of the ways in which a pickle names what it calls, torch's reader knows this one
    if any(opcode.name == 'GLOBAL' and argument in _MAKES_LARGE for opcode, argument, _ in pickletools.genops(file)):
        raise ArchiveError('asks for a bytearray, which no weights need and which may fill any memory')


def check_saved(path: str | os.PathLike) -> None:
    """Raise ArchiveError for a file in one of torch.save's formats that holds more than it should.

    What is none of these, or damaged, passes: whoever reads it says so.
    """
    with open(path, 'rb') as file, suppress(zipfile.BadZipFile, ValueError, EOFError, IndexError, OverflowError):
        if file.read(2) == b'PK':
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                    return  # a TorchScript program
                check_stored(archive, os.path.getsize(path))
                for entry in archive.namelist():
                    if entry.endswith('.pkl'):
                        check_pickle(archive.open(entry))
            return
        file.seek(0)
        for _ in range(_PICKLES):
            check_pickle(file)


def check_tensors(content: Any, size: int) -> None:
    """Raise ArchiveError for tensors that together are much larger than the file they came from.

    Args:
        content: Dicts and lists of tensors and plain values.
        size: Bytes of the file.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(content, set()))
    if total > _MOST_TIMES * size + _SLACK:
        raise ArchiveError(
            f'shows its numbers as tensors of {total} bytes together, which is more than {_MOST_TIMES} times its own '
            f'{size}')


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))  # a file may hold a dict that holds itself
            waiting += value.values() if isinstance(value, Mapping) else value
