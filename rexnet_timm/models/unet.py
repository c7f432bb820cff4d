"""Multi-scale U-Net

A U-Net with logits at several scales (deep supervision) on any encoder of segmentation_models_pytorch (SMP).

The U-Net is that of Ronneberger et al., https://arxiv.org/abs/1505.04597; supervising every decoder stage follows
Deeply-Supervised Nets, https://arxiv.org/abs/1409.5185, and UNet++, https://arxiv.org/abs/1807.10165. What differs:
* the decoder is a light one (`decoder.py`), and nothing is computed at full resolution but the logits
* every decoder stage has a head of its own, can be asked for by itself, and can be the last one
"""
import inspect
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from huggingface_hub import ModelCard
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Activation
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..errors import near_names
from ..files import (
    ENCODER_DOOR,
    WeightsError,
    build_with_file,
    check_finite,
    concerns_weights,
    one_line,
    unwrap,
    without_prefix,
)
from ..grid import enlarge, move_to_scale, scale_size
from . import rexnetv1
from .any_encoder import (
    SMP_ARGUMENTS,
    TIMM_ARGUMENTS,
    check_arguments,
    check_encoder_name,
    create_encoder,
    encoder_arguments,
    feature_grids,
    fixed_input_size,
)
from .card import create_model_card
from .decoder import ConcatDecoder, Decoder, create_decoder
from .layout import check_names, check_shapes, from_additive_decoder, needed_names

_logger = logging.getLogger(__name__)

__all__ = ['MultiScaleUnet']  # the registry adds the entry points


class _FinestLogits(nn.Module):
    """What `torch.jit.script` compiles of a :class:`MultiScaleUnet`: its evaluation output, in both modes.

    The modules are the network's own, in the order in which they run.
    """
    from_two_stages: Final[bool]

    def __init__(self, unet: 'MultiScaleUnet'):
        super().__init__()
        self.finest, decoder = unet.scales[0], unet.decoder
        scales = list(decoder.scales_to(self.finest))
        self.coarsest = scales[0]
        self.encoder = unet.encoder
        self.center = decoder.center if isinstance(decoder, ConcatDecoder) else nn.Identity()
        self.stages = nn.ModuleList([decoder.scriptable_stage(scale) for scale in scales])
        self.head = unet.heads[str(self.finest)]
        self.from_two_stages = len(decoder.stages_of_head(self.finest)) == 2
        self.grid, self.short = decoder.grid(self.finest)
        self.activation = unet.activation
        self.training = unet.training  # the modules, some of them frozen perhaps, keep their own mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (x.shape[-2], x.shape[-1])
        features = self.encoder(x)
        x = previous = self.center(features[-1])
        for index, stage in enumerate(self.stages):
            previous = x
            x = stage(x, features[self.coarsest - index], size)
        logits = self.head(x, previous) if self.from_two_stages else self.head(x)
        logits = move_to_scale(logits, self.grid, self.finest, scale_size(size, self.finest), self.short)
        return enlarge(self.activation(logits), self.finest, size)


