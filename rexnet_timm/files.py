"""Weights and checkpoints as files: read without running code from them, unwrapped by one rule, written whole.

The rule: where a checkpoint holds a moving average of its weights, the average is taken, because it is what validation
measured; `use_ema=False` takes the weights themselves. :func:`unwrap` applies it, for every place that reads weights.
"""
import errno
import io
import os
import pickle
import re
import shutil
import tarfile
import textwrap
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn as nn
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from .archives import ArchiveError, check_saved, check_tensors
from .errors import near_names

__all__ = [
    'ENCODER_DOOR', 'PRETRAINED_DOOR', 'SUFFIXES', 'WeightsError', 'atomic_path', 'build_with_file', 'check_finite',
    'concerns_weights', 'link_file', 'load_checkpoint_file', 'load_weights_file', 'one_line', 'remove_parts',
    'save_checkpoint_file', 'save_weights', 'some', 'unwrap', 'without_prefix']

AVERAGES = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema')  # where training tools keep a moving average
WRAPPERS = ('state_dict', 'model', 'model_state_dict')  # and the weights themselves
SUFFIXES = ('.safetensors', '.pth', '.pt')  # of the files that are written
# Ways to take part of a file, as errors name them; the command line has a flag for each.
ENCODER_DOOR = 'load_encoder_weights(encoder, path)'
PRETRAINED_DOOR = 'pretrained=True and pretrained_cfg_overlay=dict(file=path, num_classes=-1)'
AGAIN = 'The copy or download broke off: get the file again.'
RESAVE = ('Where it was written, save only its weights, by safetensors.torch.save_file(model.state_dict(), path) or '
          'torch.save(model.state_dict(), path).')


class WeightsError(ValueError):
    """Weights or a file of them that is refused; the text is one line: the rule, what was received, the remedy."""


def some(names: Iterable[Any]) -> str:
    """The first of many names, for an error message: one line, whatever a file holds for names."""
    names = [text if text.isprintable() else ascii(text) for text in (str(name)[:100] for name in names)]
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def one_line(error: Exception) -> str:
    """What is wrong with weights, on one line: of torch's errors, which may fill pages, the first lines, shortened."""
    if isinstance(error, WeightsError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError) or 'weights_only' in str(error):
        # torch's text goes on to say how to run the code, which is not repeated
        found = some(dict.fromkeys(re.findall(r'GLOBAL ([\w.]+)', str(error))))
        return f'it holds code{found and f" ({found})"}, or is damaged, and nothing of it has run'
    lines = [textwrap.shorten(line, 200, placeholder=' ...') for line in str(error).splitlines() if line.strip()]
    return ' '.join(lines[:3])


def concerns_weights(error: Exception) -> bool:
    """Whether an error, ours, torch's, timm's or safetensors', is about weights and their file; others pass through."""
    if isinstance(error, (WeightsError, SafetensorError, pickle.UnpicklingError)):
        return True
    starts = ('Error(s) in loading state_dict', 'Pretrained ', 'PytorchStreamReader', 'Cannot use ``weights_only')
    return isinstance(error, RuntimeError) and str(error).startswith(starts)


