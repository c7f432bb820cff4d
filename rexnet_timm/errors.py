"""Errors for users, and what their messages are made of."""
import re
import sysconfig
import traceback
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

__all__ = [
    'DatasetError', 'first_lines', 'first_sentence', 'is_refusal', 'is_told', 'near_names', 'sample_error_message']


class DatasetError(ValueError):
    """A folder or file that cannot be used as it is; the text is one line: the rule, what was found, the remedy."""


def near_names(name: str, names: Iterable[str], number: int = 3) -> str:
    """The part of an error message that offers the names nearest to a wrong one; empty where none is near.

    Beside a name that differs by a letter or two, those that are much farther off are left out.
    """
    near = get_close_matches(name, list(names), number, 0.5)
    likeness = [SequenceMatcher(None, other, name).ratio() for other in near]
    if near and likeness[0] >= 0.9:
        near = [other for other, like in zip(near, likeness, strict=True) if like >= likeness[0] - 0.15]
    return f' Did you mean {" or ".join(near)}?' if near else ''


def first_lines(error: BaseException, number: int = 3) -> str:
    """The first lines of somebody else's error, on one line."""
    return '; '.join(line.strip() for line in str(error).splitlines()[:number])


def first_sentence(error: Exception) -> str:
    """The first sentence of somebody else's error, with its full stop; what follows may fill pages."""
    sentence = re.split(r'(?<=[.!?])\s', first_lines(error, 1), maxsplit=1)[0]
    return sentence if sentence.endswith(('.', '!', '?')) else f'{sentence}.'


def sample_error_message(error: BaseException) -> str:
    """The text of an error without the traceback that a loader's worker puts around it.

    Args:
        error: What iterating over a loader raised, here or in a worker.

    Returns:
        Its own text, of as many lines as that has.
    """
    text = str(error)
    if not text.startswith('Caught '):
        return text
    # the formatted traceback is the text; its last line of this form names the class and begins the message
    return re.split(rf'^(?:[\w.]+\.)?{type(error).__name__}: ', text, flags=re.MULTILINE)[-1].strip()


def is_told(error: BaseException) -> bool:
    """Whether an explicit check raised the error, in words for the user: a `raise` that stands in no library.

    An error that Python or a library raised on the way, as `zip(strict=True)` and a wrong unpacking do, may be of the
    same class and is a fault of the program. Of an error out of a loader's worker, whose text is its traceback, that
    traceback is asked.
    """
    path, line = _origin(error)
    is_ours = Path(__file__).parent in Path(path).parents
    return line.startswith('raise') and (is_ours or not _is_in_library(path))


def is_refusal(error: BaseException) -> bool:
    """Whether an explicit check of a library raised the error, a `raise` or an `assert`: it refused what it was given.

    That may be the user's mistake where what it was given is the user's. An error from elsewhere in a library, such as
    a wrong unpacking, is none.
    """
    path, line = _origin(error)
    is_ours = Path(__file__).parent in Path(path).parents
    return line.startswith(('raise', 'assert')) and not is_ours and _is_in_library(path)


def _origin(error: BaseException) -> tuple[str, str]:
    """The file and the line of code that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    path, line = (frames[-1].filename, frames[-1].line or '') if frames else ('', '')
    if str(error).startswith('Caught '):
        path, line = (re.findall(r'File "(.*?)", line \d+, in .*\n\s+(.*)', str(error)) or [(path, line)])[-1]
    return path, line


def _is_in_library(path: str) -> bool:
    libraries = {Path(folder) for name, folder in sysconfig.get_paths().items() if 'lib' in name}
    return bool(libraries & set(Path(path).parents))