class MultiScaleUnet(SegmentationModel):
    """U-Net with a head at every scale: the logits of scale s are ceil(H / 2**s) x ceil(W / 2**s).

    In training mode the logits of all `scales` come back as a list, finest first, each at its own size; in evaluation
    mode one tensor (N, classes, H, W) comes back, from the finest scale only. With a single scale one such tensor
    comes back in both modes, which makes `scales=(0,)` a drop-in for `smp.Unet`. Any input of at least 32 x 32 works,
    divisible or not, also after `torch.export`, `torch.jit.trace`, an ONNX export or `torch.compile`.

    `torch.jit.script` compiles the evaluation output, for both modes. It replaces the network inside a module around it
    by what it compiles: script a copy of such a module.

    Args:
        encoder_name: Any SMP encoder name: ours ('rexnetv1', 'rexnetv1_1_3', ...), SMP's own, and timm's as 'tu-NAME'.
        encoder_depth: Number of halvings in the encoder, 3 to 5.
        encoder_weights: Name of the encoder's published weights, or None for a random start.
        decoder_type: 'light', the fast decoder, 'dense', the accurate one, or 'unet', that of `smp.Unet`, whose
            checkpoints load: encoder, decoder and finest head, and only the heads of the other scales start fresh.
            'additive' is an older name of 'light'. Or a name of :func:`rexnet_timm.register_decoder`.
        decoder_channels: Channels of the decoder's stages, coarsest first: `encoder_depth - 1` for 'light' and 'dense',
            None takes the last ones of (128, 96, 64, 16); `encoder_depth` for 'unet', (256, 128, 64, 32, 16).
        decoder_act_layer: Activation of the light and the dense decoder, by timm's name.
        decoder_interpolation: How features are enlarged in the decoder, 'nearest' or 'bilinear'.
        in_channels: Channels of the input.
        classes: Channels of the logits.
        activation: SMP's name of an activation over the logits ('sigmoid', 'softmax2d', ...). None leaves logits,
            which is what every loss expects.
        scales: Scales with a head, from 0 (the input's size) to `encoder_depth - 1`. The finest decides where the
            decoder ends.
        **kwargs: Further arguments of the encoder, for 'rexnetv1' (`width_mult`, `depth_mult`) and 'tu-' names.

    Raises:
        ValueError: Unknown encoder, weights or encoder argument; `scales` out of range; wrong `decoder_channels`.
    """

    requires_divisible_input_shape = False

    if TYPE_CHECKING:  # set in `__init__`, which its decorator hides
        scales: tuple[int, ...]
        encoder: Any
        decoder: Decoder
        heads: nn.ModuleDict
        activation: Any
        in_chans: int
        num_classes: int
        num_features: int
        name: str
        _fixed_size: tuple[int, int] | None

    @supports_config_loading
    def __init__(
            self,
            encoder_name: str = 'rexnetv1',
            encoder_depth: int = 5,
            encoder_weights: str | None = None,
            decoder_type: str = 'light',
            decoder_channels: Sequence[int] | None = None,
            decoder_act_layer: str = 'relu',
            decoder_interpolation: str = 'nearest',
            in_channels: int = 3,
            classes: int = 1,
            activation: str | None = None,
            scales: Sequence[int] = (0, 1, 2, 3, 4),
            **kwargs: Any,
    ):
        super().__init__()
        check_encoder_name(encoder_name)
        _check_unet_arguments(encoder_name, kwargs)
        if encoder_depth not in (3, 4, 5):
            raise ValueError(f'encoder_depth must be 3, 4 or 5, got {encoder_depth!r}.')
        if not isinstance(classes, Integral) or classes < 1:
            raise ValueError(f'classes must be a whole number of at least 1, got {classes!r}.')
        self.scales = _check_scales(scales, encoder_depth)

        self.encoder = create_encoder(
            encoder_name, in_channels=in_channels, depth=encoder_depth, weights=encoder_weights, **kwargs)
        self._fixed_size = fixed_input_size(encoder_name, self.encoder, in_channels, **kwargs)
        self.decoder = create_decoder(
            decoder_type, self.encoder.out_channels, decoder_channels, decoder_act_layer, decoder_interpolation,
            add_center_block=encoder_name.startswith('vgg'),
            grids=feature_grids(encoder_name, self.encoder, in_channels, self._fixed_size))
        self.heads = nn.ModuleDict({
            str(scale): self.decoder.create_head(scale, classes)
            for scale in sorted(self.scales, key=lambda scale: scale == 0)
        })
        self.activation = Activation(activation)
        # timm's names: for these two, and for the channels of the last features
        self.in_chans, self.num_classes = in_channels, classes
        self.num_features = self.encoder.out_channels[-1]
        self.name = f'multiscale-u-{encoder_name}'
        # a stage that feeds no head would leave parameters without a gradient, which breaks distributed training
        self.decoder.cut(self.scales[0])
        self.initialize()
        # what `save_pretrained` writes: scales in any form, and weights that need not be fetched before they are loaded
        self.config.update(scales=list(self.scales), encoder_weights=None)

    def __prepare_scriptable__(self) -> nn.Module:
        # torch.jit.script asks for this: it knows neither outputs by mode nor stages by name
        return _FinestLogits(self)

    def initialize(self) -> None:
        """Set the decoder's and the heads' weights: heads and the unet decoder as SMP sets those of its own models."""
        smp.base.initialization.initialize_decoder(self.decoder)
        self.decoder.initialize()
        smp.base.initialization.initialize_head(self.heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of an image batch.

        Args:
            x: (N, in_channels, H, W) float, H and W at least 32.

        Returns:
            Training mode with several scales: [(N, classes, ceil(H/2**s), ceil(W/2**s)) for s in scales].
            Otherwise: (N, classes, H, W).
        """
        if self.training and len(self.scales) > 1:
            return list(self.forward_scales(x, self.scales).values())
        finest = self.scales[0]
        return enlarge(self.forward_scales(x, (finest,))[finest], finest, (x.shape[-2], x.shape[-1]))

    def forward_scales(self, x: torch.Tensor, scales: Sequence[int] | None = None) -> dict[int, torch.Tensor]:
        """Logits of chosen scales, in training as in evaluation mode; finer stages than asked for are not run.

        Args:
            x: (N, in_channels, H, W) float, H and W at least 32.
            scales: Scales to return, each one of the model's own. None: all of them.

        Returns:
            {scale: (N, classes, ceil(H/2**scale), ceil(W/2**scale))}, finest first.

        Raises:
            ValueError: A scale without a head, or an input smaller than 32 x 32.
        """
        size, scales = self._check_request(x, scales)
        decoded = self.decoder(self.encoder(x), size, scales[0])
        return {scale: self._logits(scale, decoded, size) for scale in scales}

    def _check_request(self, x: torch.Tensor, scales: Sequence[int] | None) -> tuple[tuple[int, int], tuple[int, ...]]:
        """The size of the input and the scales that are asked for, finest first."""
        scales = self.scales if scales is None else tuple(sorted(set(scales)))
        missing = [scale for scale in scales if scale not in self.scales]
        if missing or not scales:
            raise ValueError(f'scales must be some of {self.scales}, the scales with a head, got {scales}.')
        size = (x.shape[-2], x.shape[-1])
        if not torch.jit.is_tracing() and not torch.compiler.is_compiling():
            self._check_size(size)
        return size, scales

    def _check_size(self, size: tuple[int, int]) -> None:
        if min(size) < 32:
            raise ValueError(f'The input must be at least 32 x 32, got {size[0]} x {size[1]}: enlarge or pad it.')
        if self._fixed_size is not None and size != self._fixed_size:
            raise ValueError(
                f'{self.name} takes images of {self._fixed_size[0]} x {self._fixed_size[1]} only, got {size[0]} x '
                f'{size[1]}: resize them, build it with img_size={size}, or take an encoder for any size.')

    def forward_confident(
            self,
            x: torch.Tensor,
            threshold: float,
            scales: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of every image from the coarsest scale that is sure enough of it; finer stages are not run for it.

        Sure is a scale whose confidence, the probability of the likeliest class as a mean over the pixels, is at least
        `threshold`. The finest scale is taken where none is. In evaluation mode; each image goes its own way.

        Args:
            x: (N, in_channels, H, W) float, H and W at least 32.
            threshold: From 0, which takes the coarsest scale for every image, to 1.
            scales: Scales to ask, each one of the model's own. None: all of them.

        Returns:
            (N, classes, H, W) logits, enlarged to the input's size, and (N,) int64, the scale that they are from.

        Raises:
            ValueError: A scale without a head, a threshold out of range, an input smaller than 32 x 32, or an
                activation over the logits.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f'threshold must be from 0 to 1, the mean probability to be reached, got {threshold}.')
        if not isinstance(self.activation.activation, nn.Identity):
            raise ValueError('Confidence is computed from logits: build the model without an activation.')
        size, scales = self._check_request(x, scales)
        features = self.encoder(x)
        logits, used = [], []
        for index in range(x.shape[0]):
            image_logits, scale = self._first_confident([f[index:index + 1] for f in features], size, threshold, scales)
            logits.append(enlarge(image_logits, scale, size))
            used.append(scale)
        return torch.cat(logits), torch.tensor(used, device=x.device)

    def _first_confident(
            self,
            features: list[torch.Tensor],
            size: tuple[int, int],
            threshold: float,
            scales: tuple[int, ...],
    ) -> tuple[torch.Tensor, int]:
        decoded, x = {}, self.decoder.start(features)
        steps = iter(self.decoder.scales_to(scales[0]))
        for scale in reversed(scales):
            stage = max(scale, self.decoder.finest_stage)
            while stage not in decoded:
                step = next(steps)
                decoded[step] = x = self.decoder.step(x, features, step, size)
            logits = self._logits(scale, decoded, size)
            if scale == scales[0] or _confidence(logits) >= threshold:
                break
        return logits, scale

    def _logits(self, scale: int, decoded: dict[int, torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        logits = self.heads[str(scale)](*[decoded[stage] for stage in self.decoder.stages_of_head(scale)])
        stage, short = self.decoder.grid(scale)
        return self.activation(move_to_scale(logits, stage, scale, scale_size(size, scale), short))

    def prune_to_scale(self, scale: int) -> 'MultiScaleUnet':
        """Cut everything finer than `scale`, in place: evaluation returns its logits, enlarged to the input's size.

        The logits of the remaining scales do not change.

        Args:
            scale: The new finest scale, one of `scales`.

        Returns:
            The model itself.

        Raises:
            ValueError: `scale` has no head.
        """
        if scale not in self.scales:
            raise ValueError(f'scale must be one of {self.scales}, the scales with a head, got {scale!r}.')
        self._keep_scales(tuple(s for s in self.scales if s >= scale))
        return self

    def drop_heads(self) -> 'MultiScaleUnet':
        """Remove all heads but the finest, in place, for shipping: one tensor comes back in both modes.

        Returns:
            The model itself.
        """
        self._keep_scales(self.scales[:1])
        return self

    def _keep_scales(self, scales: tuple[int, ...]) -> None:
        for scale in set(self.scales) - set(scales):
            del self.heads[str(scale)]
        self.scales = scales
        self.decoder.cut(scales[0])
        self.config['scales'] = list(scales)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the encoder's activations in the backward pass instead of storing them.

        Raises:
            ValueError: The encoder cannot.
        """
        for module in (self.encoder, getattr(self.encoder, 'model', None)):
            if module is not None and hasattr(module, 'set_grad_checkpointing'):
                module.set_grad_checkpointing(enable)
                return
        raise ValueError(f'The encoder of {self.name} has no gradient checkpointing: leave it off.')

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that `save_pretrained` and `push_to_hub` write, of their `model_card_kwargs`: `dataset`, `metrics`
        and `training`, as :func:`create_model_card` takes them."""
        return create_model_card(self, *args, **kwargs)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **kwargs: Any) -> 'MultiScaleUnet':
        # the Hub's own way to change how a saved model is read: its errors do not name the place, and a folder that
        # timm reads too has timm's configuration beside ours
        if 'pretrained_cfg' in kwargs:
            kwargs = {key: value for key, value in kwargs.items() if key not in _TIMM_CONFIG}
        try:
            return super()._from_pretrained(model_id=model_id, **kwargs)
        except Exception as error:
            if not concerns_weights(error):
                raise
            raise WeightsError(f'The weights in {model_id!r} do not load: {one_line(error)}') from None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint trained with any scales, or, with the unet decoder, one of `smp.Unet`; as torch's.

        The state dict may lie in a checkpoint, as :func:`rexnet_timm.files.unwrap` and
        :func:`rexnet_timm.files.without_prefix` say. Heads that this model does not have are left out. Heads that the
        checkpoint does not have keep their values, with a warning, except for the finest one, which makes the output.
        If not strict, entries of another shape are left out, with SMP's warning.

        Raises:
            WeightsError: A ValueError, for a checkpoint of an SMP model for a model with another decoder than SMP's, if
                nothing fits, for NaN or infinite values, or, when strict, for missing or unknown entries and other
                shapes. Nothing has been loaded then. `state_dict` is never changed.
        """
        own, heads, finest = self.state_dict(), 'heads.', f'heads.{self.scales[0]}.'
        needed = [key for key in needed_names(self) if not key.startswith(heads) or key.startswith(finest)]
        smp_head = 'segmentation_head.'
        smp_names = [key.replace(finest, smp_head, 1) for key in needed]
        state_dict = without_prefix(from_additive_decoder(unwrap(state_dict)), needed, smp_names)
        if any(key.startswith(smp_head) for key in state_dict):
            if not isinstance(self.decoder, ConcatDecoder):
                raise WeightsError(
                    "The checkpoint has a segmentation_head, as SMP's models have, and this decoder is one of this "
                    "package: build the model with decoder_type='unet' to load the weights of smp.Unet.")
            state_dict = {key.replace(smp_head, 'heads.0.', 1): value for key, value in state_dict.items()}
        has_heads = any(key.startswith(heads) for key in state_dict)  # weights of an encoder have none
        state_dict = {
            key: value for key, value in state_dict.items()
            if not key.startswith(heads) or key.split('.')[1] in self.heads}
        check_names(
            state_dict, needed, own, type(self).__name__, strict,
            'Build the model with the encoder_name, decoder_type and scales of the file; for the weights of an encoder '
            f'or a backbone take {ENCODER_DOOR}.')
        if strict:
            check_shapes(state_dict, self)
        check_finite(state_dict, own)
        fresh = {key: own[key] for key in own if has_heads and key.startswith(heads) and not key.startswith(finest)}
        fresh = {key: value for key, value in fresh.items() if key not in state_dict}
        if fresh:
            scales = sorted({int(key.split('.')[1]) for key in fresh})
            _logger.warning('The checkpoint has no heads for scales %s: they keep their present weights.', scales)
        return super().load_state_dict({**state_dict, **fresh}, strict=strict, assign=assign)


_TIMM_CONFIG = ('architecture', 'num_classes', 'num_features', 'global_pool', 'model_args', 'pretrained_cfg')


def _confidence(logits: torch.Tensor) -> torch.Tensor:
    """Mean over the pixels of the probability of the likeliest class; one channel is a binary mask."""
    if logits.shape[1] == 1:
        return logits.abs().sigmoid().mean()
    return logits.softmax(1).amax(1).mean()


def _check_unet_arguments(encoder_name: str, arguments: Iterable[str]) -> None:
    own = encoder_arguments(encoder_name)
    if own is not None and not own:  # the encoder refuses what is not a misspelt argument of the U-Net
        arguments = [name for name in arguments if name in SMP_ARGUMENTS or near_names(name, unet_arguments())]
    known = None if own is None else [*unet_arguments(), *own]
    check_arguments(f'MultiScaleUnet on {encoder_name}', arguments, known, SMP_ARGUMENTS)


def unet_arguments() -> list[str]:
    """The names of the arguments of :class:`MultiScaleUnet`, without those of its encoder."""
    return [name for name in inspect.signature(MultiScaleUnet.__init__).parameters if name not in ('self', 'kwargs')]


def _check_scales(scales: Sequence[int], encoder_depth: int) -> tuple[int, ...]:
    scales = tuple(scales) if isinstance(scales, Iterable) else (scales,)
    if not scales or len(set(scales)) != len(scales) or not set(scales) <= set(range(encoder_depth)):
        raise ValueError(
            f'scales must be different whole numbers from 0 (the size of the input) to {encoder_depth - 1} '
            f'(encoder_depth - 1), at least one, got {scales}.')
    return tuple(sorted(scales))


# SMP's registry of architectures, which `smp.create_model('multiscaleunet', ...)` looks up.
smp.MODEL_ARCHITECTURES_MAPPING['multiscaleunet'] = MultiScaleUnet
# `smp.from_pretrained` looks the class of a saved model up among the names of SMP only; one of SMP's own would stay
vars(smp).setdefault(MultiScaleUnet.__name__, MultiScaleUnet)


def unet_name(backbone: str) -> str:
    """Name of the U-Net on a backbone: 'rexnetv1_1_0' -> 'rexnetv1_unet_1_0', 'rexnetv1' -> 'rexnetv1_unet'."""
    family = re.match(r'[a-z0-9]+(_lite)?', backbone)
    assert family is not None, backbone
    return f'{family[0]}_unet{backbone.removeprefix(family[0])}'


def encoder_filter_fn(state_dict: Mapping[str, Any], model: MultiScaleUnet) -> dict[str, Any]:
    """Turn a backbone's published weights into those of the U-Net's encoder; a U-Net's own pass unchanged."""
    prefix = 'encoder.'
    kept = model.encoder.state_dict().keys()
    state_dict = from_additive_decoder(unwrap(state_dict))
    inside = without_prefix(state_dict, needed_names(model))
    weights = {key.removeprefix(prefix): value for key, value in inside.items() if key.startswith(prefix)}
    if not weights:
        weights = rexnetv1.checkpoint_filter_fn(state_dict, model.encoder)
        inside = {f'{prefix}{key}': value for key, value in weights.items() if key in kept}
    # SMP would leave out what has another shape, which is nearly all of another width; timm adapts the first conv
    check_shapes({key: value for key, value in weights.items() if key != 'stem.conv.weight'}, model.encoder)
    return inside


def _create_unet(variant: str, backbone: str, pretrained: bool, **kwargs: Any) -> MultiScaleUnet:
    if kwargs.get('features_only'):
        raise ValueError(f'{variant} has no features_only: ask its backbone {backbone} for features.')
    check_arguments(variant, kwargs, None, TIMM_ARGUMENTS)
    if 'encoder_name' in kwargs:
        raise ValueError(
            f'{variant} is the U-Net on {backbone}, got encoder_name {kwargs["encoder_name"]!r}: leave it out, or '
            'build rexnet_timm.MultiScaleUnet, which takes any encoder.')

    def build(num_classes: int = 1, in_chans: int = 3, **model_kwargs: Any) -> MultiScaleUnet:
        return MultiScaleUnet(backbone, classes=num_classes, in_channels=in_chans, **model_kwargs)

    return build_with_file(
        build_model_with_cfg, build, variant, pretrained=pretrained, pretrained_filter_fn=encoder_filter_fn,
        pretrained_strict=False, **kwargs)


def unet_cfg(backbone_cfg: Any, prefix: str = 'encoder.') -> Any:
    """timm's configuration of a network whose encoder, under `prefix`, takes a backbone's published weights."""
    # The weights are only the encoder's; the U-Net's own classes have nothing to do with theirs.
    return replace(backbone_cfg, num_classes=1, first_conv=f'{prefix}{backbone_cfg.first_conv}', classifier=None)


default_cfgs = generate_default_cfgs({
    '.'.join(filter(None, (unet_name(backbone), tag))): unet_cfg(cfg)
    for backbone, backbone_cfgs in rexnetv1.default_cfgs.items()
    for tag, cfg in backbone_cfgs.cfgs.items()
})


def _register_unet(backbone: str) -> None:
    """Register the U-Net on `backbone` with timm: `create_model(name, num_classes=..., in_chans=..., scales=...)`."""
    name = unet_name(backbone)

    def entry_point(pretrained: bool = False, **kwargs: Any) -> MultiScaleUnet:
        return _create_unet(name, backbone, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f'Multi-scale U-Net on {backbone}; `pretrained` loads the weights of the encoder.'
    globals()[name] = register_model(entry_point)


for _backbone in rexnetv1.default_cfgs:
    _register_unet(_backbone)
