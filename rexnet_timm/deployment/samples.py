"""The samples that a model is validated on, prepared as it takes them, and checked against what it knows."""
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.data import create_dataset, create_transform
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..data import (
    DataDescription,
    DatasetError,
    DepthFolder,
    Layout,
    SegmentationFolder,
    describe_data,
    describe_depth,
)
from ..data.class_folder import ClassFolder
from ..data.description import DataSource
from ..data.formats import holds_masks, is_there, names_of_file
from ..data.parquet import no_stream
from ..data.transforms import ToNormalizedTensor
from ..errors import first_lines

__all__ = ['Samples', 'num_classes_of', 'samples_of']

_logger = logging.getLogger(__name__)
_TRAINING, _VALIDATION = ('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation')  # as in timm


class Samples(Dataset):
    """Samples `(index, image, target)` of a data set, with the image as the model takes it.

    Attributes:
        dataset: The data set, without the preparation.
        description: What the model knows of its data, with the labels that these data have.

    Args:
        dataset: Map-style, samples are (image, target).
        prepare: From image and target to what the model takes, as plain tensors.
        description: What the model knows of its data.
    """

    def __init__(
            self,
            dataset: Dataset,
            prepare: Callable[[Any, Any], tuple[torch.Tensor, Any]],
            description: DataDescription,
    ) -> None:
        self.dataset = dataset
        self.prepare = prepare
        self.description = description

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, Any]:
        return index, *self.prepare(*self.dataset[index])

    def name(self, index: int) -> str:
        """What a sample is called: its file, where it has one, or its number."""
        if hasattr(self.dataset, 'paths'):
            return Path(self.dataset.paths(index)[0]).name
        if hasattr(self.dataset, 'filename'):
            return str(self.dataset.filename(index))
        return str(index)

    def sizes(self) -> list[tuple[int, int]] | None:
        """Height and width of every sample, None where the data set does not tell."""
        return self.dataset.sample_sizes() if hasattr(self.dataset, 'sample_sizes') else None


def num_classes_of(model: nn.Module, description: DataDescription) -> int:
    """Classes that a model tells apart; a binary mask has two.

    Raises:
        ValueError: Neither the model nor its description knows.
    """
    number = len(description.class_names) or getattr(model, 'num_classes', None) \
        or (getattr(model, 'config', None) or {}).get('classes')
    if not number:
        raise ValueError(
            'The number of classes must be known, and the model does not tell it: give it class names by '
            'rexnet_timm.deployment.load.describe(model, DataDescription(class_names=...)).')
    return max(2, int(number))


def samples_of(model: nn.Module, description: DataDescription, data: Any, split: str) -> Samples:
    """The samples of a folder or a data set, for the task of a model.

    Args:
        model: The model; one whose `takes_uint8` is true gets the pixels as they are.
        description: What the model knows of its data.
        data: Folder, as `rexnet train` takes it, or a description of one, or a map-style data set; see `evaluate`.
        split: Part of the folder.

    Raises:
        ValueError: Data of another task or of other classes; a DatasetError names the folder.
    """
    description.require_known_task()
    is_folder = isinstance(data, (str, os.PathLike))
    if not is_folder and not isinstance(data, DataDescription) and not hasattr(data, '__len__'):
        raise ValueError(no_stream(data))
    if isinstance(data, DataDescription) and (
            data.task != description.task or description.task == 'classification'):
        raise ValueError(
            f'The description is of data for {data.task}, and the model is for {description.task}: pass the folder of '
            'its data.')
    if is_folder and not (os.path.isdir(data) or (description.task != 'classification' and is_there(data))):
        raise DatasetError(f'The data must be a folder: {os.fspath(data)} does not exist or is no folder.')
    takes_uint8 = getattr(model, 'takes_uint8', False)
    if description.task == 'classification':
        dataset = _class_folder(description, os.fspath(data), split) if is_folder else data
        _check_classes(description, num_classes_of(model, description), *_classes_of(dataset), 'The data set')
        samples = Samples(dataset, _PrepareClass(description, takes_uint8), description)
    elif description.task == 'depth':
        if is_folder:
            data = describe_depth(data, Layout(**description.layout), description.depth_scale)
        if isinstance(data, DataDescription):
            _check_split(data.source, split)
            data = DepthFolder(data, split, in_chans=description.in_chans)
        samples = Samples(data, _PrepareDense(description, takes_uint8, torch.float32), description)
    else:
        if is_folder:
            data = describe_data(data, Layout(**description.layout)).labelled_as(description)
        is_folder = isinstance(data, DataDescription)
        dataset = _mask_folder(model, description, data, split) if is_folder else data
        if not is_folder:
            _check_classes(description, num_classes_of(model, description), *_classes_of(dataset), 'The data set')
        else:
            description = replace(
                description, ignore_index=data.ignore_index, label_map=data.label_map, color_map=data.color_map)
        samples = Samples(dataset, _PrepareDense(description, takes_uint8, torch.int64), description)
    if not len(samples):
        raise DatasetError('A validation needs at least one image, and the data set is empty: add some.')
    return samples


