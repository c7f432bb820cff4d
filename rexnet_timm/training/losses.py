""" Multi-scale loss

Deep supervision for the logits of `MultiScaleUnet`: one base loss at every scale, on a target brought to it, summed
with weights. The scheme is that of Deeply-Supervised Nets, https://arxiv.org/abs/1409.5185; halving the weight with
each halving of the size is nnU-Net's, https://arxiv.org/abs/1809.10486; the names of the weights are MONAI's,
https://docs.monai.io.
"""
from collections.abc import Callable, Sequence
from functools import partial

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

from .targets import majority_target, object_target, resize_target, soft_target

__all__ = ['MultiScaleLoss', 'create_segmentation_loss']

BaseLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

WEIGHTS: dict[str, Callable[[int, bool], float]] = {
    'same': lambda scale, is_finest: 1.,
    'exp': lambda scale, is_finest: 2. ** -scale,
    'two': lambda scale, is_finest: 1. if is_finest else 0.5,
}
TARGETS = ('nearest', 'majority', 'object', 'soft', 'upsample')


class MultiScaleLoss(nn.Module):
    """Weighted sum of a base loss over the scales of a network's output.

    With one output it is the base loss itself.

    Args:
        base_loss: Any loss of `(logits, target)` that returns a scalar: torch's, SMP's or your own. Or a sequence of
            them, one for each output, finest first. SMP's `MCCLoss` takes probabilities: give the model
            `activation='sigmoid'` for it.
        weights: Weights of the scales, normalised to sum 1. 'same': equal. 'exp': 1 / 2**s for scale s. 'two': 1 for
            the finest, 1/2 for the others. Or a sequence of non-negative numbers, one for each output, finest first.
        target: How target and logits are brought together at each scale.
            'nearest': the label in the middle of each cell. 'majority': the commonest label of the cell.
            'object': the commonest, but that an object with at least `object_share` of the cell wins over `background`.
            'soft': the shares of the classes below scale 0, for mean losses that take labels and probabilities
            (N, C, h, w), as torch's cross entropy does; of a binary target the share of class 1, (N, h, w).
            'upsample': the logits are enlarged to the target.
        ignore_index: Label without a loss. It must be what `base_loss` ignores; None asks its attribute of that
            name. A scale where no other label is left has loss 0 and gradient 0, where a mean would not be finite.
        object_share: Share of a cell, above 0 to 1, for `target='object'`.
        background: Classes that are no objects for `target='object'`: in street scenes, say, sky, road and buildings.
        fade_epochs: First and last epoch of a linear fade of all weights but the finest one's to 0, told by
            `set_epoch`. None: no fade.

    Raises:
        ValueError: Unknown `weights` or `target`, weights that are negative or sum to 0, `object_share` or
            `fade_epochs` out of range, soft targets for a loss of SMP that takes labels alone.
    """

    def __init__(
            self,
            base_loss: BaseLoss | Sequence[BaseLoss],
            weights: str | Sequence[float] = 'exp',
            target: str = 'nearest',
            ignore_index: int | None = None,
            object_share: float = 0.25,
            background: Sequence[int] = (0,),
            fade_epochs: tuple[int, int] | None = None,
    ):
        super().__init__()
        if isinstance(weights, str):
            if weights not in WEIGHTS:
                raise ValueError(
                    f"weights must be {', '.join(map(repr, WEIGHTS))} or a sequence of numbers, got {weights!r}.")
        else:
            weights = tuple(float(weight) for weight in weights)
            if not weights or min(weights) < 0 or sum(weights) == 0:
                raise ValueError(f'weights must be non-negative and not all 0, got {weights}.')
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {target!r}.")
        if not 0 < object_share <= 1:
            raise ValueError(f'object_share must be above 0 and at most 1, got {object_share}.')
        if fade_epochs is not None and not 0 <= fade_epochs[0] < fade_epochs[1]:
            raise ValueError(f'fade_epochs must be two epochs, 0 <= first < last, got {tuple(fade_epochs)}.')
        if target == 'soft':
            _check_takes_shares(base_loss)
        several = isinstance(base_loss, Sequence)
        first = base_loss[0] if several else base_loss
        # a module list keeps the buffers of the losses, such as class weights, on the right device
        self.base_loss = nn.ModuleList(base_loss) if several else base_loss
        self.weights = weights
        self.target = target
        self.ignore_index = getattr(first, 'ignore_index', None) if ignore_index is None else ignore_index
        self.object_share = object_share
        self.background = tuple(background)
        self.fade_epochs = fade_epochs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch, for `fade_epochs`."""
        self.epoch = epoch

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Weighted sum over the scales.

        Args:
            outputs: (N, C, H, W) logits, or a sequence of (N, C, ceil(H/2**s), ceil(W/2**s)), finest first.
            target: (N, H, W) labels for multi-class and binary, (N, C, H, W) masks of 0 and 1 for multi-label losses.

        Returns:
            Scalar loss.

        Raises:
            ValueError: An output of no scale of the target's size, or a wrong number of weights or base losses.
        """
        return self.forward_scales(outputs, target)['loss']

    def forward_scales(
            self,
            outputs: torch.Tensor | Sequence[torch.Tensor],
            target: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """As `forward`, with the parts.

        Returns:
            {'loss': weighted sum, 'loss_scale_S': unweighted loss of scale S, ...}; the parts carry no gradient.
        """
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        scales = [_scale_of(output, target) for output in outputs]
        weights = self.scale_weights(scales)
        losses = [
            self._loss_at(base_loss, output, target, scale)
            for base_loss, output, scale in zip(self._base_losses(len(outputs)), outputs, scales, strict=True)
        ]
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        parts = {f'loss_scale_{scale}': loss.detach() for scale, loss in zip(scales, losses, strict=True)}
        return {'loss': total, **parts}

    def scale_weights(self, scales: Sequence[int]) -> list[float]:
        """The weight of each of `scales`, finest first, summing to 1.

        Raises:
            ValueError: `weights` was given as a sequence of another length.
        """
        if isinstance(self.weights, str):
            weights = [WEIGHTS[self.weights](scale, index == 0) for index, scale in enumerate(scales)]
        elif len(self.weights) == len(scales):
            weights = list(self.weights)
        else:
            raise ValueError(
                f'weights must have one entry for each output: got {len(self.weights)} weights for the '
                f'{len(scales)} scales {tuple(scales)}.')
        if self.fade_epochs is not None:
            first, last = self.fade_epochs
            left = min(max((last - self.epoch) / (last - first), 0.), 1.)
            weights[1:] = [left * weight for weight in weights[1:]]
        return [weight / sum(weights) for weight in weights]

    def _base_losses(self, number: int) -> list[BaseLoss]:
        if not isinstance(self.base_loss, nn.ModuleList):
            return [self.base_loss] * number
        if len(self.base_loss) != number:
            raise ValueError(
                f'base_loss must be one loss or one for each output, got {len(self.base_loss)} for {number} outputs.')
        return list(self.base_loss)

    def _loss_at(self, base_loss: BaseLoss, output: torch.Tensor, target: torch.Tensor, scale: int) -> torch.Tensor:
        is_labels = target.ndim == 3
        if self.target == 'upsample' and scale > 0:
            output = F.interpolate(output, size=target.shape[-2:], mode='bilinear', align_corners=False)
        else:
            target = self._target_at(target, output, scale)
        if is_labels and target.ndim == 4:
            return _loss_of_shares(base_loss, output, target)
        if self.ignore_index is None:
            return base_loss(output, target)
        # A mean over no pixel is 0/0 and so is its gradient. Give such a target labels, and the loss weight 0.
        any_valid = (target != self.ignore_index).any()
        return base_loss(output, torch.where(any_valid, target, 0)) * any_valid

    def _target_at(self, target: torch.Tensor, output: torch.Tensor, scale: int) -> torch.Tensor:
        if self.target == 'nearest' or scale == 0:
            return resize_target(target, output.shape[-2:])
        cells = dict(scale=scale, num_classes=max(2, output.shape[1]), ignore_index=self.ignore_index)
        if self.target == 'majority':
            return majority_target(target, **cells)
        if self.target == 'object':
            return object_target(target, share=self.object_share, background=self.background, **cells)
        shares = soft_target(target, **cells)
        if target.ndim == 4 or output.shape[1] > 1:
            return shares
        # binary losses take one mask, without a dimension for the classes
        unlabelled = shares.sum(1) == 0
        return shares[:, 1] if self.ignore_index is None else shares[:, 1].masked_fill(unlabelled, self.ignore_index)

    def finest(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of the finest scale alone, which is that of an evaluation output (N, C, H, W)."""
        base_loss = self.base_loss[0] if isinstance(self.base_loss, nn.ModuleList) else self.base_loss
        return self._loss_at(base_loss, output, target, 0)


def _check_takes_shares(base_loss: BaseLoss | Sequence[BaseLoss]) -> None:
    losses = base_loss if isinstance(base_loss, Sequence) else [base_loss]
    for part in (part for loss in losses if isinstance(loss, nn.Module) for part in loss.modules()):
        if getattr(part, 'mode', None) == 'multiclass' or isinstance(part, smp.losses.SoftCrossEntropyLoss):
            raise ValueError(
                f"target='soft' gives the shares of the classes, and SMP's {type(part).__name__} takes labels alone: "
                "take torch's cross entropy ('ce'), or another target, such as 'majority'.")


def _loss_of_shares(base_loss: BaseLoss, output: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """A mean loss over the cells that have a label, whose shares sum to 1; those of the others are all 0."""
    counted = shares
    if isinstance(base_loss, nn.CrossEntropyLoss):
        if base_loss.weight is not None:
            counted = shares * base_loss.weight.view(-1, 1, 1)
        # torch takes probabilities or a label to ignore, but not both
        base_loss = nn.CrossEntropyLoss(base_loss.weight, label_smoothing=base_loss.label_smoothing)
    # With shares torch divides by all cells, with labels by the weights of those that have one; so does this.
    return base_loss(output, shares) / counted.sum(1).mean().clamp(min=1e-6)


def _scale_of(output: torch.Tensor, target: torch.Tensor) -> int:
    """The scale whose size ceil(H / 2**s) x ceil(W / 2**s) is that of the output."""
    size, full = tuple(output.shape[-2:]), tuple(target.shape[-2:])
    for scale in range(8):
        if size == tuple(-(-length // 2 ** scale) for length in full):
            return scale
    raise ValueError(
        f'An output must be ceil(H / 2**s) x ceil(W / 2**s) of its target for some scale s, got an output of '
        f'{size[0]} x {size[1]} for a target of {full[0]} x {full[1]}.')


class _BinaryCrossEntropy(smp.losses.SoftBCEWithLogitsLoss):
    """SMP's loss for (N, 1, H, W) logits and (N, H, W) labels."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(logits[:, 0], target.to(logits.dtype))


class _SumLoss(nn.Module):
    """Unweighted sum of losses."""

    def __init__(self, losses: Sequence[nn.Module]):
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return sum(loss(logits, target) for loss in self.losses)


def create_segmentation_loss(
        name: str,
        num_classes: int,
        ignore_index: int,
        class_weights: Sequence[float] | None = None,
) -> nn.Module:
    """A base loss by name.

    Args:
        name: 'ce' (cross entropy), 'dice', 'focal' or 'lovasz', or their sum, such as 'ce+dice'.
        num_classes: Channels of the logits; with 1 the losses are binary.
        ignore_index: Label without a loss.
        class_weights: Weight of each class in the cross entropy, above 0, for rare classes; two of a binary loss,
            background and foreground. The other losses have none.

    Returns:
        A loss of (N, num_classes, H, W) logits and (N, H, W) labels.

    Raises:
        ValueError: An unknown name, or weights that do not fit.
    """
    mode = 'binary' if num_classes == 1 else 'multiclass'
    factories = {
        'ce': _BinaryCrossEntropy if num_classes == 1 else nn.CrossEntropyLoss,
        'dice': partial(smp.losses.DiceLoss, mode),
        'focal': partial(smp.losses.FocalLoss, mode),
        'lovasz': partial(smp.losses.LovaszLoss, mode),
    }
    parts = name.split('+')
    unknown = [part for part in parts if part not in factories]
    if unknown:
        raise ValueError(f"The loss must be one of {', '.join(factories)}, or a sum such as 'ce+dice', got {name!r}.")
    if class_weights is not None:
        if 'ce' not in parts:
            raise ValueError(f"Class weights belong to the cross entropy, got the loss {name!r}: add it, 'ce+{name}'.")
        factories['ce'] = partial(factories['ce'], **_weights_of_classes(class_weights, num_classes))
    losses = [factories[part](ignore_index=ignore_index) for part in parts]
    return losses[0] if len(losses) == 1 else _SumLoss(losses)


def _weights_of_classes(class_weights: Sequence[float], num_classes: int) -> dict[str, torch.Tensor]:
    number = max(2, num_classes)
    if len(class_weights) != number or not min(class_weights) > 0:
        raise ValueError(
            f'There must be {number} class weights above 0, one for each class, got {len(class_weights)}: '
            f'{tuple(class_weights)}.')
    weights = torch.tensor(class_weights, dtype=torch.float32)
    return {'weight': weights} if num_classes > 1 else {'pos_weight': weights[1:] / weights[0]}
