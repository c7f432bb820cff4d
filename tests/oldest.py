#!/usr/bin/env python3
"""Prints the requirements of setup.cfg at their lower bounds, as constraints of pip: `make test-oldest` installs them.

It needs nothing but Python, since it runs before anything is installed.
"""
import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parents[1] / 'setup.cfg'


def lower_bounds(text: str) -> dict[str, str]:
    """Name and lowest release of every requirement of a setup.cfg that has one, those of extras too.

    Raises:
        ValueError: A requirement that the package cannot do without has no lower bound, or two of one name differ.
    """
    config = configparser.ConfigParser()
    config.read_string(text)
    needed = config['options']['install_requires'].splitlines()
    extras = [line for extra in config['options.extras_require'].values() for line in extra.splitlines()]
    bounds: dict[str, str] = {}
    for line in filter(None, map(str.strip, [*needed, *extras])):
        match = re.fullmatch(r'([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\d.]+)', line)
        if match is None:
            if line in needed or line in map(str.strip, needed):
                raise ValueError(f'Every requirement of install_requires must be NAME >= RELEASE, got {line!r}.')
            continue
        name, bound = match.groups()
        if bounds.setdefault(name, bound) != bound:
            raise ValueError(f'{name} must have one lower bound, got {bounds[name]} and {bound}.')
    return bounds


if __name__ == '__main__':
    print('\n'.join(f'{name}=={bound}' for name, bound in lower_bounds(SETUP.read_text()).items()))
