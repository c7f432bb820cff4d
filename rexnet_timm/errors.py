"""Errors for users, and what their messages are made of."""
import re
import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

__all__ = ['DatasetError', 'first_lines', 'is_told', 'near_names']


class DatasetError(ValueError):
    """A folder or file that cannot be used as it is; the text is one line: the rule, what was found, the remedy."""


def near_names(name: str, names: Iterable[str], number: int = 3) -> str:
    """The part of an error message that offers the names nearest to a wrong one; empty where none is near."""
    near = get_close_matches(name, list(names), number, 0.5)
    return f' Did you mean {" or ".join(near)}?' if near else ''


def first_lines(error: Exception, number: int = 3) -> str:
    """The first lines of somebody else's error, on one line."""
    return '; '.join(line.strip() for line in str(error).splitlines()[:number])


def is_told(error: BaseException) -> bool:
    """Whether an explicit check raised the error, in words for the user: a `raise` that stands in no library.

    An error that Python or a library raised on the way, as `zip(strict=True)` and a wrong unpacking do, may be of the
    same class and is a fault of the program. Of an error out of a loader's worker, whose text is its traceback, that
    traceback is asked.
    """
    frames = traceback.extract_tb(error.__traceback__)
    path, line = (frames[-1].filename, frames[-1].line or '') if frames else ('', '')
    if str(error).startswith('Caught '):
        path, line = (re.findall(r'File "(.*?)", line \d+, in .*\n\s+(.*)', str(error)) or [(path, line)])[-1]
    is_ours = Path(__file__).parent in Path(path).parents
    libraries = {Path(folder) for name, folder in sysconfig.get_paths().items() if 'lib' in name}
    return line.startswith('raise') and (is_ours or not libraries & set(Path(path).parents))
