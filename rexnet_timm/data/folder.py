"""A described data set as checked (image, mask) samples.

Samples are the tv_tensors that torchvision's v2 transforms expect.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..errors import DatasetError
from .bands import PERCENTILE, Scale, turned
from .description import DEFAULT_IGNORE_LABEL, DataDescription, Layout, ignored_label
from .formats import describe_data
from .images import (
    ARRAY_EXTENSION,
    TIFF_EXTENSIONS,
    Header,
    TooLargeError,
    check_image_header,
    is_too_large,
    max_pixels,
    read_header,
    read_image,
)
from .labels import HIGHEST, LOWEST
from .masks import MaskReader, count_labels, foreground_value, mask_size
from .survey import percentiles, sample_values, statistics, survey
from .transforms import RandomScaleCrop, Resize


class SegmentationFolder(Dataset):
    """Images with masks, in the order of their names, or of the list of the split.

    Layouts, with `{split}` being train/training, val/valid/validation, test, or any other folder name:

    * CamVid's: `root/{split}/` with `root/{split}annot/`
    * `root/{split}/images/` with `root/{split}/masks/`
    * `root/images/{split}/` with `root/masks/{split}/`

    where `masks` may also be called `annotations` or `labels`, and those of `formats.FORMATS`. Images: jpg, jpeg, png,
    bmp, tif, tiff, webp and npy, of any bands and bits, see `images.read_image`. Masks: png, bmp, tif, tiff, gif and
    npy, whose numbers (of a palette image: the indices) are the labels, or colours with a colour table.

    Files are read as displayed: an EXIF orientation is applied to both. Where only the image has one, and the mask fits
    the image as stored, it is turned with it.

    `dataset[i]` is `(image, mask)`: `tv_tensors.Image` (in_chans, H, W), uint8 of images of 8 bits and otherwise
    float32 as `image_scale` says, and `tv_tensors.Mask` int64 (H, W) with values 0 to num_classes - 1 and
    `ignore_label`, or whatever `transform(image, mask)` returns for the two.

    Binary masks: num_classes 1 (one channel of logits) and 2 (two channels) both read labels 0 and 1. The files have 0
    and 1, 1-bit pixels, or 0 and 255; 255 is the foreground where `ignore_index` is not 255 and no mask of the split
    has a 1. Masks of a split that differ in this are refused, because 255 is then more likely to mean "not labelled".

    Attributes:
        description: What is known of the data, with the classes, labels, channels, bands and scale as they are read; a
            `DataDescription`.
        root: Folder, or file, of the data.
        form: The format that it is read as, in words.
        ignore_label: The one value that losses and metrics have to ignore, and with which transforms and the loader
            fill padding: `ignore_index` where labels are classes and it is from 0 to 65535, and otherwise 255 (65535
            above 255 classes).
        foreground: The value in the files that becomes label 1: 255 for binary masks of 0 and 255, otherwise 1.
        in_chans: Channels of the images.
        has_colors: Whether the first three channels are red, green and blue of 8 bits.
        crops: How often each image comes, 1 unless it is set; for random crops of large images.

    Args:
        root: Folder of the data set, or a file that describes it, see `formats.describe_data`; or a description. An
            optional `classes.txt` in the folder names the classes, one a line.
        split: Which part to read.
        num_classes: Number of classes, 1 for binary masks; at most 255 where there is no `ignore_index`. None takes
            that of the description.
        ignore_index: Label in the files that stands for "not labelled"; None for that of the description, if any. It
            may be the label of a class, which is then left out.
        in_chans: Channels of the images. Colours become grey for 1, and grey becomes RGB for 3; alpha that is not
            asked for is left out. None takes those that the images have: the bands, without alpha unless that has more
            values than two, and 3 where only some are grey.
        transform: Called with image and mask, see `create_segmentation_transform`.
        layout: How the files are laid out; None detects it. Not with a description.
        label_map: From labels in the files to classes, in a form of `labels.label_map_of`; what it does not list is
            ignored.
        color_map: From colours in the files to classes, in a form of `labels.color_table`.
        bands: Numbers of the bands of the images that are read, counted from 1, in the order of the channels.
        image_scale: What the values of images are scaled by, see `bands.scale_of`; 'percentile', which is the default
            for images of more than 8 bits, takes the range between the percentiles 0.5 and 99.5 of each channel of up
            to 128 images of the split.

    Raises:
        ValueError: `num_classes`, `ignore_index`, `in_chans` or `bands` out of range, or a map or scale that is none.
        DatasetError: At construction for missing, empty or ambiguous folders, images without masks and the reverse,
            names that do not fit the classes, and images of different bands or bits; at the sample for unreadable
            files, images that would lose bits or bands, files of several pages, sizes that differ, masks without labels
            and labels outside the classes.
    """

    def __init__(
            self,
            root: str | Path | DataDescription,
            split: str,
            num_classes: int | None = None,
            ignore_index: int | None = None,
            in_chans: int | None = None,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
            *,
            layout: Layout | None = None,
            label_map: Any = None,
            color_map: Any = None,
            bands: Sequence[int] = (),
            image_scale: Any = None,
    ) -> None:
        if in_chans is not None and in_chans < 1:
            raise ValueError(f'in_chans must be at least 1, got {in_chans}.')
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
        if ignore_index is not None and not LOWEST <= ignore_index <= HIGHEST:
            raise ValueError(
                f'ignore_index must be a label that a mask can store, {LOWEST} to {HIGHEST}, got {ignore_index}.')
        if ignore_index is None and (num_classes or 0) > DEFAULT_IGNORE_LABEL and not (label_map or color_map):
            _refuse_many(num_classes)
        if not isinstance(root, DataDescription):
            root = describe_data(
                root, layout, ignore_index=ignore_index, label_map=label_map, color_map=color_map, bands=bands,
                image_scale=image_scale)
        else:
            given = {'ignore_index': ignore_index, 'bands': tuple(bands) or None, 'image_scale': image_scale}
            root = replace(root, **{name: value for name, value in given.items() if value is not None})
        source, ignore_index = root.source, root.ignore_index
        num_classes = num_classes or _number(root)
        is_mapped = bool(root.label_map or root.color_map)
        if ignore_index is None and not is_mapped and num_classes > DEFAULT_IGNORE_LABEL:
            _refuse_many(num_classes)
        _check_map(root, num_classes)
        self.root = Path(source.root)
        self.form = str(source)
        self.split = split
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.ignore_label = ignored_label(ignore_index, is_mapped, num_classes)
        self.transform = transform
        self.crops = 1
        self._pairs = source.samples(split)
        images = _Files(self._pairs, 0)
        found = survey(images, in_chans, root.bands, root.image_scale)
        self.in_chans, self.has_colors = found.in_chans, found.has_colors
        self._survey = found
        self._statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        root = replace(root, in_chans=self.in_chans, image_scale=self._scale(images, root.bands, found.scale))
        names = _fitting_names(root, num_classes)
        masks = _Files(self._pairs, 1)
        self.foreground = 1
        if num_classes <= 2 and not is_mapped:
            self.foreground = foreground_value(masks, ignore_index)
        fits = len(root.colors) == len(names)
        # without the source, whose functions no process of a loader could be sent
        self.description = replace(
            root, class_names=names, colors=root.colors if fits else (), foreground=self.foreground, source=None)
        self._read = MaskReader(
            num_classes, ignore_index, self.ignore_label, root.label_map, root.color_map, self.foreground)

    def __len__(self) -> int:
        return len(self._pairs) * self.crops

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self.paths(index)
        if is_too_large(image_path):
            return self._crop_of_large(image_path, mask_path)
        image = read_image(image_path, **self.description.reading)
        mask = self._read(mask_path)
        if image.shape[-2:] != mask.shape[-2:]:
            labels = turned_with(image_path, mask_path, mask.numpy())
            mask = tv_tensors.Mask(torch.from_numpy(labels))
        if image.shape[-2:] != mask.shape[-2:]:
            refuse_sizes(image_path, mask_path, image.shape[-2:], mask.shape[-2:])
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def _crop_of_large(self, image: Path, mask: Path) -> Any:
        """A transformed sample of a TIFF of more pixels than Pillow takes, of which only the crop is read."""
        steps = list(getattr(self.transform, 'transforms', ()))
        if not steps or not isinstance(steps[0], RandomScaleCrop) or steps[0].balanced_share or self._read.colors:
            raise TooLargeError(
                f'An image of more than {max_pixels()} pixels is read by windows only in training, by random crops '
                f'that do not look for classes, with a mask of numbers: {image} has more; cut it and its mask into '
                'tiles, such as 2048 x 2048.')
        if not isinstance(mask, Path) or mask.suffix.lower() not in TIFF_EXTENSIONS:
            raise TooLargeError(
                f'The mask of an image that is read by windows must be a TIFF: {image} has more than {max_pixels()} '
                f'pixels, and {mask} is none; save it as TIFF in tiles, or cut both into smaller images.')
        from .geo import LabelWindow, Scene
        with Scene(image, **self.description.reading) as scene:

            def read(rows: tuple[int, int], columns: tuple[int, int]) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
                pixels = tv_tensors.Image(scene.read(rows, columns).pixels)
                return pixels, self._read(LabelWindow(mask, scene.size, rows, columns))

            sample = steps[0].of_source(scene.size, read)
        for step in steps[1:]:
            sample = step(*sample)
        return sample

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, mask), or what stands for a file in a larger one."""
        if not -len(self) <= index < len(self):
            raise IndexError(f'There is no sample {index} of {len(self)}.')  # which ends a loop over the samples
        return self._pairs[index % len(self._pairs)]

    @property
    def class_names(self) -> list[str]:
        """One name a class, of the description, or "class 0", "class 1", ...; of binary masks always two."""
        return list(self.description.class_names)

    def unlisted_labels(self) -> tuple[dict[int, float], int]:
        """Labels that the label map or the colour table does not list, with the share of pixels of each, of 1.

        Returns:
            The shares in some masks of the split, the largest first, and how many masks were looked at; nothing without
            a map. Colours that a table does not list are one label.

        Raises:
            DatasetError: None of those masks has a label that the map lists.
        """
        if not self._read.table.is_mapped:
            return {}, 0
        counts, number = count_labels(_Files(self._pairs, 1), self._read.colors)
        data = self.description
        listed = {label for label, _ in data.label_map} or {label for _, label in data.color_map}
        total = sum(counts.values())
        others = {label: count / total for label, count in counts.items()
                  if label not in listed and label != self.ignore_index}
        if counts and not any(label in listed for label in counts):
            found = ', '.join(map(str, sorted(counts)[:8])) if self._read.colors is None else 'other colours'
            raise DatasetError(
                f'A map must list labels that the masks have: the {number} masks looked at, such as '
                f'{self._pairs[0][1]}, have {found}; correct the map.')
        return dict(sorted(others.items(), key=lambda item: -item[1])), number

    def told_of_labels(self) -> str | None:
        """One line on what a label map or a colour table does not list; None where that is nothing.

        Raises:
            DatasetError: As `unlisted_labels`.
        """
        shares, number_of_masks = self.unlisted_labels()
        if not shares:
            return None
        if self.description.color_map:
            what = 'colours that the table does not have'
        else:
            first = ', '.join(f'{label}: {share:.1%}' for label, share in list(shares.items())[:8])
            what = f'labels that the map does not list ({first}{", ..." if len(shares) > 8 else ""})'
        number = len(self._pairs)
        masks = 'masks' if number_of_masks == number else f'masks of {number}, which were looked at,'
        return f'{sum(shares.values()):.1%} of the pixels of {number_of_masks} {masks} have {what}, and are ignored'

    def _scale(self, images: Sequence[Any], bands: Sequence[int], scale: Scale | str) -> Scale:
        """The scale of the images, measured where it is to be."""
        if scale != PERCENTILE:
            if isinstance(scale, tuple) and len(scale) not in (1, self.in_chans):
                raise ValueError(
                    f'image_scale must have one pair, or one for each of the {self.in_chans} channels, got '
                    f'{len(scale)}.')
            return scale
        values = sample_values(images, self.in_chans, bands)
        scale = percentiles(values)
        self._statistics = statistics(values, scale)
        return scale

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of each channel, of values as they are scaled, 0 to 1, measured on some images.

        None for grey and RGB images of 8 bits, for which those of published weights are.
        """
        if self._survey.is_plain:
            return None
        if self._statistics is None:
            values = sample_values(_Files(self._pairs, 0), self.in_chans, self.description.bands)
            self._statistics = statistics(values, self.description.image_scale)
        return self._statistics

    def told_of_images(self) -> list[str]:
        """Lines on what is done with bands and orientations of the images, where it might not be what is meant."""
        unclear = [index for index, header in self._survey.turned if self._is_unclear(index, header)]
        if not unclear:
            return list(self._survey.told)
        return [*self._survey.told, (
            f'{len(unclear)} images, such as {self._pairs[unclear[0]][0]}, have an EXIF orientation, by which they are '
            'displayed turned or mirrored, and nothing tells whether their masks were drawn so: they are taken as '
            'drawn on the image as displayed; where they fit it as stored, remove the orientation from the images')]

    def _is_unclear(self, index: int, header: Header) -> bool:
        """Whether the sizes do not tell if a mask was drawn on a turned image as displayed or as stored."""
        mask = self._pairs[index][1]
        if not header.turned or header.size[0] == header.size[1]:
            if hasattr(mask, 'labels') or mask.suffix.lower() == ARRAY_EXTENSION:
                return True
            try:
                return read_header(mask, 'mask').orientation == 1
            except DatasetError:
                return False  # which is told at the sample
        return False

    def sample_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every sample, from the headers of the images, or where the transform resizes from that.

        Raises:
            DatasetError: An image whose header is damaged, or tells that it would lose something.
        """
        resized = [step.size for step in getattr(self.transform, 'transforms', ()) if isinstance(step, Resize)]
        if resized:
            return resized[-1:] * len(self)
        if hasattr(self._pairs, 'sizes'):  # which an index tells
            return self._pairs.sizes()
        sizes = []
        for path, _ in self._pairs:
            header = read_header(path, 'image')
            check_image_header(path, header, **self.description.reading)
            if is_too_large(path):
                self._crop_of_large(path, path)  # which says that it is
            sizes.append(header.size)
        return sizes

    @property
    def num_pairs(self) -> int:
        """Images with masks, of which each may be several samples."""
        return len(self._pairs)

    def check_header(self, index: int) -> None:
        """Raise DatasetError for a pair whose headers tell that it cannot be used: bands, bits, modes, pages, sizes."""
        image, mask = self._pairs[index]
        header = read_header(image, 'image')
        check_image_header(image, header, **self.description.reading)
        if is_too_large(image):
            return
        of_mask = mask_size(mask, self._read.colors)
        if of_mask is not None and of_mask != header.size and not is_drawn_as_stored(image, mask, of_mask):
            refuse_sizes(image, mask, header.size, of_mask)

    def leave_out(self, indices: Sequence[int]) -> None:
        """Go on without some pairs; those after them move up. DatasetError where none would be left."""
        if len(set(indices)) == len(self._pairs):
            raise DatasetError(f'At least one sample must be usable, and none of the split {self.split} of {self.root} '
                               'is; mend the data.')
        self._pairs = [pair for index, pair in enumerate(self._pairs) if index not in set(indices)]


