"""Samples that cannot be used, found before a run: by their headers, or by reading them whole."""
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..errors import DatasetError
from .ahead import called_ahead
from .folder import SegmentationFolder
from .headers import is_too_large

__all__ = ['BadSample', 'bad_samples']


class BadSample(NamedTuple):
    """A sample that cannot be used.

    Attributes:
        split: Its split.
        index: Its number in the data set.
        image: The image.
        mask: The mask.
        reason: Why, with the remedy.
    """
    split: str
    index: int
    image: str
    mask: str
    reason: str


def bad_samples(
        dataset: SegmentationFolder,
        whole: bool = False,
        threads: int | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> list[BadSample]:
    """The samples of a data set that cannot be used, in their order.

    Args:
        dataset: Without a transform.
        whole: Whether samples are read whole, as in training, so that damaged pixels and labels outside the classes
            are found; else only headers are.
        threads: Samples that are looked at a time; None takes one for each core, at most 16.
        progress: Goes through what it is given, of which it gets the number too, as `tqdm.tqdm` does.
    """
    def problem(index: int) -> str | None:
        try:
            dataset.check_header(index)
            if whole and not is_too_large(dataset.paths(index)[0]):  # of which training reads parts
                dataset[index]
        except DatasetError as error:
            return str(error)
        return None

    reasons = progress(called_ahead(problem, range(dataset.num_pairs), threads), dataset.num_pairs)
    return [BadSample(dataset.split, index, *map(str, dataset.paths(index)), reason)
            for index, reason in reasons if reason is not None]

