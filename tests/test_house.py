"""The layout of the package: which way imports point, who parses arguments, and what CONTRIBUTING says of it."""
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import ROOT

PACKAGE = ROOT / 'rexnet_timm'
ROOMS = ('models', 'data', 'training', 'deployment', 'cli')
# what each room may import, besides itself and the ground floor
BELOW = {
    'ground': set(),
    'models': set(), 'data': set(), 'training': set(),
    'deployment': {'models', 'data', 'training'},
    'cli': {'models', 'data', 'training', 'deployment'},
}
MODULES = sorted(PACKAGE.rglob('*.py'))


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, by its path below the package; the doors of the package are in none."""
    if parts[0] in ROOMS:
        return parts[0]
    return 'door' if parts in (('__init__',), ('__main__',)) else 'ground'


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix('').parts


def imports(tree: ast.AST, parts: tuple[str, ...]) -> Iterator[str]:
    """Everything that a module imports, by its full name."""
    here = ('rexnet_timm', *parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *filter(None, [node.module])])
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def faults_of_imports(source: str, parts: tuple[str, ...]) -> list[str]:
    """The imports of a module that point up, sideways or to argparse."""
    room, faults = room_of(parts), []
    for name in imports(ast.parse(source), parts):
        target = name.split('.')
        if target[0] == 'argparse' and room != 'cli':
            faults.append(name)
        if target[0] != 'rexnet_timm' or room == 'door':
            continue
        if len(target) == 1:
            faults.append(name)  # the package itself is above all of its rooms
        elif target[1] in ROOMS and target[1] != room and target[1] not in BELOW[room]:
            faults.append(name)
        elif target[1] == '__main__':
            faults.append(name)
    return faults


@pytest.mark.parametrize('path', MODULES, ids=lambda path: '.'.join(parts_of(path)))
def test_imports_point_one_way(path):
    assert not faults_of_imports(path.read_text(), parts_of(path))


@pytest.mark.parametrize('parts, source', [
    (('models', 'unet'), 'from ..training.losses import MultiScaleLoss'),
    (('training', 'losses'), 'from .. import models'),
    (('training', 'losses'), 'def f():\n    from rexnet_timm.data import palette'),
    (('data', 'folder'), 'import rexnet_timm'),
    (('deployment', 'pictures'), 'from ..cli import train'),
    (('errors',), 'from .models import unet'),
    (('files',), 'import argparse'),
    (('models', 'unet'), 'from argparse import Namespace'),
])
def test_a_wrong_import_is_found(parts, source):
    assert faults_of_imports(source, parts)


def flags(source: str) -> list[str]:
    """Strings that name a flag of a command line; variables of CSS are none."""
    strings = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in strings if isinstance(text, str) and re.search(r'(?<![\w-])(?<!var\()--[a-z]', text)]


@pytest.mark.parametrize(
    'path', [path for path in MODULES if room_of(parts_of(path)) not in ('cli', 'door')],
    ids=lambda path: '.'.join(parts_of(path)))
def test_messages_of_the_library_name_arguments(path):
    assert not flags(path.read_text())


def test_a_flag_in_a_message_is_found():
    assert flags("raise ValueError(f'too few, got {n}: pass --batch-size 2')")
    assert not flags("print('a -- b', 'a--b', '---', 'var(--ink)')")


def listed_files() -> dict[str, str]:
    """Path and comment of every file in the tree of CONTRIBUTING.md."""
    tree = re.search(r'```\n(rexnet_timm/.*?)```', (ROOT / 'CONTRIBUTING.md').read_text(), re.DOTALL).group(1)
    files, folders = {}, []
    for line in filter(str.strip, tree.splitlines()):
        name, _, comment = line.strip().partition(' ')
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        if not name.endswith('/'):
            files[''.join(folders)] = comment.strip()
    return files


def test_the_tree_of_contributing_is_true():
    files = listed_files()
    there = {
        str(path.relative_to(ROOT)) for folder in ('rexnet_timm', 'scripts') for path in (ROOT / folder).rglob('*')
        if path.is_file() and path.suffix in ('.py', '.sh', '.yaml', '.css', '.html')}
    rooms = {f'rexnet_timm/{room}/__init__.py' for room in ROOMS}
    assert files.keys() == there - rooms
    assert all(files.values()), 'every file has a comment'


def test_the_tests_mirror_the_rooms():
    for path in (ROOT / 'tests').glob('*/test_*.py'):
        assert path.parent.name in (*ROOMS, 'scripts')
