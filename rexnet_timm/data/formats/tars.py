"""Tar files of WebDataset's form (https://github.com/webdataset/webdataset) that others wrote, read by an index.

The members of a sample have one name up to the first dot: `0001.jpg`, `0001.seg.png`. The headers of all members are
read once, and an index that tells where each image and mask begins is kept beside the files, or in the cache of the
user where that folder is read-only. By it samples are read by their number, as of the shards of `data.stream`.
"""
import hashlib
import logging
import os
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import DatasetError, first_lines
from ...files import atomic_path
from ..description import IMAGE_EXTENSIONS, DataDescription, DataSource, Layout, Sample, split_names
from ..stream import MANIFEST, MappedSamples, Member, raw_head
from .splits import divided, folders_with

__all__ = ['TarSamples', 'is_tar_pattern', 'webdataset']

_logger = logging.getLogger(__name__)

_VERSION = 1
_INDEX = '.webdataset-{}.npy'
_RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')
_COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
_NUMBERED = re.compile(r'(.*?)[-_.]?\d*')
_PICTURES = tuple(ending[1:] for ending in IMAGE_EXTENSIONS)
_LOSSY = ('jpg', 'jpeg', 'webp')  # which no mask is
_MASK_WORDS = {'mask', 'masks', 'seg', 'segm', 'segmentation', 'semantic', 'label', 'labels', 'annotation',
               'annotations', 'annot', 'gt', 'target', 'trimap'}
_MASKS_WITHOUT_ENDING = {'mask', 'seg', 'segmentation'}  # `label` and `target` of other programs are numbers
_IMAGE_WORDS = {'image', 'img', 'input', 'rgb', 'photo'}
_MOST_SHOWN = 3


class _Part(NamedTuple):
    """A member of a tar file: where its bytes begin, how many they are, and the name in its own header."""
    offset: int
    size: int
    name: str


class TarSamples(MappedSamples):
    """The samples of some tar files, made when they are asked for; the index stays on the disk.

    Args:
        tars: The tar files.
        index: The index.
    """

    def __init__(self, tars: Sequence[Path], index: Path) -> None:
        self.tars, self.index = tuple(tars), index
        self._rows = self._open()

    def _open(self) -> np.ndarray:
        rows = _load(self.index)
        if rows is None:
            raise DatasetError(f'The index of tar files must be readable: {self.index} is not; remove it.')
        return rows

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        number = int(row['tar'])
        if number >= len(self.tars):
            raise DatasetError(f'{self.index} has a sample that is none ({index}); remove it.')
        return tuple(
            Member(self.tars[number], int(row[place]), int(row[f'{place}_size']),
                   row[f'{place}_name'].decode('utf-8', 'surrogateescape'), 'remove the index')
            for place in ('image', 'mask'))


def is_tar_pattern(path: str | os.PathLike) -> bool:
    """Whether a path stands for several tar files: `train-{000000..000012}.tar`."""
    return os.fspath(path).endswith('.tar') and _RANGE.search(os.fspath(path)) is not None


def webdataset(root: Path, layout: Layout) -> DataDescription | None:
    """Tar files in a folder, or in a folder for each split; one tar file; or a pattern of several.

    Raises:
        DatasetError: Compressed tar files, shards that are not whole, files of a pattern that are not there, or members
            of which it is not plain which are images and masks.
    """
    is_asked = layout.data_format == 'webdataset'
    files = _files(root, is_asked)
    if not files:
        return None
    folder = root if root.is_dir() else root.parent
    if not is_asked and any(folder.glob('*.index.npy')):
        raise DatasetError(
            f'Shards must have been written to the end: {folder} has an index of some, and no {MANIFEST}; write them '
            "again, or take the tar files as they are by data_format=webdataset.")
    splits = _by_split(folder, files)
    known = {name for name in splits if len(split_names(name)) > 1}
    if not known:  # all of them are one set
        return DataDescription(source=divided(
            folder, 'webdataset', lambda: _samples(folder, 'all', files, layout), layout))

    def find(split: str) -> TarSamples:
        if split not in splits:
            raise source.no_split(split)
        return _samples(folder, split, splits[split], layout)

    source = DataSource('webdataset', folder, tuple(splits), find)
    return DataDescription(source=source)


