"""Images of classes in folders, found by timm's reader and opened as all images are here.

timm's own data set opens whatever Pillow knows, and puts the next image in the place of one that it cannot read.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .images import open_as

__all__ = ['ClassFolder']


class ClassFolder(Dataset):
    """Images and their classes.

    Attributes:
        reader: timm's, with the files and the numbers of the classes.
        transform: Of a PIL image; None leaves it.

    Args:
        reader: timm's reader of a folder.
        mode: Pillow's mode of the images.
    """

    def __init__(self, reader: Any, mode: str = 'RGB') -> None:
        self.reader = reader
        self.mode = mode
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.reader)

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """The file of a sample, as timm's data sets tell it: below the folder unless asked otherwise."""
        return self.reader.filename(index, basename, absolute)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """An image, transformed, and its class. DatasetError for a file that is gone, damaged or too large."""
        path, target = self.reader.samples[index]
        image = open_as(Path(path), self.mode)
        return (image if self.transform is None else self.transform(image)), target
