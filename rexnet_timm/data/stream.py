"""Shards: a data set as a few large tar files of WebDataset's form (https://github.com/webdataset/webdataset), and what
reads them.

A sample is two members that follow each other, `KEY.jpg` and `KEY.mask.png` (or `KEY.depth.png`), each with the bytes
of its file. Beside the shards lie an index of each split, which tells where each member begins, and a manifest. So
samples are read by their number, in any order, from any process, without unpacking anything: shards are a map-style
data set like a folder, as exact, seeded and resumable, and other tools read them as a stream.

What is read is not trusted: names in the manifest and in the tar files are plain names or refused, and a member is read
only where its own header in the tar file agrees with the index and the file is as long as both say.
"""
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..errors import DatasetError
from ..files import atomic_path
from .description import IMAGE_EXTENSIONS, TASKS, DataDescription, DataSource, Layout, Sample
from .headers import read_header

__all__ = [
    'MANIFEST', 'MappedSamples', 'Member', 'ShardSamples', 'describe_shards', 'raw_head', 'verify_shards',
    'write_shards']

MANIFEST = 'shards.json'
VERSION = 1
TARGETS = {'segmentation': 'mask', 'depth': 'depth'}  # what stands between key and ending of the second member
DEFAULT_SIZE = 256  # MiB of a shard

_BLOCK = 512  # of tar files
_MOST_MANIFEST = 2 ** 26  # bytes
_KEY = 80  # letters of a key
_PLAIN = re.compile(r'[A-Za-z0-9_-][A-Za-z0-9_.-]*')
_ROW = np.dtype([
    ('shard', '<u4'), ('image', '<u8'), ('image_size', '<u8'), ('target', '<u8'), ('target_size', '<u8'),
    ('height', '<u4'), ('width', '<u4'), ('key', f'S{_KEY}'), ('image_end', 'S8'), ('target_end', 'S12')])
_ENDINGS = {'JPEG': '.jpg', 'MPO': '.jpg', 'PNG': '.png', 'TIFF': '.tif', 'WEBP': '.webp', 'BMP': '.bmp', 'GIF': '.gif'}
_AGAIN = 'copy the folder of the shards again, or write it anew'


@dataclass(frozen=True, eq=False)
class Member:
    """A file in a shard, which is opened and named like a file.

    Attributes:
        shard: The tar file.
        offset: Where its bytes begin.
        size: How many they are.
        name: Its name in the shard.
        remedy: What to do where it is not there.
    """
    shard: Path
    offset: int
    size: int
    name: str
    remedy: str = _AGAIN

    def __str__(self) -> str:
        return f'{self.shard}/{self.name}'

    def __fspath__(self) -> str:
        return str(self)

    @property
    def suffix(self) -> str:
        """How its name ends."""
        return os.path.splitext(self.name)[1]

    def open(self, mode: str = 'rb') -> io.BytesIO:
        """Its bytes, as a file.

        Raises:
            DatasetError: The shard has something else there.
        """
        with open(self.shard, 'rb') as file:
            if self.offset <= os.fstat(file.fileno()).st_size - self.size:
                head = raw_head(file, self.offset)
                if head is not None and (head.name, head.size) == (self.name, self.size):
                    return io.BytesIO(file.read(self.size))
        raise DatasetError(
            f'A shard must have what its index says: {self.shard} has no {self.name} at byte {self.offset}; '
            f'{self.remedy}.')


def raw_head(file: BinaryIO, offset: int) -> tarfile.TarInfo | None:
    """The header of a plain file in a tar file, right before its bytes; None for anything else.

    Args:
        file: The tar file; it is then at the offset.
        offset: Where the bytes begin.
    """
    if offset < _BLOCK:
        return None
    file.seek(offset - _BLOCK)
    try:
        head = tarfile.TarInfo.frombuf(file.read(_BLOCK), 'utf-8', 'surrogateescape')
    except tarfile.TarError:
        return None
    return head if head.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else None


class MappedSamples(Sequence[Sample]):
    """Samples of an index that stays on the disk: `_rows`, which each process maps for itself by `_open`."""

    _rows: np.ndarray

    def _open(self) -> np.ndarray:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_rows': None}  # another process maps the file itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = self._open()

    def __len__(self) -> int:
        return len(self._rows)


