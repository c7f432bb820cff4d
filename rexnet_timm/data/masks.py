"""Mask files, read as checked label tensors: what counts is the stored number, not how a program shows it.

Binary masks (one or two classes) are written in two ways, 0 with 1 and 0 with 255, and 255 is also the commonest label
of unlabelled pixels. No single file tells which is meant: one of 255 only may be all foreground or all unlabelled. So
one value stands for the foreground in all masks of a split (`foreground_value`), a mask that departs from it is
refused, and 255 stands for unlabelled pixels only where `ignore_index` says so.

A mask is a path, or an object that draws it: `labels()` gives whole numbers (H, W), and `str()` says where they are
from.
"""
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import DEFAULT_IGNORE_LABEL
from .headers import Header, TooLargeError, is_too_large, load_array, max_pixels, read_header
from .images import decode
from .labels import HIGHEST, INVALID, LOWEST, ColorTable, LabelTable, color_keys

__all__ = [
    'ColoredMaskError', 'MaskReader', 'check_mask_header', 'count_labels', 'foreground_value', 'found_colors',
    'mask_size', 'stored_labels']

# Modes whose pixels are one number: 1 bit, grey, palette (the index is the label), 16 and 32 bit integers.
_MASK_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N')
_COLOR_MODES = ('RGB', 'RGBA', 'RGBX')
_MODES_OF_COLORS = ('1', 'L', 'P', 'PA', 'LA', *_COLOR_MODES)
_WHITE = 255
_MOST_SHOWN = 8  # of labels or colours in a message
_MOST_LOOKED_AT = 64  # masks whose labels are counted before a run
_MOST_PARTS = 16  # blocks of a large mask, likewise


class ColoredMaskError(DatasetError):
    """A mask in colours, of which no table says what they are."""


def stored_labels(mask: Any, colors: ColorTable | None = None) -> np.ndarray:
    """The numbers in a mask, before any label map.

    Args:
        mask: A path, or what draws a mask.
        colors: Of coloured masks, the table of their colours, by which every picture is then read.

    Returns:
        (H, W) of whole numbers, as displayed; bool for files of one bit a pixel.

    Raises:
        DatasetError: Not readable, more than one page, or no labels.
    """
    if hasattr(mask, 'labels'):
        return mask.labels()
    if mask.suffix.lower() == '.npy':
        return _labels_of_array(mask)
    picture, header = decode(mask, 'mask')
    check_mask_header(mask, header, colors)
    if colors is not None and picture.mode in _MODES_OF_COLORS:
        return _labels_of_colors(mask, picture, colors)
    if picture.mode in ('LA', 'PA', *_COLOR_MODES):
        return _grey_of_colors(mask, picture)
    if header.mode == 'F':
        return _whole(np.array(picture), mask)
    labels = np.array(picture)
    if labels.dtype == np.bool_:
        return labels.view(np.uint8) > 0  # Pillow's bytes are 0 and 255
    if header.mode == 'L' and header.bits < 8:
        labels //= _WHITE // (2 ** header.bits - 1)  # Pillow spreads 2 and 4 bits over 0 to 255
    if header.mode == 'L' and header.signed:
        labels = labels.view(np.int8)
    if header.mode == 'I' and header.bits == 32 and header.signed is False:
        labels = labels.view(np.uint32)
    return labels


def check_mask_header(path: Path, header: Header, colors: ColorTable | None = None) -> None:
    """Raise DatasetError for a mask whose header tells that it holds no labels, or that some would be changed."""
    if header.format in ('JPEG', 'MPO'):
        raise DatasetError(
            f'A mask must be stored without loss: {path} is a JPEG file, which blurs labels; save it as PNG from the '
            'source.')
    if header.mode in _COLOR_MODES and header.bits > 8:
        raise DatasetError(
            f'Colours of a mask must have 8 bits a channel: {path} has {header.bits}, of which some would be lost; '
            'save it as 8-bit RGB, or as grey or palette PNG of indices.')
    if colors is not None and header.mode in _MODES_OF_COLORS:
        return
    if header.white_is_zero:
        raise DatasetError(
            f'A mask must say plainly which number a pixel has: {path} is a TIFF with inverted grey (WhiteIsZero), '
            'which some programs turn over and others do not; save it with black as zero (in ImageJ: Image > Lookup '
            'Tables > Invert LUT), or as PNG.')
    if header.mode in ('F', 'LA', 'PA', *_COLOR_MODES):  # of which the pixels tell
        return
    if header.mode not in _MASK_MODES:
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has mode {header.mode}; '
            'save it as 8-bit grey or palette PNG.')
    if header.channels > 1:
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has {header.channels} '
            'channels; save the one with the labels.')


