"""What every command parses with: kinds of values, a parser, recipes in YAML, and errors as one line.

A kind reads one word and says what it must be. The parser asks the kinds of its options for the words of the command
line and for the values of a YAML file, so that both have the same types, choices, ranges and errors.
"""
import argparse
import logging
import math
import numbers
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml
from tqdm import tqdm

from ..errors import DatasetError, first_lines, is_told, near_names, sample_error_message
from ..plain_text import compose_yaml, load_yaml
from ..training.signals import Stopped
from .faults import FULL, fault_of, what_is_safe

__all__ = [
    'TEXT', 'VIEW', 'KeyValues', 'Kind', 'Parser', 'UsageError', 'find_recipe', 'number', 'one_of', 'progress_bar',
    'report_errors', 'views', 'with_flags']

_logger = logging.getLogger(__name__)
_NOT_GIVEN = object()
# of gloo and of NCCL, which raise plain RuntimeErrors, where another process has ended, and where it hangs
_LOST_CONNECTION = r'Connection (closed|reset) by peer|Broken pipe|remote process exited|Connection refused'
_WAITED = r'[Tt]imed out|Timeout at NCCL|collective operation timeout'
LEFT_ALONE = 4  # exit status of a process that ends since another one has ended or hangs


class UsageError(ValueError):
    """A mistake in the words of a command or in a recipe. The text is one line that names the option."""


class Kind:
    """What an option takes.

    Args:
        rule: What follows "must be" in the error, such as 'a number above 0'.
        read: From a word to its value; ValueError where the word breaks the rule.
        names: Words that are listed in the help, and of which the nearest are offered.
        metavar: Stands for the value in the help.
    """

    def __init__(
            self, rule: str, read: Callable[[str], Any], names: Sequence[str] = (), metavar: str = 'NAME') -> None:
        self.rule = rule
        self.read = read
        self.names = tuple(names)
        self.metavar = metavar

    def __call__(self, word: str) -> Any:
        try:
            return self.read(word)
        except ValueError as error:
            near = near_names(word, self.names)
            raise argparse.ArgumentTypeError(f'must be {self.rule}, got {word!r}.{near}') from error


TEXT = Kind('one word', str)


def number(
        kind: type[int] | type[float],
        at_least: float | None = None,
        above: float | None = None,
        at_most: float | None = None,
        below: float | None = None,
        note: str = '',
) -> Kind:
    """The kind of finite numbers in a range, int or float; `note` is added to the rule of the range."""
    limits = {'at least': at_least, 'above': above, 'at most': at_most, 'below': below}
    limits = ' and '.join(f'{words} {limit}' for words, limit in limits.items() if limit is not None) + note
    noun = 'a whole number' if kind is int else 'a number'

    def read(word: str) -> int | float:
        value = kind(word)
        if kind is float and not math.isfinite(value):
            raise ValueError(value)
        if ((at_least is not None and value < at_least) or (above is not None and value <= above)
                or (at_most is not None and value > at_most) or (below is not None and value >= below)):
            raise argparse.ArgumentTypeError(f'must be {limits}, got {value}.')
        return value

    of = ' of' if limits.startswith('at') else ''
    return Kind(f'{noun}{of} {limits}', read, metavar='N' if kind is int else 'X')


def one_of(*names: str, rule: str = '', read: Callable[[str], str] = str) -> Kind:
    """The kind of words that `read` finds among the names; the rule lists them unless another one is given."""

    def checked(word: str) -> str:
        if read(word) not in names:
            raise ValueError(word)
        return word

    return Kind(rule or f'one of {", ".join(name or repr(name) for name in names)}', checked, names)


FLIPS = ('h', 'v', 'hv')
ALL_FLIPS = 'flips'


def _view(word: str) -> str | float:
    if word in (ALL_FLIPS, *FLIPS):
        return word
    if not 0.1 <= float(word) <= 10:
        raise ValueError(word)
    return float(word)


VIEW = Kind('flips, one of them (h, v, hv), or a zoom from 0.1 to 10', _view, (ALL_FLIPS, *FLIPS), 'T')  # of --tta


