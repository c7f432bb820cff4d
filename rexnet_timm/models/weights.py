"""Weights of a network or its encoder from a file or a published name, how images are prepared for a name, and which
network a file fits."""
import os
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from timm.models import adapt_input_conv, load_state_dict_from_hf

from ..errors import near_names
from ..files import ENCODER_DOOR, WeightsError, check_finite, load_weights_file, one_line, some, without_prefix
from .encoder import ReXNetEncoderMixin
from .layout import FINAL_CHS, check_names, check_shapes, needed_names, to_timm_layout
from .other_layouts import (
    check_tensorflow_padding,
    efficientnet_to_timm,
    is_efficientnet,
    timm_to_encoder,
)
from .rexnetv1 import ReXNetV1, ReXNetV1Lite

__all__ = ['get_preprocessing_params', 'load_encoder_weights', 'load_weights', 'model_of']

HUB_PREFIX = 'hf-hub:'
STAGE_BLOCKS = (1, 2, 2, 3, 3, 5)  # at depth_mult 1.0
STEMS = ('stem.conv.weight', 'features.0.weight')  # timm's and NAVER's
CLASSIFIERS = ('head.fc.weight', 'output.1.weight', 'output.4.weight')
LITE = ('head.pre_logits.conv.weight', 'output.4.weight')


def load_weights(model: nn.Module, path: str | os.PathLike, strict: bool = True, use_ema: bool = True) -> Any:
    """Load a file into a whole network, in place.

    Args:
        model: Any network of this package, of timm or of SMP.
        path: A safetensors file, or one that torch.save wrote: its weights, bare or in a training checkpoint, as
            :func:`rexnet_timm.files.unwrap` and :func:`rexnet_timm.files.without_prefix` say.
        strict: Whether missing and unknown entries are refused.
        use_ema: Whether the moving average is taken where the file holds one.

    Returns:
        torch's `missing_keys` and `unexpected_keys`.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: A ValueError, for a file that cannot be read without running code, or whose weights are not
            finite or not the model's; the text names the file, and the network that it fits where it is one of ours.
    """
    weights = load_weights_file(path, use_ema)
    try:
        return _load(model, weights, strict)
    except WeightsError as error:
        raise WeightsError(f'{os.fspath(path)!r}: {error}{_description(weights)}') from error


def _load(model: nn.Module, weights: Mapping[str, Any], strict: bool = True) -> Any:
    needed = needed_names(model)
    is_translated = is_efficientnet(weights) and not is_efficientnet(needed)
    if is_translated:
        weights = efficientnet_to_timm(weights)
    weights = without_prefix(timm_to_encoder(weights, model), needed)
    check_finite(weights, model.state_dict())
    try:
        result = model.load_state_dict(weights, strict=strict)
        if is_translated:
            check_tensorflow_padding(model)
        return result
    except RuntimeError as error:
        # not of this package, whose networks check for themselves. Only torch knows what others rename when they load
        # a state dict, and only afterwards is it sure that these names and shapes are at fault
        encoder = f' For the weights of an encoder or a backbone take {ENCODER_DOOR}.' * hasattr(model, 'encoder')
        check_names(
            weights, needed, model.state_dict(), type(model).__name__, strict,
            f'Build the model with the arguments that the weights were trained with.{encoder}')
        check_shapes(weights, model)
        raise WeightsError(f'The weights do not fit {type(model).__name__}: {one_line(error)}') from error


def _description(weights: Mapping[str, Any]) -> str:
    # which network a file fits, as the last sentence of a refusal
    try:
        model_cls, arguments = _network_of(weights)
        return f' The file fits {model_cls.__name__}({", ".join(f"{k}={v}" for k, v in arguments.items())}).'
    except ValueError:
        pass
    heads = [value for key, value in weights.items() if getattr(value, 'ndim', 0) == 1 and (
        'heads.' in key or 'segmentation_head.' in key) and key.endswith('.bias')]
    return f' The file is of a segmentation network with {heads[-1].shape[0]} classes.' if heads else ''