def mask_size(mask: Any, colors: ColorTable | None = None) -> tuple[int, int] | None:
    """Height and width of a mask by its header, None of one that is drawn and does not tell.

    Raises:
        DatasetError: A header that is damaged, or that tells that the mask cannot be used.
    """
    if hasattr(mask, 'labels'):
        return getattr(mask, 'size', None)
    if mask.suffix.lower() == '.npy':
        return _labels_of_array(mask, mmap_mode='r').shape
    header = read_header(mask, 'mask')
    check_mask_header(mask, header, colors)
    return header.size


def _labels_of_colors(path: Path, picture: Image.Image, colors: ColorTable) -> np.ndarray:
    """The labels of colours. DatasetError for a grey picture of numbers, which are no colours of the table."""
    labels = colors(_rgb(picture))
    if picture.mode in ('1', 'L') and (labels == colors.unlisted).any():
        numbers = np.unique(np.array(picture)[labels == colors.unlisted]).tolist()
        raise DatasetError(
            f'A mask with a colour table must have colours: {path} is grey and has numbers such as '
            f'{", ".join(map(str, numbers[:_MOST_SHOWN]))}; if these are labels, leave out color_map, or rename '
            'labelmap.txt or class_dict.csv beside the data, which is taken for the table.')
    return labels


def _rgb(picture: Image.Image) -> np.ndarray:
    """The colours of a picture, uint8 (H, W, 3), also below transparent pixels."""
    between = {'P': 'RGBA', 'PA': 'RGBA'}.get(picture.mode)
    return np.array((picture.convert(between) if between else picture).convert('RGB'))


def _grey_of_colors(path: Path, picture: Image.Image) -> np.ndarray:
    """The labels of a mask that was saved with more channels than it needs; DatasetError for colours and alpha."""
    pixels = np.array(picture)
    if picture.mode in ('LA', 'PA'):
        if (pixels[..., 1] != pixels[0, 0, 1]).any():
            raise DatasetError(
                f'A mask must be a single-channel image whose pixels are class indices: {path} has transparent pixels, '
                'and nothing tells what these are; save it without the alpha channel.')
        return pixels[..., 0]
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return pixels[..., 0]
    shown = ', '.join(map(str, list(_count_colors(pixels))[:_MOST_SHOWN]))
    raise ColoredMaskError(
        f'A mask must hold class indices, or a colour table must say what its colours are: {path} has mode '
        f'{picture.mode} with colours such as {shown}; pass as color_map a text file with a line for each class, such '
        'as "road,128,64,128", or save the mask as 8-bit grey or palette PNG of indices.')


def _labels_of_array(path: Path, mmap_mode: str | None = None) -> np.ndarray:
    stored = load_array(path, 'mask')
    limit = max_pixels()
    if limit is not None and stored.size > limit:
        raise TooLargeError(
            f'Every mask must have at most {limit} pixels: {path} has {stored.size}; cut the image and its mask into '
            'smaller tiles, such as 2048 x 2048.')
    labels = stored if mmap_mode else np.array(stored)
    shape = labels.shape
    labels = labels.reshape([side for side in shape if side != 1] if len(shape) == 3 else shape)
    if labels.ndim != 2:
        raise DatasetError(f'A mask must be an array (H, W) of class indices: {path} has the shape {shape}; save one '
                           'number a pixel.')
    return labels if labels.dtype.kind in 'biu' or mmap_mode else _whole(labels, path)


