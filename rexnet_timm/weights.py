"""Weights of an encoder from a file or a published name, and how images are prepared for a name."""
import os
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch.nn as nn
from timm.models import adapt_input_conv, load_state_dict_from_hf

from .checkpoint import load_weights_file
from .encoder import ReXNetEncoderMixin
from .layout import to_timm_layout
from .names import near_names

__all__ = ['get_preprocessing_params', 'load_encoder_weights']

HUB_PREFIX = 'hf-hub:'


def load_encoder_weights(encoder: nn.Module, source: str | os.PathLike) -> nn.Module:
    """Load weights into an SMP encoder, in place.

    Args:
        encoder: The encoder, `model.encoder` of an SMP model. For one of this package, `source` may be the file of a
            whole network, in timm's layout or NAVER's, and the first conv is adapted from 3 channels to the encoder's.
            For any other it holds the encoder's own entries.
        source: A file (.safetensors, or what torch.save wrote), also a checkpoint of a whole U-Net, of which the
            encoder is taken; or, for an encoder of this package, a model name with published weights
            ('rexnetv1_1_0', 'rexnetv1r_2_0.sw_in12k', 'rexnet_100', 'hf-hub:timm/rexnet_100.nav_in1k').

    Returns:
        The encoder.

    Raises:
        FileNotFoundError: `source` is neither a file nor a known name.
        ValueError: A name without published weights, a file that holds more than tensors and plain values, or weights
            that do not fit the encoder.
    """
    is_ours = isinstance(encoder, ReXNetEncoderMixin)
    name = os.fspath(source)
    if os.path.isfile(source):
        state_dict = load_weights_file(source)
    elif is_ours and (name.startswith(HUB_PREFIX) or timm.is_model(name.split('.')[0])):
        state_dict = load_state_dict_from_hf(_hub_id(name))
    elif is_ours:
        raise FileNotFoundError(
            f'There is no file and no model {name!r}.{near_names(name, timm.list_models("rexnet*"))}')
    else:
        raise FileNotFoundError(
            f'There is no file {name!r}. Published weights of {type(encoder).__name__} come by encoder_weights.')
    prefix = 'encoder.'
    if any(key.startswith(prefix) for key in state_dict):
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if is_ours:
        state_dict = _with_channels(to_timm_layout(state_dict, encoder, partial=True), encoder.in_chans)
    try:
        encoder.load_state_dict(state_dict)
    except RuntimeError as error:
        text = '; '.join(line.strip() for line in str(error).splitlines()[:3])
        raise ValueError(
            f'{name!r} must hold the entries of {type(encoder).__name__}, by their names, and does not: {text}'
        ) from error
    return encoder


def _with_channels(state_dict: dict[str, Any], in_chans: int) -> dict[str, Any]:
    weight = state_dict['stem.conv.weight']
    if weight.ndim == 4 and weight.shape[1] == 3 != in_chans:
        state_dict = {**state_dict, 'stem.conv.weight': adapt_input_conv(in_chans, weight)}
    return state_dict


def _hub_id(name: str) -> str:
    if name.startswith(HUB_PREFIX):
        return name.removeprefix(HUB_PREFIX)
    hub_id = _timm_cfg(name).hf_hub_id
    if not hub_id:
        raise ValueError(
            f"There are no published weights for '{name}'. Take a file, or one of timm.list_pretrained('rexnetv1*').")
    return hub_id


def _timm_cfg(name: str) -> Any:
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        # a tag that the model has not
        raise ValueError(f"{error} Tags of '{name.split('.')[0]}' are in "
                         f"timm.list_pretrained('{name.split('.')[0]}*').") from error


def get_preprocessing_params(name: str) -> dict[str, Any]:
    """How images are prepared for a model or encoder of this package, or for any of timm's.

    SMP's function of this name finds these values for 'tu-NAME', when NAME has weights. For NAME itself it looks for
    'mean' at the top of the weights' config.json, where timm's repositories do not have it.

    Args:
        name: A name of timm's registry, with or without a tag, also as 'tu-NAME': 'rexnetv1', 'rexnetv1_unet_1_0',
            'rexnetv1r_2_0.sw_in12k'.

    Returns:
        `input_space` 'RGB', `input_range` [0, 1] of the pixels before `mean` and `std` (3 floats each) are applied:
        what SMP's `preprocess_input` takes. With them `input_size` (3, H, W) of training, `crop_pct` and
        `interpolation` of evaluation, as in timm's configuration.

    Raises:
        ValueError: An unknown name or tag.
    """
    timm_name = name.removeprefix('tu-')
    architecture = timm_name.split('.')[0]
    if not timm.is_model(architecture):
        if name in smp.encoders.encoders:
            raise ValueError(
                f"'{name}' is an encoder of SMP's own: take "
                'segmentation_models_pytorch.encoders.get_preprocessing_params.')
        raise ValueError(f"Unknown model name '{name}'.{near_names(architecture, timm.list_models())}")
    cfg = _timm_cfg(timm_name)
    return {
        'input_space': 'RGB', 'input_range': [0, 1], 'mean': list(cfg.mean), 'std': list(cfg.std),
        'input_size': tuple(cfg.input_size), 'crop_pct': cfg.crop_pct, 'interpolation': cfg.interpolation}
