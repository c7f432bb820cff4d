""" Multi-scale loss

Deep supervision for the logits of `MultiScaleUnet`: one base loss at every scale, on a target resized to it, summed
with weights. The scheme is that of Deeply-Supervised Nets, https://arxiv.org/abs/1409.5185; halving the weight with
each halving of the size is nnU-Net's, https://arxiv.org/abs/1809.10486.
"""
from collections.abc import Callable, Sequence
from functools import partial

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn

__all__ = ['MultiScaleLoss', 'create_segmentation_loss', 'resize_target']


def resize_target(target: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Shrink a label map by taking the label in the middle of each cell, so that no label is invented.

    Args:
        target: (N, H, W) labels of any dtype, or (N, C, H, W) masks.
        size: New height and width.

    Returns:
        (N, *size) or (N, C, *size), same dtype; `target` itself where it has that size already.
    """
    for dim, length in zip((-2, -1), size, strict=True):
        if target.shape[dim] != length:
            # integer arithmetic: floor((i + 0.5) * old / new)
            middle = (2 * torch.arange(length, device=target.device) + 1) * target.shape[dim] // (2 * length)
            target = target.index_select(dim, middle)
    return target


class MultiScaleLoss(nn.Module):
    """Weighted sum of a base loss over the scales of a network's output.

    With one output it is the base loss itself.

    Args:
        base_loss: Any loss of `(logits, target)` that returns a scalar: torch's, SMP's or your own.
        weights: Weights of the scales, normalised to sum 1. 'same': equal. 'exp': 1 / 2**s for scale s. Or a sequence
            of non-negative numbers, one for each output, finest first.
        target: How the target is brought to the size of each scale. 'nearest': the label in the middle of each cell.
        ignore_index: Label without a loss. It must be what `base_loss` ignores; None asks its attribute of that
            name. A scale where no other label is left has loss 0 and gradient 0, where a mean would not be finite.

    Raises:
        ValueError: Unknown `weights` or `target`, negative weights, or weights that sum to 0.
    """

    def __init__(
            self,
            base_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
            weights: str | Sequence[float] = 'exp',
            target: str = 'nearest',
            ignore_index: int | None = None,
    ):
        super().__init__()
        if isinstance(weights, str):
            if weights not in ('same', 'exp'):
                raise ValueError(f"weights must be 'same', 'exp' or a sequence of numbers, got {weights!r}.")
        else:
            weights = tuple(float(weight) for weight in weights)
            if not weights or min(weights) < 0 or sum(weights) == 0:
                raise ValueError(f'weights must be non-negative and not all 0, got {weights}.')
        if target != 'nearest':
            raise ValueError(f"target must be 'nearest', got {target!r}.")
        self.base_loss = base_loss
        self.weights = weights
        self.target = target
        self.ignore_index = getattr(base_loss, 'ignore_index', None) if ignore_index is None else ignore_index

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Weighted sum over the scales.

        Args:
            outputs: (N, C, H, W) logits, or a sequence of (N, C, ceil(H/2**s), ceil(W/2**s)), finest first.
            target: (N, H, W) labels, or whatever the base loss expects with H and W last.

        Returns:
            Scalar loss.

        Raises:
            ValueError: An output of no scale of the target's size, or a wrong number of weights.
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
        losses = [self._loss_at(output, target) for output in outputs]
        weights = self.scale_weights(scales)
        total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        parts = {f'loss_scale_{scale}': loss.detach() for scale, loss in zip(scales, losses, strict=True)}
        return {'loss': total, **parts}

    def scale_weights(self, scales: Sequence[int]) -> list[float]:
        """The weight of each of `scales`, summing to 1.

        Raises:
            ValueError: `weights` was given as a sequence of another length.
        """
        if self.weights == 'same':
            weights = [1.0] * len(scales)
        elif self.weights == 'exp':
            weights = [2.0 ** -scale for scale in scales]
        elif len(self.weights) == len(scales):
            weights = self.weights
        else:
            raise ValueError(
                f'weights must have one entry for each output: got {len(self.weights)} weights for the '
                f'{len(scales)} scales {tuple(scales)}.')
        return [weight / sum(weights) for weight in weights]

    def _loss_at(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target = resize_target(target, output.shape[-2:])
        if self.ignore_index is None:
            return self.base_loss(output, target)
        # A mean over no pixel is 0/0 and so is its gradient. Give such a target labels, and the loss weight 0.
        any_valid = (target != self.ignore_index).any()
        return self.base_loss(output, torch.where(any_valid, target, 0)) * any_valid


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


def create_segmentation_loss(name: str, num_classes: int, ignore_index: int) -> nn.Module:
    """A base loss by name.

    Args:
        name: 'ce' (cross entropy), 'dice', 'focal' or 'lovasz', or their sum, such as 'ce+dice'.
        num_classes: Channels of the logits; with 1 the losses are binary.
        ignore_index: Label without a loss.

    Returns:
        A loss of (N, num_classes, H, W) logits and (N, H, W) labels.

    Raises:
        ValueError: An unknown name.
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
    losses = [factories[part](ignore_index=ignore_index) for part in parts]
    return losses[0] if len(losses) == 1 else _SumLoss(losses)