def _whole(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.dtype.kind != 'f' or not (np.isfinite(labels) & (labels == np.round(labels))).all():
        raise DatasetError(
            f'A mask must be a single-channel image whose pixels are class indices: {path} has floating-point numbers '
            'that are not whole; round them and save it as 8-bit or 16-bit grey PNG.')
    return labels.astype(np.int64)


def _count_colors(pixels: np.ndarray) -> dict[tuple[int, int, int], int]:
    keys, counts = np.unique(color_keys(pixels), return_counts=True)
    order = np.argsort(-counts, kind='stable')
    return {
        (int(key) >> 16, int(key) >> 8 & 255, int(key) & 255): int(count)
        for key, count in zip(keys[order], counts[order], strict=True)}


def found_colors(paths: Sequence[Path], most: int = 4096) -> dict[tuple[int, int, int], int]:
    """The colours of mask files with the pixels of each, the commonest first: what a colour table has to name.

    Args:
        paths: Masks, of any mode that has colours; a palette's colours count, and not its indices.
        most: Colours from which on a file is taken for a photograph and no mask.

    Raises:
        DatasetError: A file that cannot be read, or with too many colours.
    """
    total: Counter[tuple[int, int, int]] = Counter()
    for path in paths:
        for pixels in _pictures(path):
            total.update(_count_colors(pixels))
            if len(total) > most:
                raise DatasetError(
                    f'A mask must have few colours: with {path} there are more than {most}; a mask that was resized '
                    'with smoothing, or saved as JPEG, has to be made anew from its source.')
    return dict(total.most_common())


def _pictures(path: Path) -> Iterator[np.ndarray]:
    """The colours of a mask, uint8 (rows, columns, 3); of one of more pixels than are decoded at once, in parts."""
    if is_too_large(path):
        from .large import color_parts
        yield from color_parts(path)
    else:
        yield _rgb(decode(path, 'mask')[0])


def _shuffled(masks: Sequence[Any], most: int | None = None) -> Iterator[Any]:
    order = random.Random(0).sample(range(len(masks)), len(masks))
    return (masks[index] for index in order[:most])


def foreground_value(paths: Sequence[Any], ignore_index: int | None) -> int:
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
    for path in _shuffled(paths):
        if hasattr(path, 'labels'):
            return 1  # drawn as classes
        try:
            if isinstance(path, Path) and path.suffix.lower() != '.npy' and not is_too_large(path) \
                    and read_header(path, 'mask').mode == '1':
                continue
            for labels in _parts(path):
                if labels.dtype == np.bool_:
                    break
                if (labels == 1).any():
                    return 1
                if (labels == _WHITE).any():
                    return _WHITE
        except DatasetError:
            continue
    return 1


def count_labels(
        masks: Sequence[Any],
        colors: ColorTable | None = None,
        most: int = _MOST_LOOKED_AT,
) -> tuple[dict[int, int], int]:
    """Pixels of each stored label in some masks of a split, in a fixed random order, but for those of one bit a pixel.

    Args:
        masks: The masks. A damaged one is passed over here, and named when its sample is read.
        colors: Table of coloured masks.
        most: Masks that are looked at.

    Returns:
        Pixels by label, and how many masks were looked at.
    """
    total: Counter[int] = Counter()
    number = 0
    for mask in _shuffled(masks, most):
        try:
            for labels in _parts(mask, colors, _MOST_PARTS):
                total.update(_counts(labels))
        except DatasetError:
            continue
        number += 1
    return dict(total), number


def _counts(labels: np.ndarray) -> dict[int, int]:
    """Pixels of each number; nothing of pixels of one bit."""
    if labels.dtype == np.bool_:
        return {}
    if labels.dtype == np.uint8:
        counts = np.bincount(labels.ravel(), minlength=1)
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts)}
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(map(int, values), map(int, counts), strict=True))


def _parts(mask: Any, colors: ColorTable | None = None, most: int | None = None) -> Iterator[np.ndarray]:
    """What a mask has stored; of one of more pixels than are decoded at once, block by block, at most so many."""
    if is_too_large(mask):
        from .large import label_parts
        yield from label_parts(mask, colors, most)
    else:
        yield stored_labels(mask, colors)


