"""Decoders of the multi-scale U-Net

From the features of any encoder of segmentation_models_pytorch (SMP) to those of every scale, coarsest first. There is
that of `smp.Unet` itself (`ConcatDecoder`), and there are two of this package (`SumDecoder`), in which
* skips are added instead of concatenated, so that the decoder costs a fraction of the encoder instead of a multiple
* what is added has been normalised before, since the features of encoders differ in scale by a factor of ten
* the sums are refined by a residual branch: in the light one of depthwise-separable convolutions (MobileNets,
  https://arxiv.org/abs/1704.04861), in the dense one of plain 3 x 3 convolutions, as RegSeg found them best after sums
  (https://arxiv.org/abs/2111.09957)
* the stage at half resolution, where a channel costs most, has few of them; the classes that they have no room for come
  from the stage at a quarter, straight into the logits
* nothing is computed at full resolution but the logits, enlarged from half resolution

In all, the features of every stage come out, and the stages finer than asked for are not run. A further decoder is a
subclass of `Decoder` under a name of its own, by `register_decoder`.
"""
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Final, TypeVar

import torch
import torch.nn as nn
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.layers import ConvNormAct, SeparableConvNormAct, create_act_layer

from ..extensions import add_to_table, unknown_name
from ..grid import enlarge, move_to_scale, scale_size

__all__ = [
    'DECODERS', 'DECODER_CHANNELS', 'ConcatDecoder', 'Decoder', 'SumDecoder', 'create_decoder', 'decoder_name',
    'register_decoder']

# Widths of the stages, coarsest first: of ours from 1/16 of the input's size to 1/2, of SMP's to the input's size.
DECODER_CHANNELS = {'light': (128, 96, 64, 16), 'dense': (128, 96, 64, 16), 'unet': (256, 128, 64, 32, 16)}
DECODER_ALIASES = {'additive': 'light'}  # as it was called while its sums were normalised, and not what is added


