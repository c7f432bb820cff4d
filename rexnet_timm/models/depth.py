"""Depth estimation.

The multi-scale U-Net with one channel of disparity at each scale, in the form that trainers of the monodepth kind
expect: a dict keyed ('disp', scale). Predicting disparity by a sigmoid at four scales is the scheme of Godard et al.,
https://arxiv.org/abs/1609.03677. What differs: the network is `unet.py`'s, and the finest scales cost little.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..files import build_with_file
from . import rexnetv1
from .any_encoder import SMP_ARGUMENTS, check_arguments, encoder_arguments
from .unet import MultiScaleUnet, encoder_filter_fn, unet_arguments, unet_cfg

__all__ = ['ReXDepth']  # the registry adds the entry points


class ReXDepth(nn.Module):
    """Disparity at several scales from one image, by a multi-scale U-Net on ReXNetV1.

    The dict comes back in training as in evaluation mode. Any input of at least 32 x 32 works, divisible or not. Only
    `torch.jit.script`, which knows no such dict, compiles the finest disparity, at the size of the input.

    Args:
        width_mult: Width of the encoder.
        depth_mult: Depth of the encoder.
        scales: Scales of the disparities, from 0 (the input's size) to 4.
        in_channels: Channels of the input.
        **kwargs: Further arguments of `MultiScaleUnet` or of the encoder: encoder_weights, decoder_channels,
            drop_path_rate, ...

    Raises:
        ValueError: An argument out of range.
    """

    num_classes = 1  # timm's name for the channels of the output

    def __init__(
            self,
            width_mult: float = 1.0,
            depth_mult: float = 1.0,
            scales: Sequence[int] = (0, 1, 2, 3),
            in_channels: int = 3,
            **kwargs: Any,
    ):
        super().__init__()
        for name, reason in (
                ('classes', 'predicts disparity, which is one channel and no classes'),
                ('num_classes', 'predicts disparity, which is one channel and no classes'),
                ('encoder_name', 'is built on rexnetv1')):
            if name in kwargs:
                raise ValueError(f'ReXDepth {reason}, got {name} {kwargs[name]!r}: leave it out.')
        check_arguments('ReXDepth', kwargs, [*unet_arguments(), *(encoder_arguments('rexnetv1') or ())], SMP_ARGUMENTS)
        self.unet = MultiScaleUnet(
            'rexnetv1', in_channels=in_channels, classes=1, scales=scales, width_mult=width_mult,
            depth_mult=depth_mult, **kwargs)
        self.in_chans, self.num_features = in_channels, self.unet.num_features  # timm's names too

    def __prepare_scriptable__(self) -> nn.Module:
        # torch.jit.script asks for this, as it does not know tuples as keys
        return nn.Sequential(self.unet, nn.Sigmoid())

    @property
    def scales(self) -> tuple[int, ...]:
        """Scales of the disparities, finest first."""
        return self.unet.scales

    def forward(self, x: torch.Tensor) -> dict[tuple[str, int], torch.Tensor]:
        """Disparities of an image batch.

        Args:
            x: (N, in_channels, H, W) float, H and W at least 32.

        Returns:
            {('disp', scale): (N, 1, ceil(H/2**scale), ceil(W/2**scale))} in 0 to 1, finest first;
            `disparity_to_depth` turns them into depth.

        Raises:
            ValueError: An input smaller than 32 x 32.
        """
        return {('disp', scale): logits.sigmoid() for scale, logits in self.unet.forward_scales(x).items()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's activations in the backward pass instead of storing them."""
        self.unet.set_grad_checkpointing(enable)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint trained with any scales, as `MultiScaleUnet` does, or the checkpoint of one."""
        result = self.unet.load_state_dict(state_dict, strict, assign)  # which finds itself under 'unet.'
        return result._replace(missing_keys=[f'unet.{key}' for key in result.missing_keys])


def _filter_fn(state_dict: Mapping[str, Any], model: ReXDepth) -> dict[str, Any]:
    """Turn a backbone's published weights into those of the encoder; a depth network's own pass unchanged."""
    return {f'unet.{key}': value for key, value in encoder_filter_fn(state_dict, model.unet).items()}


def _create_depth(variant: str, pretrained: bool, **kwargs: Any) -> ReXDepth:
    if kwargs.get('features_only'):
        raise ValueError(f'{variant} has no features_only: ask the backbone rexnetv1 for features.')

    check_arguments(variant, kwargs, None, {'in_channels': 'in_chans'})  # `classes` it refuses itself

    def build(num_classes: int = 1, in_chans: int = 3, **model_kwargs: Any) -> ReXDepth:
        if num_classes != 1:
            raise ValueError(
                f'{variant} predicts disparity, which is one channel and no classes, got num_classes {num_classes}: '
                'leave it out, and train on depth, not on masks.')
        return ReXDepth(in_channels=in_chans, **model_kwargs)

    return build_with_file(
        build_model_with_cfg, build, variant, pretrained=pretrained, pretrained_filter_fn=_filter_fn,
        pretrained_strict=False, **kwargs)


default_cfgs = generate_default_cfgs({
    f'{name}.{tag}': unet_cfg(cfg, prefix='unet.encoder.')
    for name, backbone in (('rexdepth', 'rexnetv1'), ('rexdepth_1_0', 'rexnetv1_1_0'))
    for tag, cfg in rexnetv1.default_cfgs[backbone].cfgs.items()
})


@register_model
def rexdepth(pretrained: bool = False, **kwargs: Any) -> ReXDepth:
    """Depth network on ReXNetV1 of any width_mult and depth_mult, 1.0 each unless given; `pretrained` is the encoder"""
    return _create_depth('rexdepth', pretrained, **kwargs)


@register_model
def rexdepth_1_0(pretrained: bool = False, **kwargs: Any) -> ReXDepth:
    """Depth network on ReXNetV1 1.0x; `pretrained` loads the weights of the encoder"""
    return _create_depth('rexdepth_1_0', pretrained, **kwargs)
