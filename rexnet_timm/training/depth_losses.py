"""Losses of depth estimation

Pure functions of disparity, depth and image, and the sum over scales that `DepthTask` minimises.
"""
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..disparity import check_depth_range, disparity_to_depth, valid_depth
from .losses import MultiScaleLoss

__all__ = ['MultiScaleDepthLoss', 'ScaleInvariantLogLoss', 'edge_aware_smoothness', 'scale_invariant_log']


def scale_invariant_log(
        prediction: torch.Tensor,
        target: torch.Tensor,
        valid: torch.Tensor | None = None,
        variance_focus: float = 0.5,
) -> torch.Tensor:
    """Scale-invariant error of logarithms (Eigen et al., https://arxiv.org/abs/1406.2283, equation 4).

    With d = log(prediction) - log(target) over the valid pixels of an image, it is mean(d**2) - variance_focus *
    mean(d)**2, averaged over the images that have a valid pixel.

    Args:
        prediction: (N, ...) depth or disparity above 0.
        target: (N, ...) truth of the same shape, above 0 where `valid`.
        valid: (N, ...) bool, the pixels that count; None: all. What the others hold, NaN included, does not matter.
        variance_focus: Eigen's lambda, 0 to 1. 0 is the squared error of the logarithms. With 1 a factor common to a
            whole image costs nothing.

    Returns:
        Scalar float32 of at least 0; 0 with gradient 0 where no pixel is valid.

    Raises:
        ValueError: Different shapes, or `variance_focus` out of range.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f'prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}.')
    if not 0 <= variance_focus <= 1:
        raise ValueError(f'variance_focus must be from 0 to 1, got {variance_focus}.')
    prediction, target = prediction.float().flatten(1), target.float().flatten(1)
    valid = torch.ones_like(target, dtype=torch.bool) if valid is None else valid.flatten(1)
    # replaced before the logarithm: a NaN times 0 is a NaN, in the loss and in its gradient
    error = torch.where(valid, prediction, 1.).log() - torch.where(valid, target, 1.).log()
    number = valid.sum(1, keepdim=True).clamp(min=1)
    mean = error.sum(1, keepdim=True) / number
    # the variance and what is left of the squared mean, which cannot cancel to below 0
    variance = torch.where(valid, error - mean, 0.).square().sum(1, keepdim=True) / number
    loss = variance + (1 - variance_focus) * mean.square()
    return loss.sum() / valid.any(1).sum().clamp(min=1)


def edge_aware_smoothness(disparity: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Steps of the disparity, which cost less where the image has steps too.

    Mean of |d_x D| exp(-|d_x I|) plus the same in y (Godard et al., https://arxiv.org/abs/1609.03677, equation 5),
    where D is the disparity divided by its mean over the image, so that no scale of it is smoother than another
    (Wang et al., https://arxiv.org/abs/1712.00175).

    Args:
        disparity: (N, 1, h, w), at least 0.
        image: (N, C, h, w), normalised as the network gets it.

    Returns:
        Scalar float32 of at least 0; 0 for a constant disparity.

    Raises:
        ValueError: Different sizes.
    """
    if image.shape[-2:] != disparity.shape[-2:]:
        raise ValueError(
            f'disparity and image must have one size, got {tuple(disparity.shape)} and {tuple(image.shape)}: '
            'shrink the image.')
    disparity, image = disparity.float(), image.float()
    disparity = disparity / disparity.mean((2, 3), keepdim=True).clamp(min=1e-7)
    loss = disparity.new_zeros(())
    for dim in (2, 3):
        if disparity.shape[dim] > 1:  # a map one pixel high or wide has no steps that way
            step, edge = disparity.diff(dim=dim).abs(), image.diff(dim=dim).abs().mean(1, keepdim=True)
            loss = loss + (step * torch.exp(-edge)).mean()
    return loss


def _shrink(image: torch.Tensor, scale: int) -> torch.Tensor:
    """(N, C, H, W) -> (N, C, ceil(H/2**scale), ceil(W/2**scale)), means over the cells."""
    return F.avg_pool2d(image, 2 ** scale, ceil_mode=True, count_include_pad=False) if scale else image


