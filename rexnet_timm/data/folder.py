"""Folders of images and masks as a data set of checked (image, mask) samples.

Samples are the tv_tensors that torchvision's v2 transforms expect.
"""
from collections.abc import Callable
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
from .images import IMAGE_MODES, read_image
from .masks import read_mask


class SegmentationFolder(Dataset):
    """Images with index masks, matched by file stem and sorted by it.

    Layouts, with `{split}` being train/training, val/valid/validation, test, or any other folder name:

    * CamVid's: `root/{split}/` with `root/{split}annot/`
    * `root/{split}/images/` with `root/{split}/masks/`
    * `root/images/{split}/` with `root/masks/{split}/`

    where `masks` may also be called `annotations` or `labels`. Images: jpg, jpeg, png, bmp, tif, tiff, webp. Masks:
    png, bmp, tif, tiff with one channel whose value (of a palette image: the index) is the label. Files are read as
    stored; an EXIF orientation is not applied.

    `dataset[i]` is `(image, mask)`: `tv_tensors.Image` uint8 (in_chans, H, W) and `tv_tensors.Mask` int64 (H, W) with
    values 0 to num_classes - 1 and `ignore_label`, or whatever `transform(image, mask)` returns for the two.

    Attributes:
        ignore_label: The one value that losses and metrics have to ignore, and with which transforms and the loader
            fill padding: `ignore_index`, or 255 where there is none.

    Args:
        root: Folder of the data set. An optional `classes.txt` in it names the classes, one a line.
        split: Which part to read.
        num_classes: Number of classes; 1 to 255 where there is no `ignore_index`.
        ignore_index: Label in the files that stands for "not labelled", None if there is none.
        in_chans: 1 (grey), 3 (RGB) or 4 (RGBA as stored).
        transform: Called with image and mask, see `create_segmentation_transform`.

    Raises:
        ValueError: `num_classes`, `ignore_index` or `in_chans` out of range.
        DatasetError: At construction for missing, empty or ambiguous folders, images without masks and the reverse,
            and a `classes.txt` that does not fit; at the sample for unreadable files, sizes that differ, masks that
            are not index images and labels outside the classes.
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
            raise ValueError(f'in_chans must be 1 (grey), 3 (RGB) or 4 (RGBA), got {in_chans}.')
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

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Any:
        image_path, mask_path = self._pairs[index]
        image = read_image(image_path, self.in_chans)
        mask = read_mask(mask_path, self.num_classes, self.ignore_index)
        if image.shape[-2:] != mask.shape[-2:]:
            sizes = [f'{tensor.shape[-1]} x {tensor.shape[-2]}' for tensor in (image, mask)]
            raise DatasetError(
                f'Image and mask must have the same size: {image_path} is {sizes[0]} but {mask_path} is {sizes[1]} '
                '(width x height); resize the mask by nearest neighbour, or export it again at the size of the image.')
        return (image, mask) if self.transform is None else self.transform(image, mask)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a sample: (image, mask)."""
        return self._pairs[index]

    @property
    def class_names(self) -> list[str]:
        """One name a class, from `root/classes.txt`, or "class 0", "class 1", ..."""
        return list(self._class_names)
