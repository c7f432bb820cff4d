"""A described data set as checked (image, mask) samples.

Samples are the tv_tensors that torchvision's v2 transforms expect.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import DEFAULT_IGNORE_LABEL, DataDescription, Layout, ignored_label
from .formats import describe_data
from .images import IMAGE_MODES, check_image_header, read_header, read_image
from .labels import HIGHEST, LOWEST
from .masks import MaskReader, Masks, count_labels, foreground_value
from .transforms import Resize


class SegmentationFolder(Dataset):
    """Images with masks, in the order of their names, or of the list of the split.

    Layouts, with `{split}` being train/training, val/valid/validation, test, or any other folder name:

    * CamVid's: `root/{split}/` with `root/{split}annot/`
    * `root/{split}/images/` with `root/{split}/masks/`
    * `root/images/{split}/` with `root/masks/{split}/`

    where `masks` may also be called `annotations` or `labels`, and those of `formats.FORMATS`. Images: jpg, jpeg, png,
    bmp, tif, tiff, webp. Masks: png, bmp, tif, tiff, gif and npy, whose numbers (of a palette image: the indices) are
    the labels, or colours with a colour table. Files are read as displayed: an EXIF orientation is applied to both.

    `dataset[i]` is `(image, mask)`: `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` int64 (H, W) with
    values 0 to num_classes - 1 and `ignore_label`, or whatever `transform(image, mask)` returns for the two.

    Binary masks: num_classes 1 (one channel of logits) and 2 (two channels) both read labels 0 and 1. The files have 0
    and 1, 1-bit pixels, or 0 and 255; 255 is the foreground where `ignore_index` is not 255 and no mask of the split
    has a 1. Masks of a split that differ in this are refused, because 255 is then more likely to mean "not labelled".

    Attributes:
        description: What is known of the data, with the classes and labels as they are read; a `DataDescription`.
        root: Folder, or file, of the data.
        form: The format that it is read as, in words.
        ignore_label: The one value that losses and metrics have to ignore, and with which transforms and the loader
            fill padding: `ignore_index` where labels are classes and it is from 0 to 65535, and otherwise 255 (65535
            above 255 classes).
        foreground: The value in the files that becomes label 1: 255 for binary masks of 0 and 255, otherwise 1.

    Args:
        root: Folder of the data set, or a file that describes it, see `formats.describe_data`; or a description. An
            optional `classes.txt` in the folder names the classes, one a line.
        split: Which part to read.
        num_classes: Number of classes, 1 for binary masks; at most 255 where there is no `ignore_index`. None takes
            that of the description.
        ignore_index: Label in the files that stands for "not labelled"; None for that of the description, if any. It
            may be the label of a class, which is then left out.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored). Colours are converted to grey, and grey to RGB; alpha that
            is not asked for is left out.
        transform: Called with image and mask, see `create_segmentation_transform`.
        layout: How the files are laid out; None detects it. Not with a description.
        label_map: From labels in the files to classes, in a form of `labels.label_map_of`; what it does not list is
            ignored.
        color_map: From colours in the files to classes, in a form of `labels.color_table`.

    Raises:
        ValueError: `num_classes`, `ignore_index` or `in_chans` out of range, or a map that is none.
        DatasetError: At construction for missing, empty or ambiguous folders, images without masks and the reverse,
            and names that do not fit the classes; at the sample for unreadable files, images that would lose bits,
            files of several pages, sizes that differ, masks without labels and labels outside the classes.
    """

    def __init__(
            self,
            root: str | Path | DataDescription,
            split: str,
            num_classes: int | None = None,
            ignore_index: int | None = None,
            in_chans: int = 3,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
            *,
            layout: Layout | None = None,
            label_map: Any = None,
            color_map: Any = None,
    ) -> None:
        if in_chans not in IMAGE_MODES:
            raise ValueError(
                f'in_chans must be 1 (grey), 3 (RGB) or 4 (RGBA), got {in_chans}; write a Dataset of your own for '
                'images of other channels.')
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
        if ignore_index is not None and not LOWEST <= ignore_index <= HIGHEST:
            raise ValueError(
                f'ignore_index must be a label that a mask can store, {LOWEST} to {HIGHEST}, got {ignore_index}.')
        if ignore_index is None and (num_classes or 0) > DEFAULT_IGNORE_LABEL and not (label_map or color_map):
            _refuse_many(num_classes)
        if not isinstance(root, DataDescription):
            root = describe_data(
                root, layout, ignore_index=ignore_index, label_map=label_map, color_map=color_map)
        elif ignore_index is not None:
            root = replace(root, ignore_index=ignore_index)
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
        self.in_chans = in_chans
        self.transform = transform
        self._pairs = source.samples(split)
        names = _fitting_names(root, num_classes)
        masks = Masks(self._pairs)
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
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self._pairs[index]
        image = read_image(image_path, self.in_chans)
        mask = self._read(mask_path)
        if image.shape[-2:] != mask.shape[-2:]:
            refuse_sizes(image_path, mask_path, image.shape[-2:], mask.shape[-2:])
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, mask), or what stands for a file in a larger one."""
        return self._pairs[index]

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
        counts, number = count_labels(Masks(self._pairs), self._read.colors)
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
        masks = 'masks' if number_of_masks == len(self) else f'masks of {len(self)}, which were looked at,'
        return f'{sum(shares.values()):.1%} of the pixels of {number_of_masks} {masks} have {what}, and are ignored'

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
            check_image_header(path, header, self.in_chans)
            sizes.append(header.size)
        return sizes


def refuse_sizes(
        image: Path, mask: Path, image_size: Sequence[int], mask_size: Sequence[int], kind: str = 'mask') -> None:
    """Raise the DatasetError of an image and a mask, or a depth map, of different sizes (height, width)."""
    shown = [f'{width} x {height}' for height, width in (image_size, mask_size)]
    remedy = f'resize the {kind} by nearest neighbour, or export it again at the size of the image'
    pictures = [(image, 'image')] + ([] if hasattr(mask, 'labels') or mask.suffix == '.npy' else [(mask, kind)])
    turned = [path for path, kind in pictures if read_header(path, kind).turned]
    if len(turned) == 1 and tuple(image_size) == tuple(mask_size)[::-1]:
        other = mask if turned == [image] else image
        remedy = f'{turned[0]} has an EXIF orientation, by which it is shown turned, and {other} fits it as stored: ' \
            'remove the orientation from the first, or turn the second as the first is shown'
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
