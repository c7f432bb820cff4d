"""ReXNetV1 and a multi-scale U-Net by name in timm and segmentation_models_pytorch; importing registers them."""
from .deployment.evaluate import evaluate
from .deployment.export import export
from .deployment.load import load_model
from .deployment.predict import Predictor, predict
from .deployment.share import share
from .disparity import disparity_to_depth
from .models.any_encoder import create_encoder
from .models.card import create_model_card
from .models.depth import ReXDepth
from .models.encoder import ReXNetV1Encoder
from .models.fuse import fuse
from .models.lean import set_lean
from .models.rexnetv1 import ReXNetV1, ReXNetV1Lite
from .models.unet import MultiScaleUnet
from .models.weights import get_preprocessing_params, load_encoder_weights
from .training.losses import MultiScaleLoss
from .training.tasks import DepthTask, SegmentationTask
from .version import __version__

__all__ = [
    'DepthTask',
    'MultiScaleLoss',
    'MultiScaleUnet',
    'Predictor',
    'ReXDepth',
    'ReXNetV1',
    'ReXNetV1Encoder',
    'ReXNetV1Lite',
    'SegmentationTask',
    '__version__',
    'create_encoder',
    'create_model_card',
    'disparity_to_depth',
    'evaluate',
    'export',
    'fuse',
    'get_preprocessing_params',
    'load_encoder_weights',
    'load_model',
    'predict',
    'set_lean',
    'share',
]
