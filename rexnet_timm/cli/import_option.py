"""`--import`: modules of others, which are imported before anything else of a command is read."""
import importlib
import os
import sys
from collections.abc import Sequence

from .mistakes import IMPORT, UsageError

__all__ = ['without_imports']


def without_imports(words: Sequence[str]) -> list[str]:
    """Import the modules of --import; returns the other words."""
    rest, words = [], list(words)
    while words:
        word = words.pop(0)
        if word == '--':
            return [*rest, word, *words]
        name, equals, module = word.partition('=')
        if name != IMPORT:
            rest.append(word)
            continue
        if not equals:
            module = words.pop(0) if words else ''
        _import(module)
    return rest


def _import(module: str) -> None:
    """Import a module that the user names, of the current folder too; its own errors are raised as they are."""
    if not all(part.isidentifier() for part in module.split('.')) or module.endswith('.py'):
        form = 'without .py' if module.endswith('.py') else 'such as my_package.decoder'
        raise UsageError(f'{IMPORT} must be the name of a module, {form}, got {module!r}.')
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # at the end: a file that lies here stands for no other module
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        problem = f'it imports {error.name!r}, which is not there'
        if module == error.name or module.startswith(f'{error.name}.'):
            problem = 'there is no such module in the current folder, on PYTHONPATH or installed'
        raise UsageError(f'{IMPORT} {module}: {problem}.') from error
