""" ReXNetV1 and a multi-scale U-Net by name in timm and segmentation_models_pytorch; importing registers them. """
from .any_encoder import create_encoder
from .card import create_model_card
from .depth import ReXDepth
from .disparity import disparity_to_depth
from .encoder import ReXNetV1Encoder
from .losses import MultiScaleLoss
from .rexnetv1 import ReXNetV1, ReXNetV1Lite
from .task import DepthTask, SegmentationTask
from .unet import MultiScaleUnet
from .version import __version__
from .weights import get_preprocessing_params, load_encoder_weights

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
    'create_model_card',
    'disparity_to_depth',
    'get_preprocessing_params',
    'load_encoder_weights',
]
