"""ReXNetV1 as encoders of segmentation_models_pytorch (SMP), and encoders of any name with their arguments checked.

Contract: `encoders/_base.py` of SMP, https://github.com/qubvel-org/segmentation_models.pytorch, MIT license.
Backbone: `rexnetv1.py` of this package.

What differs from SMP's own encoders:
* blocks, final conv and head that `depth` does not reach are not built into the module, so that no parameter stays
  without gradient; state dicts keep the backbone's keys, and whole-network files load with their surplus left out.
* the last feature is filled up with zero channels to a multiple of 4 (185 to 188, say): SMP's PSPNet divides these
  channels by 4 and fails on a remainder.
* dilation follows timm's `output_stride`: a block that gives up its stride keeps the dilation of the one before it.
"""
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from segmentation_models_pytorch.encoders.mobilenet import EncoderMixin
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from .layout import check_shapes, to_timm_layout
from .names import near_names
from .rexnetv1 import ReXNetV1, ReXNetV1Lite, default_cfgs, model_cfgs

__all__ = [
    'ReXNetEncoderMixin',
    'ReXNetV1Encoder',
    'ReXNetV1LiteEncoder',
    'check_encoder_name',
    'check_encoder_weights',
    'create_encoder',
    'fixed_input_size',
    'register_encoders',
]


class ReXNetEncoderMixin:
    """Turns a ReXNetV1 backbone that stands after it in the bases into an SMP encoder.

    Takes float (N, in_chans, H, W) and returns `depth + 1` tensors: the input itself and the features of reduction
    2, 4, ... `2 ** depth`, at `ceil(H / reduction)`, `out_channels` wide. Each feature is the linear output of the last
    bottleneck at its resolution, as in timm's `features_only`; zeros follow in the last one up to a multiple of 4.

    Args:
        depth: Number of features besides the input, 1 to 5.
        output_stride: 8, 16 or 32; features of a larger reduction stay at this one, by dilation.
        **kwargs: Those of the backbone: width_mult, depth_mult, ch_div, in_chans, drop_path_rate, ...

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(self, depth: int = 5, output_stride: int = 32, **kwargs: Any):
        if depth not in (1, 2, 3, 4, 5):
            raise ValueError(f'{type(self).__name__} depth must be 1 to 5, got {depth}. Use 5 for features to 1/32.')
        super().__init__(num_classes=0, **kwargs)
        # of the whole network, so that its files can be told from foreign ones after the cut
        self._naver_keys = super().naver_keys()
        del self.head
        self.feature_info = self.feature_info[:depth]
        self.stage_ends = self.stage_ends[:depth]
        self.features = self.features[:self.stage_ends[-1] + 1]
        self.num_features = self.head_hidden_size = self.feature_info[-1]['num_chs']
        self._block_strides = [block.conv_dw.conv.stride[0] for block in self.features]
        self._depth = depth
        self._in_channels = self.in_chans
        self._out_channels = [self.in_chans] + [info['num_chs'] for info in self.feature_info]
        self._zero_chs = -self._out_channels[-1] % 4
        self._out_channels[-1] += self._zero_chs
        self._output_stride = 32
        self.make_dilated(output_stride)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [x]
        x = self.stem(x)  # (N, C, H / 2, W / 2)
        for index, block in enumerate(self.features):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if index in self.stage_ends:
                features.append(x)
        if self._zero_chs > 0:
            features[-1] = pad(x, (0, 0, 0, 0, 0, self._zero_chs))
        return features

    def get_stages(self) -> dict[int, Sequence[nn.Module]]:
        """The modules by the reduction that they have without dilation; they share the encoder's parameters."""
        stages, start = {}, 0
        for index, end in enumerate(self.stage_ends):
            stages[2 ** (index + 1)] = [self.features[start:end + 1]]
            start = end + 1
        return {**stages, 2: [self.stem, *stages[2]]}

    def make_dilated(self, output_stride: int) -> None:
        """Hold features at `output_stride` (8, 16; 32 undoes it) by dilation; asking twice changes nothing.

        The values are those of timm's RexNet built with this output_stride. ValueError for another stride.
        """
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride must be 8, 16 or 32, got {output_stride}. Use 32 for no dilation.')
        reduction, dilation = 2, 1
        for block, stride in zip(self.features, self._block_strides, strict=True):
            conv = block.conv_dw.conv
            dilate = reduction * stride > output_stride
            conv.stride = (1, 1) if dilate else (stride, stride)
            conv.dilation = conv.padding = (dilation, dilation)
            if dilate:
                dilation *= stride
            else:
                reduction *= stride
        for index, info in enumerate(self.feature_info):
            info['reduction'] = min(2 ** (index + 1), output_stride)
        self._output_stride = output_stride

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """As SMP's: the weights of 3 channels are summed or cycled and rescaled, or, if not pretrained, drawn anew.

        ValueError for an encoder that has been changed to another number before.
        """
        if in_channels == self._in_channels:
            return
        if self._in_channels != 3:
            raise ValueError(
                f'Only an encoder of 3 channels can be changed, this one has {self._in_channels}, asked for '
                f'{in_channels}. Create a new one with in_channels={in_channels}.')
        super().set_in_channels(in_channels, pretrained=pretrained)
        self.in_chans = self._in_channels

    def naver_keys(self) -> dict[str, str]:
        """NAVER's key of every entry of the whole network's state dict, in its order."""
        return self._naver_keys

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """As the backbone's; what the whole network has beyond this encoder is left out. ValueError if foreign."""
        state_dict = to_timm_layout(state_dict, self, strict=strict, partial=True)
        check_shapes(state_dict, self)
        surplus = self._naver_keys.keys() - self.state_dict().keys()
        state_dict = {key: value for key, value in state_dict.items() if key not in surplus}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class ReXNetV1Encoder(ReXNetEncoderMixin, ReXNetV1, EncoderMixin):
    """SMP encoder of ReXNetV1; arguments and features as :class:`ReXNetEncoderMixin` says."""


