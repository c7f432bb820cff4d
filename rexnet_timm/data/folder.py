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
from .bands import PERCENTILE, Scale
from .classes import check_map, fitting_names, number_of, refuse_many
from .crops import RandomScaleCrop, Span
from .description import DEFAULT_IGNORE_LABEL, DataDescription, Layout, ignored_label
from .formats import describe_data
from .headers import ARRAY_EXTENSION, Header, is_cut_by_windows, is_too_large, max_pixels, read_header
from .images import check_image_header, read_image
from .labels import HIGHEST, LOWEST
from .masks import MaskReader, count_labels, foreground_value, mask_size
from .pairs import (
    Chosen,
    Files,
    Groups,
    groups_of,
    is_drawn_as_stored,
    refuse_large,
    refuse_sizes,
    sample_sizes,
    turned_with,
)
from .survey import percentiles, sample_values, statistics, survey


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
            refuse_many(num_classes)
        if not isinstance(root, DataDescription):
            root = describe_data(
                root, layout, ignore_index=ignore_index, label_map=label_map, color_map=color_map, bands=bands,
                image_scale=image_scale)
        else:
            given = {'ignore_index': ignore_index, 'bands': tuple(bands) or None, 'image_scale': image_scale}
            root = replace(root, **{name: value for name, value in given.items() if value is not None})
        source, ignore_index = root.source, root.ignore_index
        num_classes = num_classes or number_of(root)
        is_mapped = bool(root.label_map or root.color_map)
        if ignore_index is None and not is_mapped and num_classes > DEFAULT_IGNORE_LABEL:
            refuse_many(num_classes)
        check_map(root, num_classes)
        self.root = Path(source.root)
        self.form = str(source)
        self.split = split
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.ignore_label = ignored_label(ignore_index, is_mapped, num_classes)
        self.transform = transform
        self.crops = 1
        self._places: dict[Path, Any] = {}
        self._pairs = source.samples(split)
        images = Files(self._pairs, 0)
        found = survey(images, in_chans, root.bands, root.image_scale)
        self.in_chans, self.has_colors = found.in_chans, found.has_colors
        self._survey = found
        self._statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        root = replace(root, in_chans=self.in_chans, image_scale=self._scale(images, root.bands, found.scale))
        names = fitting_names(root, num_classes)
        masks = Files(self._pairs, 1)
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

    def _cuts_any_window(self) -> bool:
        """Whether several crops are cut of each image, each of which needs no more of it than its window."""
        first = next(iter(getattr(self.transform, 'transforms', ())), None)
        return self.crops > 1 and isinstance(first, RandomScaleCrop) and not (first.balanced_share or self._read.colors)

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self.paths(index)
        if is_too_large(image_path) or self._cuts_any_window() and is_cut_by_windows(image_path, mask_path):
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
        if not steps or not isinstance(steps[0], RandomScaleCrop):
            refuse_large(image)
        from .geo import Scene
        from .large import LabelWindow, LargeMask
        with Scene(image, **self.description.reading) as scene, \
                LargeMask(mask, scene.size, self._read.colors) as labels:

            def classes(rows: Span, columns: Span) -> np.ndarray:
                return self._read.classes(labels.read(rows, columns), LabelWindow(mask, scene.size, rows, columns))

            def read(rows: Span, columns: Span) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
                pixels = tv_tensors.Image(scene.read(rows, columns).pixels)
                return pixels, tv_tensors.Mask(torch.from_numpy(classes(rows, columns)))

            def find() -> tuple[int, int] | None:
                return self._places_of(mask, labels).draw(self.ignore_label, classes)

            sample = steps[0].of_source(scene.size, read, find)
        for step in steps[1:]:
            sample = step(*sample)
        return sample

    def _places_of(self, mask: Path, labels: Any) -> Any:
        """Where the classes of a large mask are, counted once."""
        if mask not in self._places:
            from .large import ClassPlaces
            self._places[mask] = ClassPlaces(
                labels, lambda stored: self._read.classes(stored, mask), max(2, self.num_classes))
        return self._places[mask]

    def find_classes(self) -> int:
        """Count the classes of large masks now, so that no process of a loader does it again; returns how many there
        are. It is needed for crops that look for classes only.

        Raises:
            DatasetError: A mask that cannot be read, or has other labels.
        """
        from .large import LargeMask
        large = [mask for image, mask in self._pairs if is_too_large(image)]
        for mask in large:
            with LargeMask(mask, None, self._read.colors) as labels:
                self._places_of(mask, labels)
        return len(large)

    def cut_large(self) -> str | None:
        """Read images of more pixels than Pillow takes as tiles from now on, each a sample, for validation.

        Tiles cover every pixel once, and are at most 1024 high and wide.

        Returns:
            One line on how many there are, None where there is no such image.
        """
        large = [is_too_large(image) for image, _ in self._pairs]
        if not any(large):
            return None
        from .large import TILE, tiles_of
        pairs = []
        for pair, is_large in zip(self._pairs, large, strict=True):
            pairs += tiles_of(*pair, self._read.colors) if is_large else [pair]
        tiles = len(pairs) - large.count(False)
        self._pairs = pairs
        what = 'image of {} has' if sum(large) == 1 else 'images of {} have'
        return (f'{sum(large)} {what.format(self.split)} more than {max_pixels()} pixels, read as {tiles} tiles of at '
                f'most {TILE} x {TILE} pixels, each an image of its own')

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
        counts, number = count_labels(Files(self._pairs, 1), self._read.colors)
        data = self.description
        listed = {label for label, _ in data.label_map} or {label for _, label in data.color_map}
        total = sum(counts.values())
        others = {label: count / total for label, count in counts.items()
                  if label not in listed and label != self.ignore_index}
        if counts and not any(label in listed for label in counts):
            found = ', '.join(map(str, sorted(counts)[:8])) if self._read.colors is None else 'other colours'
            raise DatasetError(
                f'A map must list labels that the masks have: the {number} masks looked at, such as '
                f'{self._pairs[0][1]}, have {found}; correct the map, or take another split where this one has '
                'no truth, as published test sets have none.')
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
            values = sample_values(Files(self._pairs, 0), self.in_chans, self.description.bands)
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
        return sample_sizes(self._pairs, self.transform, self.description.reading)

    def groups(self) -> Groups | None:
        """Which samples are read together, because a file gives them only together; None where each is by itself."""
        groups = groups_of(self._pairs)
        return None if groups is None else Groups(np.tile(groups.of_sample, self.crops), groups.bytes)

    @property
    def num_pairs(self) -> int:
        """Images with masks, of which each may be several samples."""
        return len(self._pairs)

    def check_header(self, index: int) -> None:
        """Raise DatasetError for a pair whose headers tell that it cannot be used: bands, bits, modes, pages, sizes."""
        image, mask = self._pairs[index]
        if hasattr(image, 'pixels'):  # a tile
            from .large import check_large
            check_large(image.path, mask.path, self.description.reading, self._read.colors)
            return
        header = read_header(image, 'image')
        check_image_header(image, header, **self.description.reading)
        if is_too_large(image):
            from .large import check_large
            check_large(image, mask, self.description.reading, self._read.colors)
            return
        of_mask = mask_size(mask, self._read.colors)
        if of_mask is not None and of_mask != header.size and not is_drawn_as_stored(image, mask, of_mask):
            refuse_sizes(image, mask, header.size, of_mask)

    def leave_out(self, indices: Sequence[int]) -> None:
        """Go on without some pairs; those after them move up. DatasetError where none would be left."""
        if len(set(indices)) == len(self._pairs):
            raise DatasetError(f'At least one sample must be usable, and none of the split {self.split} of {self.root} '
                               'is; mend the data.')
        self._pairs = Chosen(self._pairs, sorted(set(range(len(self._pairs))) - set(indices)))