class ShardSamples(MappedSamples):
    """The samples of a split, made when they are asked for; the index stays on the disk.

    Args:
        root: Folder of the shards.
        shards: Names of the tar files.
        index: Name of the index.
        target: What stands before the ending of the second member.
    """

    def __init__(self, root: Path, shards: Sequence[str], index: str, target: str) -> None:
        self.root, self.shards, self.index, self.target = root, tuple(shards), index, target
        self._rows = self._open()

    def _open(self) -> np.ndarray:
        path = self.root / self.index
        try:
            rows = np.load(path, mmap_mode='r', allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(
                f'Every index must be readable: {path} is not ({type(error).__name__}: {error}); {_AGAIN}.') from error
        if rows.dtype != _ROW or rows.ndim != 1:
            raise DatasetError(f'{path} is no index of shards; {_AGAIN}.')
        return rows

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._rows[index]
        key, *ends = (row[name].decode('ascii', 'replace') for name in ('key', 'image_end', 'target_end'))
        names = f'{key}{ends[0]}', f'{key}.{self.target}{ends[1]}'
        number = int(row['shard'])
        if number >= len(self.shards) or not all(map(_PLAIN.fullmatch, names)):
            raise DatasetError(f'{self.root / self.index} has a sample that is none ({index}); {_AGAIN}.')
        shard = self.root / self.shards[number]
        return tuple(
            Member(shard, int(row[place]), int(row[f'{place}_size']), name)
            for place, name in zip(('image', 'target'), names, strict=True))

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every image."""
        return list(zip(self._rows['height'].tolist(), self._rows['width'].tolist(), strict=True))


# Reading.


def describe_shards(root: Path, layout: Layout, task: str = 'segmentation') -> DataDescription | None:
    """A folder of shards with their manifest; None for another folder.

    Raises:
        DatasetError: A manifest, index or shard that cannot be used, or data of another task.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    manifest = _read_manifest(path)
    try:
        description = DataDescription.from_dict(manifest['description'])
        if description.task not in TASKS:  # shards are written for these only
            raise ValueError(f'its task is {description.task!r}')
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _no_manifest(path, f'its description cannot be used ({error})') from error
    if description.task != task:
        what, model = {'segmentation': ('masks', 'rexnetv1_unet_1_0'), 'depth': ('depth', 'rexdepth_1_0')}.get(
            description.task, ('no masks', 'another'))
        raise DatasetError(f'The shards in {root} have {what}, and {task} was asked for: take a model such as {model}.')
    splits = {name: _split_of(path, name, part) for name, part in manifest['splits'].items()}

    def find(split: str) -> Sequence[Sample]:
        if split not in splits:
            raise source.no_split(split)
        part = splits[split]
        samples = ShardSamples(root, [shard['file'] for shard in part['shards']], part['index'], TARGETS[task])
        if len(samples) != part['samples']:
            raise DatasetError(
                f'An index must have every sample: {root / part["index"]} has {len(samples)} of {part["samples"]}; '
                f'{_AGAIN}.')
        return samples

    source = DataSource('shards', root, tuple(splits), find)
    return replace(description, source=source, layout=layout.given())


def _no_manifest(path: Path, problem: str) -> DatasetError:
    return DatasetError(f'A manifest of shards must be as it was written: {path} is not, {problem}; {_AGAIN}.')


def _read_manifest(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_MANIFEST:
        raise _no_manifest(path, f'it has more than {_MOST_MANIFEST} bytes')
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise _no_manifest(path, f'it is no JSON ({error})') from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get('splits'), dict):
        raise _no_manifest(path, 'it has no splits')
    if manifest.get('version') != VERSION:
        raise _no_manifest(path, f'its version is {manifest.get("version")!r} and not {VERSION}')
    return manifest


def _split_of(path: Path, name: str, part: Any) -> Mapping[str, Any]:
    """The entry of a split in a manifest, with its files looked for. DatasetError where it is not as it was written."""
    try:
        files, number = [shard['file'] for shard in part['shards']], sum(shard['samples'] for shard in part['shards'])
        sizes = [shard['bytes'] for shard in part['shards']]
        plain = all(isinstance(file, str) and _PLAIN.fullmatch(file) for file in (name, part['index'], *files))
        is_whole = number == part['samples'] and all(isinstance(size, int) for size in sizes)
    except (TypeError, KeyError) as error:
        raise _no_manifest(path, f'the split {name!r} lacks something ({error})') from error
    if not plain:
        raise _no_manifest(path, f'the split {name!r} has files with other than plain names')
    if not is_whole:
        raise _no_manifest(path, f'the numbers of the split {name!r} do not add up')
    for file, size in zip(files, sizes, strict=True):
        there = (path.parent / file).stat().st_size if (path.parent / file).is_file() else None
        if there != size:
            found = 'is missing' if there is None else f'has {there} bytes and not {size}'
            raise DatasetError(f'Every shard must be there as it was written: {path.parent / file} {found}; {_AGAIN}.')
    return part


def verify_shards(root: str | Path, progress: Callable[[str], None] | None = None) -> int:
    """Read all shards and compare them with the sums in the manifest.

    Args:
        root: Folder of the shards.
        progress: Called with the name of each file that was read.

    Returns:
        The number of files.

    Raises:
        DatasetError: No manifest, or a file that is not as it was written.
    """
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise DatasetError(f'A folder of shards must have its manifest: there is no {path}; name another folder.')
    files: list[tuple[str, str]] = []
    for name, part in _read_manifest(path)['splits'].items():
        part = _split_of(path, name, part)
        files += [(shard['file'], shard['sha256']) for shard in part['shards']]
        files.append((part['index'], part['index_sha256']))
    for file, expected in files:
        if _sha256(path.parent / file) != expected:
            raise DatasetError(f'Every shard must be there as it was written: {path.parent / file} differs; {_AGAIN}.')
        if progress is not None:
            progress(file)
    return len(files)


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ''
    total = hashlib.sha256()
    with open(path, 'rb') as file:
        while content := file.read(2 ** 20):
            total.update(content)
    return total.hexdigest()


# Writing.


def write_shards(
        description: DataDescription,
        out: str | Path,
        shard_size: int = DEFAULT_SIZE * 2 ** 20,
        overwrite: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write all splits of a described data set as shards.

    Samples keep their order, and images and masks the bytes of their files; masks that are drawn become PNG. Of each
    file the header is read. The same data give the same shards, byte by byte.

    Args:
        description: The data, by `describe_data` or `describe_depth`.
        out: Folder of the shards, which is made.
        shard_size: Bytes from which on a shard is full.
        overwrite: Whether shards that are there may be replaced.
        progress: Called after each sample with the name of the split, its number and that of all.

    Returns:
        The manifest.

    Raises:
        ValueError: Shards that exist and may not be replaced, or a `shard_size` below 1.
        DatasetError: A file that cannot be read, or an image and a mask of different sizes.
        OSError: A file that cannot be written.
    """
    out = Path(out)
    if shard_size < 1:
        raise ValueError(f'shard_size must be at least 1 byte, got {shard_size}.')
    if not description.source.splits:
        description.source.samples('train')  # which says what is missing
    out.mkdir(parents=True, exist_ok=True)
    _clear(out, overwrite)
    target = TARGETS[description.task]
    splits = {}
    for name in description.source.splits:
        samples = description.source.samples(name)
        splits[name] = _write_split(out, _plain(name), samples, target, shard_size, (
            None if progress is None else lambda number, of, name=name: progress(name, number, of)))
    manifest = {
        'version': VERSION, 'description': replace(description, layout={}).to_dict(), 'splits': splits}
    with atomic_path(out / MANIFEST) as part, open(part, 'w', encoding='utf-8') as file:
        json.dump(manifest, file, indent=1)
    return manifest


def _clear(out: Path, overwrite: bool) -> None:
    """Make place for shards. ValueError for those that may not be replaced."""
    there = sorted(path for path in out.iterdir() if path.suffix == '.tar' or path.name.endswith('.index.npy'))
    there += [out / MANIFEST] if (out / MANIFEST).exists() else []
    if there and not overwrite:
        raise ValueError(
            f'{str(there[-1])!r} exists: pass overwrite to replace the shards in {out}, or another folder.')
    for path in reversed(there):  # the manifest first, without which the rest is nothing
        path.unlink()


def _plain(text: str) -> str:
    """A name of letters that every file system and tar file takes, without a dot."""
    return re.sub(r'[^A-Za-z0-9_-]+', '_', text)


class _Sums:
    """A file that is written from its beginning to its end, with the sum of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum, self.size = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.sum.update(content)
        self.size += len(content)
        return self.file.write(content)


def _write_split(
        out: Path,
        name: str,
        samples: Sequence[Sample],
        target: str,
        shard_size: int,
        progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    numbered, shards, index = enumerate(samples), [], f'{name}.index.npy'
    with atomic_path(out / index) as part:
        rows = np.lib.format.open_memmap(part, 'w+', _ROW, (len(samples),))
        done = 0
        while done < len(samples):
            file = f'{name}-{len(shards):06}.tar'
            with atomic_path(out / file) as tar_part, open(tar_part, 'wb') as stream:
                sums, start = _Sums(stream), done
                for row in _write_shard(sums, numbered, target, shard_size):
                    rows[done] = (len(shards), *row)
                    done += 1
                    if progress is not None:
                        progress(done, len(samples))
            shards.append({
                'file': file, 'samples': done - start, 'bytes': sums.size, 'sha256': sums.sum.hexdigest()})
        rows.flush()
        del rows
        index_sum = _sha256(Path(part))
    return {'samples': done, 'index': index, 'index_sha256': index_sum, 'shards': shards}


def _write_shard(
        sums: _Sums, numbered: Iterator[tuple[int, Sample]], target: str, shard_size: int) -> Iterator[tuple[Any, ...]]:
    """Write samples until the shard is full or there are no more; gives the rest of the row of each."""
    place = 0
    with tarfile.open(fileobj=sums, mode='w|', format=tarfile.USTAR_FORMAT) as tar:
        for number, (image, other) in numbered:
            size, contents = _contents(image, other)
            key = f'{number:08}-{_plain(Path(image).stem)}'[:_KEY].rstrip('-')
            fields: list[Any] = []
            for (content, ending), middle in zip(contents, ('', f'.{target}'), strict=True):
                head = tarfile.TarInfo(f'{key}{middle}{ending}')
                head.size, head.mtime = len(content), 0
                tar.addfile(head, io.BytesIO(content))
                fields += [place + _BLOCK, len(content)]
                place += _BLOCK + -(-len(content) // _BLOCK) * _BLOCK
            yield (*fields, *size, key.encode(), *(ending.encode() for _, ending in contents))
            if place >= shard_size:
                return


def _contents(image: Any, other: Any) -> tuple[tuple[int, int], list[tuple[bytes, str]]]:
    """Height and width of a sample, and of both members the bytes and the ending; DatasetError where they differ."""
    header = read_header(image, 'image')
    contents, sizes = [(_bytes(image), _ending(image, header.format))], [header.size]
    if hasattr(other, 'labels'):
        labels = other.labels()
        contents.append(_drawn(labels))
        sizes.append(labels.shape)
    elif other.suffix.lower() == '.npy':
        contents.append((_bytes(other), '.npy'))
    else:
        header = read_header(other, 'mask')
        contents.append((_bytes(other), _ending(other, header.format)))
        sizes.append(header.size)
    if len(set(map(tuple, sizes))) > 1:
        shown = [f'{width} x {height}' for height, width in sizes]
        raise DatasetError(
            f'Image and mask must have the same size: {image} is {shown[0]} but {other} is {shown[1]} (width x '
            'height); correct one of them.')
    return sizes[0], contents


def _bytes(path: Any) -> bytes:
    with path.open('rb') as file:
        return file.read()


def _ending(path: Any, form: str) -> str:
    ending = path.suffix.lower()
    return ending if ending in (*IMAGE_EXTENSIONS, '.gif') else _ENDINGS.get(form, '.png')


def _drawn(labels: np.ndarray) -> tuple[bytes, str]:
    """Drawn labels (H, W) as a PNG, or as an array where that cannot hold them; bytes and ending."""
    kind, buffer = np.min_scalar_type(int(labels.max(initial=0))), io.BytesIO()
    if labels.min(initial=0) < 0 or kind.itemsize > 2:
        np.save(buffer, labels.astype(np.int32))
        return buffer.getvalue(), '.npy'
    Image.fromarray(labels.astype(kind)).save(buffer, 'PNG')
    return buffer.getvalue(), '.png'
