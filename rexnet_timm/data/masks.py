"""Mask files, read as checked label tensors."""
from pathlib import Path

import numpy as np
import torch
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import DEFAULT_IGNORE_LABEL
from .images import decode

# Modes whose pixels are one number: 1 bit, grey, palette (the index is the label), 16 and 32 bit integers.
_MASK_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')


def read_mask(path: Path, num_classes: int, ignore_index: int | None) -> tv_tensors.Mask:
    mask = decode(path, 'mask')
    if mask.mode not in _MASK_MODES:
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has mode {mask.mode} '
            f'with channels {", ".join(mask.getbands())}; map its colours to the indices 0 to '
            f'{num_classes - 1} and save it as 8-bit grey or palette PNG.')
    labels = torch.from_numpy(np.array(mask).astype(np.int64))
    valid = (labels >= 0) & (labels < num_classes)
    if ignore_index is not None:
        valid |= labels == ignore_index
    if not valid.all():
        _refuse_labels(path, labels[~valid], num_classes, ignore_index)
    return tv_tensors.Mask(labels)


def _refuse_labels(path: Path, labels: torch.Tensor, num_classes: int, ignore_index: int | None) -> None:
    values = labels.unique().tolist()
    listed = ', '.join(str(value) for value in values[:8]) + (', ...' if len(values) > 8 else '')
    allowed = f'0 to {num_classes - 1}'
    if ignore_index is not None:
        allowed += f' or the ignored {ignore_index}'
    remedies = []
    if len(values) == 1:
        remedies.append(f'pass --ignore-index {values[0]} if it stands for unlabelled pixels')
    if 0 <= values[0] and values[-1] < DEFAULT_IGNORE_LABEL:
        remedies.append(f'pass --num-classes {values[-1] + 1} if they are classes')
    remedies.append('rewrite the masks with those labels')
    raise DatasetError(
        f'Labels must be {allowed}: {path} has {listed} in {len(labels)} pixels; {", or ".join(remedies)}.')
