"""Folders of images and masks as a data set of checked (image, mask) samples.

Samples are the tv_tensors that torchvision's v2 transforms expect.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from torchvision import tv_tensors

from ..errors import DatasetError
from .description import (
    DEFAULT_IGNORE_LABEL,
    IMAGE_EXTENSIONS,
    MASK_EXTENSIONS,
    files_by_stem,
    find_folders,
    read_class_names,
    require_partner,
)
from .images import IMAGE_MODES, check_image_header, read_header, read_image
from .masks import foreground_value, read_mask
from .transforms import Resize


class SegmentationFolder(Dataset):
    """Images with index masks, matched by file stem and sorted by it.

    Layouts, with `{split}` being train/training, val/valid/validation, test, or any other folder name:

    * CamVid's: `root/{split}/` with `root/{split}annot/`
    * `root/{split}/images/` with `root/{split}/masks/`
    * `root/images/{split}/` with `root/masks/{split}/`

    where `masks` may also be called `annotations` or `labels`. Images: jpg, jpeg, png, bmp, tif, tiff, webp. Masks:
    png, bmp, tif, tiff with one channel whose value (of a palette image: the index) is the label. Files are read as
    displayed: an EXIF orientation is applied to both.

    `dataset[i]` is `(image, mask)`: `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` int64 (H, W) with
    values 0 to num_classes - 1 and `ignore_label`, or whatever `transform(image, mask)` returns for the two.

    Binary masks: num_classes 1 (one channel of logits) and 2 (two channels) both read labels 0 and 1. The files have 0
    and 1, 1-bit pixels, or 0 and 255; 255 is the foreground where `ignore_index` is not 255 and no mask of the split
    has a 1. Masks of a split that differ in this are refused, because 255 is then more likely to mean "not labelled".

    Attributes:
        ignore_label: The one value that losses and metrics have to ignore, and with which transforms and the loader
            fill padding: `ignore_index`, or 255 without it.
        foreground: The value in the files that becomes label 1: 255 for binary masks of 0 and 255, otherwise 1.

    Args:
        root: Folder of the data set. An optional `classes.txt` in it names the classes, one a line.
        split: Which part to read.
        num_classes: Number of classes, 1 for binary masks; at most 255 where there is no `ignore_index`.
        ignore_index: Label in the files that stands for "not labelled"; None for no such label. It may be the label of
            a class, which is then left out.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored). Colours are converted to grey, and grey to RGB; alpha that
            is not asked for is left out.
        transform: Called with image and mask, see `create_segmentation_transform`.

    Raises:
        ValueError: `num_classes`, `ignore_index` or `in_chans` out of range.
        DatasetError: At construction for missing, empty or ambiguous folders, images without masks and the reverse,
            and a `classes.txt` that does not fit; at the sample for unreadable files, images that would lose bits,
            files of several pages, sizes that differ, masks that are not index images and labels outside the classes.
    """

    def __init__(
            self,
            root: str | Path,
            split: str,
            num_classes: int,
            ignore_index: int | None = None,
            in_chans: int = 3,
            transform: Callable[[tv_tensors.Image, tv_tensors.Mask], Any] | None = None,
    ) -> None:
        if in_chans not in IMAGE_MODES:
            raise ValueError(
                f'in_chans must be 1 (grey), 3 (RGB) or 4 (RGBA), got {in_chans}; write a Dataset of your own for '
                'images of other channels.')
        if num_classes < 1:
            raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
        if ignore_index is None and num_classes > DEFAULT_IGNORE_LABEL:
            raise ValueError(
                f'Without ignore_index, label {DEFAULT_IGNORE_LABEL} marks padding, so num_classes must be at most '
                f'{DEFAULT_IGNORE_LABEL}, got {num_classes}; pass an ignore_index that is no class.')
        if ignore_index is not None and not 0 <= ignore_index <= 65535:
            raise ValueError(f'ignore_index must be a label that a mask can store, 0 to 65535, got {ignore_index}.')
        self.root = Path(root)
        self.split = split
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.ignore_label = DEFAULT_IGNORE_LABEL if ignore_index is None else ignore_index
        self.in_chans = in_chans
        self.transform = transform

        image_folder, mask_folder = find_folders(self.root, split)
        images = files_by_stem(image_folder, IMAGE_EXTENSIONS, 'image')
        masks = files_by_stem(mask_folder, MASK_EXTENSIONS, 'mask')
        require_partner(images, masks, 'image', 'mask', mask_folder)
        require_partner(masks, images, 'mask', 'image', image_folder)
        self._pairs = [(images[stem], masks[stem]) for stem in sorted(images)]
        self._class_names = read_class_names(self.root, num_classes)
        self.foreground = foreground_value(list(masks.values()), ignore_index) if num_classes <= 2 else 1

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self._pairs[index]
        image = read_image(image_path, self.in_chans)
        mask = read_mask(mask_path, self.num_classes, self.ignore_index, self.foreground)
        if image.shape[-2:] != mask.shape[-2:]:
            _refuse_sizes(image_path, mask_path, image.shape[-2:], mask.shape[-2:])
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, mask)."""
        return self._pairs[index]

    @property
    def class_names(self) -> list[str]:
        """One name a class, from `root/classes.txt`, or "class 0", "class 1", ...; of binary masks always two."""
        return list(self._class_names)

    def sample_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every sample, from the headers of the images, or where the transform resizes from that.

        Raises:
            DatasetError: An image whose header is damaged, or tells that it would lose something.
        """
        resized = [step.size for step in getattr(self.transform, 'transforms', ()) if isinstance(step, Resize)]
        if resized:
            return resized[-1:] * len(self)
        sizes = []
        for path, _ in self._pairs:
            header = read_header(path, 'image')
            check_image_header(path, header, self.in_chans)
            sizes.append(header.size)
        return sizes


def _refuse_sizes(image: Path, mask: Path, image_size: Sequence[int], mask_size: Sequence[int]) -> None:
    shown = [f'{width} x {height}' for height, width in (image_size, mask_size)]
    remedy = 'resize the mask by nearest neighbour, or export it again at the size of the image'
    turned = [path for path, kind in ((image, 'image'), (mask, 'mask')) if read_header(path, kind).turned]
    if len(turned) == 1 and tuple(image_size) == tuple(mask_size)[::-1]:
        other = mask if turned == [image] else image
        remedy = f'{turned[0]} has an EXIF orientation, by which it is shown turned, and {other} fits it as stored: ' \
            'remove the orientation from the first, or turn the second as the first is shown'
    raise DatasetError(
        f'Image and mask must have the same size: {image} is {shown[0]} but {mask} is {shown[1]} (width x height); '
        f'{remedy}.')
