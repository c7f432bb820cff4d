"""ReXNetV1, its rounded form and its lite form, as timm backbones.

Paper: `Rethinking Channel Dimensions for Efficient Model Design` - https://arxiv.org/abs/2007.00992
Origin: https://github.com/clovaai/rexnet, Copyright (c) 2020-present NAVER Corp., MIT license
Base: timm's RexNet, https://github.com/huggingface/pytorch-image-models, Apache-2.0 license

What differs from timm's RexNet:
* the final 1x1 conv has `int(1280 * width_mult)` channels as in NAVER's code, where timm rounds to nearest; the two
  agree for every published width. Rounded channels (`ch_div > 1`) follow timm.
* state dicts in NAVER's own layout load as well as timm's, and others are refused with what they lack.
* the lite form, which timm does not have.
* on a CPU the activations keep less for the backward pass (`lean.py`).
* torch's own SyncBatchNorm conversion leaves no activation out (`lean.py`).

ReXNet normalises inside its squeeze-excitation over 1x1 maps: training needs at least two images per process.
"""
from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, ConvNormAct, SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.rexnet import RexNet

from ..files import build_with_file, check_finite
from .layout import (
    CLASSIFIER_KEYS,
    FINAL_CHS,
    check_shapes,
    checkpoint_filter_fn,
    naver_to_timm,
    timm_to_naver,
    to_timm_layout,
)
from .lean import convert_lean

__all__ = ['ReXNetV1', 'ReXNetV1Lite', 'checkpoint_filter_fn', 'naver_to_timm', 'timm_to_naver']


def _init_weights(module: nn.Module) -> None:
    # timm's rule for ReXNet, needed for the layers that are built after timm has initialised the others
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=sqrt(2. / (m.out_channels * m.kernel_size[0] * m.kernel_size[1])))
        elif isinstance(m, nn.Linear):
            bound = 1. / sqrt(m.out_features)
            nn.init.uniform_(m.weight, -bound, bound)
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m.bias is not None:
            nn.init.zeros_(m.bias)


class LiteClassifierHead(nn.Module):
    """Pooling, a 1x1 conv to `hidden_features` with BatchNorm and ReLU6, dropout and the linear classifier.

    Takes (N, in_features, H, W); returns (N, num_classes), or (N, hidden_features) for `pre_logits` or without classes.
    With an empty `pool_type` the map stays: (N, hidden_features, H, W). ValueError for classes without pooling.
    """

    def __init__(
            self,
            in_features: int,
            num_classes: int,
            pool_type: str = 'avg',
            drop_rate: float = 0.,
            hidden_features: int = 1024,
            **dd: Any,
    ):
        super().__init__()
        self.in_features = in_features
        self.num_features = hidden_features
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=False)
        self.pre_logits: nn.Module = ConvNormAct(
            in_features * self.global_pool.feat_mult(), hidden_features, bias=True, act_layer='relu6', **dd)
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type, **dd)
        _init_weights(self)

    def reset(
            self,
            num_classes: int,
            pool_type: str | None = None,
            in_features: int | None = None,
            **dd: Any,
    ) -> None:
        """Replace the classifier; where the pooled width changes, the hidden layer no longer fits and goes."""
        if num_classes > 0 and pool_type == '':
            raise ValueError(
                f"A classifier needs pooled features; got num_classes={num_classes} with global_pool=''. "
                "Use global_pool='avg', or num_classes=0 for the map.")
        pool_type = self.global_pool.pool_type if pool_type is None else pool_type
        pooled = self.in_features * self.global_pool.feat_mult()
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=False)
        self.in_features = in_features or self.in_features
        new_pooled = self.in_features * self.global_pool.feat_mult()
        if new_pooled != pooled:
            self.pre_logits = nn.Identity()
        if isinstance(self.pre_logits, nn.Identity):
            self.num_features = new_pooled
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.pre_logits(self.global_pool(x))  # (N, hidden_features, 1, 1)
        x = self.drop(self.flatten(x))
        return x if pre_logits else self.fc(x)