def _files(root: Path, is_asked: bool) -> list[Path]:
    """The tar files; none in a folder that has folders of other files too, unless it is asked for."""
    if is_tar_pattern(root):
        return _expanded(root)
    if not root.is_dir():
        return [root] if root.suffix == '.tar' else []
    folders = folders_with(root, ('.tar', *_COMPRESSED))
    if not is_asked and any(path.is_dir() and path not in folders and not path.name.startswith('.')
                            for path in root.iterdir()):
        return []
    folders = [root, *folders]
    found = [sorted(folder.glob('*.tar')) for folder in folders]
    packed = [path for folder in folders for path in sorted(folder.iterdir()) if path.name.endswith(_COMPRESSED)]
    if packed and not any(found) and all(path.is_file() for path in packed):
        if not is_asked and not all(re.search(r'\d{3}\.', path.name) for path in packed):
            return []
        raise DatasetError(
            f'Tar files must not be compressed, so that samples are read by their place: {packed[0]} is; unpack the '
            f'compression only, as "gunzip {packed[0].name}" does, which leaves a .tar.')
    return [path for part in found for path in part]


def _expanded(pattern: Path) -> list[Path]:
    names = [os.fspath(pattern)]
    while match := _RANGE.search(names[0]):
        first, last = match.groups()
        numbers = [f'{number:0{len(first)}}' for number in range(int(first), int(last) + 1)]
        names = [_RANGE.sub(number, name, count=1) for name in names for number in numbers]
    files = [Path(name) for name in names]
    missing = [path for path in files if not path.is_file()]
    if missing or not files:
        raise DatasetError(
            f'All files of a pattern must be there: of {pattern} {len(missing)} of {len(files)} are not'
            f'{f", such as {missing[0]}" if missing else ""}; correct the numbers.')
    return files


