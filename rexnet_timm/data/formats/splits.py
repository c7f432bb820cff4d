"""Which samples a split has: by lists, by templates of paths, or as a share where there are no splits."""
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from ...errors import DatasetError
from ..description import IMAGE_EXTENSIONS, DataSource, Layout, Sample, split_names
from ..labels import read_text
from ..pairs import Chosen
from .partners import MASKS, SPLIT, Partner

__all__ = ['divided', 'folders_with', 'listed', 'read_list', 'splits_of_template']

DEFAULT_VAL_SHARE = 0.2
_MOST_LOOKED_AT = 64  # entries of a folder


def folders_with(root: Path, endings: tuple[str, ...]) -> list[Path]:
    """The folders in a folder among whose first entries is one of these endings: others may have a million files."""
    def has_one(folder: Path) -> bool:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(endings) for entry in islice(entries, _MOST_LOOKED_AT))

    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir()
                  if path.is_dir() and not path.name.startswith('.') and has_one(path))


def divided(root: Path, name: str, find: Callable[[], Sequence[Sample]], layout: Layout) -> DataSource:
    """A source without splits, of which a share becomes the validation split.

    Which samples these are follows from the seed and from the name of each, so that no other sample changes sides when
    some are added.
    """
    share = DEFAULT_VAL_SHARE if layout.val_share is None else layout.val_share
    whole = cache(find)  # both parts are of one list

    def part(split: str) -> Sequence[Sample]:
        if split not in source.splits:
            raise source.no_split(split)
        samples = whole()
        if len(samples) < 2:
            raise DatasetError(f'A data set without splits must have at least two images, one to validate on: {root} '
                               f'has {len(samples)}; add some, or cut it into parts.')
        ranked = _ranked(samples, layout.split_seed)
        number = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
        chosen = ranked[:number] if split == 'validation' else ranked[number:]
        if not isinstance(samples, list):  # an index in the order of its names, whose samples are made when asked for
            return Chosen(samples, np.sort(chosen))
        return sorted((samples[place] for place in chosen), key=lambda sample: str(sample[0]))

    source = DataSource(name, root, ('train', 'validation'), part, share)
    return source


def _ranked(samples: Sequence[Sample], seed: int) -> np.ndarray:
    """The places of samples in an order that follows from the seed and the name of each."""
    digests = (hashlib.sha256(f'{seed}:{Path(image).name}'.encode()).digest() for image, _ in samples)
    return np.argsort(np.fromiter((int.from_bytes(digest[:8], 'big') for digest in digests), np.uint64), kind='stable')


def listed(
        root: Path,
        name: str,
        find: Callable[[], list[Sample]],
        template: str,
        partner: Partner = MASKS,
        below: Sequence[Path] = (),
) -> DataSource:
    """A source whose splits are lists of images: a stem, a path below the folder of images, or an image and a mask.

    `below` are the folders of images and of masks, to which the two files of a line may be relative.
    """
    splits = splits_of_template(root, template)

    def part(split: str) -> list[Sample]:
        path = next((path for name in split_names(split)
                     if (path := root / template.replace(SPLIT, name)).is_file()), None)
        if path is None:
            raise DatasetError(
                f'A split must have a list of its images: there is no {root / template.replace(SPLIT, split)}; '
                f'lists there are of {", ".join(splits) or "no split"}; name one of them as the split.')
        return read_list(path, root, find, partner, below)

    return DataSource(name, root, splits, part)


def read_list(
        path: Path,
        root: Path,
        find: Callable[[], list[Sample]],
        partner: Partner = MASKS,
        below: Sequence[Path] = (),
) -> list[Sample]:
    """The samples that a list names, in its order; its first word is an image, a second one its mask."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith('#')]
    # as lists of KITTI's Eigen split name images that have no depth
    lines = [words for words in lines if words[1:2] != ['None']]
    if not lines:
        raise DatasetError(f'The list of a split must name its images, one a line: {path} has none.')
    paired = [words for words in lines if len(words) > 1 and Path(words[1]).suffix.lower() in partner.extensions]
    if len(paired) == len(lines):
        places = [(folder, root, path.parent) for folder in below] or [(root, path.parent)] * 2
        return [(_existing(words[0], path, places[0]), _existing(words[1], path, places[1])) for words in lines]
    exact, by_end = {}, {}
    for sample in find():
        stem = Path(sample[0]).with_suffix('')
        whole = (stem.relative_to(root) if stem.is_relative_to(root) else stem).as_posix()
        exact[whole] = sample
        for end in _ends_of(whole):
            by_end.setdefault(end, []).append(sample)
    chosen, missing = [], []
    for words in lines:
        name = words[0].removeprefix('./').strip('/')
        stem = os.path.splitext(name)[0] if Path(name).suffix.lower() in IMAGE_EXTENSIONS else name
        found = [exact[stem]] if stem in exact else by_end.get(stem, [])
        if len(found) > 1:
            raise DatasetError(
                f'Each name in a list must be of one image: {path} has {name!r}, which is {found[0][0]} and '
                f'{found[1][0]}; write their paths.')
        chosen += found
        missing += [] if found else [name]
    if missing:
        raise DatasetError(
            f'Each image of a list must be there with its {partner.kind}: {path} names {len(missing)} of {len(lines)} '
            f'that are not ({", ".join(missing[:3])}{", ..." if len(missing) > 3 else ""}); add them or take them off '
            'the list.')
    return chosen


def _ends_of(path: str) -> list[str]:
    """What a path may be called in a list: its last part, its last two, and so on."""
    parts = path.split('/')
    return ['/'.join(parts[start:]) for start in range(len(parts))]


def _existing(name: str, path: Path, places: Sequence[Path]) -> Path:
    """A file of a list: below the first of the places where it is, however its path begins."""
    parts = Path(name.strip('/')).parts
    for start in range(len(parts)):
        for base in places:
            file = base.joinpath(*parts[start:])
            if file.is_file():
                return file
    raise DatasetError(
        f'Each file of a list must be there: {path} names {name!r}, which is not in {places[0]}; correct it.')


def splits_of_template(root: Path, template: str) -> tuple[str, ...]:
    """Names that `{split}` stands for, of the files or folders that are there."""
    before, _, after = template.partition(SPLIT)
    rest = after.split('/')[0]
    folder = root / before if before.endswith('/') or not before else (root / before).parent
    start = '' if before.endswith('/') or not before else Path(before).name
    if not folder.is_dir():
        return ()
    names = sorted(
        name[len(start):len(name) - len(rest)] for name in os.listdir(folder)
        if name.startswith(start) and name.endswith(rest) and not name.startswith('.'))
    return tuple(name for name in names if name and (root / template.replace(SPLIT, name)).exists())
