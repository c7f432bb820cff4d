"""How far a command is: a bar on a terminal, a few lines in the file of a log."""
import math
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ['Progress', 'is_shown_live', 'progress_bar']

QUIET = 10.  # seconds, of which a log tells nothing
PARTS = 10  # of all that there is to do, with each of which a log tells how far that is


def is_shown_live() -> bool:
    """Whether what is on standard error can be written over: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.partition('.')[0] == 'ipykernel'


class Progress(tqdm):
    """A bar on standard error. In the file of a log it is a line after some seconds, and one for each tenth.

    Where it is not known how much there is to do, a line comes each time that the seconds have doubled. The arguments
    are those of tqdm.
    """

    def __init__(self, *args: Any, leave: bool = False, **kwargs: Any) -> None:
        self.is_live, self.told = is_shown_live(), -1
        super().__init__(*args, leave=leave and self.is_live, file=sys.stderr, **kwargs)

    def begin(self, name: str, total: int) -> None:
        """Begin anew, with something else of a name."""
        self.told = -1
        self.set_description_str(name, refresh=False)
        self.reset(total)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show how far it is, where something is to be shown."""
        if self.is_live:
            return super().display(msg, pos)
        facts = self.format_dict
        done, total, seconds = facts['n'], facts['total'], facts['elapsed']
        if msg is None and seconds >= QUIET:
            part = PARTS * done // total if total else int(math.log2(seconds / QUIET))
            if part > self.told:
                self.told = part
                self.fp.write(self._line(done, total, seconds))
        return False

    def _line(self, done: int, total: int | None, seconds: float) -> str:
        of = f' of {total}' if total else ''
        left = f', {self.format_interval((total - done) * seconds / done)} left' if total and done else ''
        name = f'{self.desc}: ' if self.desc else ''
        return f'{name}{done}{of} {self.unit}s, {self.format_interval(seconds)}{left}\n'

    def clear(self, nolock: bool = False) -> None:
        """Take the bar away for a line of something else; lines of a log stay."""
        if self.is_live:
            super().clear(nolock)


def progress_bar(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The samples, and how far one is with them."""
    return Progress(items, total=total, unit='sample')
