"""Data of the dense tasks: folders of images and masks, the built-in synthetic sets, joint transforms, loaders."""
from ..errors import DatasetError, sample_error_message
from .description import DataDescription, palette
from .folder import SegmentationFolder
from .loader import check_batch_size, create_segmentation_loader
from .synthetic import SyntheticShapes
from .synthetic_depth import SyntheticDepth
from .transforms import create_depth_transform, create_segmentation_transform

__all__ = [
    'DataDescription',
    'DatasetError',
    'SegmentationFolder',
    'SyntheticDepth',
    'SyntheticShapes',
    'check_batch_size',
    'create_depth_transform',
    'create_segmentation_loader',
    'create_segmentation_transform',
    'palette',
    'sample_error_message',
]
