"""An encoder of segmentation_models_pytorch (SMP) or timm by any of their names, with its arguments checked.

Contract: `encoders/_base.py` of SMP, https://github.com/qubvel-org/segmentation_models.pytorch, MIT license.
"""
import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn

from ..errors import near_names
from ..grid import scale_size
from .rexnetv1 import model_cfgs

__all__ = [
    'check_arguments',
    'check_encoder_name',
    'check_encoder_weights',
    'create_encoder',
    'encoder_arguments',
    'feature_grids',
    'fixed_input_size',
    'min_training_batch',
]

# Arguments that SMP and timm name differently. Each maps the other library's name to its own.
SMP_ARGUMENTS = {'num_classes': 'classes', 'in_chans': 'in_channels'}
TIMM_ARGUMENTS = {name: other for other, name in SMP_ARGUMENTS.items()}


def check_arguments(
        owner: str,
        arguments: Iterable[str],
        known: Iterable[str] | None,
        renamed: Mapping[str, str],
) -> None:
    """Raise ValueError for arguments that a network does not have, with the name that was meant.

    Args:
        owner: What the message calls the network.
        arguments: The names that were given.
        known: Every name that it has; None where only somebody else knows, so that `renamed` is all that is checked.
        renamed: Another library's names of its arguments, each with its own.
    """
    for name in arguments:
        if name in renamed:
            raise ValueError(f'{owner} has no argument {name}: it is called {renamed[name]} here.')
        if known is not None and name not in known:
            near = near_names(name, known) or f' Its arguments are {", ".join(known)}.'
            raise ValueError(f'{owner} has no argument {name}.{near}')


def encoder_arguments(name: str) -> list[str] | None:
    """What an encoder of a known name takes beyond SMP's arguments; None for timm's models, which timm checks."""
    if _timm_name(name):
        return None
    if name not in model_cfgs:
        return []
    backbone, _ = model_cfgs[name]
    names = dict.fromkeys(
        name for base in backbone.__mro__ if '__init__' in vars(base) and base is not nn.Module
        for name, parameter in inspect.signature(vars(base)['__init__']).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD)
    # the rest an encoder sets itself
    fixed = ('self', 'args', 'num_classes', 'global_pool', 'in_chans', 'device', 'dtype')
    return [name for name in names if name not in fixed]


def check_encoder_name(name: str) -> None:
    """Raise ValueError, with near names, for an encoder that neither SMP's registry nor, after `tu-`, timm's has."""
    timm_name = _timm_name(name)
    # 'hf-hub:' and 'local-dir:' models are for timm to resolve
    if name in smp.encoders.encoders or timm.is_model(timm_name) or ':' in timm_name:
        return
    names = smp.encoders.get_encoder_names()
    if timm_name:
        names = [f'tu-{model_name}' for model_name in timm.list_models()]
    raise ValueError(
        f"Unknown encoder name '{name}'.{near_names(name.split('.')[0], names)} Take one of "
        "segmentation_models_pytorch.encoders.get_encoder_names(), or 'tu-' and one of timm.list_models().")