def load_checkpoint_file(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values; one that needs to run code is refused.

    Args:
        path: A file of a dict that torch.save wrote, or a safetensors file. The content tells them apart.

    Returns:
        Its content, with tensors on the CPU.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: A folder, or a file that is empty, damaged, of another kind, or in need of running code. The
            checksums that torch.save writes are verified, which torch.load itself does not do.
    """
    name = os.fspath(path)
    if os.path.isdir(path):
        files = sorted(entry for entry in os.listdir(path) if os.path.isfile(os.path.join(path, entry)))
        raise WeightsError(
            f'Weights are read from a file, and {name!r} is a folder: name the file in it ({some(files) or "none"}).')
    if not os.path.isfile(path):
        folder, file = os.path.split(os.path.abspath(path))
        there = os.path.isdir(folder)
        near = near_names(file, os.listdir(folder)) if there else f' There is no folder {folder!r} either.'
        raise FileNotFoundError(f'There is no checkpoint {name!r}.{near or " Check the path."}')
    with open(path, 'rb') as file:
        head = file.read(4096)
    if not head:
        raise WeightsError(f'A file of weights must not be empty, and {name!r} is. {AGAIN}')
    try:
        check_saved(path)
        _check_sums(path, name, head)
        if head[8:9] == b'{':  # after the length of its header, in 8 bytes
            return load_file(path)
        # timm's saver stores the arguments of the run in a namespace of argparse, which is read as plain data
        namespace = (SimpleNamespace, 'argparse.Namespace')
        with torch.serialization.safe_globals([namespace]), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of the kind of file, which the error tells
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        check_tensors(checkpoint, os.path.getsize(path))
    except (MemoryError, WeightsError):
        raise
    except OSError as error:
        if error.filename is not None or error.errno != errno.EINVAL:  # as torch says of a zip archive that is cut off
            raise
        raise WeightsError(f'{name!r} {_problem(name, head, error)}') from None
    except ArchiveError as error:
        raise WeightsError(
            f'A file of weights must hold no more than its size tells, and {name!r} {error}. {RESAVE}') from None
    except Exception as error:  # bytes of any kind end in an error of any kind
        raise WeightsError(f'{name!r} {_problem(name, head, error)}') from None
    if not isinstance(checkpoint, dict):
        raise WeightsError(
            f'A checkpoint must be a dict, and {name!r} holds one value of the type {type(checkpoint).__name__}. '
            f'{RESAVE}')
    return checkpoint


def _check_sums(path: str | os.PathLike, name: str, head: bytes) -> None:
    """WeightsError for a zip archive in which a bit has changed; other files pass, and are judged where they are read.

    torch.save writes a CRC32 for each tensor and for the rest of the file, as a zip archive has it.
    """
    if not head.startswith(b'PK') or not _has_index(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            is_packed = any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
            wrong = None if is_packed else archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # bytes of any kind end in an error of any kind
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of the disk, and not of a place in the file
            raise
        is_packed, wrong = False, error
    if is_packed:  # torch.save does not, and a small file could become any size
        raise WeightsError(f'{name!r} {_problem(name, head, ValueError())}')
    if wrong is not None:
        raise WeightsError(
            f'{name!r} is damaged: its content is not what was written, by its own checksum ({some([wrong])}). '
            'Take another checkpoint, or a copy of it.')


def _has_index(path: str | os.PathLike) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # an index that is damaged
        return False


def _problem(name: str, head: bytes, error: Exception) -> str:
    # what a file is that cannot be read as weights, and what to do
    start = head.lstrip().lower()
    if start.startswith(b'version https://git-lfs'):
        return 'is a pointer that Git LFS left in place of the file: run `git lfs pull` where it lies.'
    if start.startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'is a web page and no file of weights: download the file itself, not the page that shows it.'
    if all(byte >= 32 or byte in b'\t\n\r' for byte in head):
        return 'is text and no file of weights: pass what torch.save or safetensors wrote.'
    if name.endswith('.safetensors') or isinstance(error, SafetensorError):
        reason = f' ({some([error])})' if isinstance(error, SafetensorError) else ''
        return f'is no safetensors file, or is damaged{reason}. {AGAIN}'
    if head.startswith(b'PK'):
        if not _has_index(name):
            return f'is damaged: its end is missing after {os.path.getsize(name)} bytes. {AGAIN}'
        with zipfile.ZipFile(name) as archive:
            files = {os.path.basename(file) for file in archive.namelist()}
        if 'constants.pkl' in files:
            return f'is a TorchScript program, and no file of weights. {RESAVE}'
        if 'data.pkl' not in files:
            return f'is a zip archive that torch.save did not write ({some(sorted(files))}): name a file of weights.'
    elif head.strip(b'\0') and tarfile.is_tarfile(name):
        return f"is a tar archive, which may be of torch's oldest format, and is not read: unpack it, or: {RESAVE}"
    if isinstance(error, pickle.UnpicklingError):
        return f'must hold tensors and plain values only, and does not: {one_line(error)}. {RESAVE}'
    return f'is no file of weights, or is damaged. {AGAIN}'


def unwrap(checkpoint: Mapping[str, Any], use_ema: bool = True) -> Mapping[str, Any]:
    """The state dict in a checkpoint, under the names that training tools use, one in another or bare.

    A moving average ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema') goes before the weights ('state_dict',
    'model', 'model_state_dict'), as the head of this file says. One that holds no tensors, such as an empty one, does
    not count, and neither does an entry of such a name that is itself a tensor.

    Args:
        checkpoint: A state dict, or a checkpoint with one.
        use_ema: Whether a moving average is taken where there is one.

    Returns:
        Entries by name, some of them tensors; the object that was found, unchanged.

    Raises:
        WeightsError: No mapping, or none that holds tensors by name.
    """
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(
            f'A state dict maps names to tensors, got {type(checkpoint).__name__}. Pass what torch.load(path, '
            'weights_only=True) or model.state_dict() returns.')
    found = _find(checkpoint, (*AVERAGES, *WRAPPERS) if use_ema else WRAPPERS)
    if found is None:
        raise WeightsError(
            f'Weights must be tensors by name, bare or under one of {", ".join((*AVERAGES, *WRAPPERS))}; got '
            f'{f"a dict of {some(checkpoint)}" if checkpoint else "an empty dict"} without any. '
            'Pass what model.state_dict() returned, bare or in a checkpoint.')
    return found


def _find(value: Any, wrappers: tuple[str, ...], levels: int = 5) -> Mapping[str, Any] | None:
    if not isinstance(value, Mapping) or not levels:  # a file may hold a dict that holds itself
        return None
    for wrapper in wrappers:
        found = _find(value.get(wrapper), wrappers, levels - 1)
        if found is not None:
            return found
    is_state_dict = all(isinstance(key, str) for key in value) and any(
        isinstance(entry, torch.Tensor) for entry in value.values())
    return value if is_state_dict else None


def without_prefix(state_dict: Mapping[str, Any], *layouts: Collection[str]) -> dict[str, Any]:
    """The entries of a network without the prefix that a wrapper or a larger network puts before their names.

    'module.' of DistributedDataParallel, '_orig_mod.' of torch.compile, 'model.' of a LightningModule, 'encoder.' of a
    U-Net, and any others. A prefix goes only where nothing is lost or guessed: every entry has it, or the network is
    complete under it, when the entries elsewhere are not the network's and are left out. Where two parts fit equally
    well, such as a student and its teacher, both stay as they are.

    Args:
        state_dict: Entries by name, unchanged.
        *layouts: The names that the network needs, in each of the layouts that it knows.

    Returns:
        A new dict, of the entries as they are where no prefix goes.
    """
    names = set().union(*layouts)
    counts = Counter()
    for key in state_dict:
        starts = [0, *(match.end() for match in re.finditer(r'\.', key))]
        counts.update(key[:start] for start in starts if key[start:] in names)
    best = counts.most_common(2)
    if not best or not best[0][0] or (len(best) > 1 and best[0][1] == best[1][1]):
        return dict(state_dict)
    prefix = best[0][0]
    part = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    is_safe = len(part) == len(state_dict) or any(all(name in part for name in layout) for layout in layouts)
    return part if is_safe else dict(state_dict)


def load_weights_file(path: str | os.PathLike, use_ema: bool = True) -> dict[str, torch.Tensor]:
    """Read the weights of a file, taken out of a training checkpoint by :func:`unwrap`.

    Args:
        path: A safetensors file, or one that torch.save wrote.
        use_ema: Whether the moving average is taken where the file holds one.

    Returns:
        Tensors on the CPU by name.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: As :func:`load_checkpoint_file` and :func:`unwrap`, with the name of the file.
    """
    checkpoint = load_checkpoint_file(path)
    try:
        return dict(unwrap(checkpoint, use_ema))
    except WeightsError as error:
        raise WeightsError(f'{os.fspath(path)!r}: {error}') from error


def check_finite(state_dict: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise WeightsError if an entry of `names` holds NaN or infinite values."""
    values = {key: state_dict[key] for key in names if key in state_dict}
    wrong = [key for key, value in values.items() if _is_broken(value)]
    if wrong:
        raise WeightsError(
            f'Weights must be finite numbers, and {len(wrong)} of {len(values)} entries hold NaN or infinite ones '
            f'({some(wrong)}): the training that wrote them diverged. Take a checkpoint from before that.')


