"""Mask files, read as checked label tensors: what counts is the stored number, not how a program shows it.

Binary masks (one or two classes) are written in two ways, 0 with 1 and 0 with 255, and 255 is also the commonest label
of unlabelled pixels. No single file tells which is meant: one of 255 only may be all foreground or all unlabelled. So
one value stands for the foreground in all masks of a split (`foreground_value`), a mask that departs from it is
refused, and 255 stands for unlabelled pixels only where `ignore_index` says so.
"""
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import DEFAULT_IGNORE_LABEL
from .images import Header, decode, read_header

# Modes whose pixels are one number: 1 bit, grey, palette (the index is the label), 16 and 32 bit integers.
_MASK_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')
_WHITE = 255


def _stored_labels(path: Path, num_classes: int) -> tuple[torch.Tensor, Header]:
    """The numbers in a mask file, int64 (H, W), and its header."""
    mask, header = decode(path, 'mask')
    if header.mode not in _MASK_MODES:
        found = f'mode {header.mode} with channels {", ".join(mask.getbands())}'
        last = max(num_classes, 2) - 1
        remedy = f'map its colours to the indices 0 to {last} and save it as 8-bit grey or palette PNG'
        if header.mode == 'F':
            found, remedy = 'floating-point numbers', 'round them and save it as 8-bit or 16-bit grey PNG'
        elif header.mode in ('LA', 'La', 'PA'):
            remedy = 'save it without the alpha channel'
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has {found}; {remedy}.')
    if header.channels > 1:
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has {header.channels} '
            'channels; save the one with the labels.')
    if header.format in ('JPEG', 'MPO'):
        raise DatasetError(
            f'A mask must be stored without loss: {path} is a JPEG file, which blurs labels; save it as PNG from the '
            'source.')
    if header.white_is_zero:
        raise DatasetError(
            f'A mask must say plainly which number a pixel has: {path} is a TIFF with inverted grey (WhiteIsZero), '
            'which some programs turn over and others do not; save it with black as zero (in ImageJ: Image > Lookup '
            'Tables > Invert LUT), or as PNG.')
    labels = torch.from_numpy(np.array(mask).astype(np.int64))
    if header.mode == 'L' and header.bits < 8:
        labels //= _WHITE // (2 ** header.bits - 1)  # Pillow spreads 2 and 4 bits over 0 to 255
    return labels, header


def foreground_value(paths: Sequence[Path], ignore_index: int | None) -> int:
    """Which value stands for the foreground in the binary masks of a split: 1 or 255.

    It is 255 where the first mask that has a foreground shows it as 255, unless 255 or 1 is the ignored label. Masks
    are looked at in a fixed random order until one tells, so that a long row of empty ones costs little. Those of 1 bit
    do not tell: their pixels are 0 and 1 whatever the other masks have.

    Args:
        paths: The masks. A damaged one is passed over here, and named when its sample is read.
        ignore_index: The ignored label; None for no ignored label.
    """
    if ignore_index in (1, _WHITE):
        return 1
    for path in random.Random(0).sample(list(paths), len(paths)):
        try:
            if read_header(path, 'mask').mode == '1':
                continue
            labels, _ = _stored_labels(path, 2)
        except DatasetError:
            continue
        if (labels == 1).any():
            return 1
        if (labels == _WHITE).any():
            return _WHITE
    return 1


def read_mask(path: Path, num_classes: int, ignore_index: int | None = None, foreground: int = 1) -> tv_tensors.Mask:
    """Read a mask file as displayed, its EXIF orientation applied.

    Args:
        path: The file.
        num_classes: Number of classes; 1 and 2 both stand for background and foreground.
        ignore_index: Label that stands for "not labelled"; None for no such label; it may be that of a class.
        foreground: Where there are one or two classes, the value in the file that becomes 1: see `foreground_value`.

    Returns:
        int64 (H, W) of labels 0 to max(num_classes, 2) - 1 and `ignore_index`.

    Raises:
        DatasetError: Not readable, more than one page, not an index image, or labels outside the classes.
    """
    labels, header = _stored_labels(path, num_classes)
    valid = torch.zeros_like(labels, dtype=torch.bool) if ignore_index is None else labels == ignore_index
    if foreground == 1 or header.mode == '1':
        valid |= (labels >= 0) & (labels < max(num_classes, 2))
    else:
        shown = labels == foreground
        valid |= (labels == 0) | shown
    if not valid.all():
        _refuse_labels(path, labels, labels[~valid], num_classes, ignore_index, foreground)
    if foreground != 1 and header.mode != '1':
        labels[shown] = 1
    return tv_tensors.Mask(labels)


def _refuse_labels(
        path: Path,
        labels: torch.Tensor,
        wrong: torch.Tensor,
        num_classes: int,
        ignore_index: int | None,
        foreground: int,
) -> None:
    binary = num_classes <= 2
    values = wrong.unique().tolist()
    listed = ', '.join(str(value) for value in values[:8]) + (', ...' if len(values) > 8 else '')
    allowed = f'0 to {num_classes - 1}'
    if binary:
        allowed = f'0 (background) and {foreground} (foreground{", as in other masks" if foreground != 1 else ""})'
    if ignore_index is not None:
        allowed += f' or the ignored {ignore_index}'

    remedies = []
    if foreground == _WHITE and values == [1]:
        remedies.append(f'pass ignore_index={_WHITE} if 1 is the foreground and {_WHITE} stands for unlabelled pixels')
    elif len(values) == 1 and 0 <= values[0] <= 65535:
        remedies.append(f'pass ignore_index={values[0]} if it stands for unlabelled pixels')
    if 0 <= values[0] and 1 < values[-1] < DEFAULT_IGNORE_LABEL:
        remedies.append(f'pass num_classes={values[-1] + 1} if they are classes')
    if not binary and values == [_WHITE] and not ((labels > 0) & (labels < _WHITE)).any():
        remedies.append(f'pass num_classes=1 if the masks are binary, with {_WHITE} for the foreground')
    if binary and len(values) > 2:
        remedies.append(f'threshold them to 0 and {_WHITE} if they are shades of a binary mask')
    remedies.append(
        f'rewrite all binary masks with 0 and 1, or all with 0 and {_WHITE}' if binary
        else 'rewrite the masks with those labels')
    raise DatasetError(
        f'Labels must be {allowed}: {path} has {listed} in {wrong.numel()} pixels; {", or ".join(remedies)}.')