class ReXNetV1LiteEncoder(ReXNetEncoderMixin, ReXNetV1Lite, EncoderMixin):
    """SMP encoder of ReXNetV1 lite; arguments and features as :class:`ReXNetEncoderMixin` says."""


def register_encoders() -> None:
    """Enter every backbone name into SMP's encoder registry; repeating it changes nothing.

    A name's default weights are its 'imagenet', further ones go by timm's tag, and names without weights have none.
    """
    for name, (backbone, params) in model_cfgs.items():
        cfgs = [(tag, default_cfgs[name].cfgs[tag]) for tag in default_cfgs[name].tags]
        smp.encoders.encoders[name] = {
            'encoder': ReXNetV1LiteEncoder if issubclass(backbone, ReXNetV1Lite) else ReXNetV1Encoder,
            'params': dict(params),
            'pretrained_settings': {
                'imagenet' if index == 0 else tag: {'repo_id': cfg.hf_hub_id, 'revision': 'main'}
                for index, (tag, cfg) in enumerate(cfgs) if cfg.hf_hub_id},
        }


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
        ValueError: For an unknown name, weights that the name has not, arguments that the encoder would not see, or
            values out of range.
    """
    if in_channels < 1:
        raise ValueError(f'in_channels must be at least 1, got {in_channels}. Use 3 for RGB images.')
    check_encoder_name(name)
    timm_name = _timm_name(name)
    if kwargs and not timm_name and name not in model_cfgs:
        raise ValueError(
            f"Encoder '{name}' takes no further arguments, got {', '.join(kwargs)}. Leave them out, or use a name of "
            "this package or a 'tu-' one.")
    check_encoder_weights(name, weights)
    if timm_name:
        try:
            return smp.encoders.get_encoder(
                name, in_channels=in_channels, depth=depth, weights=weights, output_stride=output_stride, **kwargs)
        except (AttributeError, IndexError, RuntimeError, ValueError) as error:
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
        copy.deepcopy(encoder).to('meta')(torch.zeros(1, in_channels, height + 32, width + 32, device='meta'))
    except (AssertionError, RuntimeError, ValueError):
        return height, width
    return None


def _freeze_unreached(encoder: nn.Module, in_channels: int) -> None:
    # Some of SMP's encoders keep a classifier's last layers, or stages beyond their depth. No gradient reaches these,
    # which distributed training takes for an error unless they are frozen. The meta device finds them at no cost.
    probe = copy.deepcopy(encoder).to('meta').train()
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
    """Raise ValueError, with what there is, for pretrained weights that the encoder of a known name has not."""
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


register_encoders()
