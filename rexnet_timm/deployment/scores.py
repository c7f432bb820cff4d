"""Scores of a validation: sums over all images, a row for each image, exact over several processes.

Each image is counted by itself. What is not a whole number is summed in the order of the data set, so that the sums
depend neither on the batches nor on the number of processes; only a network may round otherwise in another batch, which
shows in the last digits of the calibration error. Rates are in percent, the calibration error too.
"""
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from ..training.metrics import BoundaryCounts, CalibrationSums, ConfusionMatrix, DepthErrors, distinct_names

__all__ = ['ClassScores', 'DepthScores', 'Scores', 'SegmentationScores']

Row = dict[str, Any]


class Scores:
    """What the scores of the tasks share.

    Attributes:
        rows: A row of plain values for each image, by its number in the data set.
        totals: Whole numbers, summed over the images.
        sums: Other sums of each image, by its number.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.totals: dict[str, torch.Tensor] = {}
        self.sums: dict[int, torch.Tensor] = {}

    def gather(self) -> None:
        """Take in what the other processes have; each must call it, and each has everything then."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (self.rows, self.totals, self.sums))
        self.rows = {index: row for part in parts for index, row in part[0].items()}
        self.totals = {name: sum(part[1][name] for part in parts) for name in self.totals}
        self.sums = {index: values for part in parts for index, values in part[2].items()}

    def per_image(self) -> list[Row]:
        """The rows in the order of the data set."""
        return [self.rows[index] for index in sorted(self.rows)]

    def worst(self, number: int) -> list[int]:
        """Numbers of the images with the worst scores, the worst first; those without a score are left out."""
        badness = {index: self._badness(row) for index, row in self.rows.items()}
        known = [index for index in sorted(self.rows) if not math.isnan(badness[index])]
        return sorted(known, key=lambda index: -badness[index])[:number]

    def update(self, index: int, name: str, *values: Any) -> None:
        """Count an image by its number and name; what else it takes is that of its task."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """The scores of all images. ValueError where nothing was counted."""
        raise NotImplementedError

    def _badness(self, row: Row) -> float:
        raise NotImplementedError

    def _sum(self) -> torch.Tensor:
        return torch.stack([self.sums[index] for index in sorted(self.sums)]).sum(0)


class SegmentationScores(Scores):
    """IoU, Dice, precision, recall, boundary IoU and calibration of classes of pixels.

    Absent classes and ignored labels are those of `ConfusionMatrix`: a ratio without a pixel is NaN, and no mean
    includes it.

    Args:
        class_names: One name a class.
        ignore_index: Label of pixels that do not count, one of the classes or not.
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int | None) -> None:
        super().__init__()
        self.class_names = distinct_names(class_names, len(class_names))
        self.ignore_index = ignore_index
        self.totals = {
            'confusion': ConfusionMatrix(len(class_names)).counts, 'boundary': BoundaryCounts(len(class_names)).counts}

    def _parts(
            self, device: torch.device | str | None = None,
    ) -> tuple[ConfusionMatrix, BoundaryCounts, CalibrationSums]:
        number = len(self.class_names)
        return (ConfusionMatrix(number, self.ignore_index, device),
                BoundaryCounts(number, self.ignore_index, device=device), CalibrationSums(device=device))

    def update(
            self,
            index: int,
            name: str,
            prediction: torch.Tensor,
            probability: torch.Tensor | None,
            target: torch.Tensor,
    ) -> None:
        """Count an image.

        Args:
            index: Its number in the data set.
            name: What it is called.
            prediction: (H, W) predicted classes.
            probability: (H, W) probabilities of them, None where they are not known.
            target: (H, W) true classes or the ignored label.
        """
        target = target.to(prediction.device)
        matrix, boundary, calibration = self._parts(prediction.device)
        matrix.update(prediction, target)
        boundary.update(prediction, target)
        if probability is not None:
            valid = torch.ones_like(target, dtype=torch.bool) if self.ignore_index is None \
                else target != self.ignore_index
            calibration.update(probability[valid], prediction[valid] == target[valid])
        self.totals['confusion'] += matrix.counts.cpu()
        self.totals['boundary'] += boundary.counts.cpu()
        self.sums[index] = calibration.sums.cpu().double()
        height, width = target.shape
        self.rows[index] = {
            'image': name, 'height': height, 'width': width, 'labelled': int(matrix.counts.sum()),
            **_means(matrix, boundary, calibration), **self._named(matrix.iou())}

    def _named(self, iou: torch.Tensor) -> dict[str, float]:
        return {f'iou_{name}': 100 * value for name, value in zip(self.class_names, iou.tolist(), strict=True)}

    def summary(self) -> dict[str, Any]:
        """The scores of all pixels of all images.

        Returns:
            {'miou', 'mdice', 'mprecision', 'macc' (mean recall), 'pixel_acc', 'mboundary_iou', 'ece', 'iou_NAME' of
            each class, 'classes': {NAME: {'iou', 'dice', 'precision', 'recall', 'boundary_iou', 'pixels'}},
            'confusion': pixels of each true class (rows) and predicted class (columns)}

        Raises:
            ValueError: No labelled pixel.
        """
        matrix, boundary, calibration = self._parts()
        matrix.counts, boundary.counts = self.totals['confusion'], self.totals['boundary']
        calibration.sums = self._sum()
        if matrix.is_empty:
            raise ValueError(
                'A validation must have a labelled pixel, got none: all labels are the ignore_index '
                f'{self.ignore_index}; correct the masks.')
        of_class = {
            'iou': matrix.iou(), 'dice': matrix.dice(), 'precision': matrix.precision(), 'recall': matrix.recall(),
            'boundary_iou': boundary.iou()}
        pixels = matrix.counts.sum(1).tolist()
        classes = {
            name: {**{key: 100 * values[index].item() for key, values in of_class.items()}, 'pixels': pixels[index]}
            for index, name in enumerate(self.class_names)}
        return {
            **_means(matrix, boundary, calibration), **self._named(of_class['iou']), 'classes': classes,
            'confusion': matrix.counts.tolist()}

    def _badness(self, row: Row) -> float:
        return -row['miou']


