"""Metrics of dense tasks from exact sums, added up over images and ranks.

A confusion matrix, boundaries and calibration of classes, and errors of depth.
"""
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist

from ..disparity import valid_depth
from .targets import check_labels

__all__ = ['BoundaryCounts', 'CalibrationSums', 'ConfusionMatrix', 'DepthErrors', 'boundary_band', 'distinct_names']


def distinct_names(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Names of classes, no two of them equal.

    Args:
        names: A name for each class, or None.
        num_classes: Number of classes.

    Returns:
        The names; 'NAME (class I)' for those that several classes have, and the numbers of the classes where there are
        no names.

    Raises:
        ValueError: More or fewer names than classes.
    """
    if names is None:
        return [str(index) for index in range(num_classes)]
    if isinstance(names, str) or len(names) != num_classes:
        received = repr(names) if isinstance(names, str) else f'{len(names)}: {", ".join(map(str, names))}'
        raise ValueError(
            f'class_names must be one name for each of the {num_classes} classes, in their order, without the ignored '
            f'label if that is no class, got {received}.')
    names = [str(name) for name in names]
    result = [name if names.count(name) == 1 else f'{name} (class {index})' for index, name in enumerate(names)]
    return result if len(set(result)) == len(result) else [f'{name} (class {i})' for i, name in enumerate(names)]


class ConfusionMatrix:
    """Counts of (true class, predicted class) pixels, from which IoU, Dice and accuracy follow exactly.

    A batch's metrics are never averaged: the counts are summed over batches and ranks, and the ratios are taken once.

    An ignored label may be one of the classes. Its pixels do not count, its own entries are NaN, and no mean includes
    it. Where it is predicted on a labelled pixel, the true class has missed that pixel.

    Args:
        num_classes: Number of classes, at least 2.
        ignore_index: Label of pixels that do not count, one of the classes or not.
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
            prediction: Predicted classes, whole numbers of any shape.
            target: True classes of the same shape, in 0..num_classes-1 or `ignore_index`.

        Raises:
            ValueError: Different shapes, or a label outside the classes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f'prediction and target must have one shape, got {tuple(prediction.shape)} and {tuple(target.shape)}.')
        prediction, target = prediction.to(self.counts.device), target.to(self.counts.device)
        if self.ignore_index is not None:
            valid = target != self.ignore_index
            prediction, target = prediction[valid], target[valid]
        prediction = check_labels(prediction, self.num_classes, name='prediction')
        target = check_labels(target, self.num_classes, self.ignore_index)
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

    def _of_classes(self, ratio: torch.Tensor) -> torch.Tensor:
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            ratio[self.ignore_index] = math.nan
        return ratio

    @property
    def is_empty(self) -> bool:
        """Whether no labelled pixel was counted, so that all metrics are NaN."""
        return not self.counts.any()

    def iou(self) -> torch.Tensor:
        """(num_classes,) intersection over union in 0..1; NaN for a class neither predicted nor present."""
        hits, predicted, present = self._totals()
        return self._of_classes(hits / (predicted + present - hits))

    def dice(self) -> torch.Tensor:
        """(num_classes,) Dice coefficient (F1) in 0..1; NaN for a class neither predicted nor present."""
        hits, predicted, present = self._totals()
        return self._of_classes(2 * hits / (predicted + present))

    def precision(self) -> torch.Tensor:
        """(num_classes,) share of the pixels given to a class that are of it, in 0..1; NaN for one never predicted."""
        hits, predicted, _ = self._totals()
        return self._of_classes(hits / predicted)

    def recall(self) -> torch.Tensor:
        """(num_classes,) share of each class's pixels that were found, in 0..1; NaN for a class not present."""
        hits, _, present = self._totals()
        return self._of_classes(hits / present)

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels with the right class, in 0..1; NaN where nothing was counted."""
        hits, _, present = self._totals()
        return (hits.sum() / present.sum()).item()

    def summary(self, class_names: Sequence[str] | None = None) -> dict[str, float]:
        """All metrics in percent.

        Means are over the classes that are present or predicted at least once, without an ignored one.

        Args:
            class_names: Names for the per-class entries, made distinct by `distinct_names`; None: the numbers of the
                classes.

        Returns:
            {'miou', 'mdice', 'macc' (mean recall), 'pixel_acc', 'iou_NAME' for every class}

        Raises:
            ValueError: More or fewer names than classes.
        """
        iou = self.iou()
        return {
            'miou': 100 * iou.nanmean().item(),
            'mdice': 100 * self.dice().nanmean().item(),
            'macc': 100 * self.recall().nanmean().item(),
            'pixel_acc': 100 * self.pixel_accuracy(),
            **{
                f'iou_{name}': 100 * value
                for name, value in zip(distinct_names(class_names, self.num_classes), iou.tolist(), strict=True)},
        }


def boundary_band(labels: torch.Tensor, distance: int, valid: torch.Tensor | None = None) -> torch.Tensor:
    """The pixels that erosion of their own class by a square takes away.

    They are those with another label, or with the edge of the image, within `distance` pixels along both axes. Pixels
    that are not valid make no boundary, since what lies there is not known, and are in no band.

    Args:
        labels: (H, W) integer labels.
        distance: The square has a side of 2 * distance + 1; at least 1.
        valid: bool (H, W), the pixels that count; None: all.

    Returns:
        bool (H, W).
    """
    if distance < 1:
        raise ValueError(f'distance must be at least 1 pixel, got {distance}.')
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    limits = torch.iinfo(labels.dtype)
    # a square of one label has one largest and smallest label; what is not valid is neither
    largest = _largest_in_square(labels.masked_fill(~valid, limits.min), distance, limits.min)
    smallest = ~_largest_in_square(~labels.masked_fill(~valid, limits.max), distance, ~limits.max)
    band = largest != smallest
    height, width = labels.shape
    band[:distance] = band[max(height - distance, 0):] = True
    band[:, :distance] = band[:, max(width - distance, 0):] = True
    return band & valid


def _largest_in_square(values: torch.Tensor, distance: int, lowest: int) -> torch.Tensor:
    """The largest value within `distance` along both axes, in a number of steps that grows with log2(distance)."""
    length = 2 * distance + 1
    for dim in (0, 1):
        padding = values.new_full([distance if d == dim else n for d, n in enumerate(values.shape)], lowest)
        values, reach = torch.cat([padding, values, padding], dim), 1  # values[i] is the largest of i..i+reach-1
        while reach < length:
            step = min(reach, length - reach)
            number = values.shape[dim] - step
            values = torch.maximum(values.narrow(dim, 0, number), values.narrow(dim, step, number))
            reach += step
    return values


class BoundaryCounts:
    """Counts from which the boundary IoU of classes follows (Cheng et al., https://arxiv.org/abs/2103.16562).

    It is the IoU of what lies near the boundary of each class: of truth and prediction only the pixels count that an
    erosion of the class by a square of side 2 d + 1 takes away, d being a share of the diagonal of the image. As in the
    paper, the edge of the image is a boundary. Ignored pixels are in neither, and make no boundary. The counts are
    summed over images, and the ratios are taken once.

    Args:
        num_classes: Number of classes, at least 2.
        ignore_index: Label of pixels that do not count; one of the classes is NaN, as in `ConfusionMatrix`.
        share: d as a share of the diagonal, rounded to pixels, at least 1 pixel.
        device: Device of the counts.
    """

    def __init__(
            self,
            num_classes: int,
            ignore_index: int | None = None,
            share: float = 0.02,
            device: torch.device | str | None = None,
    ):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.share = share
        self.counts = torch.zeros((3, num_classes), dtype=torch.int64, device=device)  # in both, of truth, predicted

    @torch.no_grad()
    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Count an image.

        Args:
            prediction: (H, W) predicted classes.
            target: (H, W) true classes or `ignore_index`.

        Raises:
            ValueError: Different shapes, several images, or a label outside the classes.
        """
        if prediction.shape != target.shape or target.ndim != 2:
            raise ValueError(
                f'prediction and target must be one image (H, W), got {tuple(prediction.shape)} and '
                f'{tuple(target.shape)}.')
        prediction, target = prediction.to(self.counts.device), target.to(self.counts.device)
        prediction = check_labels(prediction, self.num_classes, name='prediction')
        target = check_labels(target, self.num_classes, self.ignore_index)
        valid = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None else target != self.ignore_index
        distance = max(1, round(self.share * math.hypot(*target.shape)))
        true_band, predicted_band = (boundary_band(labels, distance, valid) for labels in (target, prediction))
        both = true_band & predicted_band & (prediction == target)
        self.counts += torch.stack([
            torch.bincount(labels, minlength=self.num_classes)
            for labels in (target[both], target[true_band], prediction[predicted_band])])

    def iou(self) -> torch.Tensor:
        """(num_classes,) boundary IoU in 0..1; NaN for a class neither predicted nor present."""
        both, present, predicted = self.counts.cpu().double()
        ratio = both / (present + predicted - both)
        if self.ignore_index is not None and 0 <= self.ignore_index < self.num_classes:
            ratio[self.ignore_index] = math.nan
        return ratio


class CalibrationSums:
    """Sums from which the expected calibration error follows (Guo et al., https://arxiv.org/abs/1706.04599).

    The probabilities of the predicted classes are sorted into equal bins. Within a bin, the share of right predictions
    should be the mean probability; the error is the mean difference of the two, each bin with the weight of its pixels.

    Args:
        num_bins: Number of bins from 0 to 1. A probability on the border of two is in the lower one.
        device: Device of the sums.
    """

    def __init__(self, num_bins: int = 15, device: torch.device | str | None = None):
        self.num_bins = num_bins
        self.dtype = torch.float32 if torch.device(device or 'cpu').type == 'mps' else torch.float64  # MPS lacks it
        self.sums = torch.zeros((3, num_bins), dtype=self.dtype, device=device)  # pixels, right ones, probabilities

    @torch.no_grad()
    def update(self, probability: torch.Tensor, correct: torch.Tensor) -> None:
        """Count pixels or images.

        Args:
            probability: Of the predicted class, 0 to 1, any shape; only of what is labelled.
            correct: bool of the same shape, whether the prediction is right.
        """
        probability = probability.to(self.sums.device, self.dtype).flatten()
        borders = torch.arange(1, self.num_bins, device=probability.device, dtype=self.dtype) / self.num_bins
        index = torch.bucketize(probability, borders)
        rows = torch.stack([torch.ones_like(probability), correct.to(probability).flatten(), probability])
        self.sums.index_add_(1, index, rows)

    def error(self) -> float:
        """Expected calibration error in 0..1; NaN where nothing was counted."""
        number, right, probability = self.sums.cpu().double()
        return ((right - probability).abs().sum() / number.sum()).item()


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
        dtype = torch.float32 if torch.device(device or 'cpu').type == 'mps' else torch.float64  # MPS lacks it
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

    @property
    def is_empty(self) -> bool:
        """Whether no pixel of a valid depth was counted, so that all metrics are NaN."""
        return not self.sums[0] > 0

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
