"""Kinds of values that options take: each reads one word and says what it must be."""
import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from ..errors import near_names
from ..plain_text import load_yaml

__all__ = ['TEXT', 'VIEW', 'KeyValues', 'Kind', 'YamlLoader', 'number', 'one_of', 'one_of_table', 'views']


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


class _OpenKind(Kind):
    """A kind whose rule and names are asked for each time, since modules that are imported later add to them."""

    def __init__(self, rule: Callable[[], str], read: Callable[[str], str], names: Callable[[], Sequence[str]]) -> None:
        self._rule, self._names, self.read, self.metavar = rule, names, read, 'NAME'

    @property
    def rule(self) -> str:
        return self._rule()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names())


def one_of_table(table: Mapping[str, Any], *first: str, sums: bool = False) -> Kind:
    """The kind of names in a table that modules of --import may add to.

    Args:
        table: The table.
        *first: Names beside it.
        sums: Whether names with + between them count too.
    """
    def names() -> Sequence[str]:
        return (*first, *table)

    def read(word: str) -> str:
        if not set(word.split('+') if sums else [word]) <= set(names()):
            raise ValueError(word)
        return word

    def rule() -> str:
        example = ", or a sum such as 'ce+dice'" if sums else ''
        return f'one of {", ".join(names())}{example}, or a name that a module of --import registers'

    return _OpenKind(rule, read, names)


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


class YamlLoader(yaml.SafeLoader):
    """PyYAML's, for which 1e-3 is the number that it is everywhere else."""


YamlLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$'), list('-+.0123456789'))


class KeyValues(argparse.Action):
    """KEY=VALUE pairs, each value in YAML; the pairs of a repeated option add up. In a recipe, a mapping."""

    def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
            option_string: str | None = None) -> None:
        pairs = {}
        for word in values:
            key, equals, text = word.partition('=')
            key = key.replace('-', '_')
            if not equals or not key.isidentifier():
                raise argparse.ArgumentError(self, f'must be KEY=VALUE pairs, got {word!r}.')
            try:
                pairs[key] = load_yaml(text, YamlLoader)
            except yaml.YAMLError as error:
                raise argparse.ArgumentError(self, f'must have values in YAML, got {word!r}.') from error
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, {**(earlier if isinstance(earlier, dict) else {}), **pairs})