def _is_broken(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_meta:
        return False
    value = value.float() if value.element_size() < 4 else value  # torch compares no floats of 8 bits
    return not bool(value.isfinite().all())


def build_with_file(
        build: Callable[..., nn.Module],
        *args: Any,
        pretrained: bool,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        **kwargs: Any,
) -> Any:
    """timm's `create_model` or `build_model_with_cfg`, with a file of pretrained weights read by this file's rules.

    Args:
        build: The function, called with all other arguments.
        *args: Its arguments by position.
        pretrained: Whether the weights are loaded.
        pretrained_cfg_overlay: timm's; its 'file' is read here, and goes before weights of the Hub.
        translate: What gives the weights of the file the names that the model has for them.
        **kwargs: Its further arguments.

    Returns:
        The model, of the class that `build` makes.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: As :func:`load_weights_file`, or for weights that do not fit the model.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    path = overlay.get('file')
    weights = load_weights_file(path) if path and pretrained else {}
    if translate and weights:
        weights = translate(weights)
    if weights:
        # timm takes weights given as such; a source names another place for them
        overlay.update(state_dict=weights, source=None)
    try:
        check_finite(weights, weights)
        model = build(*args, pretrained=pretrained, pretrained_cfg_overlay=overlay, **kwargs)
    except (RuntimeError, WeightsError) as error:
        if not path or not concerns_weights(error):
            raise
        raise WeightsError(f'{os.fspath(path)!r}: {one_line(error)}') from error
    for module in model.modules():
        getattr(module, 'pretrained_cfg', {}).pop('state_dict', None)  # nothing holds on to them
    return model


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[str]:
    """A name to write under, in the folder of `path`, which becomes `path` when the block ends without an error.

    So `path` is written whole or not at all, even where the machine stops: the content is on the disk before the name
    points to it, and the name is when the block has ended. After an error nothing is left behind; a process that is
    killed may leave the part, which `remove_parts` removes. An OSError of the block, which names no file where the disk
    is full, names `path`.

    Args:
        path: The file to write; an existing one is replaced, and a link stays and what it points to is replaced.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: The file cannot be written.
        ValueError: `path` is a folder.
    """
    folder, name = os.path.split(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f'There is no folder {folder!r} to write {name!r} in: create it first.')
    target = os.path.join(folder, name)
    if os.path.isdir(target):
        raise ValueError(f'A file is to be written, and {os.fspath(path)!r} is a folder: name a file in it.')
    part = os.path.join(folder, f'.{os.getpid()}-{name}')  # ends as `path` does, for writers that go by the ending
    try:
        yield part
        with open(part, 'r+b') as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(folder)
    except OSError as error:
        if error.filename not in (None, part):  # of another file, which the block reads
            raise
        # NumPy and Pillow tell what they could not write by a text of their own
        number, text = (error.errno, error.strerror) if error.errno else (errno.EIO, f'not written whole ({error})')
        raise OSError(number, text, os.fspath(path)) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)


def _sync_folder(folder: str) -> None:
    # a new name is on the disk when its folder is; not every file system, and no Windows, can do it for a folder
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_file(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Make `path` a second name of a file, or a copy where the file system has no such names; whole at any moment.

    Args:
        source: The file, which is not written to afterwards: a change would show under both names.
        path: Its further name; an existing file is replaced.

    Raises:
        FileNotFoundError: There is no such file or folder.
        OSError: The file cannot be written.
    """
    if os.path.exists(path) and os.path.samefile(source, path):
        return
    with atomic_path(path) as part:
        with suppress(FileNotFoundError):
            os.unlink(part)  # of a process of this number that was killed
        try:
            os.link(source, part)
        except (OSError, NotImplementedError):
            shutil.copyfile(source, part)


def remove_parts(folder: str | os.PathLike, names: str) -> None:
    """Remove what `atomic_path` was writing in a folder when its process was killed.

    Args:
        folder: A folder in which no process is writing.
        names: Regular expression of the names that were to be written.
    """
    for name in os.listdir(folder):
        if re.fullmatch(rf'\.\d+-(?:{names})', name):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def save_checkpoint_file(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all, by torch.save, whose file carries its checksums.

    Args:
        path: The file; an existing one is replaced at once.
        content: Tensors and plain values, as `load_checkpoint_file` reads them.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: The file cannot be written.
    """
    with atomic_path(path) as part, open(part, 'wb') as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's own, in which the cause is lost but for its context
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def save_weights(path: str | os.PathLike, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict whole or not at all, in the format that the ending of the name tells.

    Args:
        path: Ends in .safetensors, or in .pth or .pt for torch.save.
        state_dict: Tensors by name, of any device.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: The file cannot be written.
        ValueError: Another ending, or a folder.
    """
    if not os.fspath(path).endswith(SUFFIXES):
        raise ValueError(f'The name of a file of weights must end in {", ".join(SUFFIXES)}, got {os.fspath(path)!r}.')
    # a copy each, since safetensors takes no two tensors of one memory, and torch.save would write all of a view's
    state_dict = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()}
    if os.fspath(path).endswith('.safetensors'):
        content = safetensors_bytes(state_dict, metadata={'format': 'pt'})
    else:
        buffer = io.BytesIO()
        torch.save(state_dict, buffer)
        content = buffer.getvalue()
    with atomic_path(path) as part, open(part, 'wb') as file:  # by Python, whose error tells that the disk is full
        file.write(content)