def views(words: Sequence[str | float]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Flips and zooms of words of the kind VIEW; the zooms begin with the image as it is."""
    flips = tuple(flip for flip in FLIPS if flip in words or ALL_FLIPS in words)
    return flips, tuple(dict.fromkeys([1., *(word for word in words if isinstance(word, float))]))


class _Loader(yaml.SafeLoader):
    """PyYAML's, for which 1e-3 is the number that it is everywhere else."""


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789'))


class KeyValues(argparse.Action):
    """KEY=VALUE pairs, each value in YAML; the pairs of a repeated option add up. In a recipe, a mapping."""

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for word in values:
            key, equals, text = word.partition('=')
            key = key.replace('-', '_')
            if not equals or not key.isidentifier():
                raise argparse.ArgumentError(self, f'must be KEY=VALUE pairs, got {word!r}.')
            try:
                pairs[key] = load_yaml(text, _Loader)
            except yaml.YAMLError as error:
                raise argparse.ArgumentError(self, f'must have values in YAML, got {word!r}.') from error
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, {**(earlier if isinstance(earlier, dict) else {}), **pairs})


class Parser(argparse.ArgumentParser):
    """A parser that raises each mistake as one line, and that reads YAML by the kinds of its options.

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
        """As argparse's, except that a mistake raises."""
        self._check_names(sys.argv[1:] if args is None else args)
        try:
            parsed, others = self.parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise UsageError(self._describe(error)) from error
        if others:
            raise UsageError(self._describe_unknown(others))
        return parsed

    def _check_names(self, words: Sequence[str]) -> None:
        """Raise UsageError for an unknown option, which argparse would tell after what is missing because of it."""
        known = {'--help', *(name for option in self.options.values() for name in option.option_strings)}
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

    def read_recipe(self, path: str | os.PathLike) -> dict[str, Any]:
        """What a YAML file sets. Keys are names of options, with dashes or underscores; null leaves the default."""
        name = repr(str(path))
        try:
            with open(path, encoding='utf-8-sig') as file:
                root = compose_yaml(file.read(), _Loader)
            if not isinstance(root, yaml.MappingNode):
                found = 'it has none' if root is None else f'it has {_shown(root)}'
                raise UsageError(f'{name} must hold NAME: VALUE lines, one for each option: {found}.')
            values = {key: self._value_of(key, *nodes) for key, nodes in _entries(root).items()}
        except UnicodeDecodeError as error:
            raise UsageError(f'{name} must be text in UTF-8: {error.reason} at byte {error.start}.') from error
        except yaml.YAMLError as error:
            mark = getattr(error, 'problem_mark', None)
            problem = getattr(error, 'problem', None) or first_lines(error, 1)
            line = f', line {mark.line + 1}' if mark else ''
            raise UsageError(f'{name}{line}: {problem}{"" if problem[-1] in ".?" else "."}') from error
        return {key: value for key, value in values.items() if value is not _NOT_GIVEN}

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
        names = [name for option in self.options.values() for name in option.option_strings]
        option = self.options.get(word.lstrip('-').replace('-', '_'))
        if option is not None and not option.option_strings:  # one that is told by its place
            place = option.metavar
            return f'There is no option {word}: {place} is given by itself, as in "{self.prog} {place}".'
        synonym = self.synonyms.get(word.lstrip('-').replace('-', '_'))
        near = f' Did you mean {_flag(synonym)}?' if synonym else near_names(word, names)
        return f'There is no option {word}.{near}'

    def _value_of(self, key: str, key_node: yaml.Node, node: yaml.Node) -> Any:
        """The value of a node, as its option reads it from words."""
        option, written, tag = self.options.get(key), key_node.value, _tag(node)
        if option is None or key == 'config':
            synonym = self.synonyms.get(key)
            near = f' Did you mean {synonym}?' if synonym else near_names(key, self.options.keys() - {'config'})
            raise _problem(key_node, f'there is no option {written}.{near}')
        if tag == 'null':
            return _NOT_GIVEN
        if isinstance(option, KeyValues):
            return _keyword_arguments(written, node)
        if tag == 'bool' and option.const is not None:  # a switch, or an option that needs no value
            return option.const if node.value.lower() in ('true', 'yes', 'on') else option.default
        if option.nargs == 0:
            raise _problem(node, f'{written} must be true or false, got {_shown(node)}')
        is_list = option.nargs not in (None, '?')
        if tag == 'seq' and not is_list:
            raise _problem(node, f'{written} must be one value, got a list')
        nodes = node.value if tag == 'seq' else [node]
        if not nodes or (isinstance(option.nargs, int) and len(nodes) != option.nargs):
            needed = f'{option.nargs} values' if isinstance(option.nargs, int) else 'at least one value'
            raise _problem(node, f'{written} must be {needed}, got {len(nodes)}')
        values = [_word_of(written, option.type, item) for item in nodes]
        return values if is_list else values[0]


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


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _tag(node: yaml.Node) -> str:
    """'str', 'int', 'float', 'bool', 'null', 'timestamp', 'seq', 'map', or a tag that the file states."""
    return node.tag.removeprefix('tag:yaml.org,2002:')