class DecoderBlock(nn.Module):
    """One step up: the coarser features are reduced, enlarged and added to the skip; a residual branch refines the sum.

    The coarser features are reduced before they are enlarged, where a convolution costs a quarter. Each of the two is
    normalised before they meet, so that neither drowns the other, whatever the scale of an encoder's features.

    Args:
        in_chs: Channels of the coarser features.
        skip_chs: Channels of the skip; 0 for none.
        out_chs: Channels of the output.
        refine: The residual branch, (N, out_chs, h, w) to the same shape.
        scale: Scale of the output.
        grid, skip_grid: The scale of the coarser features and of the skip, and whether their last row may be missing.
        act_layer: Activation, by timm's name.
        interpolation: How the coarser features are enlarged, 'nearest' or 'bilinear'.
    """

    def __init__(
            self,
            in_chs: int,
            skip_chs: int,
            out_chs: int,
            refine: nn.Module,
            scale: int,
            grid: tuple[int, bool],
            skip_grid: tuple[int, bool],
            act_layer: str = 'relu',
            interpolation: str = 'nearest',
    ):
        super().__init__()
        self.scale, self.interpolation = scale, interpolation
        self.in_scale, self.in_short = grid
        self.skip_scale, self.skip_short = skip_grid
        self.reduce = _reduction(in_chs, out_chs)
        # Patch-4 encoders have no half-scale feature: SMP hands out one with no channels.
        self.reduce_skip = _reduction(skip_chs, out_chs) if skip_chs > 0 else None
        self.act_sum = create_act_layer(act_layer)
        self.refine = refine
        self.act = create_act_layer(act_layer)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, in_chs, ...), (N, skip_chs, ...) and H, W -> (N, out_chs, ceil(H / 2**scale), ceil(W / 2**scale))."""
        size = scale_size(size, self.scale)
        x = self.reduce(x)
        if self.reduce_skip is None:
            x = move_to_scale(x, self.in_scale, self.scale, size, self.in_short, self.interpolation)
        else:
            skip = self.reduce_skip(skip)
            skip = move_to_scale(skip, self.skip_scale, self.scale, size, self.skip_short, self.interpolation)
            # the same size, in the form that torch.export has for it and can compare
            size = (skip.shape[-2], skip.shape[-1])
            x = move_to_scale(x, self.in_scale, self.scale, size, self.in_short, self.interpolation) + skip
        x = self.act_sum(x)
        return self.act(x + self.refine(x))


def _reduction(in_chs: int, out_chs: int) -> ConvNormAct:
    """A 1 x 1 convolution with its norm, whose output does not depend on the scale of its input."""
    return ConvNormAct(in_chs, out_chs, 1, apply_act=False, norm_kwargs={'eps': 1e-10})


class FineHead(nn.Module):
    """Logits at half resolution, from the features of that stage and of the one before it.

    Args:
        in_chs: Channels of the stage at half resolution.
        coarse_chs: Channels of the stage at a quarter.
        num_classes: Channels of the logits.
    """

    def __init__(self, in_chs: int, coarse_chs: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chs, num_classes, 1)
        self.conv_coarse = nn.Conv2d(coarse_chs, num_classes, 1, bias=False)

    def forward(self, x: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """(N, in_chs, h, w), (N, coarse_chs, ceil(h/2), ceil(w/2)) -> (N, num_classes, h, w)."""
        # NCHW from here on: enlarging a number of channels that is no multiple of 8, and the softmax over them, is
        # slower in NHWC, and in half the size the copy costs next to nothing
        logits = self.conv(x).contiguous()
        return logits + enlarge(self.conv_coarse(coarse).contiguous(), 1, (x.shape[-2], x.shape[-1]))


class Decoder(nn.Module):
    """What a decoder is: a stage for each scale, run from the coarsest to the finest that is asked for.

    A subclass sets `finest_stage` and `channels`, and has `step` and `cut`; the other methods have defaults, which fit
    where each stage lies on the grid of its scale and each head is a 1 x 1 convolution. Every parameter must reach the
    logits of the finest stage that is kept, or distributed training waits for its gradient.

    The stages finer than `finest_stage` do not exist: logits of these scales are enlarged from it.
    """
    finest_stage: int  # scale of the last stage; finer logits are enlarged from its features
    channels: dict[int, int]  # of the features of each scale, from `finest_stage` to the coarsest, 4 of a depth of 5

    def start(self, features: list[torch.Tensor]) -> torch.Tensor:
        """What the first stage takes, from the encoder's features: the last one unless a subclass says otherwise."""
        return features[-1]

    def step(self, x: torch.Tensor, features: list[torch.Tensor], scale: int, size: tuple[int, int]) -> torch.Tensor:
        """Run the stage of `scale` on the output `x` of the one before it.

        Args:
            x: (N, C, h, w), of the stage one coarser; of the coarsest stage what `start` returns.
            features: The encoder's, as in `forward`.
            scale: The scale of the stage.
            size: Height H and width W of the network's input.

        Returns:
            (N, channels[scale], ceil(H / 2**scale), ceil(W / 2**scale)).
        """
        raise NotImplementedError

    def cut(self, finest: int) -> None:
        """Remove the stages finer than scale `finest`; the others keep their names in the state dict."""
        raise NotImplementedError

    def grid(self, scale: int) -> tuple[int, bool]:
        """Where the logits of the head of `scale` lie: at what scale, and whether their last row may be missing."""
        return max(scale, self.finest_stage), False

    def stages_of_head(self, scale: int) -> tuple[int, ...]:
        """The scales of the stages whose features the head of `scale` takes, in its order."""
        return (max(scale, self.finest_stage),)

    def create_head(self, scale: int, num_classes: int) -> nn.Module:
        """A module from the features of `stages_of_head` to logits (N, num_classes, h, w) where `grid` says."""
        return nn.Conv2d(self.channels[max(scale, self.finest_stage)], num_classes, 1)

    def initialize(self) -> None:
        """Set the weights, after all convolutions have been drawn by Kaiming's rule as SMP draws its decoders'."""

    def scriptable_stage(self, scale: int) -> nn.Module:
        """The stage of `scale` as a module of its own, from its input, the encoder's feature, H and W to its output.

        Only `torch.jit.script` asks for it.
        """
        raise NotImplementedError(f'{type(self).__name__} has no scriptable_stage: trace or export the network.')

    def scales_to(self, finest: int) -> range:
        """The scales of the stages down to `finest`, in the order in which they run."""
        return range(max(self.channels), max(finest, self.finest_stage) - 1, -1)

    def forward(self, features: list[torch.Tensor], size: tuple[int, int], finest: int = 0) -> dict[int, torch.Tensor]:
        """Run the stages down to scale `finest`, or to the finest there is.

        Args:
            features: The encoder's features, index s of shape (N, C_s, ~H/2**s, ~W/2**s).
            size: Height and width of the network's input.
            finest: Scale of the last stage to run.

        Returns:
            {scale: (N, channels of the scale, ceil(H/2**scale), ceil(W/2**scale))}; the unet decoder keeps the size of
            the encoder's features where that is another, as `grid` says.
        """
        x = self.start(features)
        outputs: dict[int, torch.Tensor] = {}
        for scale in self.scales_to(finest):
            x = self.step(x, features, scale, size)
            outputs[scale] = x
        return outputs


