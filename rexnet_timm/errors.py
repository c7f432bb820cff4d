"""Errors for users, and what their messages are made of."""
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ['DatasetError', 'first_lines', 'near_names']


class DatasetError(ValueError):
    """A folder or file that cannot be used as it is; the text is one line: the rule, what was found, the remedy."""


def near_names(name: str, names: Iterable[str], number: int = 3) -> str:
    """The part of an error message that offers the names nearest to a wrong one; empty where none is near."""
    near = get_close_matches(name, list(names), number, 0.5)
    return f' Did you mean {" or ".join(near)}?' if near else ''


def first_lines(error: Exception, number: int = 3) -> str:
    """The first lines of somebody else's error, on one line."""
    return '; '.join(line.strip() for line in str(error).splitlines()[:number])
