"""State-dict layouts of networks that are not ours: what other packages call the same weights.

EfficientNet-PyTorch (https://github.com/lukemelas/EfficientNet-PyTorch, Apache-2.0) and what descends from it, such as
EfficientNet-Lite-PyTorch, number the blocks of a network through, and their BatchNorms from the expansion on, which the
first blocks lack. timm numbers the blocks of each stage, and the BatchNorms of each block from 1. Both have the
padding and the BatchNorm of TensorFlow (eps 0.001), which in timm are those of the names that begin with `tf_`.

SMP's encoders of timm's networks (`tu-NAME`) have timm's names behind a prefix, and `stages_0` for `stages.0` where
timm takes a network apart for its features.
"""
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torch
import torch.nn as nn
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from timm.models import adapt_input_conv

from ..files import without_prefix
from .layout import check_names, needed_names

__all__ = [
    'check_efficientnet', 'check_tensorflow_padding', 'efficientnet_to_timm', 'is_efficientnet', 'timm_to_encoder']

_logger = logging.getLogger(__name__)

EFFICIENTNET_STEM = '_conv_stem.weight'
EFFICIENTNET_NAMES = {
    '_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2', '_fc': 'classifier'}
SQUEEZE_NAMES = {'_se_reduce': 'se.conv_reduce', '_se_expand': 'se.conv_expand'}
EXPANDING_NAMES = {
    '_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2', '_project_conv': 'conv_pwl',
    '_bn2': 'bn3', **SQUEEZE_NAMES}
SEPARABLE_NAMES = {
    '_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2', **SQUEEZE_NAMES}
TENSORFLOW_EPS = 1e-3


def is_efficientnet(state_dict: Iterable[str]) -> bool:
    """Whether a state dict, or its keys, bare or behind a prefix, is in EfficientNet-PyTorch's layout."""
    return any(key.split('.')[-2:] == EFFICIENTNET_STEM.split('.') for key in state_dict)


