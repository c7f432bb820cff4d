"""What a file of torch.export or TorchScript may hold before torch reads it.

torch's own readers take such a file for a program of its user: `torch.export.load` falls back on pickle, loads native
libraries, evaluates expressions and calls any function that a node names, and TorchScript can write files. Here a file
may come from somebody else. A file of `rexnet_timm.export` needs none of that, so that it is refused.
"""
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from ..archives import ArchiveError, check_stored

__all__ = ['check_torch_export', 'check_torchscript']

# Entries of torch.export's archives, below their first folder (torch 2.8 on) or bare (before)
_ENTRIES = re.compile(
    r'(models/|extra/|extra_files/|data/sample_inputs/|data/weights/|data/constants/|\.data/)[^/]+'
    r'|archive_format|archive_version|byteorder|version|serialized_\w+\.(json|pt)')
_OBJECTS = re.compile(r'data/constants/(?!tensor_|\w+_constants_config\.json$|model\.pt$)')
_ARITHMETIC = 'add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem'
_TARGETS = re.compile(
    rf'torch\.ops\.aten\.(?!\w*(file|save|load))\w+(\.\w+)?|_operator\.({_ARITHMETIC})|math\.(ceil|floor|trunc)'
    r'|torch\.sym_\w+')
# What an expression of sizes is made of: numbers, signs, these names, and symbols such as s0 or 's0'
_NAMES = frozenset(
    'Add Mul Pow Mod Max Min Abs Integer Float Rational Symbol FloorDiv CeilDiv CleanDiv ModularIndexing Where '
    'PythonMod CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt ToFloat Identity PowByNatural FloatPow '
    'IntTrueDiv FloatTrueDiv Eq Ne Lt Le Gt Ge And Or Not Equality Unequality LessThan GreaterThan StrictLessThan '
    'StrictGreaterThan true false True False positive integer nonnegative negative real floor ceiling'.split())
_WORD = re.compile(r"'[a-z]+\d+'|[^\W\d]\w*|[\d\s()+\-*/,.=<>%]+|.", re.DOTALL)
_SYMBOL = re.compile(r"'?[a-z]+\d+'?")
_PLAIN = re.compile(r'[\d\s()+\-*/,.=<>%]+')
_ACTS = re.compile(r'\b(?:torch|aten|prim)\.\w*(?:save|load|from_file)\w*|__[gs]etstate__|\bops\.(?!prim\.|aten\.)\w+')
_MOST_CODE = 64 * 2 ** 20  # bytes


def check_torch_export(path: str) -> None:
    """Raise ArchiveError for a file of torch.export that could do more than compute, or that is compressed."""
    with zipfile.ZipFile(path) as archive:
        check_stored(archive, os.path.getsize(path))
        names = [_below_the_folder(name) for name in archive.namelist()]
        if len(set(names)) < len(names):
            raise ArchiveError('has an entry twice')
        for entry, name in zip(archive.infolist(), names, strict=True):
            if not _ENTRIES.fullmatch(name) or _OBJECTS.match(name):
                raise ArchiveError(f'holds {name[:100]!r}, which may be code')
            if name.endswith('.pt'):
                _check_tensors(name, archive.read(entry))
            elif name.endswith('.json') and not name.startswith('extra'):
                _check_program(json.loads(archive.read(entry)))


def _below_the_folder(name: str) -> str:
    first, slash, rest = name.partition('/')
    return rest if slash and first not in ('extra_files',) else name


def _check_tensors(name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except Exception as error:  # torch.export would go on with pickle
        raise ArchiveError(f'holds more than tensors in {name[:100]!r}, which may be code') from error


def _check_program(program: Any) -> None:
    for key, value in _pairs(program):
        if key == 'use_pickle' and value:
            raise ArchiveError('holds weights as pickles, which may be code')
        if not isinstance(value, str):
            continue
        if key == 'target' and value.startswith(('torch', '_operator', 'math', '#')) and not _TARGETS.fullmatch(value):
            raise ArchiveError(f'calls {value[:100]!r}, which is more than computing')
        if key == 'expr_str':
            wrong = next((word for word in _WORD.findall(value) if not _is_size(word)), None)
            if wrong is not None:
                raise ArchiveError(f'has {wrong[:100]!r} in an expression of sizes, which may be code')


def _is_size(word: str) -> bool:
    return word in _NAMES or bool(_SYMBOL.fullmatch(word) or _PLAIN.fullmatch(word))


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def check_torchscript(path: str) -> None:
    """Raise ArchiveError for a TorchScript file that reads or writes files, or that acts while it is loaded."""
    with zipfile.ZipFile(path) as archive:
        packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if sum(entry.file_size for entry in packed) > _MOST_CODE:
            raise ArchiveError(f'has more than {_MOST_CODE} bytes of compressed code')
        for entry in archive.infolist():
            if entry.filename.endswith('.py'):
                found = _ACTS.search(archive.read(entry).decode('utf-8', 'replace'))
                if found:
                    raise ArchiveError(f'has {found[0][:100]!r} in its program, which is more than computing')