def _means(matrix: ConfusionMatrix, boundary: BoundaryCounts, calibration: CalibrationSums) -> dict[str, float]:
    of_class = {
        'miou': matrix.iou(), 'mdice': matrix.dice(), 'mprecision': matrix.precision(), 'macc': matrix.recall()}
    return {
        **{name: 100 * values.nanmean().item() for name, values in of_class.items()},
        'pixel_acc': 100 * matrix.pixel_accuracy(),
        'mboundary_iou': 100 * boundary.iou().nanmean().item(),
        'ece': 100 * calibration.error()}


class DepthScores(Scores):
    """Errors of depth, see `DepthErrors`.

    Args:
        min_depth: True depths below it do not count, in metres.
        max_depth: True depths above it do not count.
    """

    def __init__(self, min_depth: float, max_depth: float) -> None:
        super().__init__()
        self.min_depth, self.max_depth = min_depth, max_depth

    def update(self, index: int, name: str, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Count an image: predicted and true depth (H, W) in metres."""
        errors = DepthErrors(self.min_depth, self.max_depth, prediction.device)
        errors.update(prediction, target)
        self.sums[index] = errors.sums.cpu().double()
        height, width = target.shape
        self.rows[index] = {
            'image': name, 'height': height, 'width': width, 'pixels': int(errors.sums[0]), **errors.summary()}

    def summary(self) -> dict[str, Any]:
        """'abs_rel', 'rmse', 'delta1', 'delta2', 'delta3' as `DepthErrors.summary` has them.

        Raises:
            ValueError: No pixel of a depth in the range.
        """
        errors = DepthErrors(self.min_depth, self.max_depth)
        errors.sums = self._sum()
        if errors.is_empty:
            raise ValueError(
                'A validation must have a pixel of known depth, got none: all depths are missing or outside min_depth '
                f'{self.min_depth} to max_depth {self.max_depth}; correct the depths or their unit.')
        return errors.summary()

    def _badness(self, row: Row) -> float:
        return row['abs_rel']


class ClassScores(Scores):
    """Accuracy of classes of images.

    Args:
        class_names: One name a class.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = distinct_names(class_names, len(class_names))
        self.totals = {'confusion': ConfusionMatrix(len(class_names)).counts}

    def update(self, index: int, name: str, probabilities: torch.Tensor, target: int) -> None:
        """Count an image: probabilities (K,) and its class. ValueError for a class that the model does not have."""
        matrix = ConfusionMatrix(len(self.class_names))
        best = probabilities.topk(min(5, len(probabilities))).indices.tolist()
        matrix.update(torch.tensor(best[:1]), torch.tensor([target]))
        self.totals['confusion'] += matrix.counts
        calibration = CalibrationSums()
        calibration.update(probabilities[best[:1]].cpu(), torch.tensor([best[0] == target]))
        self.sums[index] = calibration.sums
        self.rows[index] = {
            'image': name, 'class': self.class_names[target], 'prediction': self.class_names[best[0]],
            'probability': probabilities[best[0]].item(), 'top1': int(best[0] == target), 'top5': int(target in best)}

    def summary(self) -> dict[str, Any]:
        """{'top1', 'top1_err', 'top5', 'top5_err', 'ece', 'confusion'}; top5 is among all classes where these are
        fewer than five."""
        calibration = CalibrationSums()
        calibration.sums = self._sum()
        top1, top5 = (100 * sum(row[key] for row in self.rows.values()) / len(self.rows) for key in ('top1', 'top5'))
        return {
            'top1': top1, 'top1_err': 100 - top1, 'top5': top5, 'top5_err': 100 - top5,
            'ece': 100 * calibration.error(), 'confusion': self.totals['confusion'].tolist()}

    def _badness(self, row: Row) -> float:
        return -row['probability'] if row['top1'] else row['probability']
