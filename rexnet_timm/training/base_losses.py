"""Base losses: by name, and how those of torch and SMP are called so that only labelled pixels count.

All compute in float32 or wider, under autocast too: sums over the pixels of a batch overflow or stall in 16 bits.
"""
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from math import isfinite
from typing import Any, TypeVar

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import near_names
from ..extensions import add_to_table
from .targets import check_labels, check_masks

__all__ = [
    'LOSSES', 'TORCH_IGNORE_INDEX', 'BaseLoss', 'check_takes_shares', 'create_segmentation_loss', 'full_precision',
    'ignoring', 'loss_of_labels', 'loss_of_shares', 'register_loss']

BaseLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_SMP_LOSSES = tuple(
    loss for loss in (getattr(smp.losses, name) for name in smp.losses.__all__) if isinstance(loss, type))
TORCH_IGNORE_INDEX = -100  # what torch's losses take for "no label is ignored"


@contextmanager
def full_precision(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """`x` in float32, or as it is where it is wider, and no autocast on its device within the block."""
    with torch.autocast(x.device.type, enabled=False):
        yield x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_takes_shares(base_loss: BaseLoss | Sequence[BaseLoss]) -> None:
    losses = base_loss if isinstance(base_loss, Sequence) else [base_loss]
    for part in (part for loss in losses if isinstance(loss, nn.Module) for part in loss.modules()):
        if getattr(part, 'mode', None) == 'multiclass' or isinstance(part, smp.losses.SoftCrossEntropyLoss):
            raise ValueError(
                f"target='soft' gives the shares of the classes, and SMP's {type(part).__name__} takes labels only: "
                "take torch's cross entropy ('ce'), or another target, such as 'majority'.")


def loss_of_shares(base_loss: BaseLoss, output: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
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
    return None if own == TORCH_IGNORE_INDEX else own


def ignoring(base_loss: BaseLoss, ignore_index: int | None) -> BaseLoss:
    """A loss of torch, SMP or this file that was told no ignored label, as a copy that ignores this; others as they
    are."""
    known = isinstance(base_loss, (nn.CrossEntropyLoss, _SegmentationLoss, *_SMP_LOSSES))
    has_own = _own_ignore_index(base_loss) is not None or getattr(base_loss, 'ignore_index', None) == ignore_index
    if not known or has_own or _ignores_no_entry(base_loss):
        return base_loss
    told: Any = deepcopy(base_loss)
    for part in told.modules():
        if hasattr(part, 'ignore_index'):
            part.ignore_index = ignore_index
    return told


def _ignores_no_entry(base_loss: BaseLoss) -> bool:
    # with an ignored label it indexes one class with the mask of all
    return isinstance(base_loss, smp.losses.FocalLoss) and base_loss.mode == 'multilabel'


def loss_of_labels(
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
        return loss_of_shares(base_loss, output, target.to(output.dtype))
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
        base_loss: BaseLoss,
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

    weight: torch.Tensor | None

    def __init__(self, num_classes: int, ignore_index: int | None, class_weights: torch.Tensor | None = None):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.register_buffer('weight', class_weights)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Loss of logits (N, C, H, W) and labels (N, H, W); a binary target may hold shares of class 1."""
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        if self.num_classes > 1:
            ignored = TORCH_IGNORE_INDEX if self.ignore_index is None else self.ignore_index
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
        with full_precision(logits) as logits:
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
        return self.times['ce'] * _soft_cross_entropy(
            logits, shares.to(logits.dtype), self.losses['ce'].get_buffer('weight'))


def _of_smp(loss: type[nn.Module], num_classes: int, ignore_index: int | None) -> nn.Module:
    return loss('binary' if num_classes == 1 else 'multiclass', ignore_index=ignore_index)


# Losses by name, those of other packages too: from the number of classes and the ignored label to the loss
LOSSES: dict[str, Callable[[int, int | None], nn.Module]] = {
    'ce': _CrossEntropy, 'dice': partial(_of_smp, smp.losses.DiceLoss), 'focal': partial(_of_smp, smp.losses.FocalLoss),
    'lovasz': partial(_of_smp, smp.losses.LovaszLoss)}

LossFactory = TypeVar('LossFactory', bound=Callable[[int, int | None], nn.Module])


def register_loss(name: str) -> Callable[[LossFactory], LossFactory]:
    """A decorator that makes a loss one of those of `create_segmentation_loss` and `rexnet train`, under a name.

    It stands over a module's class, or a function that gives a module, which is called with `num_classes`, 1 for binary
    masks, and `ignore_index`, None where all pixels count. The module is called, at each scale, with logits
    (N, num_classes, H, W) of float32 and labels (N, H, W), checked: int64 from 0 to num_classes - 1, or `ignore_index`;
    of binary masks they may be floats, shares of the foreground. It returns the mean over the labelled pixels, a
    scalar, which does not count where none is labelled. It keeps the ignored label as its attribute `ignore_index`.

    Raises:
        ValueError: A name that another package has registered, or that is no name.
    """
    def register(loss: LossFactory) -> LossFactory:
        return add_to_table(LOSSES, 'loss', name, loss)

    return register


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
        name: A name in `LOSSES`: 'ce' (cross entropy), 'dice', 'focal', 'lovasz' or one of `register_loss`; or a sum,
            such as 'ce+dice'.
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
    parts = name.split('+')
    unknown = [part for part in parts if part not in LOSSES]
    if unknown:
        raise ValueError(
            f"The loss must be one of {', '.join(LOSSES)}, or one that a package registers when it is imported, or a "
            f"sum such as 'ce+dice', got {name!r}.{near_names(unknown[0], LOSSES)}")
    weights = None
    if class_weights is not None:
        if 'ce' not in parts:
            raise ValueError(f"Class weights belong to the cross entropy, got the loss {name!r}: add it, 'ce+{name}'.")
        weights = _weights_of_classes(class_weights, max(2, num_classes), ignore_index)
    times = Counter(parts)  # 'ce+dice+dice' computes dice once
    losses = {part: LOSSES[part](num_classes, ignore_index) for part in times}
    if weights is not None:
        losses['ce'] = _CrossEntropy(num_classes, ignore_index, weights)
    for part, loss in losses.items():
        if not isinstance(loss, nn.Module):
            raise ValueError(
                f'What is registered as the loss {part!r} must give a torch.nn.Module, got {type(loss).__name__}.')
    return _SegmentationLoss(losses, times, num_classes, ignore_index)


def _weights_of_classes(class_weights: Sequence[float], number: int, ignore_index: int | None) -> torch.Tensor:
    weights = [0. if label == ignore_index else weight for label, weight in enumerate(class_weights)]
    counted = [weight for label, weight in enumerate(weights) if label != ignore_index]
    if len(weights) != number or not all(isfinite(weight) and weight > 0 for weight in counted):
        raise ValueError(
            f'There must be {number} class weights above 0, one for each class, got {len(class_weights)}: '
            f'{tuple(class_weights)}.')
    return torch.tensor(weights, dtype=torch.float32)