def create_encoder(
        name: str,
        in_channels: int = 3,
        depth: int = 5,
        weights: str | bool | None = None,
        output_stride: int = 32,
        **kwargs: Any,
) -> nn.Module:
    """SMP's `get_encoder` for any of its names, with nothing dropped in silence.

    Args:
        name: A name of SMP's registry, or `tu-` and a model name of timm.
        in_channels: Channels of the input images.
        depth: Number of features besides the input; most encoders take 3 to 5.
        weights: Name of pretrained weights, for `tu-` names also True; None for random ones.
        output_stride: Largest reduction of the features, 8, 16 or 32.
        **kwargs: For this package's names those of the backbone (width_mult, drop_path_rate, ...), for `tu-` names
            those of timm; other encoders take none.

    Returns:
        The encoder: (N, in_channels, H, W) to a list of `depth + 1` feature maps, finest first. Parameters of SMP's
        encoders that reach none of them are frozen, so that distributed training does not wait for their gradients.

    Raises:
        ValueError: For an unknown name, weights that the name does not have, arguments that the encoder would not see,
            or values out of range.
    """
    if in_channels < 1:
        raise ValueError(f'in_channels must be at least 1, got {in_channels}. Use 3 for RGB images.')
    check_encoder_name(name)
    timm_name = _timm_name(name)
    if kwargs and not timm_name and name not in model_cfgs:
        raise ValueError(
            f"Encoder '{name}' takes no further arguments, got {', '.join(kwargs)}. Leave them out, or use a name of "
            "this package or a 'tu-' one.")
    check_arguments(f"Encoder '{name}'", kwargs, encoder_arguments(name), {'in_chans': 'in_channels'})
    check_encoder_weights(name, weights)
    if timm_name:
        try:
            return smp.encoders.get_encoder(
                name, in_channels=in_channels, depth=depth, weights=weights, output_stride=output_stride, **kwargs)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, TypeError) and not kwargs:
                raise  # no argument of the user's can be wrong
            raise ValueError(
                f"Encoder '{name}' cannot be built with depth={depth}, output_stride={output_stride} and the arguments "
                f"{kwargs}; timm and SMP say: {error} An encoder needs features that halve in size from one to the "
                'next, as convolutional networks and hierarchical transformers have.') from error
    if not kwargs:
        encoder = smp.encoders.get_encoder(
            name, in_channels=in_channels, depth=depth, weights=weights, output_stride=output_stride)
        if name not in model_cfgs:
            _freeze_unreached(encoder, in_channels)
        return encoder
    spec = smp.encoders.encoders[name]
    encoder = spec['encoder'](depth=depth, output_stride=output_stride, **{**spec['params'], **kwargs})
    if weights is not None:
        # get_encoder knows how to fetch, but would drop the arguments
        encoder.load_state_dict(smp.encoders.get_encoder(name, depth=depth, weights=weights).state_dict())
    encoder.set_in_channels(in_channels, pretrained=weights is not None)
    return encoder


def fixed_input_size(
        name: str,
        encoder: nn.Module,
        in_channels: int = 3,
        img_size: int | tuple[int, int] | None = None,
        **kwargs: Any,
) -> tuple[int, int] | None:
    """The only height and width that an encoder takes, None for most; takes the arguments that it was built with."""
    timm_name = _timm_name(name)
    cfg = timm.models.get_pretrained_cfg(timm_name) if timm_name and ':' not in timm_name else None
    if cfg is None or not cfg.fixed_input_size:
        return None
    if img_size is None:
        img_size = cfg.input_size[1:]
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    # timm's configurations say so of networks that take any size as well; the meta device tells at no cost
    try:
        _meta_copy(encoder)(torch.zeros(1, in_channels, height + 32, width + 32, device='meta'))
    except (AssertionError, RuntimeError, ValueError):
        return height, width
    return None


def feature_grids(
        name: str,
        encoder: nn.Module,
        in_channels: int = 3,
        fixed_size: tuple[int, int] | None = None,
) -> list[tuple[int, bool]]:
    """Where the features of an encoder lie, from the input's, index 0, on.

    Args:
        name: The name that the encoder was built by.
        encoder: The encoder, which is left as it is.
        in_channels: Channels of its input.
        fixed_size: The only height and width that it takes, None for any.

    Returns:
        For every feature its scale and whether it may lack the last row and column of that scale, as an encoder rounds
        sizes down. The scale is its index except in dilated encoders, and -1 for features on no grid: some encoders
        convolve without padding.
    """
    told: Any = encoder  # by attributes of SMP's encoders
    scales = [min(index, told.output_stride.bit_length() - 1) for index in range(len(told.out_channels))]
    if name in model_cfgs:  # these round up
        return [(scale, False) for scale in scales]
    features, probe = None, _meta_copy(encoder).eval()
    # 2**n + 1 stays odd where it is halved and rounded up, so that rounding down shows; some take even sizes only
    for size in ([fixed_size] if fixed_size else [(257, 257), (256, 256)]):
        try:
            with torch.no_grad():
                features = probe(torch.zeros(1, in_channels, *size, device='meta'))
            break
        except (AssertionError, NotImplementedError, RuntimeError, ValueError):
            continue
    if features is None:
        return [(scale, True) for scale in scales]  # right for whatever rounds, at the cost of a copy
    grids, short = [], False
    for scale, feature in zip(scales, features, strict=True):
        missing = [full - length for full, length in zip(scale_size(size, scale), feature.shape[-2:], strict=True)]
        grids.append((scale if 0 <= min(missing) and max(missing) <= 1 else -1, short or max(missing) > 0))
        short = short or (max(missing) > 0 and feature.shape[1] > 0)  # nothing is computed from one without channels
    return grids