def load_encoder_weights(encoder: nn.Module, source: str | os.PathLike) -> nn.Module:
    """Load weights into an SMP encoder, in place.

    Args:
        encoder: The encoder, `model.encoder` of an SMP model. For one of this package, `source` may be the file of a
            whole network, in timm's layout or NAVER's, and the first conv is adapted from 3 channels to the encoder's.
            For SMP's encoders of timm's networks (`tu-NAME`) it may be the file of that network, also, of EfficientNet,
            in EfficientNet-PyTorch's layout. For any other it holds the encoder's own entries.
        source: A file (.safetensors, or what torch.save wrote), also a checkpoint of a whole U-Net or depth network,
            of which the encoder is taken; or, for an encoder of this package, a model name with published weights
            ('rexnetv1_1_0', 'rexnetv1r_2_0.sw_in12k', 'rexnet_100', 'hf-hub:timm/rexnet_100.nav_in1k').

    Returns:
        The encoder.

    Raises:
        FileNotFoundError: `source` is neither a file nor a known name.
        WeightsError: A ValueError, for a name without published weights, or a file as :func:`load_weights` says.
    """
    is_ours = isinstance(encoder, ReXNetEncoderMixin)
    name = os.fspath(source)
    is_name = is_ours and (name.startswith(HUB_PREFIX) or timm.is_model(name.split('.')[0]))
    if os.path.isfile(source) or (os.path.isdir(source) and not is_name):
        state_dict = load_weights_file(source)
    elif is_name:
        state_dict = load_state_dict_from_hf(_hub_id(name))
    elif is_ours:
        raise FileNotFoundError(
            f'There is no file and no model {name!r}.{near_names(name, timm.list_models("rexnet*"))}')
    else:
        raise FileNotFoundError(
            f'There is no file {name!r}. Published weights of {type(encoder).__name__} come by encoder_weights.')
    try:
        if is_ours:
            in_chans: Any = encoder.in_chans
            encoder.load_state_dict(_with_channels(to_timm_layout(state_dict, encoder, partial=True), in_chans))
        else:
            _load(encoder, state_dict)
    except WeightsError as error:
        raise WeightsError(f'{name!r}: {error}{_description(state_dict)}') from error
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
        # a tag that the model does not have
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


def model_of(
        state_dict: Mapping[str, torch.Tensor],
        width_mult: float | None = None,
        depth_mult: float | None = None,
) -> ReXNetV1:
    """The network of a state dict in timm's layout or NAVER's, on the meta device: structure and shapes only.

    Args:
        state_dict: Entries by name, of a whole network.
        width_mult: Width of the network; None tries those that give as many channels at the end, of few decimals.
        depth_mult: Depth of the network; None takes the one with as many blocks.

    Returns:
        A network with the same names and shapes.

    Raises:
        ValueError: No network fits.
    """
    model_cls, arguments = _network_of(state_dict, width_mult, depth_mult)
    return model_cls(**arguments, device='meta')


