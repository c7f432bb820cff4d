"""What each kind of model is trained on and by: classes of images, masks, or depth.

A run asks `kind_of` once; whatever depends on the kind is a method of the object that it gets. A further kind is a
file here, with a class that has the methods of `Kind`; that of another package adds its own by `register_kind`.
"""
from collections.abc import Callable
from typing import TypeVar

from ...extensions import add_to_table, unknown_name
from ...models import depth as depth_models
from ...models import unet
from ..build import architecture_of, is_smp
from .base import Batches, Kind
from .classification import Classification
from .depth import Depth
from .segmentation import Segmentation

__all__ = ['KINDS', 'Batches', 'Classification', 'Depth', 'Kind', 'Segmentation', 'kind_of', 'register_kind']

# By the name of the task, those of other packages too
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Classification, Depth, Segmentation)}
_OWN_KINDS = tuple(KINDS)

AnyKind = TypeVar('AnyKind', bound=type[Kind])


def register_kind(name: str) -> Callable[[AnyKind], AnyKind]:
    """A decorator that makes a subclass of `Kind` a `--task` of `rexnet train`, under a name.

    Its own attribute `name` is what the commands after training take its models for: 'segmentation', 'depth',
    'classification', or a task that only its package knows.

    Raises:
        ValueError: A name that another package has registered, or that is no name.
    """
    def register(kind: AnyKind) -> AnyKind:
        return add_to_table(KINDS, 'task', name, kind)

    return register


def kind_of(model: str, task: str | None = None) -> Kind:
    """The kind of a `--model`: that of `--task`, or else the one that its name tells.

    Raises:
        ValueError: An unknown model, with near names, or a task that the model does not have.
    """
    if task is not None and task not in KINDS:
        raise ValueError(unknown_name('--task', task, KINDS))
    name = task if task is not None and task not in _OWN_KINDS else _task_of(model)
    if task not in (None, name):
        raise ValueError(f'--task {task} is not what --model {model} is for, which is {name}: leave out --task.')
    return KINDS[name]()


def _task_of(model: str) -> str:
    if is_smp(model):
        return Segmentation.name
    architecture = architecture_of(model)
    if architecture in unet.default_cfgs:
        return Segmentation.name
    return Depth.name if architecture in depth_models.default_cfgs else Classification.name