def min_training_batch(model: nn.Module, size: tuple[int, int], in_channels: int = 3) -> int:
    """The fewest images that a process can train on at once: 2 for networks that normalise over 1x1 maps, else 1.

    Args:
        model: Any network for images. Neither it nor the random state is changed, and nothing is computed but shapes.
        size: Height and width of its input: maps that are 1x1 for small images are not for larger ones.
        in_channels: Channels of its input.

    Raises:
        ValueError: The network does not take images of this size, as it says itself.
    """
    probe = _meta_copy(model).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            probe(torch.zeros(1, in_channels, *size, device='meta'))
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        return 2
    except (NotImplementedError, RuntimeError):
        pass  # the meta device cannot run everything, and the first batch will tell what else is wrong
    return 1


def _meta_copy(module: nn.Module) -> nn.Module:
    """A copy that computes shapes and nothing else, in no time and memory."""
    memo: dict[int, torch.Tensor] = {id(parameter): nn.Parameter(parameter.to('meta'), parameter.requires_grad)
            for parameter in module.parameters()}
    memo.update({id(buffer): buffer.to('meta') for buffer in module.buffers()})
    return copy.deepcopy(module, memo).to('meta')


def _freeze_unreached(encoder: nn.Module, in_channels: int) -> None:
    # Some of SMP's encoders keep a classifier's last layers, or stages beyond their depth. No gradient reaches these,
    # which distributed training takes for an error unless they are frozen. The meta device finds them at no cost.
    with torch.inference_mode(False), torch.enable_grad():  # whatever the network is built under
        probe = _meta_copy(encoder).train()
        features = probe(torch.zeros(2, in_channels, 64, 64, device='meta'))
        sum(feature.sum() for feature in features[1:]).backward()
    reached = {name for name, parameter in probe.named_parameters() if parameter.grad is not None}
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name in reached)


def _timm_name(name: str) -> str:
    # the timm model behind a name that SMP builds through timm, '' for those of SMP's registry
    if name.startswith('tu-'):
        return name[3:]
    if smp.encoders.is_equivalent_to_timm_universal(name):
        return name.replace('timm-', 'tf_' if 'mobilenetv3' in name else '')
    return ''


def check_encoder_weights(name: str, weights: str | bool | None) -> None:
    """Raise ValueError, with what there is, for pretrained weights that the encoder of a known name lacks."""
    timm_name = _timm_name(name)
    if weights is None or ':' in timm_name:
        return
    if timm_name:
        if not timm.models.is_model_pretrained(timm_name):
            raise ValueError(f"timm has no pretrained weights for '{timm_name}', got {weights!r}. "
                             'Use encoder_weights=None.')
        return
    known = list(smp.encoders.encoders[name]['pretrained_settings'])
    if weights not in known:
        raise ValueError(
            f"Encoder '{name}' has {'the weights ' + ', '.join(known) if known else 'no pretrained weights'}, got "
            f"{weights!r}. Use {'one of these or ' if known else ''}encoder_weights=None; "
            'rexnet_timm.load_encoder_weights(encoder, path) takes a file.')
