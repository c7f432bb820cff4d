"""Names that other packages add to the tables of this one, and which module to import where such a name is missing."""
import re
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeVar

from .errors import near_names

__all__ = ['NotImportedError', 'add_to_table', 'missing_of', 'modules_of', 'unknown_name']

_OWN = ('rexnet_timm', 'segmentation_models_pytorch', 'timm', 'torch', 'torchvision')
_SCRIPT = '__main__'
_MODULE = re.compile(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*)*')
Entry = TypeVar('Entry', bound=Callable[..., Any])


class NotImportedError(ValueError):
    """A model was made with names that other modules register, and these have not been imported.

    Args:
        modules: The modules to import; those of a file, which may be anybody's, by :func:`missing_of`.
        reason: What is missing, a sentence.
        subject: What the message calls the model.
    """

    def __init__(self, modules: Iterable[str], reason: str, subject: str = 'The network') -> None:
        self.modules, self.reason, self.subject = tuple(modules), reason, subject
        self.importable = tuple(module for module in self.modules if module != _SCRIPT)
        super().__init__(self.text(f'import {" and ".join(self.importable)} first'))

    def text(self, remedy: str) -> str:
        """The message, with a remedy in the place of the statement that imports."""
        where = f'with {" and ".join(self.importable)} imported'
        if not self.importable:
            where, remedy = 'in a script or notebook that registers names', 'run what registers them first'
        return f'{self.subject} was made {where}: {remedy}. {self.reason}'


def add_to_table(table: MutableMapping[str, Any], kind: str, name: str, entry: Entry) -> Entry:
    """Add an entry to a table of names; the module that added it may replace it, as a notebook's cell does.

    Args:
        table: The table.
        kind: What it holds, for the message.
        name: The name: letters, digits, `-` and `_`.
        entry: A class or function.

    Raises:
        ValueError: Another form of name, or a name that somebody else has added.
    """
    if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z][\w-]*', name):
        raise ValueError(f'The name of a {kind} must be letters, digits, - and _, a letter first, got {name!r}.')
    if name in table and module_of(table[name]) != module_of(entry):
        raise ValueError(f'The {kind} {name!r} is that of {module_of(table[name])} already: take another name.')
    table[name] = entry
    return entry


def module_of(entry: Any) -> str:
    """The module in which a class or function is defined."""
    entry = entry.func if isinstance(entry, partial) else entry
    return getattr(entry, '__module__', None) or type(entry).__module__


def modules_of(entries: Iterable[Any]) -> list[str]:
    """The modules of others that define some of these classes and functions, which register them when imported."""
    modules = dict.fromkeys(module_of(entry) for entry in entries)
    return [module for module in modules if module.split('.')[0] not in _OWN]


def unknown_name(kind: str, name: Any, table: Mapping[str, Any]) -> str:
    """The text for a name that a table does not have."""
    return (
        f'{kind} must be one of {", ".join(table)}, or one that a package registers when it is imported, got {name!r}.'
        f'{near_names(str(name), table)}')


def missing_of(imports: Any) -> list[str]:
    """Of the modules that a file says were imported when its model was made, those that are not imported here."""
    names = [name for name in imports if isinstance(name, str)] if isinstance(imports, (list, tuple)) else []
    return [name for name in names if name == _SCRIPT or _MODULE.fullmatch(name) and name not in sys.modules]
