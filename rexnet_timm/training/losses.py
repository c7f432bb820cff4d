"""Multi-scale loss

Deep supervision for the logits of `MultiScaleUnet`: one base loss at every scale, on a target brought to it, summed
with weights. The scheme is that of Deeply-Supervised Nets, https://arxiv.org/abs/1409.5185; halving the weight with
each halving of the size is nnU-Net's, https://arxiv.org/abs/1809.10486; the names of the weights are MONAI's,
https://docs.monai.io.

All losses compute in float32 or wider, under autocast too: sums over the pixels of a batch overflow or stall in 16
bits.
"""
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from math import isfinite

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..grid import enlarge, scale_size
from .targets import (
    check_labels,
    check_masks,
    majority_target,
    object_target,
    resize_target,
    scale_of,
    soft_target,
)

__all__ = ['MultiScaleLoss', 'create_segmentation_loss']

BaseLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

WEIGHTS: dict[str, Callable[[int, bool], float]] = {
    'same': lambda scale, is_finest: 1.,
    'exp': lambda scale, is_finest: 2. ** -scale,
    'two': lambda scale, is_finest: 1. if is_finest else 0.5,
}
TARGETS = ('nearest', 'majority', 'object', 'soft', 'upsample')

_SMP_LOSSES = tuple(
    loss for loss in (getattr(smp.losses, name) for name in smp.losses.__all__) if isinstance(loss, type))
_TORCH_IGNORE_INDEX = -100  # what torch's losses take for "no label is ignored"


