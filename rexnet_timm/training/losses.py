"""Multi-scale loss.

Deep supervision for the logits of `MultiScaleUnet`: one base loss at every scale, on a target brought to it, summed
with weights. The scheme is that of Deeply-Supervised Nets, https://arxiv.org/abs/1409.5185; halving the weight with
each halving of the size is nnU-Net's, https://arxiv.org/abs/1809.10486; the names of the weights are MONAI's,
https://docs.monai.io.
"""
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
import torch.nn as nn

from ..grid import enlarge, scale_size
from .base_losses import (
    TORCH_IGNORE_INDEX,
    BaseLoss,
    check_takes_shares,
    full_precision,
    ignoring,
    loss_of_labels,
    loss_of_shares,
)
from .targets import majority_target, object_target, resize_target, scale_of, soft_target

__all__ = ['MultiScaleLoss']

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
            'object': the commonest, except that an object with at least `object_share` of the cell wins over
            `background`.
            'soft': the shares of the classes below scale 0, for mean losses that take labels and probabilities
            (N, C, h, w), as torch's cross entropy does; of a binary target the share of class 1, (N, h, w).
            'upsample': the logits are enlarged by 2**s and cut to the target.
        ignore_index: Label without a loss; None asks `base_loss` for its attribute of that name. Losses of torch and
            SMP that were told no other label ignore it too; a loss of your own must do so by itself. A scale where no
            other label is left has loss 0 and gradient 0, where a mean would not be finite.
        object_share: Share of a cell, above 0 to 1, for `target='object'`.
        background: Classes that are no objects for `target='object'`: in street scenes, say, sky, road and buildings.
        fade_epochs: First and last epoch of a linear fade of all weights but the finest one's to 0, told by
            `set_epoch`. None: no fade.

    Raises:
        ValueError: Unknown `weights` or `target`, weights that are negative or sum to 0, `object_share` or
            `fade_epochs` out of range, soft targets for a loss of SMP that takes labels only.
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
            if not all(isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
                raise ValueError(f'weights must be non-negative and not all 0, got {weights}.')
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {target!r}.")
        if not 0 < object_share <= 1:
            raise ValueError(f'object_share must be above 0 and at most 1, got {object_share}.')
        if fade_epochs is not None:
            if not 0 <= fade_epochs[0] < fade_epochs[1]:
                raise ValueError(f'fade_epochs must be two epochs, 0 <= first < last, got {tuple(fade_epochs)}.')
            if not isinstance(weights, str) and weights[0] == 0:
                raise ValueError(
                    f'With fade_epochs only the finest scale is left, so its weight must be above 0, got {weights}.')
        if target == 'soft':
            check_takes_shares(base_loss)
        losses = list(base_loss) if isinstance(base_loss, Sequence) else [base_loss]
        if ignore_index is None:
            told = [getattr(loss, 'ignore_index', None) for loss in losses]
            # torch's default, which stands for no label, gives way to a label that another loss was told
            ignore_index = min(
                (own for own in told if own is not None), key=lambda own: own == TORCH_IGNORE_INDEX, default=None)
        self.weights = weights
        self.target = target
        self.ignore_index = ignore_index
        modules: list[Any] = [ignoring(loss, ignore_index) for loss in losses]
        # a module list keeps the buffers of the losses, such as class weights, on the right device
        self.base_loss = nn.ModuleList(modules) if isinstance(base_loss, Sequence) else modules[0]
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
            target: (N, H, W) labels for multi-class and binary losses; (N, 1, H, W) counts as these, and a loss of your
                own gets the dimension too. (N, C, H, W) masks of 0 and 1 for multi-label losses, where `ignore_index`
                marks single entries.

        Returns:
            Scalar loss, float32 for logits of 16 bits.

        Raises:
            ValueError: An output of no scale of the target's size, a wrong number of weights or base losses, a target
                of another form, labels out of range, or a base loss that returns no scalar.
        """
        return self.forward_scales(outputs, target)['loss']

    def forward_scales(
            self,
            outputs: torch.Tensor | Sequence[torch.Tensor],
            target: torch.Tensor,
            scales: Sequence[int] | None = None,
    ) -> dict[str, torch.Tensor]:
        """As `forward`, with the parts.

        Args:
            outputs: As for `forward`.
            target: As for `forward`.
            scales: Scale of each output; None tells it by the sizes.

        Returns:
            {'loss': weighted sum, 'loss_scale_S': unweighted loss of scale S, ...}; the parts carry no gradient. A
            second output of scale S is 'loss_scale_S_2'.
        """
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        scales = _scales_of(outputs, target) if scales is None else _checked_scales(scales, outputs, target)
        weights = self.scale_weights(scales)
        losses = [
            self._loss_at(base_loss, output, target, scale)
            for base_loss, output, scale in zip(self._base_losses(len(outputs)), outputs, scales, strict=True)
        ]
        total: Any = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        result: dict[str, torch.Tensor] = {'loss': total}
        for index, (scale, loss) in enumerate(zip(scales, losses, strict=True)):
            number = scales[:index + 1].count(scale)
            result[f'loss_scale_{scale}' + (f'_{number}' if number > 1 else '')] = loss.detach()
        return result

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
        channels = output.shape[1]
        if target.ndim not in (3, 4) or target.ndim == 4 and target.shape[1] not in (1, channels):
            raise ValueError(
                f'The target must be labels (N, H, W) or masks (N, C, H, W) of 1 channel or of {channels}, as many as '
                f'the output has, got {tuple(target.shape)}.')
        with full_precision(output) as output:
            if self.target == 'upsample':
                output = enlarge(output, scale, _size_of(target))
            elif self.target == 'soft' and scale > 0 and channels > 1 and (target.ndim == 3 or target.shape[1] == 1):
                labels = target if target.ndim == 3 else target[:, 0]
                loss = loss_of_shares(base_loss, output, soft_target(labels, scale, channels, self.ignore_index))
                return _scalar(loss)
            else:
                target = self._target_at(target, output, scale)
            return _scalar(loss_of_labels(base_loss, output, target, self.ignore_index))

    def _target_at(self, target: torch.Tensor, output: torch.Tensor, scale: int) -> torch.Tensor:
        if self.target == 'nearest' or scale == 0:
            return resize_target(target, output.shape[-2:])
        cells: dict[str, Any] = dict(scale=scale, num_classes=max(2, output.shape[1]), ignore_index=self.ignore_index)
        if self.target == 'soft':
            shares = soft_target(target, **cells)
            if target.ndim == 4:
                return shares
            # binary losses take one mask, without a dimension for the classes
            share = shares[:, 1]
            return share if self.ignore_index is None else share.masked_fill(shares.sum(1) == 0, self.ignore_index)
        if target.ndim == 4 and target.shape[1] == 1:
            return self._target_at(target[:, 0], output, scale)[:, None]
        if self.target == 'majority':
            return majority_target(target, **cells)
        return object_target(target, share=self.object_share, background=self.background, **cells)

    def finest(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of the finest scale only, which is that of an evaluation output (N, C, H, W)."""
        base_loss = self.base_loss[0] if isinstance(self.base_loss, nn.ModuleList) else self.base_loss
        return self._loss_at(base_loss, output, target, scale_of(output.shape[-2:], target.shape[-2:]))


def _scales_of(outputs: Sequence[torch.Tensor], target: torch.Tensor) -> list[int]:
    scales: list[int] = []
    for output in outputs:
        scales.append(scale_of(output.shape[-2:], target.shape[-2:], above=scales[-1] if scales else -1))
    return scales


def _checked_scales(scales: Sequence[int], outputs: Sequence[torch.Tensor], target: torch.Tensor) -> list[int]:
    sizes, right = [tuple(output.shape[-2:]) for output in outputs], [scale_size(_size_of(target), s) for s in scales]
    if sizes != right:
        raise ValueError(
            f'The outputs of scales {tuple(scales)} must have the sizes {right} for a target of '
            f'{target.shape[-2]} x {target.shape[-1]}, got {sizes}.')
    return list(scales)


def _size_of(target: torch.Tensor) -> tuple[int, int]:
    return target.shape[-2], target.shape[-1]


def _scalar(loss: torch.Tensor) -> torch.Tensor:
    if loss.ndim:
        raise ValueError(
            f"base_loss must return a scalar, got a loss of shape {tuple(loss.shape)}: give it reduction='mean'.")
    return loss
