""" Metrics of dense tasks from exact sums, added up over ranks: a confusion matrix, and errors of depth. """
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ..disparity import valid_depth

__all__ = ['ConfusionMatrix', 'DepthErrors']


class ConfusionMatrix:
    """Counts of (true class, predicted class) pixels, from which IoU, Dice and accuracy follow exactly.

    A batch's metrics are never averaged: the counts are summed over batches and ranks, and the ratios are taken once.

    Args:
        num_classes: Number of classes, at least 2.
        ignore_index: Label of pixels that do not count.
        device: Device of the counts, normally that of the network's output.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None, device: torch.device | str | None = None):
        if num_classes < 2:
            raise ValueError(f'num_classes must be at least 2 (background and object), got {num_classes!r}.')
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Predicted classes, integers of any shape.
            target: True classes of the same shape, in 0..num_classes-1 or `ignore_index`.

        Raises:
            ValueError: Different shapes, or a label outside the classes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f'prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}.')
        prediction, target = prediction.to(self.counts.device), target.to(self.counts.device, torch.int64)
        if self.ignore_index is not None:
            valid = target != self.ignore_index
            prediction, target = prediction[valid], target[valid]
        for name, labels in (('prediction', prediction), ('target', target)):
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
                raise ValueError(
                    f'{name} must be in 0..{self.num_classes - 1} or the ignore_index {self.ignore_index}, '
                    f'got values from {int(labels.min())} to {int(labels.max())}.')
        pairs = (target * self.num_classes + prediction).flatten()
        self.counts += torch.bincount(pairs, minlength=self.num_classes ** 2).view_as(self.counts)

    def reduce(self) -> 'ConfusionMatrix':
        """A copy with the counts summed over all ranks; every rank must call it."""
        total = ConfusionMatrix(self.num_classes, self.ignore_index, self.counts.device)
        total.counts = self.counts.clone()
        dist.all_reduce(total.counts)
        return total

    def _totals(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        counts = self.counts.cpu().double()  # not every device has float64
        return counts.diagonal(), counts.sum(0), counts.sum(1)

    def iou(self) -> torch.Tensor:
        """(num_classes,) intersection over union in 0..1; NaN for a class neither predicted nor present."""
        hits, predicted, present = self._totals()
        return hits / (predicted + present - hits)

    def dice(self) -> torch.Tensor:
        """(num_classes,) Dice coefficient (F1) in 0..1; NaN for a class neither predicted nor present."""
        hits, predicted, present = self._totals()
        return 2 * hits / (predicted + present)

    def recall(self) -> torch.Tensor:
        """(num_classes,) share of each class's pixels that were found, in 0..1; NaN for a class not present."""
        hits, _, present = self._totals()
        return hits / present

    def pixel_accuracy(self) -> float:
        """Share of pixels with the right class, in 0..1; NaN where nothing was counted."""
        hits, _, present = self._totals()
        return (hits.sum() / present.sum()).item()

    def summary(self, class_names: Sequence[str] | None = None) -> dict[str, float]:
        """All metrics in percent.

        Means are over the classes that are present or predicted at least once.

        Args:
            class_names: Names for the per-class entries; None: the numbers of the classes.

        Returns:
            {'miou', 'mdice', 'macc' (mean recall), 'pixel_acc', 'iou_NAME' for every class}
        """
        iou = self.iou()
        names = [str(index) for index in range(self.num_classes)] if class_names is None else class_names
        return {
            'miou': 100 * iou.nanmean().item(),
            'mdice': 100 * self.dice().nanmean().item(),
            'macc': 100 * self.recall().nanmean().item(),
            'pixel_acc': 100 * self.pixel_accuracy(),
            **{f'iou_{name}': 100 * value for name, value in zip(names, iou.tolist(), strict=True)},
        }


class DepthErrors:
    """Sums of the errors of depth over pixels, from which the usual metrics follow (Eigen et al., section 4.2,
    https://arxiv.org/abs/1406.2283).

    Sums are over all valid pixels of all images and ranks, and the ratios are taken once: an image counts by its valid
    pixels. Predictions are taken as they are, not scaled to the median of the truth.

    Args:
        min_depth: True depths below it do not count.
        max_depth: True depths above it do not count.
        device: Device of the sums, normally that of the network's output.
    """

    _THRESHOLDS = {'delta1': 1.25, 'delta2': 1.25 ** 2, 'delta3': 1.25 ** 3}

    def __init__(
            self,
            min_depth: float = 0.1,
            max_depth: float = 100.,
            device: torch.device | str | None = None,
    ):
        self.min_depth = min_depth
        self.max_depth = max_depth
        dtype = torch.float32 if torch.device(device or 'cpu').type == 'mps' else torch.float64  # which MPS has not
        # pixels, relative errors, squared errors, pixels below each threshold
        self.sums = torch.zeros(3 + len(self._THRESHOLDS), dtype=dtype, device=device)

    @torch.no_grad()
    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Predicted depth above 0, any shape.
            target: True depth of the same shape; 0, NaN or out of range where it does not count.

        Raises:
            ValueError: Different shapes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f'prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}.')
        prediction, target = (depth.to(self.sums.device, self.sums.dtype) for depth in (prediction, target))
        valid = valid_depth(target, self.min_depth, self.max_depth)
        prediction, target = prediction[valid], target[valid]
        error, ratio = prediction - target, torch.maximum(prediction / target, target / prediction)
        self.sums += torch.stack([
            valid.sum(), (error.abs() / target).sum(), error.square().sum(),
            *((ratio < threshold).sum() for threshold in self._THRESHOLDS.values())])

    def reduce(self) -> 'DepthErrors':
        """A copy with the sums added up over all ranks; every rank must call it."""
        total = DepthErrors(self.min_depth, self.max_depth, self.sums.device)
        total.sums = self.sums.clone()
        dist.all_reduce(total.sums)
        return total

    def summary(self) -> dict[str, float]:
        """The metrics; NaN where nothing was counted.

        Returns:
            {'abs_rel': mean of |error| / depth, 'rmse': root of the mean squared error in metres,
            'delta1', 'delta2', 'delta3': share of pixels wrong by a factor of less than 1.25, 1.25**2, 1.25**3,
            in percent}
        """
        number, relative, squared, *below = self.sums.cpu().double()
        return {
            'abs_rel': (relative / number).item(),
            'rmse': (squared / number).sqrt().item(),
            **{name: (100 * value / number).item() for name, value in zip(self._THRESHOLDS, below, strict=True)},
        }