class MaskReader:
    """Reads masks as classes.

    Args:
        num_classes: Number of classes; 1 and 2 both stand for background and foreground.
        ignore_index: Label in the files that stands for "not labelled"; None for no such label.
        ignore_label: What such pixels, and those that a label map does not list, become.
        label_map: Pairs of a label in the files and its class, see `labels.label_map_of`.
        color_map: Pairs of a colour in the files and its label, see `labels.color_table`.
        foreground: Without a label map and with one or two classes, the value in the files that becomes 1.
    """

    def __init__(
            self,
            num_classes: int,
            ignore_index: int | None,
            ignore_label: int,
            label_map: Sequence[tuple[int, int]] = (),
            color_map: Sequence[tuple[tuple[int, int, int], int]] = (),
            foreground: int = 1,
    ) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.foreground = foreground
        self.colors = ColorTable(tuple(color_map)) if color_map else None
        # what a colour table does not have is ignored, as what a label map does not have
        label_map = label_map or [(label, label) for label in sorted({label for _, label in color_map})]
        self.table = LabelTable(num_classes, ignore_index, ignore_label, tuple(label_map), foreground)

    def __call__(self, mask: Any) -> tv_tensors.Mask:
        """int64 (H, W) of labels 0 to max(num_classes, 2) - 1 and the ignored label.

        Raises:
            DatasetError: Not readable, more than one page, no labels, or labels outside the classes.
        """
        return tv_tensors.Mask(torch.from_numpy(self.classes(stored_labels(mask, self.colors), mask)))

    def classes(self, stored: np.ndarray, mask: Any) -> np.ndarray:
        """int64 (H, W) of what a mask has stored, as `stored_labels` gives it. DatasetError for other labels."""
        classes = self.table(stored)
        if not self.table.is_mapped and (classes == INVALID).any():
            self._refuse(mask, stored, stored[classes == INVALID])
        return classes

    def _refuse(self, mask: Any, labels: np.ndarray, wrong: np.ndarray) -> None:
        number, binary = max(self.num_classes, 2), self.num_classes <= 2
        values = np.unique(wrong).tolist()
        listed = ', '.join(map(str, values[:_MOST_SHOWN])) + (', ...' if len(values) > _MOST_SHOWN else '')
        allowed = f'0 to {self.num_classes - 1}'
        if binary:
            others = ', as in other masks' if self.foreground != 1 else ''
            allowed = f'0 (background) and {self.foreground} (foreground{others})'
        if self.ignore_index is not None:
            allowed += f' or the ignored {self.ignore_index}'
        raise DatasetError(
            f'Labels must be {allowed}: {mask} has {listed} in {wrong.size} pixels; '
            f'{", or ".join(self._remedies(np.unique(labels).tolist(), values, number, binary))}.')

    def _remedies(self, labels: list[int], wrong: list[int], number: int, binary: bool) -> list[str]:
        """What to do about labels that are no classes, the likeliest first."""
        seen, ignored = set(labels), self.ignore_index
        ignore = f'pass ignore_index={wrong[0]} if it stands for unlabelled pixels'
        classes = [label for label in labels if label != ignored]
        if binary and seen <= {0, 1, _WHITE, ignored} and ignored not in (1, _WHITE):
            remedies = [
                f"pass label_map='0:0 1:1 {_WHITE}:1' if 1 and {_WHITE} both stand for the foreground",
                f'pass ignore_index={_WHITE} if 1 is the foreground and {_WHITE} stands for unlabelled pixels']
            if {1, _WHITE} <= seen:  # in one mask: rather two things
                remedies.reverse()
        elif not binary and seen <= {0, _WHITE}:
            remedies = [f'pass num_classes=1 if the masks are binary, with {_WHITE} for the foreground', ignore]
        else:
            remedies = [ignore] if len(wrong) == 1 and LOWEST <= wrong[0] <= HIGHEST else []
            if len(classes) == number:
                pairs = ' '.join(f'{label}:{index}' for index, label in enumerate(classes))
                remedies.append(f"pass label_map='{pairs}' if these are all labels, in the order of the classes")
            if 0 <= wrong[0] and 1 < wrong[-1] < DEFAULT_IGNORE_LABEL:
                remedies.append(f'pass num_classes={wrong[-1] + 1} if they are classes')
        if binary and len(wrong) > 2:
            remedies.append(f'threshold them to 0 and {_WHITE} if they are shades of a binary mask')
        remedies.append(
            f'rewrite all binary masks with 0 and 1, or all with 0 and {_WHITE}' if binary
            else 'say by a label_map, such as 7:0 11:1, which label is which class')
        return remedies
