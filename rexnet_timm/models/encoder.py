"""ReXNetV1 as encoders of segmentation_models_pytorch (SMP).

Contract: `encoders/_base.py` of SMP, https://github.com/qubvel-org/segmentation_models.pytorch, MIT license.
Backbone: `rexnetv1.py` of this package.

What differs from SMP's own encoders:
* blocks, final conv and head that `depth` does not reach are not built into the module, so that no parameter stays
  without gradient; state dicts keep the backbone's keys, and whole-network files load with their surplus left out.
* the last feature is filled up with zero channels to a multiple of 4 (185 to 188, say): SMP's PSPNet divides these
  channels by 4 and fails on a remainder.
* dilation follows timm's `output_stride`: a block that gives up its stride keeps the dilation of the one before it.
"""
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from segmentation_models_pytorch.encoders.mobilenet import EncoderMixin
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from .layout import check_shapes, to_timm_layout
from .rexnetv1 import ReXNetV1, ReXNetV1Lite, default_cfgs, model_cfgs

__all__ = [
    'ReXNetEncoderMixin',
    'ReXNetV1Encoder',
    'ReXNetV1LiteEncoder',
    'register_encoders',
]


_Backbone: Any = object  # what stands after the mixin in the bases


class ReXNetEncoderMixin(_Backbone):
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
    if TYPE_CHECKING:  # the backbone's
        feature_info: Any
        features: Any
        head_hidden_size: Any
        in_chans: Any
        num_features: Any
        stage_ends: Any

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

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As the backbone's; what the whole network has beyond this encoder, or around it, is left out."""
        state_dict = to_timm_layout(state_dict, self, strict=strict, partial=True)
        check_shapes(state_dict, self)  # while the final conv, which tells the width, is there
        surplus = self._naver_keys.keys() - self.state_dict().keys()
        state_dict = {key: value for key, value in state_dict.items() if key not in surplus}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


class ReXNetV1Encoder(ReXNetEncoderMixin, ReXNetV1, EncoderMixin):  # type: ignore[misc]  # a list, by SMP's rule
    """SMP encoder of ReXNetV1; arguments and features as :class:`ReXNetEncoderMixin` says."""


class ReXNetV1LiteEncoder(ReXNetEncoderMixin, ReXNetV1Lite, EncoderMixin):  # type: ignore[misc]  # as above
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


register_encoders()
