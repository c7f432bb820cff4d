""" ReXNetV1 and a multi-scale U-Net by name in timm and segmentation_models_pytorch; importing registers them. """
from .card import create_model_card
from .encoder import ReXNetV1Encoder, create_encoder
from .losses import MultiScaleLoss
from .rexnetv1 import ReXNetV1, ReXNetV1Lite
from .task import SegmentationTask
from .unet import MultiScaleUnet
from .version import __version__
from .weights import get_preprocessing_params, load_encoder_weights

__all__ = [
    'MultiScaleLoss',
    'MultiScaleUnet',
    'ReXNetV1',
    'ReXNetV1Encoder',
    'ReXNetV1Lite',
    'SegmentationTask',
    '__version__',
    'create_encoder',
    'create_model_card',
    'get_preprocessing_params',
    'load_encoder_weights',
]