class _PrepareDense:
    """Image (C, H, W) to what the model takes: uint8 and `tv_tensors.Image` are pixels, another float image passes."""

    def __init__(self, description: DataDescription, takes_uint8: bool, target_dtype: torch.dtype) -> None:
        self.takes_uint8 = takes_uint8
        self.target_dtype = target_dtype
        low, high = description.value_range
        self.normalize = ToNormalizedTensor(
            [(value - low) / (high - low) for value in description.mean],
            [value / (high - low) for value in description.std], target_dtype)

    def __call__(self, image: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(image, torch.Tensor) or not isinstance(target, torch.Tensor):
            raise ValueError(
                'Samples must be tensors of an image (C, H, W) and its labels or depth (H, W), got '
                f'{type(image).__name__} and {type(target).__name__}.')
        if self.takes_uint8 and image.dtype != torch.uint8:
            raise ValueError(f'The model takes uint8 images, got {image.dtype}: leave out the transform of the data.')
        if (image.dtype == torch.uint8 or isinstance(image, tv_tensors.Image)) and not self.takes_uint8:
            return self.normalize(image, target)
        return image.as_subclass(torch.Tensor), target.as_subclass(torch.Tensor).to(self.target_dtype)


class _PrepareClass:
    """A picture of Pillow to what the model takes; a tensor passes as it is."""

    def __init__(self, description: DataDescription, takes_uint8: bool) -> None:
        size = (description.in_chans, *(description.input_size or (224, 224)))
        low, high = description.value_range
        self.takes_uint8 = takes_uint8
        self.transform = create_transform(
            size, is_training=False, interpolation=description.interpolation, crop_pct=description.crop_pct,
            mean=[(value - low) / (high - low) for value in description.mean],
            std=[value / (high - low) for value in description.std], use_prefetcher=takes_uint8)

    def __call__(self, image: Any, target: Any) -> tuple[torch.Tensor, int]:
        if not isinstance(image, torch.Tensor):
            image = torch.as_tensor(self.transform(image))
        return image, int(target)


def _mask_folder(model: nn.Module, description: DataDescription, data: DataDescription, split: str) -> Dataset:
    """The samples of a split of a described folder, whose classes must be those of the model."""
    _check_split(data.source, split)
    number = num_classes_of(model, description)
    names = data.source.root / 'classes.txt'
    if names.is_file():
        lines = len(names_of_file(names))
        if lines != number and not (number == 2 and lines == 1):
            raise DatasetError(
                f'The classes of the data must be those of the model: {names} has {lines} names, and the model has '
                f'{number} classes; take the data that the model was trained for, or another model.')
    elif data.class_names:
        where = f'{data.source.root}, read as {data.source},'
        _check_classes(description, number, data.class_names, len(data.class_names), where)
    dataset = SegmentationFolder(
        data.seen_as(description), split, 1 if number == 2 else number, in_chans=description.in_chans)
    if names.is_file():
        _check_classes(description, number, dataset.class_names, number, str(names))
    told = [*dataset.told_of_images(), dataset.told_of_labels(), dataset.cut_large()]
    if not (dist.is_available() and dist.is_initialized() and dist.get_rank()):
        for line in filter(None, told):
            _logger.warning(line)
    return dataset


def _check_split(source: DataSource, split: str) -> None:
    """DatasetError for a split that is not there, where others are."""
    if source.splits and source.name_of(split) is None:
        raise source.no_split(split)


def _class_folder(description: DataDescription, root: str, split: str) -> Dataset:
    found = holds_masks(root, split)
    if found:
        raise DatasetError(
            f'The model tells classes of images, and {root} has images with masks ({found}): take a model of masks, or '
            'a folder with a folder of images for each class.')
    # timm takes the whole folder where the part does not exist
    synonyms = next((names for names in (_TRAINING, _VALIDATION) if split in names), (split,))
    if not any(os.path.isdir(os.path.join(root, name)) for name in (split, *synonyms)):
        present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        raise DatasetError(
            f'There is no part {split!r} in {root}: it has the folders {", ".join(present[:8]) or "(none)"}; name one '
            'of them as the split.')
    try:
        dataset = create_dataset('', root=root, split=split)
        return ClassFolder(dataset.reader, 'L' if description.in_chans == 1 else 'RGB')
    except (RuntimeError, AssertionError) as error:
        raise DatasetError(
            f'The part {split!r} of {root} must be folders of images, one for each class: {first_lines(error, 1)}'
        ) from error


def _classes_of(dataset: Any) -> tuple[Sequence[str] | None, int | None]:
    """Names and number of the classes of a data set, as far as it tells them."""
    classes = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None)
    names = sorted(classes, key=classes.get) if classes else getattr(dataset, 'class_names', None)
    number = getattr(dataset, 'num_classes', None) or (len(names) if names else None)
    return names, number


def _placeholders(number: int) -> tuple[list[str], ...]:
    """Names that say nothing, where there were none."""
    return [f'class {i}' for i in range(number)], [str(i) for i in range(number)], ['background', 'foreground']


def _check_classes(
        description: DataDescription,
        number: int,
        names: Sequence[str] | None,
        number_of_data: int | None,
        where: str,
) -> None:
    """Raise DatasetError where the classes of the data are not those of the model."""
    remedy = 'take the data that the model was trained for, or another model'
    if number_of_data is not None and max(2, number_of_data) != number:
        raise DatasetError(
            f'The classes of the data must be those of the model: {where} has {number_of_data}, and the model has '
            f'{number}; {remedy}.')
    own = list(description.class_names)
    known = [list(found) for found in (own, names or ()) if found and list(found) not in _placeholders(number)]
    if len(known) < 2 or len(known[0]) != len(known[1]) or known[0] == known[1]:
        return
    index = next(index for index, pair in enumerate(zip(*known, strict=True)) if pair[0] != pair[1])
    order = ' in another order' if sorted(known[0]) == sorted(known[1]) else ''
    raise DatasetError(
        f'The classes of the data must be those of the model: {where} names them{order or " otherwise"}; class {index} '
        f'is {known[1][index]!r} there and {known[0][index]!r} in the model; {remedy}.')
