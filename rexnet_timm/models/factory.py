"""Networks from plain values, so that a checkpoint rebuilds its own."""
from collections.abc import Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch.nn as nn

from ..errors import near_names

__all__ = ['create_network', 'network_of']

# What would fetch or read weights, which the checkpoint brings itself
_WEIGHTS = ('encoder_weights', 'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir')


def network_of(library: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that rebuild a network, for a checkpoint.

    Args:
        library: 'timm', or 'smp' for an architecture of segmentation_models_pytorch.
        name: Its name there.
        arguments: What it was built with; arguments that name weights are left out.
    """
    return {
        'library': library, 'name': name,
        'arguments': {key: value for key, value in arguments.items() if key not in _WEIGHTS and value is not None}}


def create_network(network: Mapping[str, Any]) -> nn.Module:
    """The network that `network_of` describes, with random weights; nothing is fetched.

    Raises:
        ValueError: No such description, or a name that neither library has.
    """
    try:
        library, name, arguments = network['library'], network['name'], dict(network['arguments'])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'A network is described by library, name and arguments, got {network!r}.') from error
    arguments = {key: value for key, value in arguments.items() if key not in _WEIGHTS}
    known = timm.list_models() if library == 'timm' else list(smp.MODEL_ARCHITECTURES_MAPPING)
    if library not in ('timm', 'smp') or name not in known:
        raise ValueError(
            f'The network {name!r} of {library!r} is not known here.{near_names(str(name), known)} Import the package '
            'that registers it first.')
    if library == 'smp':
        return smp.create_model(name, encoder_weights=None, **arguments)
    return timm.create_model(name, pretrained=False, **arguments)