class _Files(Sequence[Any]):
    """The images, or the masks, of samples, each when it is asked for."""

    def __init__(self, samples: Sequence[tuple[Any, Any]], place: int) -> None:
        self.samples, self.place = samples, place

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index][self.place]


def is_drawn_as_stored(image: Any, mask: Any, size: Sequence[int]) -> bool:
    """Whether a mask of a height and width was drawn on a photo as stored, which is displayed turned."""
    header = read_header(image, 'image')
    has_header = not hasattr(mask, 'labels') and mask.suffix.lower() != ARRAY_EXTENSION
    return header.turned and header.size == tuple(size)[::-1] and (
        not has_header or read_header(mask, 'mask').orientation == 1)


def turned_with(image: Any, mask: Any, labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) that were drawn on a photo as stored, turned as the photo is displayed; others as they are."""
    if not is_drawn_as_stored(image, mask, labels.shape):
        return labels
    return turned(labels, read_header(image, 'image').orientation)


def refuse_sizes(
        image: Path, mask: Path, image_size: Sequence[int], mask_size: Sequence[int], kind: str = 'mask') -> None:
    """Raise DatasetError for an image and a mask, or a depth map, of different sizes, (height, width), with what may be
    the reason.
    """
    shown = [f'{width} x {height}' for height, width in (image_size, mask_size)]
    remedy = f'resize the {kind} by nearest neighbour, or export it again at the size of the image'
    has_header = not hasattr(mask, 'labels') and mask.suffix.lower() != ARRAY_EXTENSION
    if has_header and tuple(image_size) == tuple(mask_size)[::-1] and read_header(mask, kind).turned:
        remedy = f'{mask} has an EXIF orientation, by which it is shown turned, and {image} fits it as stored: ' \
            f'remove the orientation from the {kind}, or turn the image as the {kind} is shown'
    raise DatasetError(
        f'Image and {kind} must have the same size: {image} is {shown[0]} but {mask} is {shown[1]} (width x height); '
        f'{remedy}.')


def _refuse_many(num_classes: int) -> None:
    raise ValueError(
        f'Without ignore_index, label {DEFAULT_IGNORE_LABEL} marks padding, so num_classes must be at most '
        f'{DEFAULT_IGNORE_LABEL}, got {num_classes}; pass an ignore_index that is no class.')


def _number(description: DataDescription) -> int:
    """The number of classes of a description. ValueError where it does not tell."""
    if description.num_classes is None:
        raise ValueError(
            f'num_classes must be given, since {description.source.root} does not tell it: pass the number of classes, '
            '1 for binary masks, or name the classes in classes.txt.')
    return description.num_classes


def _check_map(description: DataDescription, num_classes: int) -> None:
    """Raise DatasetError for a map that does not fit the classes, or that lists the ignored label."""
    pairs = description.label_map or description.color_map
    number = max(num_classes, 2)
    wrong = next(((label, index) for label, index in pairs if index >= number), None)
    if wrong is not None:
        raise DatasetError(
            f'The classes of a map must be below num_classes, {number}: it has {wrong[0]}:{wrong[1]}; pass '
            f'num_classes={max(index for _, index in pairs) + 1}, or correct the map.')
    listed = dict(description.label_map)
    if description.ignore_index in listed:
        label = description.ignore_index
        raise DatasetError(
            f'A label is a class or ignored, and {label} is class {listed[label]} of the label map and ignore_index '
            'too; leave it out of one of the two.')


def _fitting_names(description: DataDescription, num_classes: int) -> list[str]:
    """One name a class; of a binary mask those of background and foreground.

    Raises:
        DatasetError: Another number of names than of classes.
    """
    names, root = list(description.class_names), description.source.root
    if not names:
        return ['background', 'foreground'] if num_classes == 1 else [f'class {index}' for index in range(num_classes)]
    path = root / 'classes.txt'
    is_file = path.is_file()
    where = f'{path} has' if is_file else f'{root}, read as {description.source}, has'
    if len(names) != num_classes and not (num_classes == 1 and len(names) == 2):
        one = ', or that of the foreground, since num_classes is 1' if num_classes == 1 else ''
        remedy = 'correct the file or ' if is_file else 'name your classes in classes.txt, or '
        what = 'classes.txt must name every class, one a line, without the ignored label' if is_file \
            else 'There must be a name for every class'
        raise DatasetError(
            f'{what}{one}: {where} {len(names)} names, num_classes is {num_classes}; {remedy}pass '
            f'num_classes={len(names)}.')
    if len(names) == 1 == num_classes:
        if names == ['background']:
            raise DatasetError(
                f'The one name of a binary set must be that of the foreground: {where} {names[0]!r}; name the '
                'foreground, or both in two lines.')
        names = ['background', *names]
    return names
