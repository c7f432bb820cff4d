""" ReXNetV1 and a multi-scale U-Net by name in timm and segmentation_models_pytorch; importing registers them. """
from .depth import ReXDepth, disparity_to_depth
from .encoder import ReXNetV1Encoder, create_encoder
from .losses import MultiScaleLoss
from .rexnetv1 import ReXNetV1, ReXNetV1Lite
from .task import DepthTask, SegmentationTask
from .unet import MultiScaleUnet
from .version import __version__

__all__ = [
    'DepthTask',
    'MultiScaleLoss',
    'MultiScaleUnet',
    'ReXDepth',
    'ReXNetV1',
    'ReXNetV1Encoder',
    'ReXNetV1Lite',
    'SegmentationTask',
    '__version__',
    'create_encoder',
    'disparity_to_depth',
]