class ScaleInvariantLogLoss(nn.Module):
    """`scale_invariant_log` of the depth of a disparity.

    Args:
        min_depth: Depth of disparity 1, above 0; pixels whose true depth is below it do not count.
        max_depth: Depth of disparity 0; pixels whose true depth is above it do not count.
        variance_focus: As for `scale_invariant_log`.

    Raises:
        ValueError: Not 0 < min_depth < max_depth.
    """

    def __init__(self, min_depth: float = 0.1, max_depth: float = 100., variance_focus: float = 0.5):
        super().__init__()
        check_depth_range(min_depth, max_depth)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.variance_focus = variance_focus

    def forward(self, disparity: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """Loss of disparity (N, 1, H, W) in 0 to 1 and true depth (N, H, W), which is 0 or NaN where it has none."""
        prediction = disparity_to_depth(disparity[:, 0].float(), self.min_depth, self.max_depth)
        return scale_invariant_log(
            prediction, depth, valid_depth(depth, self.min_depth, self.max_depth), self.variance_focus)


class MultiScaleDepthLoss(nn.Module):
    """Scale-invariant log loss and edge-aware smoothness over the scales of a depth network's output.

    Args:
        min_depth: Depth of disparity 1, in metres.
        max_depth: Depth of disparity 0, in metres.
        weights: Weights of the scales in the first loss, as for `MultiScaleLoss`.
        smoothness: Weight of the smoothness at scale 0; halved with each halving of the size, as Godard et al. do.
            The default is small, because the truth says where depth has edges.
        variance_focus: As for `scale_invariant_log`.
        fade_epochs: As for `MultiScaleLoss`.

    Raises:
        ValueError: An argument out of range.
    """

    def __init__(
            self,
            min_depth: float = 0.1,
            max_depth: float = 100.,
            weights: str | Sequence[float] = 'exp',
            smoothness: float = 1e-3,
            variance_focus: float = 0.5,
            fade_epochs: tuple[int, int] | None = None,
    ):
        super().__init__()
        if not 0 <= smoothness < math.inf:
            raise ValueError(f'smoothness must be at least 0 and finite, got {smoothness}.')
        base_loss = ScaleInvariantLogLoss(min_depth, max_depth, variance_focus)
        # the depth in the middle of each cell, so that none between an object and what is behind it is invented
        self.multi_scale = MultiScaleLoss(base_loss, weights, target='nearest', fade_epochs=fade_epochs)
        self.min_depth = min_depth
        self.max_depth = max_depth
        self.smoothness = smoothness

    def set_epoch(self, epoch: int) -> None:
        """Tell the number of the epoch, for `fade_epochs`."""
        self.multi_scale.set_epoch(epoch)

    def forward(
            self,
            outputs: Mapping[tuple[str, int], torch.Tensor],
            depth: torch.Tensor,
            image: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch.

        Args:
            outputs: {('disp', scale): (N, 1, ceil(H/2**scale), ceil(W/2**scale))} in 0 to 1.
            depth: (N, H, W) metres; 0, NaN or out of range where it does not count.
            image: (N, C, H, W) as the network gets it.

        Returns:
            {'loss': weighted sum, 'loss_scale_S': unweighted first loss of scale S, ..., 'loss_smooth'}; the parts
            carry no gradient.

        Raises:
            ValueError: A wrong number of weights, or an output of no scale of the depth's size.
        """
        scales = sorted(scale for _, scale in outputs)
        disparities = [outputs['disp', scale] for scale in scales]
        losses = self.multi_scale.forward_scales(disparities, depth, scales)
        smooth = sum(
            2. ** -scale * edge_aware_smoothness(disparity, _shrink(image.float(), scale))
            for scale, disparity in zip(scales, disparities, strict=True))
        return {**losses, 'loss': losses['loss'] + self.smoothness * smooth, 'loss_smooth': smooth.detach()}

    def finest(self, disparity: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        """The first loss at the finest scale only, of disparity (N, 1, h, w) and depth (N, H, W)."""
        return self.multi_scale.finest(disparity, depth)
