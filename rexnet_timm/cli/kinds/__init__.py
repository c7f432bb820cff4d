"""What each kind of model is trained on and by: classes of images, masks, or depth.

A run asks `kind_of` once; whatever depends on the kind is a method of the object that it gets. A further kind is a
file here, with a class that has the methods of `Kind`.
"""
from ...models import depth as depth_models
from ...models import unet
from ..build import architecture_of, is_smp
from .base import Batches, Kind
from .classification import Classification
from .depth import Depth
from .segmentation import Segmentation

__all__ = ['Batches', 'Classification', 'Depth', 'Kind', 'Segmentation', 'kind_of']


def kind_of(model: str) -> Kind:
    """The kind of a `--model`, by its name. ValueError for an unknown one, with near names."""
    if is_smp(model):
        return Segmentation()
    architecture = architecture_of(model)
    if architecture in unet.default_cfgs:
        return Segmentation()
    return Depth() if architecture in depth_models.default_cfgs else Classification()