def _network_of(
        state_dict: Mapping[str, torch.Tensor],
        width_mult: float | None = None,
        depth_mult: float | None = None,
) -> tuple[type[ReXNetV1], dict[str, Any]]:
    # the class and the arguments that give a network of the same names and shapes
    state_dict = without_prefix(state_dict, *([stem] for stem in STEMS))
    stems = [state_dict[key] for key in STEMS if key in state_dict]
    if len(stems) != 1 or getattr(stems[0], 'ndim', 0) != 4:
        raise WeightsError(
            "A state dict of ReXNetV1 has the stem's conv as stem.conv.weight (timm) or features.0.weight (NAVER), one "
            f'of the two; these {len(state_dict)} entries do not: {some(state_dict)}.')
    classifiers = [
        state_dict[key].shape[0] for key in CLASSIFIERS if getattr(state_dict.get(key), 'ndim', 0) in (2, 4)]
    is_lite = any(key in state_dict for key in LITE)
    model_cls = ReXNetV1Lite if is_lite else ReXNetV1
    arguments = dict(
        depth_mult=_depth(state_dict) if depth_mult is None else depth_mult, in_chans=stems[0].shape[1],
        num_classes=classifiers[0] if classifiers else 0)
    # the names do not depend on the width
    state_dict = to_timm_layout(state_dict, model_cls(**arguments, device='meta'))
    # the only entry 'features.<index>.conv.weight'; those of the blocks are deeper
    final = [
        value for key, value in state_dict.items()
        if key.startswith('features.') and key.endswith('.conv.weight') and key.count('.') == 3]
    final_chs = final[0].shape[0] if getattr(final[0], 'ndim', 0) == 4 else 0
    reason = f'No width_mult gives {final_chs} channels.'
    outputs = [
        value.shape[0] for key, value in state_dict.items()
        if key.endswith('.conv_pwl.conv.weight') and getattr(value, 'ndim', 0) == 4]
    rounded = [ch_div for ch_div in (16, 8) if all(chs % ch_div == 0 for chs in outputs)]
    for ch_div in [8] if is_lite else [*rounded, 1]:
        for width in _widths(final_chs, ch_div, is_lite) if width_mult is None else [width_mult]:
            found = dict(width_mult=width, **arguments, **({} if is_lite or ch_div == 1 else {'ch_div': ch_div}))
            try:
                check_shapes(state_dict, model_cls(**found, device='meta'))
            except WeightsError as error:
                reason = str(error)
            else:
                return model_cls, found
    raise WeightsError(
        f'No ReXNetV1 of width_mult {width_mult or "with few decimals"} has all of these shapes. {reason}')


def _depth(state_dict: Mapping[str, torch.Tensor]) -> float:
    # blocks begin with the only depthwise or expanding conv of their own: count their indices
    blocks = {
        key.split('.')[1] for key in state_dict
        if key.startswith('features.') and (key.endswith('.conv_dw.conv.weight') or key.endswith('.out.0.weight'))}
    # The total names the lengths. They change at multiples of 1/30, so these find every one, just below them so that no
    # float error adds a block; but a depth that people write, such as 1.0, goes first.
    limit = len(blocks) + 1
    for depth_mult in (
            *(tenths / 10 for tenths in reversed(range(1, 10 * limit))),
            *(thirtieths / 30 - 1e-9 for thirtieths in range(1, 30 * limit))):
        if sum(ceil(length * depth_mult) for length in STAGE_BLOCKS) == len(blocks):
            return depth_mult
    raise WeightsError(
        f'No depth_mult gives {len(blocks)} blocks, which is what the state dict has. The stages of ReXNetV1 have '
        f'{", ".join(map(str, STAGE_BLOCKS))} blocks times depth_mult, rounded up.')


def _widths(final_chs: int, ch_div: int, is_lite: bool) -> Iterator[float]:
    # the widths that give the final conv these channels, of 1 decimal first, then of 2, ...
    low, high = final_chs, final_chs + 1  # cut off
    if is_lite and final_chs == FINAL_CHS:
        low, high = 1, FINAL_CHS + 1  # all widths below 1.0 share them
    elif ch_div > 1 and not is_lite:
        low, high = final_chs - ch_div, final_chs + ch_div  # rounded either way
    tried = set()
    for decimals in range(1, 5 if high - low == 1 else 4 if high - low < FINAL_CHS else 3):
        unit = 10 ** decimals
        for number in range(ceil(low * unit / FINAL_CHS - 1e-9), ceil(high * unit / FINAL_CHS - 1e-9)):
            width = number / unit
            if width > 0 and width not in tried:
                tried.add(width)
                yield width
