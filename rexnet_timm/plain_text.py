"""YAML and JSON of others, read as plain values within bounds.

A few lines of YAML can stand for more values than any memory holds, by names for parts that are repeated
(`&a [*b, *b]`), and both formats can nest deeper than Python can follow. No file that people write does either.
"""
import json
from typing import Any

import yaml

__all__ = ['MOST_DEPTH', 'MOST_VALUES', 'PlainTextError', 'compose_yaml', 'load_json', 'load_yaml']

MOST_DEPTH = 50  # of values within values in YAML
MOST_VALUES = 1_000_000  # of a YAML file, each repeated part counted as often as it is repeated
_NESTED = 'its values are nested too deep to be read'


class PlainTextError(yaml.YAMLError, ValueError):
    """A text beyond the bounds; a YAMLError, so that what tells of damaged YAML tells of it too."""


def compose_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> yaml.Node | None:
    """The nodes of a YAML text, as `yaml.compose` gives them.

    Args:
        text: The text.
        loader: The kind of loader, a safe one.

    Returns:
        Its root, None of an empty text.

    Raises:
        YAMLError: No YAML.
        PlainTextError: More than `MOST_VALUES` values, nested too deep, or a value within itself.
    """
    depth = 0
    for event in yaml.parse(text, loader):  # before its nodes are made, in time and calls that grow with the depth
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise PlainTextError(_NESTED)
    root = yaml.compose(text, loader)
    if root is not None and _count(root, {}) > MOST_VALUES:
        raise PlainTextError(f'it stands for more than {MOST_VALUES} values, by names for parts that are repeated')
    return root


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The plain value of a YAML text.

    Args:
        text: The text.
        loader: The kind of loader, a safe one.

    Raises:
        YAMLError: No YAML, or a value that there is not, such as the 30th of February.
        PlainTextError: As `compose_yaml`.
    """
    root = compose_yaml(text, loader)
    if root is None:
        return None
    try:
        return loader('').construct_document(root)
    except ValueError as error:
        raise PlainTextError(f'a value cannot be read ({error})') from error


def load_json(text: str) -> Any:
    """The plain value of a JSON text.

    Raises:
        ValueError: No JSON (a JSONDecodeError), or nested too deep (a PlainTextError).
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise PlainTextError(_NESTED) from None


def _count(node: yaml.Node, counted: dict[int, int | None]) -> int:
    """Values below a node, those of a repeated part each time."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in counted:
        number = counted[id(node)]
        if number is None:
            raise PlainTextError('a value holds itself')
        return number
    counted[id(node)] = None
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    counted[id(node)] = number = 1 + sum(_count(part, counted) for part in parts)
    return number
