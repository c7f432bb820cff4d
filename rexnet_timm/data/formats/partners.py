"""What lies beside the images of a data set, and what its folders are called."""
from typing import NamedTuple

from ..description import DEPTH_EXTENSIONS, MASK_EXTENSIONS

__all__ = ['DEPTHS', 'MASKS', 'SPLIT', 'Partner']

# Below {split} of a template or of `Partner.layouts` lies a folder of the name of a split
SPLIT = '{split}'


class Partner(NamedTuple):
    """What lies beside the images.

    Attributes:
        kind: A file of it, for messages.
        option: The name of its folder in `Layout`, as messages call it.
        extensions: How its files end.
        ends: What stands behind the name of a split in the name of its folder, beside the folder of images.
        folders: Names of its folder where it has the name of a split above or below.
        flat: Further names of its folder where there are no splits.
        images: Names of the folder of images beside `folders`.
        flat_images: Further ones where there are no splits.
    """
    kind: str
    option: str
    extensions: tuple[str, ...]
    ends: tuple[str, ...]
    folders: tuple[str, ...]
    flat: tuple[str, ...]
    images: tuple[str, ...]
    flat_images: tuple[str, ...]

    @property
    def layouts(self) -> tuple[tuple[str, str], ...]:
        """Folders of images and of partners, with {split}."""
        pairs = [(images, folder) for images in self.images for folder in self.folders]
        return (
            *((SPLIT, f'{SPLIT}{end}') for end in self.ends),
            *((f'{SPLIT}/{images}', f'{SPLIT}/{folder}') for images, folder in pairs),
            *((f'{images}/{SPLIT}', f'{folder}/{SPLIT}') for images, folder in pairs))


MASKS = Partner(
    'mask', 'mask_dir', MASK_EXTENSIONS, ('annot', '_labels', '_masks'), ('masks', 'annotations', 'labels'),
    ('mask', 'label', 'gt', 'ground_truth'), ('images',), ('image', 'imgs', 'img'))
DEPTHS = Partner(
    'depth map', 'depth_dir', DEPTH_EXTENSIONS, ('_depth', '_depths', 'depth'), ('depth', 'depths', 'depth_maps'),
    ('groundtruth_depth', 'gt', 'ground_truth'), ('images', 'image', 'rgb'), ('imgs', 'img'))