def _separable(chs: int, scale: int, act_layer: str) -> nn.Module:
    """Depthwise 5 x 5, at half resolution 3 x 3, and 1 x 1."""
    return SeparableConvNormAct(chs, chs, 5 if scale > 1 else 3, apply_act=False)


def _plain(chs: int, scale: int, act_layer: str) -> nn.Module:
    """Two 3 x 3 convolutions, except at half resolution, where they would cost most."""
    if scale < 2:
        return _separable(chs, scale, act_layer)
    return nn.Sequential(
        ConvNormAct(chs, chs, 3, act_layer=act_layer), ConvNormAct(chs, chs, 3, apply_act=False))


_REFINEMENTS = {'light': _separable, 'dense': _plain}


class SumDecoder(Decoder):
    """The decoders of this package: 'light' and 'dense', which differ in how the sums are refined, and in their widths.

    Args:
        encoder_channels: Channels of the encoder's features, index s at 1/2**s of the input's size.
        decoder_channels: Channels of the stages, coarsest first; the last one is at 1/2 of the input's size.
        refinement: From the channels, the scale and the activation of a stage to its residual branch.
        act_layer: Activation, by timm's name.
        interpolation: How coarse features are enlarged, 'nearest' or 'bilinear'.
        grids: Where the encoder's features lie, as :func:`feature_grids` says. None: index s at scale s, rounded up.
    """
    finest_stage = 1

    def __init__(
            self,
            encoder_channels: Sequence[int],
            decoder_channels: Sequence[int],
            refinement: Callable[[int, int, str], nn.Module] = _separable,
            act_layer: str = 'relu',
            interpolation: str = 'nearest',
            grids: Sequence[tuple[int, bool]] | None = None,
    ):
        super().__init__()
        coarsest = len(encoder_channels) - 2  # the last feature is the decoder's input
        self.channels = dict(zip(range(coarsest, 0, -1), decoder_channels, strict=True))
        grids = [(scale, False) for scale in range(coarsest + 2)] if grids is None else grids
        in_chs, grid = encoder_channels[-1], grids[-1]
        # keyed by scale, so that a stage keeps its name in the state dict when finer ones are cut off
        self.stages = nn.ModuleDict()
        for scale, out_chs in self.channels.items():
            self.stages[str(scale)] = DecoderBlock(
                in_chs, encoder_channels[scale], out_chs, refinement(out_chs, scale, act_layer), scale, grid,
                grids[scale], act_layer, interpolation)
            in_chs, grid = out_chs, (scale, False)

    def initialize(self) -> None:
        """Draw the weights of all but the depthwise convolutions from a normal distribution of deviation 0.02.

        Each has a norm after it, so that the size of its weights changes no output. It says how fast they turn, as a
        step of Adam or Muon has one length whatever the weights: those of 1 x 1 convolutions, which Kaiming's rule
        would start 3 to 10 times as large as those of SMP's decoder, would turn as much more slowly.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.normal_(module.weight, std=0.02)

    def step(self, x: torch.Tensor, features: list[torch.Tensor], scale: int, size: tuple[int, int]) -> torch.Tensor:
        return self.stages[str(scale)](x, features[scale], size)

    def scriptable_stage(self, scale: int) -> nn.Module:
        return self.stages[str(scale)]

    def cut(self, finest: int) -> None:
        for name in [name for name in self.stages if int(name) < finest]:
            del self.stages[name]

    def stages_of_head(self, scale: int) -> tuple[int, ...]:
        return (1, 2) if scale < 2 else (scale,)

    def create_head(self, scale: int, num_classes: int) -> nn.Module:
        if scale < 2:
            return FineHead(self.channels[1], self.channels[2], num_classes)
        return nn.Conv2d(self.channels[scale], num_classes, 1)


class _ConcatStage(nn.Module):
    """A block of `smp.Unet` under the arguments of a :class:`DecoderBlock`."""
    use_skip: Final[bool]

    def __init__(self, block: nn.Module, use_skip: bool):
        super().__init__()
        self.block, self.use_skip = block, use_skip

    def forward(self, x: torch.Tensor, skip: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.block(x, skip.shape[-2], skip.shape[-1], skip if self.use_skip else None)


class ConcatDecoder(Decoder):
    """The decoder of `smp.Unet`, with its parameters under their names, and the features of every stage.

    Args:
        encoder_channels: Channels of the encoder's features, index s at 1/2**s of the input's size.
        decoder_channels: Channels of the stages, coarsest first; the last one is at the input's size.
        interpolation: How coarse features are enlarged, 'nearest' or 'bilinear'.
        add_center_block: Whether two convolutions stand before the first stage, as SMP has it for VGG.
        grids: Where the encoder's features lie, as :func:`feature_grids` says. None: index s at scale s, rounded up.
    """
    finest_stage = 0

    def __init__(
            self,
            encoder_channels: Sequence[int],
            decoder_channels: Sequence[int],
            interpolation: str = 'nearest',
            add_center_block: bool = False,
            grids: Sequence[tuple[int, bool]] | None = None,
    ):
        super().__init__()
        depth = len(encoder_channels) - 1
        self.channels = dict(zip(range(depth - 1, -1, -1), decoder_channels, strict=True))
        decoder = UnetDecoder(
            encoder_channels, decoder_channels, n_blocks=depth, add_center_block=add_center_block,
            interpolation_mode=interpolation)
        self.center = decoder.center
        self.blocks = decoder.blocks  # coarsest first, so that cutting finer ones off renames nothing
        self.grids = [(scale, False) for scale in range(depth + 1)] if grids is None else list(grids)

    def start(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.center(features[-1])

    def step(self, x: torch.Tensor, features: list[torch.Tensor], scale: int, size: tuple[int, int]) -> torch.Tensor:
        # To the features' own size, as SMP has it, even where that stretches: its weights were trained so. Scale 0 is
        # the image, which SMP does not use.
        height, width = features[scale].shape[-2:]
        return self.blocks[max(self.channels) - scale](x, height, width, features[scale] if scale > 0 else None)

    def scriptable_stage(self, scale: int) -> nn.Module:
        return _ConcatStage(self.blocks[max(self.channels) - scale], scale > 0)

    def grid(self, scale: int) -> tuple[int, bool]:
        return self.grids[scale]

    def cut(self, finest: int) -> None:
        self.blocks = self.blocks[:max(self.channels) - finest + 1]

    def create_head(self, scale: int, num_classes: int) -> nn.Module:
        """A module from the features of `scale` to its logits; that of scale 0 is the head of `smp.Unet`."""
        if scale == 0:
            return SegmentationHead(self.channels[0], num_classes, kernel_size=3)
        return nn.Conv2d(self.channels[scale], num_classes, 1)


def _create_sum(
        decoder_type: str,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int] | None,
        act_layer: str,
        interpolation: str,
        grids: Sequence[tuple[int, bool]] | None,
        add_center_block: bool,
) -> SumDecoder:
    channels = _checked_channels(decoder_type, decoder_channels, len(encoder_channels) - 2, 'encoder_depth - 1')
    return SumDecoder(encoder_channels, channels, _REFINEMENTS[decoder_type], act_layer, interpolation, grids)


def _create_concat(
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int] | None,
        act_layer: str,
        interpolation: str,
        grids: Sequence[tuple[int, bool]] | None,
        add_center_block: bool,
) -> ConcatDecoder:
    channels = _checked_channels('unet', decoder_channels, len(encoder_channels) - 1, 'encoder_depth')
    if act_layer != 'relu':
        raise ValueError(f"decoder_act_layer of the unet decoder is always 'relu', got {act_layer!r}: leave it out.")
    return ConcatDecoder(encoder_channels, channels, interpolation, add_center_block, grids)


def _checked_channels(
        decoder_type: str, decoder_channels: Sequence[int] | None, number: int, rule: str) -> tuple[int, ...]:
    if decoder_channels is None:
        decoder_channels = DECODER_CHANNELS[decoder_type][-number:]
    entries = tuple(decoder_channels) if isinstance(decoder_channels, Iterable) else (decoder_channels,)
    if len(entries) != number or not all(isinstance(entry, Integral) and entry > 0 for entry in entries):
        raise ValueError(
            f'decoder_channels of the {decoder_type} decoder needs {rule} = {number} entries, coarsest first, '
            f'got {len(entries)}: {entries}. Each is a whole number of at least 1.')
    return entries


_OWN_DECODERS: dict[str, Callable[..., Decoder]] = {
    'light': partial(_create_sum, 'light'), 'dense': partial(_create_sum, 'dense'), 'unet': _create_concat}
# Decoders by name, those of other packages too
DECODERS: dict[str, Callable[..., Decoder]] = dict(_OWN_DECODERS)

AnyDecoder = TypeVar('AnyDecoder', bound=Callable[..., Decoder])


def register_decoder(name: str) -> Callable[[AnyDecoder], AnyDecoder]:
    """A decorator that makes a decoder a `decoder_type` of :class:`MultiScaleUnet`, under a name.

    The class, a :class:`Decoder`, is called with the keyword arguments
    * `encoder_channels`: channels of the encoder's features, index s at 1/2**s of the input's size, the image first
    * `decoder_channels`: what the user says, or None
    * `act_layer`: an activation, by timm's name; 'relu' unless the user says otherwise
    * `interpolation`: 'nearest' or 'bilinear'
    * `grids`: where the encoder's features lie, as :func:`any_encoder.feature_grids` says
    and raises ValueError for what it does not take.

    Raises:
        ValueError: A name that another package has registered, or that is no name.
    """
    def register(decoder: AnyDecoder) -> AnyDecoder:
        return add_to_table(DECODERS, 'decoder', name, decoder)

    return register


def decoder_name(decoder_type: str) -> str:
    """The present name of a decoder. ValueError, with all names, for one that there is not."""
    if isinstance(decoder_type, str):
        name = decoder_type if decoder_type in DECODERS else DECODER_ALIASES.get(decoder_type, decoder_type)
        if name in DECODERS:
            return name
    raise ValueError(unknown_name('decoder_type', decoder_type, DECODERS))


def create_decoder(
        decoder_type: str,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int] | None = None,
        act_layer: str = 'relu',
        interpolation: str = 'nearest',
        add_center_block: bool = False,
        grids: Sequence[tuple[int, bool]] | None = None,
) -> Decoder:
    """A decoder by its name in `DECODERS`; of ours, `decoder_channels` None takes the last ones of the default.

    Raises:
        ValueError: Another name, a wrong number of channels, or an argument that the decoder does not have.
    """
    decoder_type = decoder_name(decoder_type)
    if interpolation not in ('nearest', 'bilinear'):
        raise ValueError(f"decoder_interpolation must be 'nearest' or 'bilinear', got {interpolation!r}.")
    arguments: dict[str, Any] = {
        'encoder_channels': encoder_channels, 'decoder_channels': decoder_channels, 'act_layer': act_layer,
        'interpolation': interpolation, 'grids': grids}
    if decoder_type in _OWN_DECODERS:
        arguments['add_center_block'] = add_center_block
    decoder = DECODERS[decoder_type](**arguments)
    if not isinstance(decoder, Decoder):
        raise ValueError(
            f'What is registered as the decoder {decoder_type!r} must give a rexnet_timm.models.decoder.Decoder, got '
            f'{type(decoder).__name__}: make it a subclass.')
    return decoder