def _by_split(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of each split, by the name of their folder or by what stands before their number."""
    splits: dict[str, list[Path]] = {}
    for path in files:
        name = path.parent.name if path.parent != root else _NUMBERED.fullmatch(path.stem)[1]
        words = re.split(r'[-_.]', name)
        name = next((word for word in words if len(split_names(word)) > 1), name)
        splits.setdefault(name or 'all', []).append(path)
    return splits


def _samples(root: Path, split: str, files: Sequence[Path], layout: Layout) -> TarSamples:
    """The samples of a split, by its index, which is made where it is not there or the files have changed."""
    stated = [(str(path), state.st_size, state.st_mtime_ns) for path in files for state in [path.stat()]]
    said = layout.image_suffix, layout.mask_suffix
    # a folder that is moved takes its index along
    shown = [(os.path.relpath(path, root), *rest) for path, *rest in stated]
    name = _INDEX.format(f'{split}-{_digest(shown, said)}')
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'rexnet_timm'
    places = [root / name, cache / _INDEX.format(f'{split}-{_digest(stated, said)}')]
    for place in places:
        if place.is_file() and _load(place) is not None:
            return TarSamples(files, place)
    begun = time.monotonic()
    rows = _indexed(files, *said)
    place = _write(places, rows)
    _logger.info('%d samples in %d tar files of %s were looked for in %.1f s; %s keeps where they are.', len(rows),
                 len(files), root, time.monotonic() - begun, place)
    return TarSamples(files, place)


def _digest(*values: Any) -> str:
    return hashlib.sha256(repr((_VERSION, *values)).encode()).hexdigest()[:16]


def _load(path: Path) -> np.ndarray | None:
    """The rows of an index, mapped; None for what is none."""
    try:
        rows = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if rows.ndim != 1 or rows.dtype.names != _row(1, 1).names:
        return None
    sizes = [rows.dtype[name].itemsize for name in ('image_name', 'mask_name')]
    return rows if rows.dtype == _row(*sizes) else None


def _row(image: int, mask: int) -> np.dtype:
    return np.dtype([
        ('tar', '<u4'), ('image', '<u8'), ('image_size', '<u8'), ('mask', '<u8'), ('mask_size', '<u8'),
        ('image_name', f'S{image}'), ('mask_name', f'S{mask}')])


def _write(places: Sequence[Path], rows: np.ndarray) -> Path:
    """Write an index to the first place that takes it, and remove those that it replaces there."""
    for place in places:
        last = place == places[-1]
        try:
            if last:
                place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(place) as part, open(part, 'wb') as file:
                np.save(file, rows, allow_pickle=False)
        except OSError:
            if last:
                raise
            continue
        if not last:
            for other in place.parent.glob(f'{place.stem.rpartition("-")[0]}-*.npy'):
                if other != place:
                    other.unlink(missing_ok=True)
        return place
    raise AssertionError('no place')


def _indexed(files: Sequence[Path], image_suffix: str | None, mask_suffix: str | None) -> np.ndarray:
    """Where the image and the mask of each sample are, in the order in which they come."""
    found: list[tuple[int, _Part, _Part]] = []
    for number, path in enumerate(files):
        if image_suffix and mask_suffix:
            pairs = _pairs_by_suffix(path, image_suffix, mask_suffix)
        else:
            pairs = _pairs_by_key(path, image_suffix, mask_suffix)
        found += ((number, *pair) for pair in pairs)
    if not found:
        raise DatasetError(f'Tar files must have samples: {files[0]} has none; name another folder.')
    names = [[part.name.encode('utf-8', 'surrogateescape') for part in pair] for _, *pair in found]
    return np.array(
        [(number, image.offset, image.size, mask.offset, mask.size, *pair)
         for (number, image, mask), pair in zip(found, names, strict=True)],
        _row(*(max(map(len, side)) for side in zip(*names, strict=True))))


def _members(path: Path) -> Iterator[tuple[str, _Part]]:
    """The files in a tar file, by their whole names. DatasetError where it is damaged."""
    length = path.stat().st_size
    try:
        with tarfile.open(path, 'r:') as tar, open(path, 'rb') as raw:
            for member in tar:
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) \
                        or os.path.basename(member.name).startswith('.'):
                    continue
                head = raw_head(raw, member.offset_data)
                if member.offset_data + member.size > length or head is None or head.size != member.size:
                    raise tarfile.ReadError(f'{member.name} is cut short')
                yield member.name.removeprefix('./'), _Part(member.offset_data, member.size, head.name)
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(
            f'Every tar file must be readable: {path} is not ({type(error).__name__}: {first_lines(error, 1)}); copy '
            'or write it again.') from error


def _pairs_by_suffix(path: Path, image_suffix: str, mask_suffix: str) -> list[tuple[_Part, _Part]]:
    """Pairs of members whose names end as it is said; where both ends fit, the longer one counts."""
    images, masks = {}, {}
    ends = sorted(((image_suffix, images), (mask_suffix, masks)), key=lambda end: -len(end[0]))
    for name, part in _members(path):
        end, parts = next((end for end in ends if name.endswith(end[0])), (None, None))
        if end is not None:
            parts[name[:len(name) - len(end)]] = part
    alone = images.keys() ^ masks.keys()
    if alone:
        key = min(alone)
        kind, lacking = ('image', mask_suffix) if key in images else ('mask', image_suffix)
        raise DatasetError(
            f'Each image of a tar file must have its mask, and the other way round: {len(alone)} in {path} do not, '
            f'such as the {kind} {key}, without {key}{lacking}; correct image_suffix and mask_suffix, or the file.')
    return [(part, masks[key]) for key, part in images.items()]


def _pairs_by_key(path: Path, image_suffix: str | None, mask_suffix: str | None) -> list[tuple[_Part, _Part]]:
    """Pairs of members of one key, whose endings tell what they are."""
    samples: dict[str, dict[str, _Part]] = {}
    for name, part in _members(path):
        folder, _, base = name.rpartition('/')
        stem, _, ending = base.partition('.')
        parts = samples.setdefault(f'{folder}/{stem}' if folder else stem, {})
        if ending.lower() in parts:
            raise DatasetError(
                f'Each member of a tar file must have a name of its own: {path} has {name} twice; write it again.')
        parts[ending.lower()] = part
    kinds = Counter(frozenset(parts) for parts in samples.values())
    roles = {kind: _roles(kind, image_suffix, mask_suffix) for kind in kinds}
    for kind, pair in roles.items():
        if pair is None:
            key = next(key for key, parts in samples.items() if parts.keys() == kind)
            _refuse(path, key, sorted(kind), kinds[kind], len(samples))
    return [(parts[image], parts[mask]) for parts in samples.values()
            for image, mask in [roles[frozenset(parts)]]]


def _words(ending: str) -> set[str]:
    return set(re.split(r'[._-]', ending)[:-1])


def _roles(endings: Iterable[str], image_suffix: str | None, mask_suffix: str | None) -> tuple[str, str] | None:
    """Which ending is that of the image and which that of the mask; None where that is not plain."""
    pictures = [ending for ending in sorted(endings) if ending.rpartition('.')[2] in _PICTURES]
    masks = [ending for ending in pictures if _words(ending) & _MASK_WORDS and ending.rpartition('.')[2] not in _LOSSY]
    masks += [ending for ending in endings if ending in _MASKS_WITHOUT_ENDING]
    if mask_suffix:
        masks = [ending for ending in endings if ending == mask_suffix.lstrip('.').lower()]
    images = [ending for ending in pictures if ending not in masks]
    if image_suffix:
        images = [ending for ending in endings if ending == image_suffix.lstrip('.').lower()]
        masks = [ending for ending in masks if ending not in images]
    if not masks:
        masks = [ending for ending in images if ending.rpartition('.')[2] not in _LOSSY] if not image_suffix else [
            ending for ending in pictures if ending not in images]
        named = [ending for ending in masks if not _words(ending) & _IMAGE_WORDS]
        masks = named if len(named) == 1 else masks
        images = [ending for ending in images if ending not in masks]
    if len(images) > 1:
        plain = [ending for ending in images if not _words(ending) or _words(ending) & _IMAGE_WORDS]
        images = plain if len(plain) == 1 else images
    return (images[0], masks[0]) if len(images) == len(masks) == 1 else None


def _refuse(path: Path, key: str, endings: list[str], number: int, total: int) -> None:
    pictures = [ending for ending in endings
                if ending.rpartition('.')[2] in _PICTURES or ending in _MASKS_WITHOUT_ENDING]
    shown = ', '.join(endings[:8])
    if len(pictures) < 2:
        folders = '; where the tar file has a folder of images and one of masks, unpack it, as its tree is read then' \
            if '/' in key else ''
        raise DatasetError(
            f'Each sample of a tar file must have an image and a mask, whose names are equal up to the first dot: '
            f'{number} of {total} in {path} do not, such as {key} with {shown or "no ending"}; say how their names end '
            f'by image_suffix and mask_suffix, or write the file without these{folders}.')
    # the likelier ones first, for an example
    first, second = (f'.{ending}' for ending in sorted(
        pictures, key=lambda ending: (ending.rpartition('.')[2] not in _LOSSY, bool(_words(ending) & _MASK_WORDS)))[:2])
    raise DatasetError(
        f'Which members are images and which are masks must be plain: {number} of {total} samples in {path}, such as '
        f'{key}, have {shown}; say it, as by image_suffix={first} and mask_suffix={second}.')
