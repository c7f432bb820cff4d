"""Recipes: YAML files of options, held to the kinds of these, with the line of a mistake."""
import argparse
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from ..errors import first_lines, near_names
from ..plain_text import compose_yaml
from .mistakes import UsageError
from .values import KeyValues, Kind, YamlLoader

__all__ = ['find_recipe', 'read_recipe']

_NOT_GIVEN = object()


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


def read_recipe(
        path: str | os.PathLike, options: Mapping[str, argparse.Action], synonyms: Mapping[str, str]) -> dict[str, Any]:
    """What a YAML file sets. Keys are names of options, with dashes or underscores; null leaves the default.

    Args:
        path: The file.
        options: Those of a parser, by name.
        synonyms: What other tools call an option.

    Raises:
        OSError: It cannot be read.
        UsageError: No YAML, an unknown option, or a value of another kind; the text has the file and the line.
    """
    name = repr(str(path))
    try:
        with open(path, encoding='utf-8-sig') as file:
            root = compose_yaml(file.read(), YamlLoader)
        if not isinstance(root, yaml.MappingNode):
            found = 'it has none' if root is None else f'it has {_shown(root)}'
            raise UsageError(f'{name} must hold NAME: VALUE lines, one for each option: {found}.')
        values = {key: _value_of(key, *nodes, options, synonyms) for key, nodes in _entries(root).items()}
    except UnicodeDecodeError as error:
        raise UsageError(f'{name} must be text in UTF-8: {error.reason} at byte {error.start}.') from error
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        problem = getattr(error, 'problem', None) or first_lines(error, 1)
        line = f', line {mark.line + 1}' if mark else ''
        raise UsageError(f'{name}{line}: {problem}{"" if problem[-1] in ".?" else "."}') from error
    return {key: value for key, value in values.items() if value is not _NOT_GIVEN}


def _value_of(
        key: str, key_node: yaml.Node, node: yaml.Node, options: Mapping[str, argparse.Action],
        synonyms: Mapping[str, str]) -> Any:
    """The value of a node, as its option reads it from words."""
    option, written, tag = options.get(key), key_node.value, _tag(node)
    if option is None or key == 'config':
        synonym = synonyms.get(key)
        near = f' Did you mean {synonym}?' if synonym else near_names(key, options.keys() - {'config'})
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
            pairs[name] = YamlLoader('').construct_document(value)
        except ValueError as error:  # a date that the calendar does not have
            raise _problem(value, f'{written} must have values in YAML, and {name} has none') from error
    return pairs


def _word_of(written: str, kind: Kind, node: yaml.Node) -> Any:
    if _tag(node) not in ('str', 'int', 'float', 'timestamp'):
        raise _problem(node, f'{written} must be {kind.rule}, got {_shown(node)}')
    try:
        return kind(node.value)
    except argparse.ArgumentTypeError as error:
        raise _problem(node, f'{written} {error}') from error