def efficientnet_to_timm(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of EfficientNet in EfficientNet-PyTorch's layout under timm's names, values unchanged.

    By name: `_conv_stem` is `conv_stem`, `_blocks.3._project_conv` is `blocks.2.0.conv_pwl`, and so on, as the tables
    of this file say. A new stage begins where the number of channels changes that a block gives, which it does between
    any two stages of EfficientNet, and a block without an expansion counts from its depthwise convolution.

    Args:
        state_dict: Entries by name; behind a prefix they lose it, as :func:`rexnet_timm.files.without_prefix` says.

    Returns:
        A new dict. What the tables do not name keeps its name, and so does everything in another layout.
    """
    if not is_efficientnet(state_dict):
        return dict(state_dict)
    state_dict = without_prefix(state_dict, [EFFICIENTNET_STEM])
    places = _places(state_dict)
    return {_timm_key(key, state_dict, places): value for key, value in state_dict.items()}


def _places(state_dict: Mapping[str, Any]) -> dict[str, str]:
    # of every block, by its number: its stage and its number there
    channels = {}
    for key, value in state_dict.items():
        match = re.fullmatch(r'_blocks\.(\d+)\._project_conv\.weight', key)
        if match and getattr(value, 'ndim', 0) == 4:
            channels[int(match[1])] = value.shape[0]
    places, stage, index, last = {}, -1, 0, None
    for number in sorted(channels):
        stage, index = (stage, index + 1) if channels[number] == last else (stage + 1, 0)
        last = channels[number]
        places[str(number)] = f'{stage}.{index}'
    return places


def _timm_key(key: str, state_dict: Mapping[str, Any], places: Mapping[str, str]) -> str:
    module, _, entry = key.rpartition('.')
    if module in EFFICIENTNET_NAMES:
        return f'{EFFICIENTNET_NAMES[module]}.{entry}'
    match = re.fullmatch(r'_blocks\.(\d+)\.(\w+)', module)
    if not match or match[1] not in places:
        return key
    expands = f'_blocks.{match[1]}._expand_conv.weight' in state_dict
    names = EXPANDING_NAMES if expands else SEPARABLE_NAMES
    return f'blocks.{places[match[1]]}.{names[match[2]]}.{entry}' if match[2] in names else key


def check_efficientnet(state_dict: Mapping[str, Any], network: nn.Module) -> None:
    """Hold a translated state dict, all but the classifier, to the timm network that it was loaded into.

    Where timm gets a new classifier it passes over whatever else is missing.

    Raises:
        WeightsError: Entries are missing, or not the network's.
    """
    needed = [key for key in needed_names(network) if not key.startswith(f'{EFFICIENTNET_NAMES["_fc"]}.')]
    check_names(state_dict, needed, network.state_dict(), f"timm's {type(network).__name__}", True,
                'Take the name of the network that the weights are of.')
    check_tensorflow_padding(network)


def check_tensorflow_padding(model: nn.Module) -> None:
    """Warn where a network that takes EfficientNet-PyTorch's weights does not compute as they were trained to."""
    eps = {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    strided = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]
    if eps - {TENSORFLOW_EPS} or any(any(module.padding) for module in strided):
        _logger.warning(
            "The weights were trained with TensorFlow's padding and a BatchNorm eps of %g, and %s has others, so that "
            "its features differ: take timm's name that begins with tf_.", TENSORFLOW_EPS, type(model).__name__)


def timm_to_encoder(state_dict: Mapping[str, Any], encoder: nn.Module) -> dict[str, Any]:
    """A state dict of one of timm's networks as that of SMP's encoder of it: its own part, under its own names.

    The classifier, and what else of the network the encoder goes without, is left out. A first convolution of 3
    channels is adapted to those of the encoder, as timm does it.

    Args:
        state_dict: Entries by name, of the whole network or of its part; behind a prefix they lose it.
        encoder: SMP's encoder of a `tu-` name, which gives the names; for any other the state dict stays as it is.

    Raises:
        WeightsError: Entries are missing, or not the network's, where most of them are.
    """
    if not isinstance(encoder, TimmUniversalEncoder):
        return dict(state_dict)
    with torch.random.fork_rng(devices=[]):  # a run's own numbers stay the same
        network = timm.create_model(encoder.name)
    flat = {key.replace('.', '_'): key for key in network.state_dict()}
    names = {
        flat[_flat_name(key)]: key for key in encoder.state_dict() if _flat_name(key) in flat}
    own = needed_names(encoder)
    needed = [key for key, theirs in names.items() if theirs in own]
    inside = without_prefix(state_dict, needed)
    if len(needed) != len(own) or sum(key in names for key in inside) <= sum(
            key in own for key in without_prefix(state_dict, own)):
        return dict(state_dict)  # its own names, or nobody's
    check_names(
        inside, needed, network.state_dict(), f"timm's {encoder.name}", True,
        'Take the encoder of the network that the weights are of.')
    first = _first_convs(network)
    return {
        names[key]: _with_channels(value, encoder.state_dict()[names[key]]) if key in first else value
        for key, value in inside.items() if key in names}


def _flat_name(key: str) -> str:
    # 'model.' is SMP's, and 'model.' or 'body.' after it timm's own, of networks that it does not take apart
    return re.sub(r'^model\.(model\.|body\.)?', '', key).replace('.', '_')


def _first_convs(network: nn.Module) -> list[str]:
    names = network.pretrained_cfg.get('first_conv') or ()
    return [f'{name}.weight' for name in ((names,) if isinstance(names, str) else names)]


def _with_channels(weight: Any, own: torch.Tensor) -> Any:
    if getattr(weight, 'ndim', 0) == 4 and weight.shape[1] == 3 != own.shape[1]:
        return adapt_input_conv(own.shape[1], weight)
    return weight
