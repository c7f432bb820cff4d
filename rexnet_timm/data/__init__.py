"""Data of the dense tasks: folders of images and masks, the built-in synthetic sets, joint transforms, loaders."""
from ..errors import DatasetError, sample_error_message
from .class_loader import create_class_loader
from .depth_folder import DepthFolder, describe_depth
from .description import DataDescription, DataSource, Layout, palette
from .folder import SegmentationFolder
from .formats import describe_data, register_format
from .formats.dataset_yaml import write_dataset_yaml
from .loader import check_batch_size, create_segmentation_loader
from .stream import verify_shards, write_shards
from .synthetic import SyntheticShapes
from .synthetic_depth import SyntheticDepth
from .transforms import create_depth_transform, create_segmentation_transform

__all__ = [
    'DataDescription',
    'DataSource',
    'DatasetError',
    'DepthFolder',
    'Layout',
    'SegmentationFolder',
    'SyntheticDepth',
    'SyntheticShapes',
    'check_batch_size',
    'create_class_loader',
    'create_depth_transform',
    'create_segmentation_loader',
    'create_segmentation_transform',
    'describe_data',
    'describe_depth',
    'palette',
    'register_format',
    'sample_error_message',
    'verify_shards',
    'write_dataset_yaml',
    'write_shards',
]