@contextmanager
def _full_precision(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """`x` in float32, or as it is where it is wider, and no autocast on its device within the block."""
    with torch.autocast(x.device.type, enabled=False):
        yield x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


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
            _check_takes_shares(base_loss)
        several = isinstance(base_loss, Sequence)
        losses = list(base_loss) if several else [base_loss]
        if ignore_index is None:
            told = [getattr(loss, 'ignore_index', None) for loss in losses]
            # torch's default, which stands for no label, gives way to a label that another loss was told
            ignore_index = min(
                (own for own in told if own is not None), key=lambda own: own == _TORCH_IGNORE_INDEX, default=None)
        self.weights = weights
        self.target = target
        self.ignore_index = ignore_index
        losses = [_ignoring(loss, ignore_index) for loss in losses]
        # a module list keeps the buffers of the losses, such as class weights, on the right device
        self.base_loss = nn.ModuleList(losses) if several else losses[0]
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
        result = {'loss': sum(weight * loss for weight, loss in zip(weights, losses, strict=True))}
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
        with _full_precision(output) as output:
            if self.target == 'upsample':
                output = enlarge(output, scale, target.shape[-2:])
            elif self.target == 'soft' and scale > 0 and channels > 1 and (target.ndim == 3 or target.shape[1] == 1):
                labels = target if target.ndim == 3 else target[:, 0]
                loss = _loss_of_shares(base_loss, output, soft_target(labels, scale, channels, self.ignore_index))
                return _scalar(loss)
            else:
                target = self._target_at(target, output, scale)
            return _scalar(_loss_of_labels(base_loss, output, target, self.ignore_index))

    def _target_at(self, target: torch.Tensor, output: torch.Tensor, scale: int) -> torch.Tensor:
        if self.target == 'nearest' or scale == 0:
            return resize_target(target, output.shape[-2:])
        cells = dict(scale=scale, num_classes=max(2, output.shape[1]), ignore_index=self.ignore_index)
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
    sizes, right = [tuple(output.shape[-2:]) for output in outputs], [scale_size(target.shape[-2:], s) for s in scales]
    if sizes != right:
        raise ValueError(
            f'The outputs of scales {tuple(scales)} must have the sizes {right} for a target of '
            f'{target.shape[-2]} x {target.shape[-1]}, got {sizes}.')
    return list(scales)


def _scalar(loss: torch.Tensor) -> torch.Tensor:
    if loss.ndim:
        raise ValueError(
            f"base_loss must return a scalar, got a loss of shape {tuple(loss.shape)}: give it reduction='mean'.")
    return loss


# How base losses are called: labels in the form that they take, and no loss for what is not labelled.


def _check_takes_shares(base_loss: BaseLoss | Sequence[BaseLoss]) -> None:
    losses = base_loss if isinstance(base_loss, Sequence) else [base_loss]
    for part in (part for loss in losses if isinstance(loss, nn.Module) for part in loss.modules()):
        if getattr(part, 'mode', None) == 'multiclass' or isinstance(part, smp.losses.SoftCrossEntropyLoss):
            raise ValueError(
                f"target='soft' gives the shares of the classes, and SMP's {type(part).__name__} takes labels only: "
                "take torch's cross entropy ('ce'), or another target, such as 'majority'.")


def _loss_of_shares(base_loss: BaseLoss, output: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """A mean loss over the cells that have a label, whose shares sum to 1; those of the others are all 0."""
    if isinstance(base_loss, _SegmentationLoss):
        return base_loss(output, shares)
    if isinstance(base_loss, nn.CrossEntropyLoss):
        return _soft_cross_entropy(
            output, shares, base_loss.weight, base_loss.label_smoothing, base_loss.reduction)
    labelled = shares.sum(1) > 0
    if labelled.all():
        return base_loss(output, shares)
    if not labelled.any():
        return 0. * output.sum()
    return base_loss(_pixels(output, labelled), _pixels(shares, labelled))


def _pixels(x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) and (N, H, W) bool -> (1, C, P, 1), the chosen pixels as one image."""
    return x.movedim(1, -1)[chosen].T[None, :, :, None]


def _soft_cross_entropy(
        logits: torch.Tensor,
        shares: torch.Tensor,
        weight: torch.Tensor | None = None,
        label_smoothing: float = 0.,
        reduction: str = 'mean',
) -> torch.Tensor:
    """Torch's cross entropy of probabilities, 0 where they are all 0, and divided as torch divides that of labels."""
    weight = None if weight is None else weight.to(logits.dtype)
    losses = F.cross_entropy(logits, shares, weight, label_smoothing=label_smoothing, reduction='none')
    # smoothing gives a cell without a label shares too
    losses = torch.where(shares.sum(1) > 0, losses, 0.)
    if reduction != 'mean':
        return losses.sum() if reduction == 'sum' else losses
    # with probabilities torch divides by all cells, with labels by the weights of those that have one; so does this
    counted = shares if weight is None else shares * weight.view(-1, 1, 1)
    return losses.sum() / counted.sum().clamp(min=1e-6)


def _own_ignore_index(base_loss: BaseLoss) -> int | None:
    """The label that a loss was told to ignore; None where it was told none, and for torch's default."""
    own = getattr(base_loss, 'ignore_index', None)
    return None if own == _TORCH_IGNORE_INDEX else own


def _ignoring(base_loss: BaseLoss, ignore_index: int | None) -> BaseLoss:
    """A loss of torch, SMP or this file that was told no ignored label, as a copy that ignores this; others as they
    are."""
    known = isinstance(base_loss, (nn.CrossEntropyLoss, _SegmentationLoss, *_SMP_LOSSES))
    told = _own_ignore_index(base_loss) is not None or getattr(base_loss, 'ignore_index', None) == ignore_index
    if not known or told or _ignores_no_entry(base_loss):
        return base_loss
    base_loss = deepcopy(base_loss)
    for part in base_loss.modules():
        if hasattr(part, 'ignore_index'):
            part.ignore_index = ignore_index
    return base_loss


def _ignores_no_entry(base_loss: BaseLoss) -> bool:
    # with an ignored label it indexes one class with the mask of all
    return isinstance(base_loss, smp.losses.FocalLoss) and base_loss.mode == 'multilabel'


def _loss_of_labels(
        base_loss: BaseLoss,
        output: torch.Tensor,
        target: torch.Tensor,
        ignore_index: int | None,
) -> torch.Tensor:
    """The base loss of labels (N, H, W) or (N, 1, H, W), or masks (N, C, H, W); 0 where all are ignored."""
    if isinstance(base_loss, _SegmentationLoss):
        return base_loss(output, target)
    own = _own_ignore_index(base_loss)
    ignore_index = ignore_index if own is None else own
    if isinstance(base_loss, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, *_SMP_LOSSES)):
        target = _in_the_form_of(base_loss, output, target, ignore_index)
    if isinstance(base_loss, nn.CrossEntropyLoss) and target.ndim == 4:
        if ignore_index is not None:
            target = torch.where((target != ignore_index).all(1, keepdim=True), target, 0)
        return _loss_of_shares(base_loss, output, target.to(output.dtype))
    if type(base_loss) is nn.BCEWithLogitsLoss:
        return _binary_cross_entropy_of_torch(base_loss, output, target, ignore_index)
    if ignore_index is None:
        return base_loss(output, target)
    labelled = target != ignore_index
    if _ignores_no_entry(base_loss):
        if not labelled.all():
            raise ValueError(
                f"SMP's FocalLoss of mode 'multilabel' cannot ignore entries of masks, got the ignore_index "
                f'{ignore_index} in them: take another loss, such as torch.nn.BCEWithLogitsLoss.')
        return base_loss(output, target)
    any_labelled = labelled.any()
    # A mean over no pixel is 0/0 and so is its gradient. Give such a target labels, and the loss weight 0.
    target = torch.where(any_labelled, target, 1 if ignore_index == 0 else 0)
    if isinstance(base_loss, smp.losses.MCCLoss):  # the only one of SMP that ignores nothing
        labelled = (labelled | ~any_labelled).view(len(output), *output.shape[2:])
        output, target = _pixels(output, labelled), target.view_as(labelled)[labelled][None, :, None]
    return torch.where(any_labelled, base_loss(output, target), 0.)


def _in_the_form_of(
        base_loss: nn.Module,
        output: torch.Tensor,
        target: torch.Tensor,
        ignore_index: int | None,
) -> torch.Tensor:
    """The target in the shape and dtype that a loss of torch or SMP takes, its values checked."""
    mode = getattr(base_loss, 'mode', None)
    several = isinstance(base_loss, (nn.CrossEntropyLoss, smp.losses.SoftCrossEntropyLoss)) or mode == 'multiclass'
    if target.ndim == 4 and target.shape[1] == 1 and (several or mode == 'binary'):
        target = target[:, 0]
    if several and target.ndim == 3:
        return check_labels(target, output.shape[1], ignore_index)
    if several and not isinstance(base_loss, nn.CrossEntropyLoss):
        raise ValueError(
            f"SMP's {type(base_loss).__name__} of several classes takes labels (N, H, W), got masks "
            f"{tuple(target.shape)}: pass target.argmax(1), or a loss of mode 'multilabel'.")
    check_masks(target, ignore_index)
    if isinstance(base_loss, (nn.BCEWithLogitsLoss, smp.losses.SoftBCEWithLogitsLoss)):
        # labels of a binary output become masks (N, 1, H, W)
        return (target[:, None] if target.ndim == 3 and output.shape[1] == 1 else target).to(output.dtype)
    return target if target.is_floating_point() else target.long()


def _binary_cross_entropy_of_torch(
        base_loss: nn.BCEWithLogitsLoss,
        output: torch.Tensor,
        target: torch.Tensor,
        ignore_index: int | None,
) -> torch.Tensor:
    """Torch's binary cross entropy, which has no ignored label, over the labelled entries."""
    if ignore_index is None:
        return base_loss(output, target)
    labelled = target != ignore_index
    losses = F.binary_cross_entropy_with_logits(
        output, torch.where(labelled, target, 0.), base_loss.weight, reduction='none', pos_weight=base_loss.pos_weight)
    losses = torch.where(labelled, losses, 0.)
    if base_loss.reduction == 'mean':
        return losses.sum() / labelled.sum().clamp(min=1)
    return losses.sum() if base_loss.reduction == 'sum' else losses


# Losses by name.


class _CrossEntropy(nn.Module):
    """Cross entropy of labels, binary or of several classes, as the weighted mean over the labelled pixels.

    A binary one is that of two classes with logits 0 and z.
    """

    def __init__(self, num_classes: int, ignore_index: int | None, class_weights: torch.Tensor | None = None):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.register_buffer('weight', class_weights)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, C, H, W) and labels (N, H, W); a binary target may hold shares of class 1."""
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if self.num_classes > 1:
            ignored = _TORCH_IGNORE_INDEX if self.ignore_index is None else self.ignore_index
            return F.cross_entropy(logits, target, weight, ignore_index=ignored)
        target = target.to(logits.dtype)
        counted = torch.ones_like(target) if self.ignore_index is None else (target != self.ignore_index).to(target)
        target = target * counted
        if weight is not None:
            counted = counted * torch.lerp(weight[0], weight[1], target)
            # the weights of the two halves of the loss of a pixel, over what they sum to
            z = logits[:, 0]
            losses = weight[0] * (1 - target) * F.softplus(z) + weight[1] * target * F.softplus(-z)
            return (losses * (counted > 0)).sum() / counted.sum().clamp(min=1e-6)
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction='none')
        return (losses * counted).sum() / counted.sum().clamp(min=1)


class _SegmentationLoss(nn.Module):
    """Sum of losses by name, in float32, of labels that are checked; 0 with gradient 0 where all are ignored."""

    def __init__(
            self,
            losses: Mapping[str, nn.Module],
            times: Mapping[str, int],
            num_classes: int,
            ignore_index: int | None,
    ):
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.times = dict(times)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of a batch.

        Args:
            logits: (N, num_classes, H, W) of any float dtype.
            target: (N, H, W) or (N, 1, H, W) labels; of a binary loss also shares of the foreground, 0 to 1. The cross
                entropy of several classes takes their shares too, (N, num_classes, H, W) floats that are all 0 in
                pixels without a label.

        Returns:
            Scalar, float32 for logits of 16 bits.

        Raises:
            ValueError: Another number of channels, another form of target, or labels out of range.
        """
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f'The loss is one of num_classes {self.num_classes}, got logits of {logits.shape[1]} channels.')
        if target.ndim == 4 and target.shape[1] == 1:
            target = target[:, 0]
        with _full_precision(logits) as logits:
            if target.ndim == 4:
                return self._of_shares(logits, target)
            if self.num_classes > 1 or not target.is_floating_point():
                target = check_labels(target, max(2, self.num_classes), self.ignore_index)
            else:
                check_masks(target, self.ignore_index)
            if self.ignore_index is None:
                return self._of_labels(logits, target)
            # a mean over no pixel is 0/0 and so is its gradient: give it labels and weight 0
            any_labelled = (target != self.ignore_index).any()
            target = torch.where(any_labelled, target, 1 if self.ignore_index == 0 else 0)
            return torch.where(any_labelled, self._of_labels(logits, target), 0.)

    def _of_labels(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return sum(times * self.losses[part](logits, target) for part, times in self.times.items())

    def _of_shares(self, logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        if set(self.times) != {'ce'} or not shares.is_floating_point():
            raise ValueError(
                f"The target must be labels (N, H, W), or for the loss 'ce' the shares of the classes as floats, got "
                f"{shares.dtype} {tuple(shares.shape)} for {'+'.join(self.times)!r}: pass the labels of one-hot masks, "
                'target.argmax(1).')
        return self.times['ce'] * _soft_cross_entropy(logits, shares.to(logits.dtype), self.losses['ce'].weight)


def create_segmentation_loss(
        name: str,
        num_classes: int,
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
) -> nn.Module:
    """A base loss by name.

    Each is taken over the labelled pixels of the batch only. The cross entropy of one channel equals that of two whose
    first is 0.

    Args:
        name: 'ce' (cross entropy), 'dice', 'focal' or 'lovasz', or their sum, such as 'ce+dice'.
        num_classes: Channels of the logits; with 1 the losses are binary.
        ignore_index: Label without a loss, one of the classes or not; None: all pixels count.
        class_weights: Weight of each class in the cross entropy, above 0, for rare classes; two of a binary loss,
            background and foreground. The mean is divided by the weights of the labelled pixels. That of an ignored
            class has no effect and may be anything. The other losses have none.

    Returns:
        A loss of (N, num_classes, H, W) logits and (N, H, W) labels.

    Raises:
        ValueError: An unknown name, no class, or weights that do not fit.
    """
    if num_classes < 1:
        raise ValueError(f'num_classes must be 1, for binary masks, or more, got {num_classes}.')
    mode = 'binary' if num_classes == 1 else 'multiclass'
    factories = {
        'ce': lambda: _CrossEntropy(num_classes, ignore_index, weights),
        'dice': lambda: smp.losses.DiceLoss(mode, ignore_index=ignore_index),
        'focal': lambda: smp.losses.FocalLoss(mode, ignore_index=ignore_index),
        'lovasz': lambda: smp.losses.LovaszLoss(mode, ignore_index=ignore_index),
    }
    parts = name.split('+')
    if not all(part in factories for part in parts):
        raise ValueError(f"The loss must be one of {', '.join(factories)}, or a sum such as 'ce+dice', got {name!r}.")
    weights = None
    if class_weights is not None:
        if 'ce' not in parts:
            raise ValueError(f"Class weights belong to the cross entropy, got the loss {name!r}: add it, 'ce+{name}'.")
        weights = _weights_of_classes(class_weights, max(2, num_classes), ignore_index)
    times = Counter(parts)  # 'ce+dice+dice' computes dice once
    return _SegmentationLoss({part: factories[part]() for part in times}, times, num_classes, ignore_index)


def _weights_of_classes(class_weights: Sequence[float], number: int, ignore_index: int | None) -> torch.Tensor:
    weights = [0. if label == ignore_index else weight for label, weight in enumerate(class_weights)]
    counted = [weight for label, weight in enumerate(weights) if label != ignore_index]
    if len(weights) != number or not all(isfinite(weight) and weight > 0 for weight in counted):
        raise ValueError(
            f'There must be {number} class weights above 0, one for each class, got {len(class_weights)}: '
            f'{tuple(class_weights)}.')
    return torch.tensor(weights, dtype=torch.float32)
