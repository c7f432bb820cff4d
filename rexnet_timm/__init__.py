"""ReXNetV1 and a multi-scale U-Net by name in timm and segmentation_models_pytorch; importing registers them."""
import os
from typing import Any

from .data import register_format
from .deployment.evaluate import evaluate
from .deployment.export import export
from .deployment.load import load_model
from .deployment.predict import Predictor, predict
from .deployment.report import report
from .deployment.share import share
from .disparity import disparity_to_depth
from .models.any_encoder import create_encoder
from .models.card import create_model_card
from .models.decoder import register_decoder
from .models.depth import ReXDepth
from .models.encoder import ReXNetV1Encoder
from .models.fuse import fuse
from .models.lean import set_lean
from .models.rexnetv1 import ReXNetV1, ReXNetV1Lite
from .models.unet import MultiScaleUnet
from .models.weights import get_preprocessing_params, load_encoder_weights
from .training.base_losses import register_loss
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
    'check',
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
    'register_decoder',
    'register_format',
    'register_loss',
    'report',
    'set_lean',
    'share',
    'train',
]


def train(data: str | os.PathLike | None = None, **options: Any) -> str:
    """Train a model, as `rexnet train` does, in this process.

    `rexnet_timm.train('DATA', model='rexnetv1_unet_1_0', num_classes=11, epochs=50)`; `rexnet_timm.load_model` takes
    what it returns.

    Args:
        data: Folder of the data; None with `dataset`, such as dataset='synthetic'.
        **options: The options of `rexnet train`, with underscores: `batch_size=8`, `amp=True`, `input_size=(3, 224,
            320)`, `config='rexnetv1_unet_camvid'`. "rexnet train --help" lists them. None leaves the default.

    Returns:
        The folder of the run. The process log is shown on standard error unless logging is set up otherwise.

    Raises:
        FileNotFoundError: A file of weights that does not exist.
        ValueError: An unknown option, with near ones, a value that its option does not take, or data that does not
            fit; a `DatasetError` names the file.
    """
    from .cli.train import train as run  # the command line's room is entered by those who train
    return run(data, **options)


def check(data: str | os.PathLike, **options: Any) -> dict[str, Any]:
    """Read a data set of masks whole, print what it holds and what is wrong, and how to train on it, as `rexnet check`.

    `rexnet_timm.train('DATA', auto=True)` takes what it proposes.

    Args:
        data: Folder of the data, or a dataset.yaml.
        **options: The options of `rexnet check`, with underscores: `num_classes=11`, `results_dir='checked'`.
            "rexnet check --help" lists them. None leaves the default.

    Returns:
        What check.json holds: 'level' ('note', 'warning' or 'error'), 'findings', 'splits', 'class_names', 'plan'; a
        sheet of samples is in check.png beside it.

    Raises:
        ValueError: An unknown option, a value that its option does not take, or a folder that is no data set; a
            `DatasetError` names the file.
    """
    from .cli.check import check as run
    return run(data, **options)