class ReXNetV1(RexNet):
    """ReXNetV1 image classifier: float (N, in_chans, H, W) to logits (N, num_classes); any H, W of at least 32.

    Features of reduction 2, 4, 8, 16, 32 come from `features_only=True` or `forward_intermediates`, as in timm.

    Args:
        width_mult: Factor on the channels, above 0.
        depth_mult: Factor on the blocks of each stage, above 0, rounded up.
        output_stride: Reduction of the last features, 8, 16 or 32; below 32 the late depthwise convs are dilated.
        ch_div: Channels are multiples of this; 1 is NAVER's network, 8 and 16 are timm's rounded ones.
        act_layer: Name of the activation after the stem, the expansions and the final conv.
        **kwargs: As for timm's RexNet: in_chans, num_classes, global_pool, drop_rate, drop_path_rate, ...

    Raises:
        ValueError: For an argument out of its range.
    """
    naver_head = {'head.fc': 'output.1'}
    if TYPE_CHECKING:  # which timm leaves to be any attribute of a module
        num_features: Any
        head: Any

    def __init__(
            self,
            *,
            width_mult: float = 1.0,
            depth_mult: float = 1.0,
            output_stride: int = 32,
            ch_div: int = 1,
            act_layer: str = 'swish',
            **kwargs: Any,
    ):
        for name, value in (('width_mult', width_mult), ('depth_mult', depth_mult)):
            if not isinstance(value, (int, float)) or not 0 < value < float('inf'):
                raise ValueError(f'{name} must be a positive number, got {value!r}. Use 1.0 for the standard network.')
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride must be 8, 16 or 32, got {output_stride}. Use 32 for no dilation.')
        super().__init__(
            width_mult=width_mult, depth_mult=depth_mult, output_stride=output_stride, ch_div=ch_div,
            act_layer=act_layer, **kwargs)
        final_chs = self.final_chs(width_mult, ch_div)
        if final_chs != self.num_features:
            dd = {k: kwargs[k] for k in ('device', 'dtype') if k in kwargs}
            pool_type = self.head.global_pool.pool_type
            self.num_features = final_chs
            in_chs: Any = self.features[-1].in_channels
            self.features[-1] = ConvNormAct(in_chs, final_chs, act_layer=act_layer, **dd)
            self.head = ClassifierHead(final_chs, self.num_classes, pool_type, self.drop_rate, **dd)
            self.head_hidden_size = self.head.num_features
            _init_weights(self.features[-1])
            _init_weights(self.head)
        convert_lean(self)

    def final_chs(self, width_mult: float, ch_div: int) -> int:
        """Channels of the final 1x1 conv."""
        return max(1, int(FINAL_CHS * width_mult)) if ch_div == 1 else self.num_features

    def naver_keys(self) -> dict[str, str]:
        """NAVER's key of every entry of the state dict, in its order, and of a classifier even if it has none."""
        names = {'stem.conv': 'features.0', 'stem.bn': 'features.1', **self.naver_head}
        for index, block in enumerate(self.features):
            # NAVER's Sequential starts with the stem's conv, norm and activation
            ours, theirs = f'features.{index}', f'features.{index + 3}'
            if isinstance(block, ConvNormAct):
                names.update({f'{ours}.conv': theirs, f'{ours}.bn': f'features.{index + 4}'})
                continue
            position = 0
            for part, length in (('conv_exp', 3), ('conv_dw', 2), ('se', 1), ('act_dw', 1), ('conv_pwl', 2)):
                if getattr(block, part) is None:
                    continue
                slot = f'{theirs}.out.{position}'
                if part == 'se':
                    names.update({f'{ours}.se.{n}': f'{slot}.fc.{i}' for n, i in (('fc1', 0), ('bn', 1), ('fc2', 3))})
                elif part != 'act_dw':
                    names.update({f'{ours}.{part}.conv': slot, f'{ours}.{part}.bn': f'{theirs}.out.{position + 1}'})
                position += length
        keys = {key: key.rpartition('.') for key in (*self.state_dict(), *CLASSIFIER_KEYS)}
        return {key: f'{names[module]}.{entry}' for key, (module, _, entry) in keys.items() if module in names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, for timm's layout and NAVER's, also in a checkpoint, as :func:`to_timm_layout` says.

        Raises:
            WeightsError: A ValueError, if both layouts are mixed, no entry is known, an entry has another shape, NaN or
                infinite values, or, when strict, entries are missing or unknown. Nothing has been loaded then.
                `state_dict` is never changed.
        """
        state_dict = to_timm_layout(state_dict, self, strict=strict)
        check_shapes(state_dict, self)
        check_finite(state_dict, self.state_dict())
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class ReXNetV1Lite(ReXNetV1):
    """ReXNetV1 lite: no squeeze-excitation, ReLU6 throughout, channels by 8, a 1024-wide layer before the classifier.

    Arguments, input, output and errors are those of :class:`ReXNetV1`. Source: rexnetv1_lite.py of NAVER's repository.
    """
    naver_head = {'head.pre_logits.conv': 'output.0', 'head.pre_logits.bn': 'output.1', 'head.fc': 'output.4'}

    def __init__(self, *, ch_div: int = 8, act_layer: str = 'relu6', se_ratio: float = 0., **kwargs: Any):
        # NAVER spreads 164 channels over 15 steps for 16 blocks, timm final_chs over 16
        kwargs.setdefault('final_chs', 164 * 16 / 15)
        super().__init__(ch_div=ch_div, act_layer=act_layer, se_ratio=se_ratio, **kwargs)
        dd = {k: kwargs[k] for k in ('device', 'dtype') if k in kwargs}
        pool_type = self.head.global_pool.pool_type
        self.head = LiteClassifierHead(self.num_features, self.num_classes, pool_type, self.drop_rate, **dd)
        convert_lean(self.head)
        self.head_hidden_size = self.head.num_features

    def final_chs(self, width_mult: float, ch_div: int) -> int:
        """Channels of the final 1x1 conv, never below those of width 1.0."""
        return int(FINAL_CHS * max(1., width_mult))

    def reset_classifier(
            self, num_classes: int, global_pool: str | None = None, device: torch.device | str | None = None,
            dtype: torch.dtype | None = None) -> None:
        """As timm's: `num_classes` 0 leaves the 1024 hidden features, pooled unless `global_pool` is ''."""
        weight = self.stem.conv.weight
        self.num_classes = num_classes
        self.head.reset(
            num_classes, global_pool, self.num_features, device=device or weight.device, dtype=dtype or weight.dtype)
        self.head_hidden_size = self.head.num_features


def _create_rexnetv1(variant: str, pretrained: bool, **kwargs: Any) -> Any:
    """The model, of the class of its variant."""
    model_cls, model_args = model_cfgs[variant]
    return build_with_file(
        build_model_with_cfg, model_cls, variant, pretrained=pretrained, feature_cfg=dict(flatten_sequential=True),
        pretrained_filter_fn=checkpoint_filter_fn, **{**model_args, **kwargs})


def _cfg(url: str = '', **kwargs: Any) -> dict[str, Any]:
    return {
        'url': url, 'num_classes': 1000, 'input_size': (3, 224, 224), 'pool_size': (7, 7),
        'crop_pct': 0.875, 'interpolation': 'bicubic', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.conv', 'classifier': 'head.fc', 'license': 'mit', **kwargs}


def _cfg_12k(**kwargs: Any) -> dict[str, Any]:
    return _cfg(crop_pct=0.95, test_crop_pct=1.0, test_input_size=(3, 288, 288), license='apache-2.0', **kwargs)


# name -> class and the arguments that the name stands for; the encoders and U-Nets of this package read it too
model_cfgs: dict[str, tuple[type[ReXNetV1], dict[str, Any]]] = {
    'rexnetv1': (ReXNetV1, {}),
    'rexnetv1_test': (ReXNetV1, dict(width_mult=0.25, depth_mult=0.2)),
    **{f'rexnetv1_{w}'.replace('.', '_'): (ReXNetV1, dict(width_mult=w)) for w in (0.9, 1.0, 1.3, 1.5, 2.0, 2.2, 3.0)},
    **{f'rexnetv1r_{w}'.replace('.', '_'): (ReXNetV1, dict(width_mult=w, ch_div=8)) for w in (1.0, 1.3, 1.5, 2.0)},
    'rexnetv1r_3_0': (ReXNetV1, dict(width_mult=3.0, ch_div=16)),
    **{f'rexnetv1_lite_{w}'.replace('.', '_'): (ReXNetV1Lite, dict(width_mult=w)) for w in (1.0, 1.3, 1.5, 2.0)},
}

default_cfgs = generate_default_cfgs({
    'rexnetv1.nav_in1k': _cfg(hf_hub_id='timm/rexnet_100.nav_in1k'),
    'rexnetv1_test.untrained': _cfg(input_size=(3, 160, 160), pool_size=(5, 5)),
    'rexnetv1_0_9.untrained': _cfg(),
    'rexnetv1_1_0.nav_in1k': _cfg(hf_hub_id='timm/rexnet_100.nav_in1k'),
    'rexnetv1_1_3.nav_in1k': _cfg(hf_hub_id='timm/rexnet_130.nav_in1k'),
    'rexnetv1_1_5.nav_in1k': _cfg(hf_hub_id='timm/rexnet_150.nav_in1k'),
    'rexnetv1_2_0.nav_in1k': _cfg(hf_hub_id='timm/rexnet_200.nav_in1k'),
    'rexnetv1_2_2.untrained': _cfg(),
    'rexnetv1_3_0.nav_in1k': _cfg(hf_hub_id='timm/rexnet_300.nav_in1k'),
    'rexnetv1r_1_0.untrained': _cfg(),
    'rexnetv1r_1_3.untrained': _cfg(),
    'rexnetv1r_1_5.untrained': _cfg(),
    'rexnetv1r_2_0.sw_in12k_ft_in1k': _cfg_12k(hf_hub_id='timm/rexnetr_200.sw_in12k_ft_in1k'),
    'rexnetv1r_2_0.sw_in12k': _cfg_12k(hf_hub_id='timm/rexnetr_200.sw_in12k', num_classes=11821),
    'rexnetv1r_3_0.sw_in12k_ft_in1k': _cfg_12k(hf_hub_id='timm/rexnetr_300.sw_in12k_ft_in1k'),
    'rexnetv1r_3_0.sw_in12k': _cfg_12k(hf_hub_id='timm/rexnetr_300.sw_in12k', num_classes=11821),
    'rexnetv1_lite_1_0.untrained': _cfg(),
    'rexnetv1_lite_1_3.untrained': _cfg(),
    'rexnetv1_lite_1_5.untrained': _cfg(),
    'rexnetv1_lite_2_0.untrained': _cfg(),
})


@register_model
def rexnetv1(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 of any width_mult and depth_mult, 1.0 each unless given"""
    return _create_rexnetv1('rexnetv1', pretrained, **kwargs)


@register_model
def rexnetv1_test(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """A narrow ReXNetV1 with one block a stage, for tests"""
    return _create_rexnetv1('rexnetv1_test', pretrained, **kwargs)


@register_model
def rexnetv1_0_9(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 0.9x"""
    return _create_rexnetv1('rexnetv1_0_9', pretrained, **kwargs)


@register_model
def rexnetv1_1_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.0x"""
    return _create_rexnetv1('rexnetv1_1_0', pretrained, **kwargs)


@register_model
def rexnetv1_1_3(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.3x"""
    return _create_rexnetv1('rexnetv1_1_3', pretrained, **kwargs)


@register_model
def rexnetv1_1_5(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.5x"""
    return _create_rexnetv1('rexnetv1_1_5', pretrained, **kwargs)


@register_model
def rexnetv1_2_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 2.0x"""
    return _create_rexnetv1('rexnetv1_2_0', pretrained, **kwargs)


@register_model
def rexnetv1_2_2(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 2.2x"""
    return _create_rexnetv1('rexnetv1_2_2', pretrained, **kwargs)


@register_model
def rexnetv1_3_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 3.0x"""
    return _create_rexnetv1('rexnetv1_3_0', pretrained, **kwargs)


@register_model
def rexnetv1r_1_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.0x with channels rounded to 8"""
    return _create_rexnetv1('rexnetv1r_1_0', pretrained, **kwargs)


@register_model
def rexnetv1r_1_3(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.3x with channels rounded to 8"""
    return _create_rexnetv1('rexnetv1r_1_3', pretrained, **kwargs)


@register_model
def rexnetv1r_1_5(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 1.5x with channels rounded to 8"""
    return _create_rexnetv1('rexnetv1r_1_5', pretrained, **kwargs)


@register_model
def rexnetv1r_2_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 2.0x with channels rounded to 8"""
    return _create_rexnetv1('rexnetv1r_2_0', pretrained, **kwargs)


@register_model
def rexnetv1r_3_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1:
    """ReXNetV1 3.0x with channels rounded to 16"""
    return _create_rexnetv1('rexnetv1r_3_0', pretrained, **kwargs)


@register_model
def rexnetv1_lite_1_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1Lite:
    """ReXNetV1 lite 1.0x"""
    return _create_rexnetv1('rexnetv1_lite_1_0', pretrained, **kwargs)


@register_model
def rexnetv1_lite_1_3(pretrained: bool = False, **kwargs: Any) -> ReXNetV1Lite:
    """ReXNetV1 lite 1.3x"""
    return _create_rexnetv1('rexnetv1_lite_1_3', pretrained, **kwargs)


@register_model
def rexnetv1_lite_1_5(pretrained: bool = False, **kwargs: Any) -> ReXNetV1Lite:
    """ReXNetV1 lite 1.5x"""
    return _create_rexnetv1('rexnetv1_lite_1_5', pretrained, **kwargs)


@register_model
def rexnetv1_lite_2_0(pretrained: bool = False, **kwargs: Any) -> ReXNetV1Lite:
    """ReXNetV1 lite 2.0x"""
    return _create_rexnetv1('rexnetv1_lite_2_0', pretrained, **kwargs)