def _shown(node: yaml.Node) -> str:
    tag = _tag(node)
    shown = {
        'bool': f'{node.value} (quote it to mean the word)', 'str': f'the text {node.value!r}', 'null': 'null',
        'int': node.value, 'float': node.value, 'timestamp': node.value, 'seq': 'a list', 'map': 'a mapping'}
    return shown.get(tag, f'the tag {tag!r}')


def _entries(mapping: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Nodes of keys and values by name, with underscores; YAML itself would let a second one replace the first."""
    entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _problem(key, 'a key must be a name')
        name = key.value.replace('-', '_')
        if name in entries:
            raise _problem(key, f'{key.value} is set a second time')
        entries[name] = (key, value)
    return entries


def _keyword_arguments(written: str, node: yaml.Node) -> dict[str, Any]:
    if _tag(node) != 'map':
        raise _problem(node, f'{written} must be a mapping, KEY: VALUE, got {_shown(node)}')
    pairs = {}
    for name, (key, value) in _entries(node).items():
        if not name.isidentifier():
            raise _problem(key, f'{written} must have names of arguments as keys, got {key.value!r}')
        try:
            pairs[name] = _Loader('').construct_document(value)
        except ValueError as error:  # a date that the calendar does not have
            raise _problem(value, f'{written} must have values in YAML, and {name} has none') from error
    return pairs


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


def _word_of(written: str, kind: Kind, node: yaml.Node) -> Any:
    if _tag(node) not in ('str', 'int', 'float', 'timestamp'):
        raise _problem(node, f'{written} must be {kind.rule}, got {_shown(node)}')
    try:
        return kind(node.value)
    except argparse.ArgumentTypeError as error:
        raise _problem(node, f'{written} {error}') from error


def find_recipe(name: str) -> str:
    """The path of a YAML file: the name itself, or else a recipe of the package by its name, with or without .yaml.

    Raises:
        UsageError: Neither; the text has the recipes of near names.
    """
    if os.path.exists(name) and not os.path.isdir(name):
        return name
    folder = resources.files('rexnet_timm') / 'configs'
    recipes = {file.name.removesuffix('.yaml'): file for file in folder.iterdir() if file.name.endswith('.yaml')}
    if name.removesuffix('.yaml') in recipes:
        return str(recipes[name.removesuffix('.yaml')])
    if os.path.isdir(name):
        raise UsageError(f'--config must be a file or the name of a recipe, {name!r} is a folder.')
    near = near_names(os.path.basename(name).removesuffix('.yaml'), recipes)
    raise UsageError(
        f'There is no configuration file {name!r}, and the recipes are {", ".join(sorted(recipes))}.{near}')


def progress_bar(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The items, with a bar on standard error where that is a terminal."""
    return tqdm(items, total=total, unit='sample', leave=False, file=sys.stderr, disable=None)


def report_errors(prog: str, command: Callable[[], object], flags: Mapping[str, str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 after a fault of the machine, 2 after a mistake, 130 after Ctrl+C.

    A run that a signal has stopped ends with 128 and the number of the signal.

    A mistake is told in one line on standard error: DatasetError, any other ValueError that a check raised (see
    `errors.is_told`), FloatingPointError, and OSError that names a file. Of several processes, which fail in the same
    way, only the first tells it; a DatasetError may have met only one of them, which tells it. A process that loses
    its connection since another one ended says so. Everything else is a fault of the program and is raised.

    Args:
        prog: The command, as it is typed.
        command: What is run.
        flags: From what the library's errors say to what the user types: from the name of an argument to the option
            that sets it, and from a call to the words in its place.
    """
    is_of_this_process = False
    try:
        command()
    except Stopped as stopped:
        status, text = 128 + stopped.number, f'{stopped} The same command with --resume auto goes on.'
    except KeyboardInterrupt:
        status, text = 130, 'interrupted'
    except (RuntimeError, MemoryError) as error:
        _logger.debug('', exc_info=True)
        fault = fault_of(error)
        if fault is not None:  # which may have met only this process
            print(f'{prog}: error: {fault}{what_is_safe(error)}', file=sys.stderr)
            return 1
        if not (int(os.environ.get('WORLD_SIZE') or 1) > 1 and re.search(f'{_LOST_CONNECTION}|{_WAITED}', str(error))):
            raise
        rank, waited = os.environ.get('RANK'), re.search(_WAITED, str(error))
        why = 'it has waited for another one longer than --dist-timeout' if waited else \
            'another process of the run has ended'
        print(f'{prog}: process {rank} stops, since {why}.', file=sys.stderr)
        return LEFT_ALONE
    except (ValueError, FloatingPointError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, FileNotFoundError):
            if error.errno is None:
                raise
            print(f'{prog}: error: {fault_of(error)}{what_is_safe(error)}', file=sys.stderr)
            return 1
        if isinstance(error, ValueError) and not isinstance(error, (DatasetError, UsageError)) and not is_told(error):
            raise
        _logger.debug('', exc_info=True)
        status, text = 2, f'error: {_one_line(error, flags or {})}{what_is_safe(error)}'
        # in the middle of a run, where all have agreed on what they do, a mistake is met by one
        is_of_this_process = hasattr(error, 'what_is_safe') and not isinstance(error, FloatingPointError)
        if isinstance(error, DatasetError):
            print(f'{prog}: {text}', file=sys.stderr)
            return status
    else:
        return 0
    if int(os.environ.get('RANK') or 0) == 0 or is_of_this_process:
        print(f'{prog}: {text}', file=sys.stderr)
    return status


def _one_line(error: Exception, flags: Mapping[str, str]) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        full = ' It was left as it was: free space there, or name another place.' * (error.errno in FULL)
        return f'{os.fspath(error.filename)!r}: {error.strerror}.{full}'
    text = '; '.join(line.strip() for line in sample_error_message(error).splitlines() if line.strip())
    return text if isinstance(error, UsageError) else with_flags(text, flags)


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """The text with options in place of the arguments' names, except in quoted words, in paths and in calls."""
    for words in (words for words in flags if not words.isidentifier()):
        # a name that is an English word too stands for the argument where a rule begins with it
        start = r'(?:^|(?<=[.;:] ))' if words.endswith(' must') else ''
        text = re.sub(start + re.escape(words), flags[words], text)
    left = r"""(?<!\w)'[^']*'(?!\w)|(?<!\w)"[^"]*"(?!\w)|\w\([^()]*=[^()]*\)"""
    names = '|'.join(name for name in flags if name.isidentifier())
    # nothing that is a part of a longer name, of a path, or of a call
    name = rf'(?<![\w./\\=-])({names})(=None\b|=|(?![\w/\\(-]|\.\w))' if names else '(?!)()()'

    def replace(match: re.Match) -> str:
        if match[1] is None:
            return match[0]
        return f'no {flags[match[1]]}' if match[2] == '=None' else flags[match[1]] + (' ' if match[2] else '')

    return re.sub(f'{left}|{name}', replace, text)

