"""The parser of every command.

It asks the kinds of its options for the words of the command line, and for values of Python; a recipe is read by the
same kinds, so that all have the same types, choices, ranges and errors.
"""
import argparse
import numbers
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import near_names
from .import_option import without_imports
from .mistakes import IMPORT, UsageError
from .values import TEXT, KeyValues

__all__ = ['Parser']

_NOT_GIVEN = object()


class Parser(argparse.ArgumentParser):
    """A parser that reads words and values of Python by the kinds of its options, and raises each mistake as one line.

    Args:
        prog: The command, as it is typed.
        description: A sentence for the help.
        synonyms: What other tools call an option, for the options whose names do not lead there.

    Raises:
        UsageError: From every method that reads; the text has the option, the rule and what was received.
    """

    def __init__(self, prog: str, description: str, synonyms: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, exit_on_error=False, **kwargs)
        self.options: dict[str, argparse.Action] = {}
        self.synonyms = synonyms or {}
        # for the help only: the modules are imported before anything else is read
        self.add_argument(
            IMPORT, action='append', metavar='MODULE', default=argparse.SUPPRESS,
            help='a module to import first, which registers decoders, formats, losses or tasks; may be repeated')

    def group(self, title: str) -> Callable[..., None]:
        """A group of options, as the function that adds one: names, help, kind, default; the rest is argparse's.

        The kind bool makes a switch, dict an option of KEY=VALUE pairs. Choices and default are added to the help;
        `unset` says what holds where the default is None or ''.
        """
        group = self.add_argument_group(title)

        def add(
                *names: str, help: str, kind: Any = TEXT, default: Any = None, unset: str = '', **rest: Any) -> None:
            if kind is bool:
                rest, default = {'action': 'store_true'}, False
            elif kind is dict:
                rest, default = {'action': KeyValues, 'nargs': '*', 'metavar': 'KEY=VALUE'}, {}
            else:
                rest = {'type': kind, 'metavar': kind.metavar, **rest}
                help += _choices_and_default(help, kind.names, unset if default in (None, '') else default)
            action = group.add_argument(*names, help=help, default=default, **rest)
            self.options[action.dest] = action

        return add

    def error(self, message: str) -> None:
        """Raise what argparse would print with its usage."""
        raise UsageError(message)

    def parse_args(
            self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None,
    ) -> argparse.Namespace:
        """As argparse's, except that a mistake raises, and that the modules of --import are imported before."""
        args = without_imports(sys.argv[1:] if args is None else args)
        self._check_names(args)
        try:
            parsed, others = self.parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise UsageError(self._describe(error)) from error
        if others:
            raise UsageError(self._describe_unknown(others))
        return parsed

    def _check_names(self, words: Sequence[str]) -> None:
        """Raise UsageError for an unknown option, which argparse would tell after what is missing because of it."""
        known = {'--help', IMPORT, *(name for option in self.options.values() for name in option.option_strings)}
        for word in words:
            if word == '--':
                return
            if word.startswith('--') and word.partition('=')[0] not in known:
                raise UsageError(self._describe_unknown([word]))

    def given(self, args: Sequence[str] | None = None) -> dict[str, Any]:
        """What the words set, without the defaults."""
        parsed = vars(self.parse_args(args, argparse.Namespace(**dict.fromkeys(self.options, _NOT_GIVEN))))
        # argparse sets a positional argument that is left out to None
        return {
            name: value for name, value in parsed.items()
            if value is not _NOT_GIVEN and (value is not None or self.options[name].option_strings)}

    def read_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of Python by the names of the options, held to the kinds of the options; None leaves the default."""
        read = {}
        for name, value in values.items():
            if name not in self.options:
                synonym = self.synonyms.get(name)
                near = f' Did you mean {synonym}?' if synonym else near_names(name, self.options)
                raise UsageError(f'There is no option {name}.{near}')
            if value is not None:
                read[name] = _python_value(name, self.options[name], value)
        return read

    def _describe(self, error: argparse.ArgumentError) -> str:
        for name, option in self.options.items():
            if error.argument_name == '/'.join(option.option_strings):
                if error.message.startswith('must'):
                    return f'{_flag(name)} {error.message}'
                if option.nargs == 0:
                    return f'{_flag(name)} is a switch and takes no value.'
                return f'{_flag(name)} must be {option.type.rule}: {error.message}.'
        return str(error)

    def without_flags(self, text: str) -> str:
        """A text for the command line with the names of the options as Python has them."""
        def name(match: re.Match) -> str:
            option, value = match[1].replace('-', '_'), match[2]
            return match[0] if option not in self.options else f'{option}={value}' if value else option

        return re.sub(r'(?<![\w-])--([a-z][a-z-]*[a-z])(?: (\d[\d.]*(?<!\.)))?', name, text)

    def _describe_unknown(self, words: Sequence[str]) -> str:
        word = next((word for word in words if word.startswith('-')), None)
        if word is None:
            return f'{words[0]!r} is one word too many: it belongs to no option.'
        word = word.partition('=')[0]
        names = [IMPORT, *(name for option in self.options.values() for name in option.option_strings)]
        option = self.options.get(word.lstrip('-').replace('-', '_'))
        if option is not None and not option.option_strings:  # one that is told by its place
            place = option.metavar
            return f'There is no option {word}: {place} is given by itself, as in "{self.prog} {place}".'
        synonym = self.synonyms.get(word.lstrip('-').replace('-', '_'))
        near = f' Did you mean {_flag(synonym)}?' if synonym else self._value_named(word) or near_names(word, names)
        return f'There is no option {word}.{near}'

    def _value_named(self, word: str) -> str:
        """The part of an error that offers the options of which a word is a value, as --overlay for one of a type."""
        value = word.lstrip('-')
        found = [f'{_flag(name)} {value}' for name, option in self.options.items()
                 if option.option_strings and value in getattr(option.type, 'names', ())]
        return f' Did you mean {" or ".join(found[:3])}?' if found else ''


def _choices_and_default(help: str, names: Sequence[str], default: Any) -> str:
    notes = []
    choices = [name for name in names if name]
    if len(choices) < 20 and not all(name in help for name in choices):
        notes.append(', '.join(choices))
    if default != '':
        values = default if isinstance(default, list) else [default]
        notes.append('default: ' + ' '.join(f'{x:g}' if isinstance(x, float) else str(x) for x in values))
    return f' ({"; ".join(notes)})' if notes else ''


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def _python_value(name: str, option: argparse.Action, value: Any) -> Any:
    """A value of Python, as its option reads it from words."""
    if isinstance(option, KeyValues):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise UsageError(f'{name} must be a dict of arguments by name, got {value!r}.')
        return dict(value)
    if isinstance(value, bool) and option.const is not None:  # a switch, or an option that needs no value
        return option.const if value else option.default
    if option.nargs == 0:
        raise UsageError(f'{name} must be True or False, got {value!r}.')
    is_list = option.nargs not in (None, '?')
    items = list(value) if isinstance(value, (list, tuple, range)) else [value]
    if len(items) != 1 and not is_list:
        raise UsageError(f'{name} must be one value, got {value!r}.')
    if not items or (isinstance(option.nargs, int) and len(items) != option.nargs):
        needed = f'{option.nargs} values' if isinstance(option.nargs, int) else 'at least one value'
        raise UsageError(f'{name} must be {needed}, got {value!r}.')
    if any(isinstance(item, bool) or not isinstance(item, (str, os.PathLike, numbers.Real)) for item in items):
        raise UsageError(f'{name} must be {option.type.rule}, got {value!r}.')
    try:
        words = [option.type(os.fspath(item) if isinstance(item, os.PathLike) else str(item)) for item in items]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f'{name} {error}') from error
    return words if is_list else words[0]
