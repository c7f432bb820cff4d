"""Networks from plain values, so that a checkpoint rebuilds its own."""
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ..errors import first_lines, near_names
from ..extensions import NotImportedError, missing_of, modules_of
from .decoder import DECODERS

__all__ = ['create_network', 'imports_of', 'network_of']

# What would fetch or read weights, which the checkpoint brings itself
_WEIGHTS = ('encoder_weights', 'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'checkpoint_path', 'cache_dir')


def network_of(library: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that rebuild a network, for a checkpoint.

    Args:
        library: 'timm', or 'smp' for an architecture of segmentation_models_pytorch.
        name: Its name there.
        arguments: What it was built with; arguments that name weights are left out.

    Returns:
        These as 'library', 'name' and 'arguments'; and as 'imports', if there are any, the modules of other packages
        that register the network, its encoder or its decoder.
    """
    arguments = {key: value for key, value in arguments.items() if key not in _WEIGHTS and value is not None}
    network = {'library': library, 'name': name, 'arguments': arguments}
    if library == 'smp':
        own = smp.MODEL_ARCHITECTURES_MAPPING.get(name)
    else:
        own = timm.models.model_entrypoint(name) if timm.is_model(name) else None
    imports = imports_of(own, arguments)
    return {**network, 'imports': imports} if imports else network


def imports_of(network: Any, arguments: Mapping[str, Any]) -> list[str]:
    """The modules of other packages that register a network, its encoder or its decoder.

    Args:
        network: Its class, or the function of timm's registry; None where it has none.
        arguments: What it was built with.
    """
    encoder, decoder = (str(arguments.get(name)) for name in ('encoder_name', 'decoder_type'))
    parts = [network, DECODERS.get(decoder)]
    if encoder in smp.encoders.encoders:
        parts.append(smp.encoders.encoders[encoder]['encoder'])
    elif timm.is_model(encoder.removeprefix('tu-')):
        parts.append(timm.models.model_entrypoint(encoder.removeprefix('tu-')))
    return modules_of(part for part in parts if part is not None)


def create_network(network: Mapping[str, Any], most: int | None = None) -> nn.Module:
    """The network that `network_of` describes, with random weights; nothing is fetched.

    Args:
        network: The plain values.
        most: Bytes that its parameters and buffers may have, as those of a file that describes a network and brings
            its weights; None for any number.

    Raises:
        NotImportedError: A ValueError, where modules that register its parts have not been imported.
        ValueError: No such description, a name that neither library has, or a larger network.
    """
    try:
        return _create(network, most)
    except ValueError as error:
        missing = missing_of(network.get('imports') if isinstance(network, Mapping) else None)
        if not missing:
            raise
        raise NotImportedError(missing, first_lines(error, 1)) from error


def _create(network: Mapping[str, Any], most: int | None) -> nn.Module:
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
    with _at_most(most, name):
        if library == 'smp':
            return smp.create_model(name, encoder_weights=None, **arguments)
        return timm.create_model(name, pretrained=False, **arguments)


@contextmanager
def _at_most(most: int | None, name: str) -> Iterator[None]:
    """Raise ValueError from the middle of building a network of more bytes, before its memory is written to."""
    if most is None:
        yield
        return
    total = 0

    def count(module: nn.Module, entry: str, tensor: torch.Tensor | None) -> None:
        nonlocal total
        total += 0 if tensor is None else tensor.numel() * tensor.element_size()
        if total > most:
            raise ValueError(
                f'The network {name!r} with these arguments has more weights than the file that describes it, which '
                f'has {most} bytes.')

    hooks = (register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
