""" Near names for error messages. """
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ['near_names']


def near_names(name: str, names: Iterable[str], number: int = 3) -> str:
    """The part of an error message that offers the names nearest to a wrong one; empty where none is near."""
    near = get_close_matches(name, list(names), number, 0.5)
    return f' Did you mean {" or ".join(near)}?' if near else ''
